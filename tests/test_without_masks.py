"""dataset.train_mask=none: the object fills its picture, and no figure is of a mask that is not there."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import datasets
import evaluate
import train
from datasets.base import NoPictures
from datasets.example import draw_folder
from datasets.files import MissingFile
from evaluation.options import Sets
from models.segmenters.hourglass import Segmenter
from tests.composition import composed, given
from tests.mistakes.harness import ended
from tests.test_datasets import DRAWN, SMALL
from utils import checkpoints

NETWORK = ("segmenter=hourglass", "segmenter.widths=[4,4]")
NONE = ("dataset.train_mask=none", "dataset.eval_mask=none")


@pytest.fixture
def own(tmp_path) -> Path:
    """A folder of one's own pictures without masks, but with part maps and keypoints."""
    draw_folder(tmp_path / "own", count=12, size=48)
    shutil.rmtree(tmp_path / "own/masks")
    return tmp_path / "own"


@pytest.mark.parametrize("name", ["CUB", "DF", "PP", "folder", "synthetic"])
def test_every_data_set_is_read_without_masks(name, tmp_path):
    draw, overrides = DRAWN[name]
    draw(tmp_path / "data")
    config = composed(f"dataset_name={name}", f"dataset_root={tmp_path / 'data'}", *SMALL, *overrides, *NONE)
    for folder in ("segmentations", "masks", "supervisedlabels", "pseudolabels"):
        for path in (tmp_path / "data").rglob(folder):
            shutil.rmtree(path)
    for split, purpose in (("train", "training"), ("test", "evaluation")):
        source = datasets.build(config, split, purpose)
        assert not source.has_masks and any("without masks" in note for note in source.notes)
        assert len(source) and all(source[index].foreground.all() for index in range(len(source)))
        crop = source.train_crop(source[0], 32, np.random.default_rng(0))
        assert crop.foreground.shape == (32, 32) and crop.foreground.mean() > 0.5


def figures(path: Path, *overrides: str) -> dict[str, float]:
    """Of a network that finds four parts, as drawn by one seed."""
    torch.manual_seed(0)
    config = composed(*SMALL, *NETWORK, *overrides)
    payload = {"iter": 1, "model_state_dict": Segmenter([4, 4], 4).state_dict(), "optimizer_state_dict": {}}
    checkpoints.save(path / "model_1.pth", payload | {"config": OmegaConf.to_container(config)})
    arguments = (f"checkpoint={path}/model_1.pth", f"output_dir={path}/out", "device=cpu", "loader.num_workers=0")
    with given(*arguments, name="evaluate") as config:
        evaluate.evaluate(config)
    return json.loads((path / "out/metrics.json").read_text())


def test_a_figure_that_needs_masks_is_left_out_and_the_others_are_the_same(tmp_path, capsys):
    """On a data set whose crops are cut to boxes that are annotated."""
    data = ("dataset_name=synthetic", *DRAWN["synthetic"][1], f"dataset_root={tmp_path}")
    (tmp_path / "with").mkdir()
    (tmp_path / "without").mkdir()
    with_masks = figures(tmp_path / "with", *data)
    capsys.readouterr()
    without = figures(tmp_path / "without", *data, *NONE)
    notes = capsys.readouterr().out
    needing = {"NMI", "ARI", *(name for name in with_masks if name.split(" ")[0] in ("NMI", "ARI"))}
    needing |= {name for name in with_masks if name.startswith("keypoint_error")}
    assert set(with_masks) - set(without) == needing and "keypoint_error_all" in needing
    for name in set(without) - {"produced_by"}:
        assert name.startswith("FG-") and without[name] == pytest.approx(with_masks[name], abs=1e-9)
    assert (with_masks["produced_by"]["eval_mask"], without["produced_by"]["eval_mask"]) == ("gt", None)
    for name in ("NMI", "ARI", "keypoint_error_all"):
        assert f"{name} is left out: it takes background or box from masks, and none are read." in notes


def test_a_folder_without_masks_is_trained_on_and_evaluated_with_one_key(own, tmp_path, monkeypatch):
    arguments = (
        *("experiment=debug", "dataset_name=folder", f"dataset_root={own}", "dataset.train_mask=none", *SMALL),
        *(*NETWORK, "perceptual.weights=none", "logging.wandb=disabled", "device=cpu", "loader.num_workers=0"),
        *("batch_size=2", "num_steps=1", f"output_dir={tmp_path / 'run'}"),
    )
    train.train(composed(*arguments))
    last = (tmp_path / "run/evaluation.csv").read_text().splitlines()
    columns = last[0].split(",")
    assert "FG-NMI" in columns and not {"NMI", "ARI", "keypoint_error_all"} & {*columns}


def test_masks_that_are_there_are_used_in_the_evaluation(own):
    config = ("dataset_name=folder", f"dataset_root={own}", "dataset.train_mask=none")
    assert not Sets.of(composed(*config), "evaluation").test.has_masks
    (own / "masks").mkdir()
    for path in (own / "parts").glob("*.png"):
        shutil.copy(path, own / "masks")
    sets = Sets.of(composed(*config), "evaluation")
    assert sets.test.has_masks and not sets.test[0].foreground.all()
    assert datasets.build(composed(*config), "train", "training")[0].foreground.all()
    assert not Sets.of(composed(*config, "dataset.eval_mask=none"), "evaluation").test.has_masks


def few_masks(own: Path, split: str) -> None:
    """Made by hand, of one picture that is held out, or of all of those and of none of training."""
    (own / "test.txt").write_text("creature_001\ncreature_002\n")
    (own / "masks").mkdir()
    for number in (1,) if split == "test" else (1, 2):
        shutil.copy(own / f"parts/creature_00{number}.png", own / "masks")


def test_beside_a_few_masks_the_message_has_the_key_that_does_without_them(own, monkeypatch, capsys):
    few_masks(own, "test")
    config = ("dataset_name=folder", f"dataset_root={own}", "dataset.train_mask=none", "loader.num_workers=0")
    assert datasets.build(composed(*config), "train", "training")[0].foreground.all()
    told = r"1 of 2 pictures of the test split have no mask in .*/masks .creature_002.jpg.*: dataset.eval_mask=none\."
    with pytest.raises(MissingFile, match=told):
        Sets.of(composed(*config), "evaluation")
    assert ended(f"check {' '.join(config)} batch_size=2", own, monkeypatch) == 1
    assert re.search(f"error: folder: {told}", capsys.readouterr().out)
    assert ended(f"check {' '.join(config)} dataset.eval_mask=none batch_size=2", own, monkeypatch) == 0
    assert not Sets.of(composed(*config, "dataset.eval_mask=none"), "evaluation").test.has_masks


def test_masks_of_held_out_pictures_alone_are_evaluated_with(own, monkeypatch, capsys):
    few_masks(own, "train")
    config = ("dataset_name=folder", f"dataset_root={own}", "dataset.train_mask=none", "loader.num_workers=0")
    sets = Sets.of(composed(*config), "evaluation")
    assert sets.test.has_masks and any("10 of 10" in note and "eval_mask=none" in note for note in sets.fit.notes)


@pytest.mark.parametrize("mask", ["supervised", "unsupervised"])
def test_masks_that_are_asked_for_are_not_done_without(own, mask):
    config = ("dataset_name=folder", f"dataset_root={own}", "dataset.train_mask=none", f"dataset.eval_mask={mask}")
    with pytest.raises(MissingFile, match="no masks in .*(supervisedlabels|pseudolabels).*dataset.eval_mask=none"):
        Sets.of(composed(*config), "evaluation")


def masks_of(own: Path, *numbers: int) -> None:
    (own / "masks").mkdir(exist_ok=True)
    for number in numbers:
        shutil.copy(own / f"parts/creature_{number:03}.png", own / "masks")


@pytest.mark.parametrize("held_out", [False, True])
def test_masks_of_some_pictures_alone_are_told_with_the_ways_that_work(own, held_out, monkeypatch, capsys):
    (own / "test.txt").write_text("creature_001\ncreature_002\n")
    masks_of(own, *range(1 + held_out, 9))
    config = ("dataset_name=folder", f"dataset_root={own}", "loader.num_workers=0")
    images = f"images={own}/images only_missing=true"
    ways = [
        f"{4 + held_out} of 12 pictures have no mask. Four ways on:",
        f"python predict.py task=foreground pretrained=maskrcnn {images}",
        f"python train.py method=foreground dataset_name=folder dataset_root={own}",
        f"python predict.py checkpoint=RUN {images}",
        "dataset.train_mask=none dataset.eval_mask=none",
        f"listed in {own}/without_object.txt" if held_out else "dataset.on_error=skip trains without them",
    ]
    with pytest.raises(MissingFile) as refused:
        datasets.build(composed(*config), "train", "training")
    assert all(way in str(refused.value) for way in ways)
    assert ended(f"check {' '.join(config)} batch_size=2 dataset.eval_mask=gt", own, monkeypatch) == 1
    told = capsys.readouterr().out
    assert all(told.count(way) == 1 for way in ways)

    if held_out:
        (own / "without_object.txt").write_text("".join(f"creature_{number:03}\n" for number in (1, 9, 10, 11, 12)))
    skip = () if held_out else ("dataset.on_error=skip",)
    sets = Sets.of(composed(*config, *skip, "dataset.eval_mask=gt"), "evaluation")
    train_set = datasets.build(composed(*config, *skip), "train", "training")
    assert (len(sets.test), len(train_set)) == ((1, 6) if held_out else (2, 10))
    none = composed(*config, *NONE)
    assert len(Sets.of(none, "evaluation").test) == 2 and len(datasets.build(none, "train", "training")) == 10


def test_of_predicted_masks_the_others_are_written_where_they_are_looked_for(own):
    masks_of(own, *range(1, 9))
    (own / "masks").rename(own / "supervisedlabels")
    config = composed("dataset_name=folder", f"dataset_root={own}", "dataset.train_mask=supervised")
    pictures = f"dataset_name=folder dataset_root={own} only_missing=true"
    with pytest.raises(MissingFile, match=f"predict.py .*maskrcnn {pictures} makes .*checkpoint=RUN {pictures}"):
        datasets.build(config, "train", "training")


def test_which_pictures_are_held_out_does_not_hang_on_the_masks_that_there_are(own):
    """Else what is trained on without masks would be tested with those that there are."""
    config = ("dataset_name=folder", f"dataset_root={own}", "dataset.test_share=0.5")
    held_out = {split: set() for split in ("with", "without")}
    for split, masks in (("without", NONE), ("with", ("dataset.eval_mask=gt",))):
        if split == "with":
            names = sorted(held_out["without"])
            (own / "without_object.txt").write_text("\n".join(names[:4]) + "\n")
            masks_of(own, *(number for number in range(1, 13) if f"creature_{number:03}.jpg" not in names[:4]))
        test = datasets.build(composed(*config, *masks), "test", "evaluation")
        held_out[split] = {test.sample_name(index) for index in range(len(test))}
    assert len(held_out["with"]) == 2 and held_out["with"] < held_out["without"]
    (own / "without_object.txt").write_text("\n".join(held_out["without"]) + "\n")
    for name in held_out["with"]:
        (own / "masks" / name.replace("jpg", "png")).unlink()
    with pytest.raises(NoPictures, match="no picture of the test split. .*without_object.txt: 6 pictures .* left out"):
        datasets.build(composed(*config, "dataset.eval_mask=gt"), "test", "evaluation")
