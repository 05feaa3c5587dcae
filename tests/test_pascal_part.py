import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import loadmat, savemat

import datasets
import train
from datasets import crops, pascal_part
from datasets.pascal_part import CATEGORIES, PAPER_NAMES, NoObjects, Options, PascalPart
from evaluation.labellers.base import Labeller
from evaluation.protocols.part_maps import Protocol
from tests.composition import composed
from tests.quadrants import evaluated, evaluation_options
from tests.shared import SHARED, needs_shared
from tests.trees import draw_pascal_tree
from utils.errors import UserError
from utils.run_directory import ROOT

REAL = SHARED / "data/VOCdevkit_2010"
LIMITS = {"train": 0.1, "test": 0.2}


def pascal(root: Path, split: str, mask: str = "gt", category: str = "car", **options) -> PascalPart:
    """The data set with the published limits and crop, unless ``options`` say otherwise."""
    published = {f"min_{split}_area": limit for split, limit in LIMITS.items()}
    published |= {"box_padding": 0.05, "box_jitter": 0.05, "flip_probability": 0.5}
    return PascalPart(root, split, mask, Options(category=category, **published | options))


@pytest.fixture
def tree(tmp_path) -> Path:
    return draw_pascal_tree(tmp_path / "VOCdevkit_2010")


# The real annotations, read by another route: records as attributes, boxes and labels pixel by pixel.


def listed(category: str, split: str) -> list[str]:
    ending = {"train": "train", "test": "val"}[split]
    text = (REAL / f"VOC2010/ImageSets/Main/{category}_{ending}.txt").read_text()
    return [line[: line.index(" ")] for line in text.splitlines() if not line.endswith("-1")]


def annotated(category: str, split: str) -> dict[str, tuple[list[int], float, np.ndarray]]:
    """Of each object of the category: box, share of the picture, and the name of the part at every pixel."""
    found = {}
    for picture in listed(category, split):
        anno = loadmat(REAL / f"Annotations_Part/{picture}.mat", squeeze_me=True, struct_as_record=False)["anno"]
        for place, annotation in enumerate(np.atleast_1d(anno.objects)):
            if getattr(annotation, "class") != category:
                continue
            height, width = annotation.mask.shape
            inside = np.argwhere(annotation.mask == 1)
            (y0, x0), (y1, x1) = inside.min(0), inside.max(0)
            names = np.full(annotation.mask.shape, "", dtype=object)
            for part in np.atleast_1d(annotation.parts):
                for y, x in np.argwhere(part.mask == 1):
                    names[y, x] = names[y, x] or part.part_name.split("_")[0]  # the first part stays
            share = float(x1 - x0) * float(y1 - y0) / (height * width)
            found[f"{category}/{picture}_{place}"] = ([x0, y0, x1, y1], share, names)
    return found


@needs_shared
@pytest.mark.parametrize("category", CATEGORIES)
def test_every_object_of_the_real_annotations_has_its_box_and_its_parts(category):
    expected = {split: annotated(category, split) for split in LIMITS}
    for split in LIMITS:
        dataset = pascal(REAL, split, category=category, min_train_area=0, min_test_area=0)
        assert [dataset[index].name for index in range(len(dataset))] == list(expected[split])
        for index, (box, _, names) in enumerate(expected[split].values()):
            sample = dataset[index]
            assert sample.box.tolist() == box
            assert (np.array(["", *dataset.part_names], object)[sample.part_map] == names).all()
            assert (sample.foreground == (names != "")).all() and sample.foreground.any()
            assert sample.image.shape[:2] == names.shape
            assert sample.path.stem == sample.name.partition("/")[2].rpartition("_")[0]


@needs_shared
@pytest.mark.parametrize(("split", "count"), [("train", 2), ("test", 4)])
def test_real_objects_are_used_from_the_split_s_share_of_their_picture_on(split, count):
    used = []
    for category in CATEGORIES:
        expected = [name for name, (_, share, _) in annotated(category, split).items() if share > LIMITS[split]]
        dataset = pascal(REAL, split, category=category)
        assert [dataset[index].name for index in range(len(dataset))] == expected
        used += expected
    assert len(used) == count


@needs_shared
def test_a_category_without_training_objects_can_be_evaluated_but_not_trained():
    car = ("dataset_name=PP", "dataset.category=car", "dataset.eval_mask=gt")
    config = composed(*car, f"dataset_root={REAL.parent}")
    assert len(datasets.build(config, "test", "evaluation")) == 1
    assert len(datasets.build(config, "train", "evaluation")) == 0
    with pytest.raises(NoObjects, match="car_train.txt gives no object to use.* 0 of 4 objects"):
        datasets.build(config, "train", "training")


def test_categories_are_those_of_the_config_and_of_the_paper(tree):
    for category in (*CATEGORIES, *PAPER_NAMES):
        assert composed("dataset_name=PP", f"dataset.category={category}").dataset.category == category
    draw_pascal_tree(tree, "motorbike")
    assert pascal(tree, "train", category="mbike").category == "motorbike"
    with pytest.raises(UserError, match="must be one of sheep, .*, not 'person'"):
        composed("dataset_name=PP", "dataset.category=person")
    config = composed("dataset_name=PP", f"dataset_root={tree.parent}")
    with pytest.raises(UserError, match=r"give dataset.category=sheep\|horse"):
        datasets.build(config, "train", "training")


def test_earlier_parts_are_seen_and_parts_that_differ_in_their_number_are_one(tree):
    sample = pascal(tree, "train")[0]
    assert pascal(tree, "train").part_names == ["body", "lamp", "wheel"]
    body, wheels = sample.part_map == 1, sample.part_map == 3
    assert body.any() and wheels.any() and set(np.unique(sample.part_map)) == {0, 1, 3}
    centre = sample.box[[0, 2]].mean()
    columns = np.nonzero(wheels)[1]
    assert (columns < centre).any() and (columns > centre).any(), "the wheels lie on both sides"


def edit_annotation(path: Path, edit) -> None:
    """Write an annotation again with ``edit(objects)`` done to its objects."""
    anno = loadmat(path)["anno"]
    edit(anno[0, 0]["objects"][0])
    savemat(path, {"anno": anno})


def test_labels_are_the_same_in_both_splits_and_come_from_objects_of_any_size(tree):
    def rename_part(objects):
        objects[1]["parts"][0, 0]["part_name"] = "door_1"

    edit_annotation(tree / "Annotations_Part/2010_car000.mat", rename_part)
    names = {split: pascal(tree, split).part_names for split in LIMITS}
    # Lamps are on small cars only, and the door is in the training split only.
    assert names["train"] == names["test"] == ["body", "door", "lamp", "wheel"]


def test_an_object_without_parts_is_background_in_the_test_and_left_out_of_the_training(tree):
    def take_parts(objects):
        objects[1]["parts"] = objects[0]["parts"]

    for picture in ("2010_car000", "2010_car006"):
        edit_annotation(tree / f"Annotations_Part/{picture}.mat", take_parts)
    training, test = pascal(tree, "train"), pascal(tree, "test")
    assert len(training) == 5 and "1 without parts left out" in training.notes[0]
    assert len(test) == 4 and test[0].name == "car/2010_car006_1"
    assert not test[0].foreground.any() and not test[0].part_map.any()
    assert test[0].box.tolist() == pascal(tree, "test", "supervised")[0].box.tolist()


def test_lines_with_a_zero_are_pictures_of_the_category(tree):
    path = tree / "VOC2010/ImageSets/Main/car_val.txt"
    path.write_text(path.read_text().replace("2010_car006  1", "2010_car006  0"))
    assert len(pascal(tree, "test")) == 4


@pytest.mark.parametrize(("mask", "grown"), [("supervised", 1), ("unsupervised", 2)])
def test_predicted_masks_are_read_for_each_object(tree, mask, grown):
    true, predicted = pascal(tree, "test")[0], pascal(tree, "test", mask)[0]
    folder = {"supervised": "supervisedlabels", "unsupervised": "pseudolabels"}[mask]
    stored = np.array(Image.open(tree / folder / f"{predicted.name}.png"))
    assert (predicted.foreground == (stored > 0)).all()
    assert predicted.foreground.sum() > true.foreground.sum() and set(np.unique(predicted.foreground)) == {0, 1}
    assert (predicted.part_map == true.part_map).all() and (predicted.image == true.image).all()


def test_predicted_masks_are_needed_for_the_test_split_alone(tree):
    config = composed("dataset_name=PP", "dataset.category=car", f"dataset_root={tree.parent}")
    for picture in range(6):
        (tree / f"supervisedlabels/car/2010_car00{picture}_1.png").unlink()
    fitting = datasets.build(config, "train", "evaluation")
    assert (fitting[0].foreground == (fitting[0].part_map > 0)).all()
    held_out = datasets.build(config, "test", "evaluation")
    assert held_out[0].foreground.sum() > (held_out[0].part_map > 0).sum()


def test_crops_are_those_around_the_object_s_box(tree):
    dataset = pascal(tree, "test")
    sample = dataset[1]
    expected = crops.crop(sample, crops.square_box(sample.box, 0.05), 32)
    found = dataset.test_crop(sample, 32)
    assert (found.image == expected.image).all() and (found.part_map == expected.part_map).all()
    training = dataset.train_crop(sample, 32, np.random.default_rng(0))
    assert training.image.shape == (32, 32, 3) and training.foreground.shape == (32, 32)


def test_annotations_are_read_once_and_stay_small(tree, monkeypatch):
    reads = []
    monkeypatch.setattr(pascal_part, "loadmat", lambda path: reads.append(path) or loadmat(path))
    for split in ("train", "test", "train"):
        dataset = pascal(tree, split)
        [dataset[index] for index in range(len(dataset))]
    assert len(reads) == len(set(reads)) == 10
    pixels = sum(dataset[index].part_map.size for index in range(len(dataset)))
    assert len(pickle.dumps(dataset)) < pixels
    edit_annotation(tree / "Annotations_Part/2010_car000.mat", lambda objects: None)
    pascal(tree, "train")
    assert len(reads) == 11, "a file that changed is read again"


def test_what_is_missing_or_broken_is_named(tree):
    lists, annotations = tree / "VOC2010/ImageSets/Main", tree / "Annotations_Part"
    with pytest.raises(NoObjects, match="missing .*bus_train.txt"):
        pascal(tree, "test", category="bus")
    with pytest.raises(UserError, match="no folder .*elsewhere. Set dataset_root="):
        pascal(tree / "elsewhere", "train")
    with pytest.raises(UserError, match="(?s)supervisedlabels/bus for supervised masks.*dataset.eval_mask=gt"):
        for split in ("train", "val"):
            (lists / f"bus_{split}.txt").write_text("2010_car000 1\n")
        pascal(tree, "test", "supervised", category="bus")

    (lists / "bus_val.txt").write_text("2010_car000 yes\n")
    with pytest.raises(UserError, match=r"bus_val.txt, line 1: expected 'picture 1\|0\|-1', found '2010_car000 yes'"):
        pascal(tree, "test", category="bus")

    (annotations / "2010_car001.mat").unlink()
    (annotations / "2010_car002.mat").write_bytes((annotations / "2010_car003.mat").read_bytes()[:300])
    (annotations / "2010_car004.mat").write_text("<html>404</html>")
    with pytest.raises(UserError) as caught:
        pascal(tree, "test")
    for name in ("2010_car001.mat", "2010_car002.mat", "2010_car004.mat"):
        assert str(annotations / name) in str(caught.value)
    assert "2010_car003" not in str(caught.value)


def shrink_part(objects):
    objects[1]["parts"][0, 0]["mask"] = objects[1]["mask"][:-1]


def no_class(objects):
    objects[1]["class"] = np.zeros((0, 0))


@pytest.mark.parametrize(
    ("edit", "message"), [(shrink_part, "the masks of object 1 and its part 'wheel' differ in size"), (no_class, "")]
)
def test_an_annotation_of_another_form_is_refused_by_name(tree, edit, message):
    path = tree / "Annotations_Part/2010_car007.mat"
    edit_annotation(path, edit)
    with pytest.raises(UserError, match=f"2010_car007.mat is no annotation of PASCAL-Part: {message}"):
        pascal(tree, "test")


def test_a_missing_picture_or_mask_and_one_of_another_size_are_named(tree):
    dataset = pascal(tree, "test", "supervised")
    picture, mask = dataset.files(0)
    small = Image.fromarray(np.zeros((5, 5), np.uint8))
    small.save(mask)
    with pytest.raises(UserError, match=f"{mask} is 5 x 5 pixels, but its picture {picture} is 64 x 48"):
        dataset[0]
    mask.unlink()
    with pytest.raises(UserError, match=f"Missing {mask}"):
        dataset[0]
    picture.unlink()
    with pytest.raises(UserError, match=f"Missing {picture}"):
        dataset[0]
    small.save(picture)
    with pytest.raises(UserError, match="2010_car006.mat is 64 x 48 pixels, but its picture"):
        pascal(tree, "test")[0]


class HalfLabeller(Labeller):
    """Finds one part left and another one right."""

    num_parts = 2

    def scores(self, images, foreground):
        side = torch.linspace(-9, 9, images.shape[-1]).expand(len(images), 1, images.shape[-2], -1)
        return torch.cat([-side, side], dim=1)


def figures(dataset: PascalPart) -> dict[str, float]:
    return evaluated(HalfLabeller(), dataset, batch_size=2).metrics


def test_figures_with_predicted_and_with_true_masks_stand_beside_each_other(tree):
    both, true = figures(pascal(tree, "test", "supervised")), figures(pascal(tree, "test"))
    names = {f"{index} (ground-truth mask)" for index in ("NMI", "ARI")}
    assert set(both) == {"FG-NMI", "FG-ARI", "NMI", "ARI"} | names
    assert set(true) == {"FG-NMI", "FG-ARI"} | names, "what needs a predicted mask is not named without one"
    assert both["NMI"] < both["NMI (ground-truth mask)"] and both["ARI"] < both["ARI (ground-truth mask)"]
    assert all(both[name] == true[name] for name in true)
    protocol = Protocol(pascal(tree, "test"), HalfLabeller(), evaluation_options())
    (only,) = protocol.inputs(pascal(tree, "test")[0])
    assert only.image.shape == (32, 32, 3)


def run(root: Path, output: Path, *overrides: str) -> Path:
    train.train(
        composed(
            *("dataset_name=PP", "dataset.category=cat", f"dataset_root={root}", f"output_dir={output}"),
            *("experiment=debug", "logging.wandb=disabled", "loader.num_workers=0", "device=cpu"),
            *overrides,
        )
    )
    return output


def test_a_drawn_tree_trains_and_reports_the_paper_s_figures(tmp_path):
    draw_pascal_tree(tmp_path / "VOCdevkit_2010", "cat")
    output = run(tmp_path, tmp_path / "run", "num_steps=1", "image_size=32", "optimizer.lr=1e-3")
    header, row = (output / "evaluation.csv").read_text().splitlines()
    found = dict(zip(header.split(","), map(float, row.split(",")), strict=True))
    assert {"NMI", "ARI", "FG-NMI", "FG-ARI", "NMI (ground-truth mask)", "ARI (ground-truth mask)"} < set(found)
    assert all(np.isfinite(value) for value in found.values())


@needs_shared
@pytest.mark.slow
def test_fifty_steps_on_the_drawn_tree_and_an_evaluation_on_the_real_files(tmp_path):
    draw_pascal_tree(tmp_path / "VOCdevkit_2010", "cat")
    once = ("evaluation.every=0", "checkpointing.every=50", "logging.image_every=0")
    output = run(tmp_path, tmp_path / "run", "num_steps=50", "image_size=32", *once)
    losses = np.genfromtxt(output / "metrics.csv", delimiter=",", names=True)
    assert len(losses) == 50 and np.isfinite(losses["total"]).all()

    command = [sys.executable, "evaluate.py", "dataset_name=PP", "dataset.category=cat", f"dataset_root={REAL.parent}"]
    command += ["dataset.eval_mask=gt", f"checkpoint={output}", f"output_dir={tmp_path / 'evaluation'}", "device=cpu"]
    command += ["loader.num_workers=0", "logging.wandb=disabled"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert {"FG-NMI", "FG-ARI", "NMI (ground-truth mask)", "ARI (ground-truth mask)"} < set(found)
    assert "NMI" not in found and found["produced_by"]["counts"]["images"] == 1
