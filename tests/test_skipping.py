"""What an evaluation reads of the training split: what it fits on without what is skipped, or nothing."""

from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from datasets.files import MissingFile
from datasets.pascal_part import Options as PascalOptions
from datasets.pascal_part import PascalPart
from evaluation import whole_pictures
from evaluation.labellers import label_maps
from evaluation.labellers.base import Labeller
from evaluation.labellers.kmeans import Options
from evaluation.labellers.kmeans_colours import KMeansColours
from evaluation.options import EvaluationOptions, Sets
from evaluation.run import Result, evaluate, look_for_training_pictures
from tests.composition import composed
from tests.mistakes.damage import maps
from tests.quadrants import ColourLabeller
from tests.trees import draw_own_tree, draw_pascal_tree
from utils.errors import UserError

PROTOCOLS = ("part_maps", "keypoints")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_own_tree(tmp_path_factory.mktemp("drawn") / "mine", count=8, size=48)


@pytest.fixture(scope="module")
def config() -> DictConfig:
    return composed("dataset_name=folder", "image_size=32", "evaluation.size=32", "loader.num_workers=0")


@pytest.fixture
def sets(root, config):
    def read(on_error: str = "raise", **options) -> Sets:
        changes = {"dataset_root": str(root), "dataset": {"on_error": on_error, **options}}
        return Sets.of(OmegaConf.merge(config, changes), "evaluation")

    return read


def kmeans() -> KMeansColours:
    return KMeansColours(Options(1000, 1, num_images=None, minibatch=None, epochs=1), 3, seed=0)


def looked_for(labeller: Labeller, sets: Sets, config: DictConfig) -> None:
    look_for_training_pictures(labeller, sets, PROTOCOLS, EvaluationOptions.of(config))


def evaluated(labeller: Labeller, sets: Sets, config: DictConfig) -> Result:
    looked_for(labeller, sets, config)
    return evaluate(labeller, sets, PROTOCOLS, EvaluationOptions.of(config), "cpu")


def without_keypoints(root: Path) -> None:
    (root / "keypoints.csv").unlink()


def test_a_skipped_training_picture_is_skipped_in_what_is_fitted_as_if_it_were_not_listed(root, sets, config):
    (root / "masks/creature_004.png").unlink()
    (root / "images/creature_005.jpg").write_bytes(b"")
    found = evaluated(kmeans(), sets("skip"), config)
    *others, note = found.notes
    assert others == [] and note.startswith(
        "2 of 6 training pictures are skipped in what is fitted. The first: Missing"
    )
    assert "masks/creature_004.png" in note

    (root / "train.txt").write_text("creature_003\ncreature_006\ncreature_007\ncreature_008\n")
    expected = evaluated(kmeans(), sets(), config)
    assert found.metrics == expected.metrics and found.counts == expected.counts and expected.notes == []


@pytest.mark.parametrize("labeller", [kmeans, ColourLabeller])
def test_a_missing_file_of_a_picture_that_is_fitted_on_is_asked_for_at_the_start(root, sets, config, labeller):
    """By k-means, or by the keypoint error."""
    (root / "masks/creature_004.png").unlink()
    with pytest.raises(MissingFile, match="1 of .* files are missing: .*masks/creature_004.png"):
        looked_for(labeller(), sets(), config)


def test_where_nothing_is_fitted_training_pictures_are_not_asked_for(root, sets, config):
    without_keypoints(root)
    (root / "masks/creature_004.png").unlink()
    found = evaluated(ColourLabeller(), sets(), config)
    assert {"FG-NMI", "NMI"} <= found.metrics.keys() and found.notes == []


def test_a_held_out_picture_is_asked_for_whatever_is_skipped(root, sets):
    (root / "masks/creature_002.png").unlink()
    with pytest.raises(MissingFile, match="masks/creature_002.png"):
        sets("skip")


def test_nothing_to_fit_on_is_told(root, sets, config):
    for path in (root / "masks").iterdir():
        if path.stem not in ("creature_001", "creature_002"):
            path.unlink()
    with pytest.raises(UserError, match="No training picture can be read, .*The first one: Missing .*creature_003.png"):
        evaluated(kmeans(), sets("skip"), config)


@pytest.mark.parametrize("how", ["list", "share"])
def test_pictures_that_are_all_held_out_are_evaluated(root, sets, config, how):
    (root / "test.txt").unlink()
    if how == "list":
        (root / "test.txt").write_text("".join(f"creature_{number:03}\n" for number in range(1, 9)))
        found = sets()
    else:
        found = sets(test_share=1.0)
    assert found.fit is None and len(found.test) == 8
    result = evaluated(ColourLabeller(), found, config)
    assert {"FG-NMI", "NMI", "FG-NMI (keypoints)"} <= result.metrics.keys()
    assert result.counts["training_images"] == 0
    assert result.notes == ["keypoint_error_all is left out: there is nothing to fit it on."]
    with pytest.raises(UserError, match="is fitted on training pictures, and folder has none"):
        looked_for(kmeans(), found, config)


def test_label_maps_of_pictures_that_are_all_held_out_are_evaluated(root, sets, config):
    (root / "test.txt").write_text("".join(f"creature_{number:03}\n" for number in range(1, 9)))
    maps(1)(root)
    keys = {"predictions": str(root.parent / "maps"), "predictions_num_parts": None, "predictions_background": True}
    found = sets()
    labeller = label_maps.given(OmegaConf.create(keys), found)
    result = evaluated(labeller, found, config)
    assert {"FG-NMI", "NMI", "FG-NMI (keypoints)"} <= result.metrics.keys()
    assert result.notes == ["keypoint_error_all is left out: there is nothing to fit it on."]


def test_pictures_that_are_skipped_are_told_and_the_others_predicted(root, sets):
    (root / "images/creature_004.jpg").write_bytes(b"")
    fit, skipped = sets("skip").fit, {}
    options = {"image_size": 32, "batch_size": 2, "num_workers": 0, "device": "cpu"}
    found = [index for index, *_ in whole_pictures.label_maps(ColourLabeller(), fit, **options, skipped=skipped)]
    assert [fit.sample_name(index) for index in skipped] == ["creature_004.jpg"]
    assert "it is empty" in next(iter(skipped.values())) and sorted([*found, *skipped]) == list(range(6))
    with pytest.raises(UserError, match="creature_004.jpg"):
        list(whole_pictures.label_maps(ColourLabeller(), fit, **options))


def test_an_annotation_of_pascal_part_that_is_skipped_is_noted_and_a_held_out_one_asked_for(tmp_path):
    root = draw_pascal_tree(tmp_path / "VOCdevkit_2010")

    def read(on_error: str) -> PascalPart:
        crop = {"box_padding": 0.05, "box_jitter": 0.05, "flip_probability": 0.5}
        limits = {"min_train_area": 0.05, "min_test_area": 0.05}
        return PascalPart(root, "train", "gt", PascalOptions(category="car", on_error=on_error, **crop, **limits))

    whole = read("raise")
    (root / "Annotations_Part/2010_car001.mat").write_bytes(b"<html>")
    with pytest.raises(UserError, match="2010_car001.mat is no annotation of PASCAL-Part: it is a web page"):
        read("raise")
    found = read("skip")
    kept = [whole.sample_name(index) for index in range(len(whole)) if "car001" not in whole.sample_name(index)]
    assert [found.sample_name(index) for index in range(len(found))] == kept and len(kept) < len(whole)
    assert any("1 training pictures are skipped, the first: " in note and "car001.mat" in note for note in found.notes)
    (root / "Annotations_Part/2010_car007.mat").unlink()
    with pytest.raises(MissingFile, match="Missing .*2010_car007.mat"):
        read("skip")
