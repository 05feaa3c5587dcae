"""Broken copies of PASCAL-Part."""

import numpy as np
import pytest

from tests.mistakes.damage import cut, line, pixels, replace_file, write
from tests.mistakes.harness import DataSet
from tests.mistakes.stand_ins import STAND_INS

PP = DataSet("PP", "VOCdevkit_2010", "dataset.category=car dataset.train_mask=gt dataset.eval_mask=supervised")
TRAIN = "VOC2010/ImageSets/Main/car_train.txt"

BROKEN = [
    PP.broken("damaged picture", replace_file("**/*car002.jpg", b"\xff\xd8\xff"), "2010_car002.jpg"),
    PP.broken(
        "predicted mask of another size",
        replace_file("supervisedlabels/car/*car007_1.png", pixels(lambda height, width: np.ones((5, 6), np.uint8))),
        "2010_car007_1.png is 6 x 5 pixels",
        "2010_car007.jpg",
    ),
    PP.broken(
        "damaged annotation",
        replace_file("Annotations_Part/*car001.mat", cut(0.5)),
        "2010_car001.mat is no annotation",
    ),
    *(
        PP.broken(
            f"annotation: {kind}",
            replace_file("Annotations_Part/*car001.mat", content),
            "2010_car001.mat is no annotation",
            words,
        )
        for kind, (content, words) in STAND_INS.items()
    ),
    PP.broken("a page for a list", write(TRAIN, STAND_INS["page"][0]), "car_train.txt is no list: it is a web page"),
    PP.broken("list in other numbers", line(TRAIN, 2, "2010_car000 2"), "car_train.txt, line 2", "'2010_car000 2'"),
    PP.broken(
        "no object to train on",
        write(TRAIN, "2010_car000 -1\n"),
        "car_train.txt gives no object",
        "PASCAL-Part car",
    ),
]


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_copy_of_pascal_part_is_refused_with_its_file(row, refused):
    refused(row)


def test_a_whole_copy_of_pascal_part_is_read(read_whole):
    read_whole(PP)
