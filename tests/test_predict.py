"""predict.py: label maps lie where the objects are, masks where their data set reads them, and nothing is lost."""

import csv
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pycocotools.coco import COCO

import datasets
import evaluate
import predict
from datasets.crops import pad_to_square
from datasets.pictures import Pictures
from evaluation.labellers.base import Labeller
from evaluation.palette import colours
from evaluation.whole_pictures import label_maps
from models.segmenters.deeplab import Segmenter
from tests.composition import composed, given
from tests.processes import run_python
from tests.quadrants import ColourLabeller, Quadrants, draw_split
from tests.test_datasets import DRAWN, SMALL
from tests.trees import draw_cub_tree
from utils import checkpoints
from utils.errors import UserError


def save_segmenter(path: Path, num_parts: int, *overrides: str) -> Path:
    """A checkpoint of a run with these overrides; without any, as the published ones, it does not say what made it."""
    torch.manual_seed(0)
    payload = {"iter": 1, "model_state_dict": Segmenter(num_parts).state_dict(), "optimizer_state_dict": {}}
    if overrides:
        payload["config"] = OmegaConf.to_container(composed(*overrides))
    return checkpoints.save(path, payload)


@pytest.fixture(scope="module")
def foreground(tmp_path_factory) -> Path:
    return save_segmenter(
        tmp_path_factory.mktemp("foreground") / "model_1.pth", 1, "method=foreground", "image_size=32"
    )


@pytest.fixture(scope="module")
def parts(tmp_path_factory) -> Path:
    return save_segmenter(tmp_path_factory.mktemp("parts") / "model_1.pth", 3)


def run(*overrides: str) -> None:
    with given("device=cpu", "loader.num_workers=0", *overrides, name="predict") as config:
        predict.predict(config)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


class Padded(Quadrants):
    """Its crops show whole pictures."""

    def test_crop(self, sample, size):
        return pad_to_square(sample, size)


class Recognised(ColourLabeller):
    """Finds the four parts and the black background."""

    has_background = True

    def scores(self, images, foreground):
        black = -images.float().square().mean(1, keepdim=True) / 500
        return torch.cat([black, super().scores(images, foreground)], dim=1)


def found(labeller, split, size=128, **options):
    options = {"batch_size": 3, "num_workers": 0, "device": "cpu"} | options
    return [labels for _, _, labels in label_maps(labeller, split, image_size=size, **options)]


@pytest.mark.parametrize("labeller", [ColourLabeller(), Recognised()], ids=["mask", "own background"])
@pytest.mark.parametrize("kind", [Quadrants, Padded])
def test_labels_lie_where_the_picture_has_them(kind, labeller):
    """The four parts of each object are rectangles: their borders may be off by rounding, not by a shift."""
    split = kind(draw_split("test", 5).samples)
    for sample, labels in zip(split.samples, found(labeller, split), strict=True):
        assert labels.shape == sample.part_map.shape and labels.dtype == np.uint8
        wrong = labels != sample.part_map
        assert wrong.mean() < 0.03
        for part in (1, 2, 3, 4):
            for axis in (0, 1):
                places, true = (np.nonzero(one == part)[axis].mean() for one in (labels, sample.part_map))
                assert abs(places - true) < 0.6


@pytest.mark.parametrize("own_background", [True, False])
def test_outside_the_crop_there_is_background(own_background):
    sample = draw_split("test", 1).samples[0]
    sample.box, sample.foreground[:] = np.array([20.0, 20.0, 39.0, 39.0]), 1

    class Everything(Labeller):
        num_parts, has_background = 1, own_background

        def scores(self, images, foreground):
            channels = torch.arange(1.0 + own_background)[None, :, None, None]
            return channels.expand(len(images), -1, 4, 4)

    (labels,) = found(Everything(), Quadrants([sample]))
    rows, columns = np.nonzero(labels)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (19, 40, 19, 40)  # five per cent around the box


def test_label_maps_depend_neither_on_batches_nor_on_workers():
    split = draw_split("test", 4)
    reference = found(ColourLabeller(), split)
    for changed in ({"batch_size": 1}, {"num_workers": 2}):
        for one, other in zip(reference, found(ColourLabeller(), split, **changed), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", ("CUB", "DF", "PP", "folder", "synthetic"))  # the others have classes, not objects
def test_masks_lie_where_their_data_set_reads_them(name, foreground, tmp_path):
    draw, overrides = DRAWN[name]
    draw(tmp_path / "data")
    values = (f"dataset_name={name}", f"dataset_root={tmp_path / 'data'}", *overrides)
    run(f"checkpoint={foreground}", "overwrite=true", *SMALL[:1], *values)
    config = composed(*values, *SMALL, "dataset.train_mask=supervised", "dataset.eval_mask=supervised")
    for split in ("train", "test"):
        read = datasets.build(config, split, "evaluation")
        assert len(read) and not any("prediction.json" in note for note in read.notes)
        for index in range(len(read)):
            path = read.mask_path(index, "supervised")
            assert path in read.files(index) and str(read[index].name) == read.sample_name(index)
            with Image.open(path) as mask:
                assert mask.format == "PNG" and mask.mode == "L"
            assert set(np.unique(pixels(path))) <= {0, 1}
            np.testing.assert_array_equal(read[index].foreground, pixels(path))
    assert any(pixels(path).any() for path in (tmp_path / "data").rglob("supervisedlabels/**/*.png"))


def test_no_mask_is_needed_to_predict_masks(foreground, tmp_path, capsys):
    draw_cub_tree(tmp_path / "CUB", masks=(), cleaned=(1, 2))
    run(f"checkpoint={foreground}", f"dataset_root={tmp_path}")
    names = {path.stem for path in (tmp_path / "CUB/supervisedlabels").rglob("*.png")}
    assert len(names) == 10  # those that the cleaned list leaves out are evaluated too
    assert "10 pictures, 11 files in" in capsys.readouterr().out


def test_nothing_is_overwritten_unless_told(foreground, tmp_path):
    draw_cub_tree(tmp_path / "CUB", masks=("supervisedlabels",))
    present = sorted((tmp_path / "CUB/supervisedlabels").rglob("*.png"))
    for path in present[1:]:
        path.unlink()
    before = present[0].read_bytes()
    arguments = (f"checkpoint={foreground}", f"dataset_root={tmp_path}")
    with pytest.raises(UserError, match=f"There already: {present[0]}.*overwrite=true"):
        run(*arguments)
    assert [path for path in present if path.exists()] == present[:1] and present[0].read_bytes() == before
    run(*arguments, "only_missing=true")
    assert all(path.exists() for path in present) and present[0].read_bytes() == before
    written = [path.read_bytes() for path in present[1:]]
    run(*arguments, "only_missing=true")  # nothing is left to do
    other = tmp_path / "other.pth"
    torch.save(torch.load(foreground, weights_only=False) | {"iter": 5}, other)
    told = "supervisedlabels holds what was found with another checkpoint .*would mix the two. Give overwrite=true"
    with pytest.raises(UserError, match=told):
        run(f"checkpoint={other}", *arguments[1:], "only_missing=true")
    run(*arguments, "overwrite=true")
    assert present[0].read_bytes() != before and [path.read_bytes() for path in present[1:]] == written


def test_a_checkpoint_that_finds_something_else_is_refused_by_name(foreground, parts, tmp_path):
    with pytest.raises(UserError, match="model_1.pth was trained with method=foreground: leave out method=contr"):
        run(f"checkpoint={foreground}", "method=contrastive_reconstruction", f"images={tmp_path}", "output_dir=x")
    with pytest.raises(UserError, match="model_1.pth was trained with method=contrastive_reconstruction and finds par"):
        run(f"checkpoint={parts}")
    with pytest.raises(UserError, match="model_1.pth has 3 channels, with method=contrastive_reconstruction 3 parts"):
        run(f"checkpoint={parts}", "num_parts=4", f"images={tmp_path}", "output_dir=x")


@pytest.fixture
def pictures(tmp_path) -> Path:
    """A folder of three pictures, one of them in a folder, and masks of their left halves."""
    for number, name in enumerate(("a.png", "b.jpg", "more/c.v2.png")):
        size = (40 + 8 * number, 60)
        picture = np.random.default_rng(number).integers(0, 256, (*size, 3)).astype(np.uint8)
        mask = np.zeros(size, np.uint8)
        mask[5:35, 10:30] = 255
        for folder, content in (("images", picture), ("masks", mask)):
            path = (tmp_path / folder / name).with_suffix(".png" if folder == "masks" else Path(name).suffix)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
    (tmp_path / "images/notes.txt").write_text("no picture")
    return tmp_path


NAMES = ["a.png.png", "b.jpg.png", "more/c.v2.png.png"]


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_parts_of_any_pictures_are_written_with_overlays(parts, pictures):
    out = pictures / "out"
    run(f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={out}", "image_size=32")
    assert files(out / "label_maps") == files(out / "overlays") == NAMES
    for name in NAMES:
        picture = pixels(pictures / "images" / name.removesuffix(".png"))
        labels = pixels(out / "label_maps" / name)
        assert labels.shape == picture.shape[:2] and set(np.unique(labels)) <= {1, 2, 3}
        overlay, height = pixels(out / "overlays" / name), len(picture)
        assert overlay.shape[1:] == picture.shape[1:] and len(overlay) > height  # the legend is below
        legend = {tuple(pixel) for pixel in overlay[height:].reshape(-1, 3).tolist()}
        assert {tuple(colours(np.array(part)).tolist()) for part in (1, 2, 3)} <= legend
    with pytest.raises(UserError, match="There already: .*label_maps/a.png.png.* and 5 more"):
        run(f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={out}")


@pytest.mark.parametrize(("precision", "dtype"), [("32", torch.float32), ("bf16", torch.bfloat16)])
def test_networks_predict_and_are_evaluated_in_the_precision_asked_for(
    parts, pictures, tmp_path, monkeypatch, precision, dtype
):
    seen, forward = set(), torch.nn.Conv2d.forward

    def watched(self, features):
        result = forward(self, features)
        seen.add(result.dtype)
        return result

    monkeypatch.setattr(torch.nn.Conv2d, "forward", watched)
    arguments = (f"checkpoint={parts}", f"precision={precision}", "image_size=32")
    run(f"images={pictures / 'images'}", f"output_dir={pictures / 'out'}", *arguments)
    assert seen == {dtype}
    seen.clear()
    draw, overrides = DRAWN["synthetic"]
    values = ("dataset_name=synthetic", f"dataset_root={tmp_path}", *SMALL, *overrides, "device=cpu", *arguments)
    with given(*values, f"output_dir={tmp_path / 'figures'}", name="evaluate") as config:
        evaluate.evaluate(config)
    assert seen == {dtype}
    assert json.loads((tmp_path / "figures/metrics.json").read_text())["NMI"] > 0


def test_masks_are_background_to_parts(parts, pictures):
    arguments = (f"checkpoint={parts}", f"images={pictures / 'images'}", "image_size=32")
    run(*arguments, f"masks={pictures / 'masks'}", f"output_dir={pictures / 'out'}")
    for name in NAMES:
        labels = pixels(pictures / "out/label_maps" / name)
        assert (labels[5:35, 10:30] > 0).all() and (labels > 0).sum() == 30 * 20
    (pictures / "masks/b.png").unlink()
    with pytest.raises(UserError, match="1 of 3 pictures have no mask in .*, for example .*b.jpg"):
        run(*arguments, f"masks={pictures / 'masks'}", f"output_dir={pictures / 'other'}")


def test_masks_of_any_pictures_have_the_names_that_a_folder_of_ones_own_has(foreground, pictures):
    out = pictures / "out"
    run(f"checkpoint={foreground}", f"images={pictures / 'images'}", f"output_dir={out}")
    assert files(out / "masks") == files(pictures / "masks")
    assert set(np.unique(pixels(out / "masks/a.png"))) <= {0, 1}


def test_the_table_has_what_the_label_maps_have_and_the_json_says_what_made_them(parts, pictures, capsys):
    out = pictures / "out"
    arguments = (f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={out}", "image_size=32")
    run(*arguments, f"masks={pictures / 'masks'}", "probabilities=true", "format=coco")
    assert "background gets parts as well" not in capsys.readouterr().out
    with (out / "parts.csv").open() as file:
        rows = list(csv.DictReader(file))
    names = [name.removesuffix(".png") for name in NAMES]
    assert [(row["picture"], row["part"]) for row in rows] == [(name, part) for name in names for part in "123"]
    coco = COCO(out / "coco.json")
    ids = {image["file_name"]: image["id"] for image in coco.loadImgs(coco.getImgIds())}
    for name in names:
        labels = pixels(out / f"label_maps/{name}.png")
        probabilities = np.load(out / f"probabilities/{name}.npy")
        assert probabilities.shape == (4, *labels.shape) and probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities.sum(0), 1, atol=1e-5)
        np.testing.assert_array_equal(probabilities.argmax(0), labels)
        for row in (row for row in rows if row["picture"] == name):
            mask = labels == int(row["part"])
            assert int(row["pixels"]) == mask.sum() and float(row["share"]) == pytest.approx(mask.sum() / 600, abs=1e-6)
            if mask.any():
                certainty = probabilities[int(row["part"])][mask].mean()
                assert float(row["certainty"]) == pytest.approx(certainty, abs=1e-5) and certainty > 1 / 3
        found = coco.loadAnns(coco.getAnnIds(ids[name]))
        np.testing.assert_array_equal(sum(coco.annToMask(one) * one["category_id"] for one in found), labels)
    about = json.loads((out / "prediction.json").read_text())
    assert about["checkpoint"] == str(parts) and about["sha256"] == hashlib.sha256(parts.read_bytes()).hexdigest()
    assert about["settings"]["masks"] == str(pictures / "masks") and about["settings"]["image_size"] == 32
    assert about["colours"]["1"] == "#e69f00" and len(about["colours"]) == 4


def test_what_is_missing_after_an_interruption_is_written_with_its_rows(parts, pictures):
    out = pictures / "out"
    arguments = (f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={out}", "image_size=32")
    run(*arguments)
    table = (out / "parts.csv").read_text()
    (out / "label_maps/b.jpg.png").unlink()
    (out / "parts.csv").write_text("".join(table.splitlines(keepends=True)[:-1]))  # a row of the third is lost
    before = (out / "label_maps/a.png.png").stat().st_mtime_ns
    run(*arguments, "only_missing=true")
    assert sorted((out / "parts.csv").read_text().splitlines()) == sorted(table.splitlines())
    assert (out / "label_maps/a.png.png").stat().st_mtime_ns == before
    assert files(out / "label_maps") == NAMES
    other = save_segmenter(pictures / "model_2.pth", 4)
    with pytest.raises(UserError, match="another checkpoint .*model_1.pth.* only_missing=true would mix the two"):
        run(f"checkpoint={other}", *arguments[1:], "only_missing=true")


def test_what_other_settings_or_checkpoints_have_found_is_not_mixed(parts, foreground, pictures):
    arguments = (f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={pictures / 'out'}")
    run(*arguments, f"masks={pictures / 'masks'}", "image_size=32")
    before = (pictures / "out/prediction.json").read_bytes()
    for changes, told in (
        ([f"masks={pictures / 'masks'}", "image_size=64"], r"with image_size=32: "),
        ([f"masks={pictures / 'masks'}", "image_size=32", "probabilities=true"], r"with probabilities=False: "),
        ([f"masks={pictures / 'masks'}", "image_size=32", "dataset.mask_values=[1]"], "with mask_values=null: "),
        ([f"foreground={foreground}", "image_size=32"], rf"another foreground=None, masks={pictures / 'masks'}: "),
        (["image_size=32"], rf"with masks={pictures / 'masks'}: "),
    ):
        with pytest.raises(UserError, match=f"{told}only_missing=true would mix the two"):
            run(*arguments, *changes, "only_missing=true")
    one = (f"images={pictures / 'images/a.png'}", f"output_dir={pictures / 'out'}", f"masks={pictures / 'masks'}")
    other = save_segmenter(pictures / "model_2.pth", 4)
    with pytest.raises(UserError, match="another checkpoint .*model_1.pth.*, 2 pictures .* b.jpg, more/c.v2.png.*over"):
        run(f"checkpoint={other}", *one, "image_size=32", "overwrite=true")
    assert (pictures / "out/prediction.json").read_bytes() == before
    run(f"checkpoint={parts}", *one, "image_size=32", "overwrite=true")  # nothing is mixed
    run(f"checkpoint={other}", *arguments[1:], "image_size=64", "overwrite=true")  # nor of all of them
    assert json.loads((pictures / "out/prediction.json").read_text())["settings"]["image_size"] == 64


def test_masks_of_another_foreground_network_are_not_mixed(parts, foreground, pictures):
    again = pictures / "again.pth"
    again.write_bytes(foreground.read_bytes())
    arguments = (f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={pictures / 'out'}")
    arguments += ("image_size=32", f"foreground={again}")
    run(*arguments)
    made_by = json.loads((pictures / "out/prediction.json").read_text())
    assert made_by["foreground_sha256"] == hashlib.sha256(again.read_bytes()).hexdigest()
    run(*arguments, "only_missing=true")
    payload = torch.load(again, weights_only=False)
    torch.save(payload | {"iter": 5}, again)
    with pytest.raises(UserError, match="with masks of another foreground=.*again.pth: only_missing=true"):
        run(*arguments, "only_missing=true")


def test_masks_of_another_network_are_not_mixed_either(foreground, pictures):
    out = pictures / "out"
    arguments = (f"images={pictures / 'images'}", f"output_dir={out}", "image_size=32")
    (out / "masks").mkdir(parents=True)
    by_hand = Path(shutil.copy(pictures / "masks/a.png", out / "masks"))
    run(f"checkpoint={foreground}", *arguments, "only_missing=true")  # made by hand: it stays
    assert by_hand.read_bytes() == (pictures / "masks/a.png").read_bytes()
    run(f"checkpoint={foreground}", *arguments, "only_missing=true")
    other = pictures / "other.pth"
    torch.save(torch.load(foreground, weights_only=False) | {"iter": 5}, other)
    before = (out / "prediction.json").read_bytes()
    with pytest.raises(
        UserError, match="another checkpoint .*model_1.pth.*: only_missing=true would mix .* by hand too"
    ):
        run(f"checkpoint={other}", *arguments, "only_missing=true")
    with pytest.raises(UserError, match="with image_size=32: only_missing=true would mix"):
        run(f"checkpoint={foreground}", *arguments[:2], "image_size=64", "only_missing=true")
    one = (f"images={pictures / 'images/b.jpg'}", *arguments[1:])
    with pytest.raises(
        UserError, match="another checkpoint .*, 1 pictures of it .*: more/c.v2.png. overwrite=true would"
    ):
        run(f"checkpoint={other}", *one, "overwrite=true")
    assert (out / "prediction.json").read_bytes() == before
    run(f"checkpoint={other}", *arguments, "overwrite=true")
    assert json.loads((out / "prediction.json").read_text())["checkpoint"] == str(other)


def test_published_networks_fill_each_other_s_gaps_and_are_told_from_a_run(parts, pictures):
    out = pictures / "out"
    arguments = (f"images={pictures / 'images'}", f"output_dir={out}", "image_size=32")
    run(f"checkpoint={parts}", *arguments)
    made_by = json.loads((out / "prediction.json").read_text())
    shutil.copytree(pictures / "masks", out / "masks")
    published = {"name": "maskrcnn", "weights": "coco", "weights_dir": "a", "classes": None, "score": 0.5}
    del made_by["checkpoint"], made_by["sha256"]
    with given("pretrained=maskrcnn", *arguments, "only_missing=true", name="predict") as config:
        for changes in ({"score": 0.3}, {"classes": ["bird"]}, {"name": "deeplab"}):
            predict.write_json(out / "prediction.json", made_by | {"pretrained": published})
            now = made_by | {"pretrained": published | changes}
            predict.refuse_a_mixture(config, predict.work_of(config, True), now, gives_masks=True)
        of_a_run = made_by | {"checkpoint": "a.pth", "sha256": "a"}
        with pytest.raises(
            UserError, match="with pretrained=maskrcnn: only_missing=true would mix .* made by hand too"
        ):
            predict.refuse_a_mixture(config, predict.work_of(config, True), of_a_run, gives_masks=True)
        shutil.rmtree(out / "overlays")  # all are made by hand
        predict.refuse_a_mixture(config, predict.work_of(config, True), of_a_run, gives_masks=True)
    with pytest.raises(UserError, match="holds what was found with pretrained=maskrcnn: only_missing"):
        run(f"checkpoint={parts}", *arguments, "only_missing=true")


def test_a_prediction_that_fails_at_its_first_picture_leaves_no_folder(parts, pictures):
    (pictures / "images/a.png").write_text("no picture")
    with pytest.raises(UserError, match="a.png"):
        run(
            f"checkpoint={parts}", f"images={pictures / 'images/a.png'}", f"output_dir={pictures / 'new/out'}",
            "image_size=32",
        )  # fmt: skip
    assert not (pictures / "new").exists()


def test_without_masks_it_is_said_at_once_that_the_background_gets_parts(parts, pictures, capsys):
    run(f"checkpoint={parts}", f"images={pictures / 'images'}", f"output_dir={pictures / 'out'}", "image_size=32")
    first = capsys.readouterr().out.splitlines()
    assert any("the background gets parts as well. Give masks=DIR, or foreground=RUN" in line for line in first[:-1])


def test_a_foreground_network_predicts_the_masks_first(foreground, parts, pictures, capsys):
    arguments = (f"images={pictures / 'images'}", "image_size=32")
    both, masks, apart = pictures / "both", pictures / "own", pictures / "apart"
    run(f"checkpoint={parts}", f"foreground={foreground}", *arguments, f"output_dir={both}")
    assert "background gets parts as well" not in capsys.readouterr().out
    run(f"checkpoint={foreground}", *arguments, f"output_dir={masks}")
    run(f"checkpoint={parts}", f"masks={masks}/masks", *arguments, f"output_dir={apart}")
    assert files(both / "masks") == files(masks / "masks")
    for folder in ("label_maps", "overlays"):
        for name in NAMES:
            np.testing.assert_array_equal(pixels(both / folder / name), pixels(apart / folder / name))
    assert json.loads((both / "prediction.json").read_text())["settings"]["foreground"] == str(foreground)
    with pytest.raises(UserError, match="predicts masks itself: leave out foreground"):
        run(f"checkpoint={foreground}", f"foreground={foreground}", *arguments, f"output_dir={pictures / 'x'}")


def test_one_picture_or_a_pattern_of_them_is_predicted(parts, pictures):
    images = pictures / "images"
    for number, (pattern, names) in enumerate(
        ((images / "b.jpg", ["b.jpg.png"]), (images / "*.*", NAMES[:2]), (images / "*/*.png", NAMES[2:]))
    ):
        out = pictures / f"out{number}"
        run(f"checkpoint={parts}", f"images='{pattern}'", f"output_dir={out}", "image_size=32")
        assert files(out / "label_maps") == names


def test_a_mask_decides_the_crop(pictures):
    """As in training, where the checkpoint's data set had boxes; else the whole picture is seen."""
    loose = Pictures(pictures / "images", pictures / "masks", box_padding=None)
    tight = Pictures(pictures / "images", pictures / "masks", box_padding=0.0)
    none = Pictures(pictures / "images", None, box_padding=0.0)
    shares = [one.test_crop(one[0], 64).foreground.mean() for one in (loose, tight, none)]
    assert shares == pytest.approx([30 * 20 / 60**2, 20 / 30, 40 / 60], abs=0.03)


def test_what_cannot_be_meant_is_refused(foreground, parts, pictures, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ((f"checkpoint={parts}",), "give images=DIR output_dir=OUT"),
        ((f"checkpoint={parts}", f"images={pictures / 'images'}"), "give output_dir=OUT"),
        ((f"checkpoint={parts}", f"images={tmp_path}/none", "output_dir=x"), "No folder .*images=DIR"),
        ((f"checkpoint={parts}", f"images={tmp_path}/empty", "output_dir=x"), "holds no picture"),
        ((f"checkpoint={foreground}", f"dataset_root={tmp_path}"), "CUB: no folder"),
    ):
        with pytest.raises(UserError, match=message):
            run(*arguments)
    os.truncate(pictures / "images/b.jpg", 20)
    for workers in (0, 1):
        with pytest.raises(UserError, match="Cannot read .*b.jpg"):
            out = f"output_dir={pictures / f'out{workers}'}"
            run(
                *(f"checkpoint={parts}", f"images={pictures / 'images'}", out, "image_size=32"),
                f"loader.num_workers={workers}",
            )


def program(name: str, *arguments: str) -> subprocess.CompletedProcess:
    return run_python(name, *arguments, timeout=600)


def test_a_mistake_is_one_message_and_status_2(foreground, tmp_path):
    method = "method=contrastive_reconstruction"
    done = program("predict.py", f"checkpoint={foreground}", method, f"images={tmp_path}", "output_dir=x")
    assert done.returncode == 2 and done.stderr.startswith(f"error: {foreground} was trained with method=foreground")
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_whole_loop_from_training_masks_to_figures_with_predicted_ones(tmp_path):
    """Foreground network, its masks, parts trained and evaluated with them, label maps of anyone's evaluated too."""
    data = (
        *("dataset_name=synthetic", f"dataset_root={tmp_path}", "device=cpu", "loader.num_workers=0"),
        *("dataset.drawing.num_train=48", "dataset.drawing.num_test=8"),
    )
    training = ("image_size=40", "logging.wandb=disabled")

    def done(name: str, *arguments: str) -> str:
        ended = program(name, *data, *arguments)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    masks_run, parts_run = tmp_path / "foreground", tmp_path / "parts"
    done("train.py", "method=foreground", "num_steps=40", *training, f"output_dir={masks_run}")
    with (masks_run / "evaluation.csv").open() as file:
        assert float(list(csv.DictReader(file))[-1]["foreground IoU"]) > 50
    done("predict.py", f"checkpoint={masks_run}")
    tree = tmp_path / "synthetic"
    names = files(tree / "CUB_200_2011/segmentations")
    assert files(tree / "supervisedlabels") == [*names, "prediction.json"]
    predicted, true = (
        [pixels(tree / folder / name) > 0 for name in names]
        for folder in ("supervisedlabels", "CUB_200_2011/segmentations")
    )
    overlap = sum((a & b).sum() for a, b in zip(predicted, true, strict=True))
    assert overlap / sum((a | b).sum() for a, b in zip(predicted, true, strict=True)) > 0.5

    supervised = ("dataset.train_mask=supervised", "dataset.eval_mask=supervised")
    done("train.py", "num_steps=2", *training, *supervised, f"output_dir={parts_run}")
    done("evaluate.py", f"checkpoint={parts_run}", supervised[1], f"output_dir={parts_run}/evaluation")
    figures = json.loads((parts_run / "evaluation/metrics.json").read_text())
    assert figures["produced_by"]["eval_mask"] == "supervised" and np.isfinite(figures["keypoint_error_all"])

    images, found_parts = tree / "CUB_200_2011/images", tmp_path / "found"
    done("predict.py", f"checkpoint={parts_run}", f"images={images}", f"output_dir={found_parts}")
    given = (f"predictions={found_parts}/label_maps", "predictions_background=false", training[0])
    done("evaluate.py", *given, supervised[1], f"output_dir={tmp_path / 'scored'}")
    scored = json.loads((tmp_path / "scored/metrics.json").read_text())
    assert set(scored) == set(figures) and scored["produced_by"]["counts"] == figures["produced_by"]["counts"]
