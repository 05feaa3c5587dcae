"""Pictures that cannot be predicted from, and places that cannot be written to."""

import numpy as np
import pytest

from tests.mistakes.damage import save_picture
from tests.mistakes.harness import Place, row


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


@pytest.mark.parametrize("row", REFUSED)
def test_a_prediction_that_has_nothing_to_read_or_nowhere_to_write_is_refused(row, refused):
    refused(row)
