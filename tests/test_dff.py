"""Deep feature factorisation: the factorisation in chunks, the file that it reads, and the baseline."""

import tempfile

import numpy as np
import pytest
import torch
from sklearn.decomposition import NMF
from torch import nn

from evaluation import cells as cells_module
from evaluation.cells import BLOCK, Cells
from evaluation.factorisation import SOLVERS, activations_of, factorise, random_start
from evaluation.labellers.dff import DFF, Options
from evaluation.prediction import centres_of_mass, hard, upsample
from tests.composition import composed
from tests.quadrants import draw_split, evaluated
from tests.test_labellers import training_batches
from utils.errors import UserError

EACH_SOLVER = pytest.mark.parametrize("solver", SOLVERS)
NO_TOLERANCE = 0.0


def low_rank(rank=3, rows=300, channels=20, noise=0.0, seed=0):
    """V (P, C) float64 of a rank, with many zeros in its factors, plus noise."""
    random = np.random.default_rng(seed)
    w, h = random.gamma(0.5, size=(rows, rank)), random.gamma(0.3, size=(rank, channels))
    return torch.from_numpy(w @ h + noise * random.random((rows, channels)))


def start_of(v, num_factors, seed=0):
    w, h = random_start(float(v.mean()), *v.shape, num_factors, np.random.default_rng(seed))
    return w.to(v), h.to(v)


@pytest.mark.parametrize("iterations", [1, 7, 60])
def test_multiplicative_updates_are_scikit_learns_from_the_same_start(iterations):
    v = low_rank(noise=0.5)
    w, h = start_of(v, 4)
    theirs = NMF(4, solver="mu", init="custom", max_iter=iterations, tol=0)
    of_w = theirs.fit_transform(v.numpy(), W=w.numpy().copy(), H=h.numpy().copy())
    ours = factorise(v.split(64), (w, h), "mu", iterations, NO_TOLERANCE)
    lengths = np.linalg.norm(theirs.components_, axis=1)
    np.testing.assert_allclose(ours.basis, theirs.components_ / lengths[:, None], rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(ours.activations, of_w * lengths, rtol=1e-6, atol=1e-9)
    assert ours.errors[-1] == pytest.approx(theirs.reconstruction_err_ / float(v.norm()), rel=1e-6)


def test_it_stops_where_scikit_learn_does():
    v = low_rank(noise=0.5)
    w, h = start_of(v, 4)
    theirs = NMF(4, solver="mu", init="custom", max_iter=200, tol=1e-3)
    theirs.fit_transform(v.numpy(), W=w.numpy().copy(), H=h.numpy().copy())
    assert 10 < theirs.n_iter_ < 200
    assert len(factorise([v], (w, h), "mu", 200, 1e-3).errors) == theirs.n_iter_ + 1


@EACH_SOLVER
def test_the_error_is_that_of_the_factors_and_never_rises(solver):
    v = low_rank(rank=6, noise=1.0)
    found = factorise(v.split(50), start_of(v, 4), solver, 80, NO_TOLERANCE)
    assert len(found.errors) == 81
    assert (np.diff(found.errors) <= 1e-12).all() and found.errors[-1] < 0.5 * found.errors[0]
    assert found.errors[-1] == pytest.approx(float((v - found.activations @ found.basis).norm() / v.norm()), rel=1e-6)
    assert found.activations.min() >= 0 and found.basis.min() >= 0
    torch.testing.assert_close(found.basis.norm(dim=1), torch.ones(4).double())


@EACH_SOLVER
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_chunks_change_nothing_but_rounding(solver, dtype):
    v = low_rank(noise=0.5).to(dtype)
    whole, *others = (factorise(v.split(size), start_of(v, 4), solver, 30, NO_TOLERANCE) for size in (300, 7, 77))
    tolerance = 1e-9 if dtype == torch.float64 else 2e-3
    for found in others:
        torch.testing.assert_close(found.basis, whole.basis, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(found.activations, whole.activations, rtol=tolerance, atol=tolerance)


@EACH_SOLVER
def test_exact_low_rank_is_rebuilt_to_less_than_a_percent(solver):
    v = low_rank(rank=3).float()
    found = factorise(v.split(64), start_of(v, 3), solver, 2000, NO_TOLERANCE)
    assert float((v - found.activations @ found.basis).norm() / v.norm()) < 0.01


@EACH_SOLVER
def test_scaling_the_features_or_a_factor_changes_no_label(solver):
    v = low_rank(noise=0.5)
    w, h = start_of(v, 4)
    scales = torch.tensor([0.01, 1, 7, 300], dtype=v.dtype)
    starts = {"V": (v * 1e3, start_of(v * 1e3, 4)), "a factor": (v, (w * scales, h / scales[:, None]))}
    labels = factorise([v], (w, h), solver, 40, NO_TOLERANCE).activations.argmax(1)
    assert len(labels.unique()) == 4
    for rows, start in starts.values():
        found = factorise([rows], start, solver, 40, NO_TOLERANCE)
        assert torch.equal(found.activations.argmax(1), labels)
        again = activations_of(rows, found.basis, solver, 300).argmax(1)
        assert torch.equal(again, activations_of(rows * 5, found.basis, solver, 300).argmax(1))


@EACH_SOLVER
@pytest.mark.parametrize("which", ["activations", "basis", "both"])
def test_a_dead_factor_starts_again_at_what_is_rebuilt_worst(solver, which):
    v = low_rank(rank=3)
    w, h = start_of(v, 3)
    if which != "basis":
        w[:, 1] = 0
    if which != "activations":
        h[1] = 0
    without = factorise([v], (w[:, [0, 2]], h[[0, 2]]), solver, 400, NO_TOLERANCE)
    found = factorise(v.split(64), (w, h), solver, 400, NO_TOLERANCE)
    assert (np.diff(found.errors) <= 1e-12).all()
    assert found.errors[-1] < 0.2 * without.errors[-1]
    torch.testing.assert_close(found.basis.norm(dim=1), torch.ones(3).double())


@EACH_SOLVER
def test_new_rows_get_the_best_activations_and_each_for_itself(solver):
    from scipy.optimize import nnls

    v = low_rank(noise=0.5)
    basis = factorise([v], start_of(v, 4), solver, 50, NO_TOLERANCE).basis
    rows = low_rank(noise=0.5, rows=40, seed=1)
    found = activations_of(rows, basis, solver, 1000)
    expected = np.stack([nnls(basis.numpy().T, row)[0] for row in rows.numpy()])
    np.testing.assert_allclose(found, expected, atol=5e-3 * expected.max())
    parts = (activations_of(part, basis, solver, 1000) for part in rows.split([1, 2, 37]))
    torch.testing.assert_close(torch.cat(list(parts)), found)
    assert (activations_of(torch.zeros_like(rows), basis, solver, 9) == 0).all()


def test_the_file_gives_the_rows_again_in_half_precision_whatever_their_scale():
    random = np.random.default_rng(0)
    rows = torch.from_numpy(random.standard_normal((1000, 7)) * np.exp(random.normal(0, 9, (1000, 1)))).float()
    rows[3] = 0
    with Cells(at_once=300 * 7 + 6) as cells:
        for part in rows.split(123):
            cells.add(part)
        for _ in range(2):
            chunks = [chunk.clone() for chunk in cells]
            assert [len(chunk) for chunk in chunks] == [300, 300, 300, 100]
            found = torch.cat(chunks)
            assert ((found - rows).abs() <= 2.0**-10 * rows.abs().amax(1, keepdim=True)).all()
        assert cells.total == pytest.approx(float(rows.double().sum()))


def test_few_chunks_of_the_file_are_mapped_at_a_time_wherever_they_begin(monkeypatch):
    monkeypatch.setattr(cells_module, "CHUNKS_MAPPED", 2)
    mapped, asked = Cells._mapped, []
    monkeypatch.setattr(Cells, "_mapped", lambda self, start, count: asked.append(count) or mapped(self, start, count))
    rows = torch.arange(7000.0).view(1000, 7) % 512 / 512
    with Cells(at_once=300 * 7) as cells:
        cells.add(rows)
        torch.testing.assert_close(torch.cat([chunk.clone() for chunk in cells]), rows, rtol=0, atol=1e-3)
    assert asked == [600, 400]


def test_rows_in_random_order_are_those_that_are_kept_each_once():
    rows = torch.arange(5 * BLOCK - 100)[:, None].float() + 1
    kept = np.random.default_rng(0).random(len(rows)) < 0.6
    with Cells() as cells:
        cells.add(rows)
        first, second = (list(cells.shuffled(200, np.random.default_rng(seed), kept)) for seed in (1, 2))
    assert all(len(chunk) >= 200 for chunk in first[:-1])
    first, second = torch.cat(first)[:, 0], torch.cat(second)[:, 0]
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, rows[torch.from_numpy(kept), 0])
    assert torch.equal(first.sort().values, second.sort().values)


def test_a_full_disk_is_told_with_what_to_do(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    with pytest.raises(UserError, match=r"Cannot write the features of .*No space left.*TMPDIR"), Cells() as cells:
        for _ in range(40):
            cells.add(torch.rand(256, 512))


# The baseline, on quarters of four colours: channels that are R, G, B and yellow, at a grid of a fourth of the picture.

OPTIONS = Options(solver="mu", iterations=200, tolerance=1e-4, num_images=None)


def colour_features(images):
    red, green, blue = nn.functional.avg_pool2d(images, 4).split(1, dim=1)
    yellow = torch.minimum(red, green)
    return [torch.cat([red - yellow, green - yellow, blue, yellow], dim=1)]


def fitted(batches, features=colour_features, seed=0, **changes):
    labeller = DFF(features, Options(**OPTIONS.__dict__ | changes), 4, seed)
    labeller.fit(batches)
    return labeller


@EACH_SOLVER
def test_the_factors_of_four_colours_are_the_four_parts(solver):
    labeller = fitted(training_batches(8), solver=solver)
    metrics = evaluated(labeller, draw_split("test", 6, part_maps=True), draw_split("training", 24), size=64).metrics
    assert metrics["FG-NMI"] > 85 and metrics["FG-NMI (keypoints)"] > 85
    assert metrics["keypoint_error_all"] < 5
    torch.testing.assert_close(labeller.basis.norm(dim=1), torch.ones(4))


def test_the_evaluation_fits_it_on_training_pictures_alone_and_on_so_many_of_them():
    class Spy(DFF):
        def fit(self, batches):
            self.seen = []
            super().fit(self.noted(batches))

        def noted(self, batches):
            for batch in batches:
                self.seen += [shown.name for shown in batch.inputs]
                yield batch

    test, train = draw_split("test", 4, part_maps=True), draw_split("training", 9, part_maps=True)
    for num_images, expected in ((None, range(9)), (3, (0, 4, 8)), (20, range(9))):
        labeller = Spy(colour_features, Options(**OPTIONS.__dict__ | {"num_images": num_images}), 4, 0)
        evaluated(labeller, test, train)
        assert labeller.seen == [train.sample_name(place) for place in expected]


def test_cells_outside_the_mask_change_no_factor_and_the_same_seed_gives_the_same_ones():
    batches, painted = training_batches(4), training_batches(4)
    for batch in painted:
        outside = nn.functional.max_pool2d(batch.foreground, 4)
        outside = nn.functional.interpolate(outside, scale_factor=4) == 0
        batch.images = torch.where(outside, 77, batch.images)
    first, same, other, another = (fitted(given, seed=seed).basis for given, seed in
                                   ((batches, 0), (batches, 0), (painted, 0), (batches, 1)))  # fmt: skip
    assert torch.equal(first, same) and torch.equal(first, other)
    assert not torch.equal(first, another)


def test_cells_at_the_masks_edge_count_by_their_share():
    """A factor of the share is a factor of the row: half of a mask everywhere gives the same basis."""
    batches, halved = training_batches(4), training_batches(4)
    for batch in halved:
        batch.foreground *= 0.5
    torch.testing.assert_close(fitted(halved).basis, fitted(batches).basis, rtol=0, atol=2e-3)
    edge = training_batches(1)
    seen = []
    labeller = DFF(colour_features, OPTIONS, 4, 0)
    labeller._basis = lambda cells: seen.append(torch.cat([chunk.clone() for chunk in cells]))
    labeller.fit(edge)
    share = nn.functional.avg_pool2d(edge[0].foreground, 4)
    expected = (colour_features(edge[0].images / 255)[0] * share).permute(0, 2, 3, 1)[share[:, 0] > 0]
    torch.testing.assert_close(seen[0], expected, rtol=1e-3, atol=1e-3)
    assert 0 < share[share > 0].min() < 1, "the case must have an edge"


def test_scores_are_activations_that_do_not_depend_on_the_batch_nor_labels_on_the_scale():
    labeller = fitted(training_batches(6))
    batches = training_batches(3)
    together = torch.cat([batch.images for batch in batches])
    scores = labeller.scores(together, None)
    assert scores.shape == (3, 4, 8, 8) and scores.min() >= 0
    torch.testing.assert_close(scores, torch.cat([labeller.scores(batch.images, None) for batch in batches]))
    labeller.perceptual = lambda images: [100 * features for features in colour_features(images)]
    larger = labeller.scores(together, None)
    inside = torch.cat([batch.foreground for batch in batches])[:, 0] > 0
    assert torch.equal(*(upsample(found, (32, 32)).argmax(1)[inside] for found in (scores, larger)))


def test_the_centres_are_those_of_the_labels_on_the_mask():
    labeller = DFF(colour_features, OPTIONS, 4, 0)
    mask = (torch.rand(2, 1, 6, 9) < 0.7).float()
    probabilities = torch.rand(2, 4, 6, 9).softmax(1) * mask
    expected = centres_of_mass(nn.functional.one_hot(probabilities.argmax(1), 4).permute(0, 3, 1, 2) * mask)
    torch.testing.assert_close(labeller.centres(probabilities, None, None), expected)
    torch.testing.assert_close(labeller.centres(0.01 * probabilities, None, None), expected)
    assert torch.equal(hard(probabilities).sum(1) > 0, mask[:, 0] > 0)


def test_features_below_0_are_taken_as_0_and_a_note_says_how_many():
    assert fitted(training_batches(2)).notes == ()

    def signed(images):
        (features,) = colour_features(images)
        return [torch.cat([features, -features - 0.01], dim=1)]

    labeller = fitted(training_batches(2), signed)
    assert "below 0 as 0: 50 %" in labeller.notes[0]
    assert (labeller.basis[:, 4:] == 0).all()
    cut = fitted(training_batches(2), lambda images: [signed(images)[0].clamp(min=0)])
    assert cut.notes == () and torch.equal(cut.basis, labeller.basis)
    images = training_batches(1)[0].images
    assert torch.equal(labeller.scores(images, None), cut.scores(images, None))


@pytest.mark.parametrize("spoil", ["foreground", "features"])
def test_nothing_to_factorise_is_told(spoil):
    batches = training_batches(1)
    if spoil == "foreground":
        batches[0].foreground.zero_()
    features = colour_features if spoil == "foreground" else lambda images: [0 * colour_features(images)[0]]
    with pytest.raises(UserError, match="needs 4 foreground cells with features above 0, the training images have 0"):
        fitted(batches, features)


def test_the_feature_file_goes_where_fitting_ends(monkeypatch):
    files = []

    def spy():
        files.append(made := tempfile_of())
        return made

    tempfile_of = tempfile.TemporaryFile
    monkeypatch.setattr(cells_module.tempfile, "TemporaryFile", spy)
    fitted(training_batches(1))
    with pytest.raises(UserError):
        fitted([])
    assert len(files) == 2 and all(file.closed for file in files)


def test_labels_from_half_precision_are_those_from_full_precision_in_all_but_one_of_200_pixels(monkeypatch):
    images = torch.cat([batch.images for batch in training_batches(6)])
    labels = upsample(fitted(training_batches(6)).scores(images, None), (32, 32)).argmax(1)

    class Exact(Cells):
        def add(self, rows):
            super().add(rows)
            self.kept = [*getattr(self, "kept", []), rows]

        def __iter__(self):
            return iter(self.kept)

    monkeypatch.setattr("evaluation.labellers.dff.Cells", Exact)
    exact = upsample(fitted(training_batches(6)).scores(images, None), (32, 32)).argmax(1)
    assert (labels == exact).float().mean() > 0.995


def test_the_config_brings_the_releases_numbers_and_layer():
    config = composed("baseline=[dff]", "perceptual=dff")
    assert config.baselines.dff == {"solver": "mu", "iterations": 200, "tolerance": 1e-4, "num_images": None}
    assert config.perceptual.layers == {"relu5_4": 1.0} and config.perceptual.scale == "published"
    layers = {"relu5_2": 1.0, "relu5_4": 1.0}
    assert composed("perceptual=vgg19_relu5").perceptual == composed("method=scops").perceptual
    assert composed("perceptual=vgg19_relu5").perceptual.layers == layers
    with pytest.raises(UserError, match="baselines.dff.solver must be one of mu, hals, not 'lbfgs'"):
        composed("baseline=[dff]", "baselines.dff.solver=lbfgs")
