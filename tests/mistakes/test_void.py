"""Void pixels ("ignore" labels): no figure is of them, in true maps, in masks and in label maps made elsewhere."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from datasets.masks import VOID_PIXELS, VOID_PREDICTED
from datasets.sample import VOID
from evaluation.inputs import EvalInput, batch
from evaluation.labellers.label_maps import LabelMaps, given
from evaluation.options import EvaluationOptions, Sets
from evaluation.prediction import part_probabilities
from evaluation.protocols import pixel_accuracy
from evaluation.run import Result, evaluate
from tests.composition import composed
from tests.mistakes.damage import save_picture
from tests.mistakes.harness import ended
from tests.quadrants import ColourLabeller, draw_split, evaluation_options
from tests.trees import draw_own_tree
from utils.errors import UserError

FIGURES = ("FG-NMI", "FG-ARI", "NMI", "ARI")
HELD_OUT = ("creature_001", "creature_002", "creature_003")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_own_tree(tmp_path_factory.mktemp("drawn") / "mine", count=8, size=48, held_out=len(HELD_OUT))


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


def sets_of(root: Path, *overrides: str) -> Sets:
    size = ("image_size=32", "evaluation.size=32", "loader.num_workers=0", "batch_size=2")
    return Sets.of(composed("dataset_name=folder", f"dataset_root={root}", *size, *overrides), "evaluation")


def evaluated(labeller, sets: Sets, protocols=("part_maps",), **options) -> Result:
    config = composed("dataset_name=folder", "image_size=32", "evaluation.size=32", "loader.num_workers=0")
    labeller.prepare(sets.test)
    return evaluate(labeller, sets, protocols, replace(EvaluationOptions.of(config), **options), "cpu")


def void_in(path: Path, label: int = 255, seed: int = 0) -> int:
    """Make blots of a label map void: how many pixels."""
    labels = pixels(path)
    blots = np.random.default_rng(seed).random((labels.shape[0] // 4 + 1, labels.shape[1] // 4 + 1)) < 0.3
    void = np.kron(blots, np.ones((4, 4)))[: labels.shape[0], : labels.shape[1]] > 0
    save_picture(path, np.where(void, label, labels))
    return int(void.sum())


def blotted(root: Path, has_background: bool) -> Path:
    """Label maps beside the folder that are right here and there, of 1 to 5, or with a background."""
    for stem in HELD_OUT:
        true = pixels(root / f"parts/{stem}.png")
        rng = np.random.default_rng(int(stem[-1]))
        wrong = np.kron(rng.integers(1 - has_background, 6, [side // 8 + 1 for side in true.shape]), np.ones((8, 8)))
        right = np.kron(rng.random([side // 8 + 1 for side in true.shape]) < 0.6, np.ones((8, 8))) > 0
        height, width = true.shape
        found = np.where(right[:height, :width], np.maximum(true, 1 - has_background), wrong[:height, :width])
        save_picture(root.parent / f"maps/{stem}.jpg.png", found)
    return root.parent / "maps"


def expected(root: Path, maps: Path, label: int, has_background: bool) -> dict[str, float]:
    """The figures of the pixels that are void nowhere, from maps that are cut as the pictures are."""
    test = sets_of(root, f"dataset.ignore_label={label}").test
    pairs = []
    for index in range(len(test)):
        sample = test[index]
        stored = pixels(root / "parts" / f"{Path(sample.name).stem}.png")
        predicted = pixels(maps / f"{sample.name}.png")
        void = ((stored == label) | (predicted == label)).astype(np.uint8)
        for sample.part_map, sample.predicted, sample.void in [(np.where(stored == label, 0, stored), predicted, void)]:
            crop = test.test_crop(sample, 32)
        everywhere = crop.predicted if has_background else crop.predicted * crop.foreground
        pairs.append(np.stack([crop.part_map, crop.predicted, everywhere])[:, crop.void == 0])
    true, found, everywhere = np.concatenate(pairs, axis=1)
    return {
        "FG-NMI": 100 * normalized_mutual_info_score(true[true > 0], found[true > 0]),
        "FG-ARI": 100 * adjusted_rand_score(true[true > 0], found[true > 0]),
        "NMI": 100 * normalized_mutual_info_score(true, everywhere),
        "ARI": 100 * adjusted_rand_score(true, everywhere),
    }


@pytest.mark.parametrize("where", ["true", "predicted", "both", "nowhere"])
@pytest.mark.parametrize("has_background", [True, False], ids=["own background", "masks"])
@pytest.mark.parametrize("label", [255, 77])
def test_figures_are_of_the_pixels_that_are_void_nowhere(root, where, has_background, label):
    maps = blotted(root, has_background)
    counts = {"true": 0, "predicted": 0}
    for number, stem in enumerate(HELD_OUT[:2]):
        if where in ("true", "both"):
            counts["true"] += void_in(root / f"parts/{stem}.png", label, number)
        if where in ("predicted", "both"):
            counts["predicted"] += void_in(maps / f"{stem}.jpg.png", label, 9 + number)
    result = evaluated(LabelMaps(maps, 5, has_background, label), sets_of(root, f"dataset.ignore_label={label}"))
    wanted = expected(root, maps, label, has_background)
    assert {name: result.metrics[name] for name in FIGURES} == pytest.approx(wanted, abs=1e-6)
    assert 5 < wanted["FG-NMI"] < 95, "the case must not be trivial"
    for kind, of in ((VOID_PIXELS, "true"), (VOID_PREDICTED, "predicted")):
        told = [note for note in result.notes if note.startswith(kind.format(count=2, pixels=f"{counts[of]:,}"))]
        assert len(told) == (counts[of] > 0)


def test_void_of_16_bits_is_that_of_bytes(root):
    maps, path = blotted(root, has_background=True), root / "parts/creature_001.png"
    for file in (path, maps / "creature_001.jpg.png"):
        void_in(file)
    before, stored = evaluated(LabelMaps(maps, 5, True, 255), sets_of(root)).metrics, pixels(path)
    for file in (path, maps / "creature_001.jpg.png"):
        labels = pixels(file).astype(np.uint16)
        Image.fromarray(np.where(labels == 255, 65535, labels).astype(np.uint16)).save(file)
    sample = sets_of(root).test[0]
    np.testing.assert_array_equal(sample.void, stored == 255)
    np.testing.assert_array_equal(sample.part_map, np.where(stored == 255, 0, stored))
    assert evaluated(LabelMaps(maps, 5, True, 255), sets_of(root)).metrics == before
    with pytest.raises(UserError, match="creature_001.png has labels from 0 to 65535: .*dataset.ignore_label"):
        sets_of(root, "dataset.ignore_label=77").test[0]


def test_without_an_ignore_label_255_is_a_label_as_any_other(root):
    void_in(root / "parts/creature_001.png")
    with pytest.raises(UserError, match="creature_001.png has labels from 0 to 255: .*dataset.ignore_label"):
        sets_of(root, "dataset.ignore_label=null").test[0]
    (root / "parts/parts.txt").unlink()
    test = sets_of(root, "dataset.ignore_label=null").test
    assert test[0].void is None and test[0].part_map.max() == 255 == len(test.part_names)
    known = sets_of(root).test
    assert len(known.part_names) == 254 and known[0].part_map.max() == 4 and known[0].void.any()


def test_a_label_that_has_a_name_is_a_part(root):
    (root / "parts/parts.txt").write_text("".join(f"{number} part {number}\n" for number in range(1, 256)))
    void_in(root / "parts/creature_001.png")
    assert sets_of(root).test[0].part_map.max() == 255


def test_what_was_found_and_what_is_known_are_shown_as_background_where_void(root):
    void_in(root / "parts/creature_001.png")
    (example, *_) = evaluated(ColourLabeller(), sets_of(root)).pictures
    void = example.shown.void > 0
    assert void.any() and not example.predicted[void].any() and not example.known.labels[void].any()
    assert example.predicted.any() and example.known.labels.any()


def test_the_commands_beside_the_label_maps_print_the_figures(root, tmp_path, monkeypatch, capsys):
    void_in(root / "parts/creature_002.png")
    result = evaluated(ColourLabeller(), sets_of(root), label_maps=tmp_path / "kept")
    text = (tmp_path / "kept/README.txt").read_text()
    monkeypatch.chdir(tmp_path / "kept")
    exec("\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") or not line), {})
    printed = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    assert printed == pytest.approx({name: result.metrics[name] for name in FIGURES}, abs=1e-6)


def test_keypoints_in_void_of_a_prediction_are_not_counted_and_those_in_void_of_the_truth_are(root):
    maps = blotted(root, has_background=True)
    labeller = LabelMaps(maps, 5, has_background=True, ignore_label=255)
    labeller.knows_training_pictures = False
    before = evaluated(labeller, sets_of(root), ("keypoints",))
    void_in(root / "parts/creature_001.png")
    assert evaluated(labeller, sets_of(root), ("keypoints",)).metrics == before.metrics
    save_picture(maps / "creature_001.jpg.png", np.full(pixels(maps / "creature_001.jpg.png").shape, 255))
    after = evaluated(labeller, sets_of(root), ("keypoints",))
    of_first = int((sets_of(root).test[0].keypoints[:, 2] > 0).sum())
    assert after.counts["keypoints"] == before.counts["keypoints"] - of_first < before.counts["keypoints"]


@pytest.mark.parametrize("has_background", [True, False], ids=["own background", "masks"])
def test_the_centre_of_a_part_is_that_of_its_known_pixels(has_background):
    labels = np.full((8, 8), 2, np.uint8)
    labels[:, :4], labels[:, 3], labels[0, 6] = 1, VOID, VOID
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    inputs = batch([EvalInput("", None, picture, mask, predicted=labels, void=labels == VOID)])
    labeller = LabelMaps(Path("nowhere"), 2, has_background, VOID)
    scores = labeller.scores_of(inputs)
    probabilities = part_probabilities(scores, inputs.foreground, has_background)[:, 1:]
    found = labeller.centres(probabilities, inputs, scores)[0, :2].numpy()
    for part in (1, 2):
        rows, columns = np.nonzero(labels == part)
        np.testing.assert_allclose(found[part - 1], [columns.mean() + 1, rows.mean() + 1], atol=1e-5)


def test_the_largest_label_that_is_not_void_is_the_number_of_parts(root):
    maps = blotted(root, has_background=True)
    for stem in HELD_OUT:
        void_in(maps / f"{stem}.jpg.png")
    (root / "keypoints.csv").unlink()
    config = composed("dataset_name=folder", f"dataset_root={root}", f"predictions={maps}", name="evaluate")
    assert given(config, sets_of(root)).largest_label == 5


class Half(ColourLabeller):
    """Finds the object in the left half."""

    title, gives_masks, num_parts, has_background = "half", True, 1, True

    def scores(self, images, foreground):
        scores = images.new_zeros(len(images), 2, *images.shape[-2:]).float()
        scores[:, 1, :, : images.shape[-1] // 2] = 1
        scores[:, 0, :, images.shape[-1] // 2 :] = 1
        return scores


def test_the_figures_of_masks_are_of_known_pixels(root):
    maps = [root / f"masks/{stem}.png" for stem in HELD_OUT]
    for path in maps:
        mask = pixels(path) > 0
        around = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) > mask
        save_picture(path, np.where(around, 255, mask))
    sets = sets_of(root)
    result = evaluated(Half(), sets, ("foreground",))
    crops = [sets.test.test_crop(sets.test[index], 32) for index in range(3)]
    known = np.stack([crop.void for crop in crops]) == 0
    true, found = np.stack([crop.foreground for crop in crops]) > 0, np.arange(32) < 16
    true, found = true[known], np.broadcast_to(found, known.shape)[known]
    assert not known.all()
    assert result.metrics["pixel accuracy"] == pytest.approx(100 * (true == found).mean())
    assert result.metrics["foreground IoU"] == pytest.approx(100 * (true & found).sum() / (true | found).sum())


def test_programs_say_how_many_pixels_in_how_many_pictures(root, tmp_path, capsys, monkeypatch):
    counts = sum(void_in(root / f"parts/{stem}.png", seed=number) for number, stem in enumerate(HELD_OUT[:2]))
    line = f"{VOID_PIXELS.format(count=2, pixels=f'{counts:,}')} For example {root}/images/creature_00"
    small = f"dataset_name=folder dataset_root={root} image_size=32 batch_size=2 loader.num_workers=0"
    assert ended(f"check {small}", tmp_path, monkeypatch) == 0
    assert capsys.readouterr().out.count(line) == 1
    maps = blotted(root, has_background=True)
    for stem in HELD_OUT:
        labels = pixels(maps / f"{stem}.jpg.png")
        save_picture(maps / f"{stem}.jpg.png", np.where(labels == VOID, 0, labels))
    options = f"predictions={maps} output_dir={tmp_path / 'run'} device=cpu evaluation.size=32"
    assert ended(f"evaluate.py {small} {options}", tmp_path, monkeypatch) == 0
    assert capsys.readouterr().out.count(line) == 1
    assert set(FIGURES) <= json.loads((tmp_path / "run/metrics.json").read_text()).keys()


@pytest.mark.parametrize("of_class", [VOID, None])
def test_clusters_in_void_of_a_prediction_have_no_class_to_meet(of_class):
    rng = np.random.default_rng(0)
    true, labels = rng.integers(0, 2, (8, 8)).astype(np.uint8), rng.integers(1, 3, (8, 8)).astype(np.uint8)
    labels[:3] = VOID
    if of_class is not None:
        true[2:5] = of_class
    picture, mask = np.zeros((8, 8, 3), np.uint8), np.ones((8, 8), np.uint8)
    inputs = batch([EvalInput("", None, picture, mask, class_map=true, predicted=labels, void=labels == VOID)])
    split = draw_split("test", 1)
    split.pixel_classes = ["a", "b"]
    labeller = LabelMaps(Path("nowhere"), 2, False, VOID)
    protocol = pixel_accuracy.Protocol(split, labeller, evaluation_options())
    protocol.update(inputs, labeller.scores_of(inputs))
    known = (labels != VOID) & (true != VOID)
    assert protocol.counts()["class_pixels"] == known.sum() and 8 < known.sum() < 48
    assert protocol.metrics()["NMI"] == pytest.approx(100 * normalized_mutual_info_score(true[known], labels[known]))
