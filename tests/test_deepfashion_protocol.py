import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from datasets.part_views import PartViewOptions
from evaluation.labellers.base import Labeller
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import evaluate
from tests.composition import composed
from tests.golden_checkpoint import golden_labeller
from tests.quadrants import PARTS, evaluated
from tests.shared import GOLDEN, SHARED, needs_shared
from tests.test_deepfashion import deepfashion
from tests.trees import draw_deepfashion_tree

SIZES = {"size": 64, "batch_size": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    # Not a whole number of pixels after resizing, in either view.
    return draw_deepfashion_tree(tmp_path_factory.mktemp("drawn"), size=(107, 75))


@pytest.fixture(scope="module")
def split(root):
    return deepfashion(root, "test", "supervised")


class Coarse(Labeller):
    """Scores on a 5 x 4 grid, so that how they are brought to full size matters."""

    num_parts = 3

    def scores(self, images, foreground):
        cells = F.adaptive_avg_pool2d(images.float(), (5, 4))
        return (cells - cells.mean((2, 3), keepdim=True)) / 10


def agreement(true, predicted):
    true, predicted = np.concatenate(true), np.concatenate(predicted)
    return 100 * normalized_mutual_info_score(true, predicted), 100 * adjusted_rand_score(true, predicted)


@needs_shared
@pytest.mark.slow
def test_golden_checkpoint_gives_the_published_evaluations_figures(tmp_path):
    config = composed("dataset_name=DF", f"dataset_root={SHARED / 'data'}", "loader.num_workers=0")
    labeller = golden_labeller(tmp_path)
    result = evaluate(labeller, Sets.of(config, "evaluation"), PARTS, EvaluationOptions.of(config), "cpu")
    assert list(result.metrics) == ["FG-NMI", "FG-ARI", "NMI", "ARI"]
    assert result.metrics == pytest.approx(json.loads((GOLDEN / "df_metrics.json").read_text()), abs=0.05)
    assert result.counts["images"] == 12


@pytest.mark.parametrize("label_resize", ["bilinear", "nearest"])
def test_the_figures_are_those_of_the_two_published_readings(split, label_resize):
    """The padded square with align_corners=True and true labels; the plain picture with False and resized masks."""
    on_parts, everywhere = ([], []), ([], [])
    for sample in map(split.__getitem__, range(len(split))):
        padded = split.test_crop(sample, 64)
        scores = Coarse().scores(torch.from_numpy(padded.image.copy()).permute(2, 0, 1)[None], None)
        parts = F.interpolate(scores, (64, 64), mode="bilinear", align_corners=True)[0].argmax(0).numpy()
        labelled = padded.part_map != 0
        on_parts[0].append(padded.part_map[labelled])
        on_parts[1].append(parts[labelled])

        def resized(pixels, how=label_resize):
            return np.array(Image.fromarray(pixels).resize((64, 91), Image.Resampling[how.upper()]))

        image = resized(sample.image, "bilinear")
        scores = Coarse().scores(torch.from_numpy(image).permute(2, 0, 1)[None], None)
        parts = F.interpolate(scores, (91, 64), mode="bilinear", align_corners=False)[0].argmax(0).numpy() + 1
        everywhere[0].append(resized(sample.part_map).ravel())
        everywhere[1].append((parts * resized(sample.foreground)).ravel())
    expected = dict(zip(("FG-NMI", "FG-ARI", "NMI", "ARI"), agreement(*on_parts) + agreement(*everywhere), strict=True))
    result = evaluated(Coarse(), split, labels=label_resize, **SIZES)
    assert result.metrics == pytest.approx(expected, abs=1e-6)
    assert result.counts == {"images": 4, "part_pixels": sum(map(len, on_parts[0]))}
    assert all(5 < value < 95 for value in expected.values()), "the case must not be trivial"


def test_bilinear_labels_are_invented_at_borders_and_nearest_ones_are_not(split):
    sample = split[0]
    found = {}
    for labels in ("bilinear", "nearest"):
        (_, whole) = split.part_views(PartViewOptions(32, 64, labels))
        prepared = whole.prepare(sample)
        assert prepared.image.shape[:2] == prepared.part_map.shape == prepared.foreground.shape == (91, 64)
        assert set(np.unique(prepared.foreground)) == {0, 1}
        found[labels] = set(np.unique(prepared.part_map))
    assert found["nearest"] == set(np.unique(sample.part_map)) < found["bilinear"]


def test_the_padded_view_has_true_labels_alone_whatever_is_asked_of_the_whole_one(split):
    for labels in ("bilinear", "nearest"):
        (padded, _) = split.part_views(PartViewOptions(32, 64, labels))
        prepared = padded.prepare(split[1])
        assert set(np.unique(prepared.part_map)) == {0, 2, 11, 13} and prepared.part_map.shape == (64, 64)


def test_masks_matter_for_nmi_and_ari_alone(root, split):
    true_masks = deepfashion(root, "test", "gt")
    with_predicted, with_true = (evaluated(Coarse(), masked, **SIZES).metrics for masked in (split, true_masks))
    for name, value in with_true.items():
        assert (value == with_predicted[name]) == name.startswith("FG-")


def test_each_view_keeps_its_label_maps_with_the_commands_that_give_its_figures(split, tmp_path, monkeypatch, capsys):
    metrics = evaluated(Coarse(), split, label_maps=tmp_path, **SIZES).metrics
    for view, names in (("padded", ["FG-NMI", "FG-ARI"]), ("whole", ["NMI", "ARI"])):
        monkeypatch.chdir(tmp_path / view)
        text = (tmp_path / view / "README.txt").read_text()
        code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") or not line)
        exec(compile(code, "README.txt", "exec"), {})
        printed = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
        assert printed == pytest.approx({name: metrics[name] for name in names}, abs=1e-6)
        assert len(list((tmp_path / view / "predicted").rglob("*.png"))) == 4


def test_the_pictures_show_the_square_that_the_network_saw(split):
    result = evaluated(Coarse(), split, num_pictures=2, **SIZES)
    assert [example.shown.view for example in result.pictures] == ["padded"] * 2
    assert all(example.predicted.shape == (64, 64) and example.predicted.max() == 3 for example in result.pictures)
