"""Broken copies of DeepFashion."""

import shutil

import pytest

from tests.mistakes.damage import cut, flat, pixels, replace_file, write
from tests.mistakes.harness import DataSet
from tests.mistakes.stand_ins import STAND_INS

DF = DataSet(
    "DF",
    "DeepFashion/In-shop Clothes Retrieval Benchmark",
    "dataset.train_mask=gt dataset.eval_mask=supervised",
)
LIST = "Anno/segmentation/DeepFashion_segmentation_{}.json"

BROKEN = [
    DF.broken("last bytes lost", replace_file("**/*front.jpg", cut(0.95)), "front.jpg", "truncated"),
    DF.broken(
        "unknown colour in a mask",
        replace_file("**/*_segment.png", pixels(flat(7, channels=(3,)))),
        "01_1_front_segment.png",
        "colour 7 7 7",
        "x=0, y=0",
    ),
    DF.broken("no predicted masks", lambda root: shutil.rmtree(root / "supervisedlabels"), "on disk: gt"),
    DF.broken(
        "list that is no JSON",
        write(LIST.format("query"), '{"images": ['),
        "DeepFashion_segmentation_query.json is no list of pictures",
    ),
    *(
        DF.broken(
            f"list: {kind}",
            write(LIST.format("train"), content),
            "DeepFashion_segmentation_train.json is no list of pictures",
            words,
        )
        for kind, (content, words) in STAND_INS.items()
        if kind != "answer of a server"  # which has no images: told as any other JSON without them
    ),
    DF.broken(
        "empty list", write(LIST.format("train"), '{"images": []}'), "DeepFashion_segmentation_train.json: no pictures"
    ),
]


@pytest.mark.parametrize("row", BROKEN)
def test_a_broken_copy_of_deepfashion_is_refused_with_its_file(row, refused):
    refused(row)


def test_a_whole_copy_of_deepfashion_is_read(read_whole):
    read_whole(DF)
