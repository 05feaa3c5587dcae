"""Pictures that cannot be predicted from, and places that cannot be written to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.mistakes.damage import save_picture
from tests.mistakes.harness import Place, ended, row, tree


def predicting(id: str, overrides: str, *words: str, prepare=lambda folder: None):
    """predict.py of parts; ``PLACE/pictures`` holds one picture."""

    def with_picture(place: Place) -> None:
        save_picture(place.path / "pictures/one.png", np.zeros((32, 32, 3)))
        place.checkpoint()
        prepare(place.path)

    line = f"predict.py checkpoint=PLACE/model_1.pth image_size=32 loader.num_workers=0 device=cpu {overrides}"
    return row(id, line, *words, prepare=with_picture)


TO_OUT = "images=PLACE/pictures output_dir=PLACE/out"

REFUSED = [
    predicting("no such pictures", "images=PLACE/none output_dir=PLACE/out", "No folder", "none", "images=DIR"),
    predicting(
        "no picture in them",
        "images=PLACE/empty output_dir=PLACE/out",
        "images=",
        "empty holds no picture",
        prepare=lambda folder: (folder / "empty").mkdir(),
    ),
    predicting("no place for what is found", "images=PLACE/pictures", "give output_dir=OUT"),
    predicting(
        "a place among the pictures",
        "images=PLACE/pictures output_dir=PLACE/pictures/out",
        "pictures/out is in",
        "give an output_dir beside it",
    ),
    predicting("parts of a data set", "dataset_name=folder", "finds parts", "give images=DIR"),
    predicting(
        "a picture without its mask",
        f"{TO_OUT} masks=PLACE/masks",
        "1 of 1 pictures have no mask",
        "pictures/one.png",
        prepare=lambda folder: save_picture(folder / "masks/two.png", np.ones((32, 32))),
    ),
    predicting(
        "files in the way",
        TO_OUT,
        "There already",
        "label_maps/one.png.png",
        "overwrite=true",
        prepare=lambda folder: save_picture(folder / "out/label_maps/one.png.png", np.ones((32, 32))),
    ),
    predicting(
        "a file for a folder",
        TO_OUT,
        "Cannot write",
        "out/prediction.json",
        prepare=lambda folder: (folder / "out").write_text("a file"),
    ),
    predicting(
        "a table in the way",
        TO_OUT,
        "There already",
        "out/parts.csv",
        "overwrite=true",
        prepare=lambda folder: ((folder / "out").mkdir(), (folder / "out/parts.csv").write_text("mine")),
    ),
    predicting("two sources of masks", f"{TO_OUT} masks=PLACE/a foreground=PLACE/b", "masks and foreground", "one of"),
    predicting("masks by a network of parts", f"{TO_OUT} foreground=PLACE/model_1.pth", "finds no masks", "foreground"),
    predicting("arrays of a data set", "probabilities=true", "for pictures of your own", "images=DIR"),
    predicting("a pattern of nothing", "images=PLACE/*.jpg output_dir=PLACE/out", "*.jpg", "no picture is called so"),
]


def masking(id: str, overrides: str, *words: str, prepare=lambda folder: None):
    """predict.py of masks, by a network that others have trained; ``PLACE/images`` holds one picture."""

    def with_picture(place: Place) -> None:
        save_picture(place.path / "images/one.png", np.zeros((32, 32, 3)))
        prepare(place.path)

    line = f"predict.py task=foreground image_size=32 loader.num_workers=0 device=cpu {overrides}"
    return row(id, line, *words, prepare=with_picture)


def vgg(folder: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, folder / "vgg.pth")


MASKED = "pretrained=deeplab images=PLACE/images"

REFUSED += [
    masking("nothing to find with", "images=PLACE/images", "checkpoint=PATH", "pretrained=NAME", "deeplab, maskrcnn"),
    masking(
        "two to find with", f"{MASKED} checkpoint=a.pth", "checkpoint=a.pth and pretrained=deeplab are two", "one of"
    ),
    masking(
        "an unknown class", f"{MASKED} pretrained.classes=[brid]", "deeplab knows no 'brid'", "mean 'bird'", "boat"
    ),
    masking("the background", f"{MASKED} pretrained.classes=[__background__]", "knows no '__background__'"),
    masking("no such weights", f"{MASKED} pretrained.weights=PLACE/a.pth", "a.pth: there is no such file or run"),
    masking(
        "weights of another network",
        f"{MASKED} pretrained.weights=PLACE/vgg.pth",
        "pretrained.weights=PLACE/vgg.pth do not fit the network",
        prepare=vgg,
    ),
    masking(
        "no pictures, which is told before weights are fetched",
        "pretrained=deeplab images=PLACE/none/images pretrained.weights=PLACE/a.pth",
        "No folder",
        "none/images",
    ),
    masking(
        "no place, which is told before weights are fetched",
        "pretrained=deeplab images=PLACE/images/*.png pretrained.weights=PLACE/a.pth",
        "give output_dir=OUT",
    ),
    masking("an improbable score", f"{MASKED} pretrained.score=50", "pretrained.score must be at most 1, not 50"),
    masking("some objects", f"{MASKED} pretrained.objects=some", "must be one of largest, all"),
]


@pytest.mark.parametrize("row", REFUSED)
def test_a_prediction_that_has_nothing_to_read_or_nowhere_to_write_is_refused(row, refused):
    refused(row)


def damaged(path: Path) -> None:
    save_picture(path, np.zeros((32, 32, 3)))
    path.write_bytes(path.read_bytes()[:60])


def test_a_prediction_that_failed_leaves_nothing_in_the_way_of_the_next_one(place, monkeypatch, accepted):
    damaged(place.path / "pictures/one.png")
    place.checkpoint()
    line = f"predict.py checkpoint=PLACE/model_1.pth image_size=32 loader.num_workers=0 device=cpu {TO_OUT}"
    assert ended(line, place.path, monkeypatch) == 2
    assert not (place.path / "out").exists()
    save_picture(place.path / "pictures/one.png", np.zeros((32, 32, 3)))
    accepted(line)
    before = tree(place.path / "out")
    assert ended(line, place.path, monkeypatch) == 2 and tree(place.path / "out") == before


def test_a_prediction_that_failed_half_way_keeps_what_it_has(place, monkeypatch, accepted):
    save_picture(place.path / "pictures/a.png", np.zeros((32, 32, 3)))
    damaged(place.path / "pictures/b.png")
    place.checkpoint()
    line = "predict.py checkpoint=PLACE/model_1.pth image_size=32 loader.num_workers=0 device=cpu "
    line += f"evaluation.batch_size=1 {TO_OUT}"
    assert ended(line, place.path, monkeypatch) == 2
    assert (place.path / "out/label_maps/a.png.png").is_file() and (place.path / "out/prediction.json").is_file()
    save_picture(place.path / "pictures/b.png", np.zeros((32, 32, 3)))
    accepted(f"{line} only_missing=true")
    assert (place.path / "out/label_maps/b.png.png").is_file()
