"""Figures that need no truth, beside the same formulas written naively."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from evaluation.inputs import batch
from evaluation.protocols import truth_free
from tests.quadrants import ColourLabeller, draw_split, evaluated, evaluation_options


def protocol(num_parts: int) -> truth_free.Protocol:
    labeller = ColourLabeller()
    labeller.num_parts = num_parts
    return truth_free.Protocol(draw_split("test", 1), labeller, evaluation_options())


def told(of: truth_free.Protocol, labels: dict[str, np.ndarray], view: str) -> None:
    """Has it count label maps (h, w) by name, 0 where the mask ends."""
    (example,) = draw_split("test", 1).samples
    inputs = []
    for place, (name, found) in enumerate(labels.items()):
        crop = of.inputs(example)[0]
        mask = (found > 0).astype(np.uint8)
        image = np.zeros((*found.shape, 3), np.uint8)
        inputs.append(replace(crop, name=name, place=place, view=view, foreground=mask, image=image))
    maps = torch.from_numpy(np.stack([*labels.values()])).long()
    scores = 50.0 * F.one_hot(maps, of.labeller.num_parts + 1).permute(0, 3, 1, 2)[:, 1:]
    of.update(batch(inputs), scores)


def largest_piece(mask: np.ndarray) -> int:
    left, largest = {*zip(*np.nonzero(mask), strict=True)}, 0
    while left:
        edge, size = [left.pop()], 0
        while edge:
            row, column = edge.pop()
            size += 1
            near = {(row + down, column + right) for down in (-1, 0, 1) for right in (-1, 0, 1)} & left
            left -= near
            edge += near
        largest = max(largest, size)
    return largest


def naive_warp(labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The labels moved, and where they come from inside of the picture."""
    height, width = labels.shape
    matrix = np.vstack([truth_free.warp_of(name, height, width), [0, 0, 1]])
    moved, inside = np.zeros_like(labels), np.zeros(labels.shape, bool)
    for row in range(height):
        for column in range(width):
            x, y, _ = np.linalg.inv(matrix) @ [column, row, 1]
            x, y = round(x), round(y)
            if 0 <= x < width and 0 <= y < height:
                moved[row, column], inside[row, column] = labels[y, x], True
    return moved, inside


def blobs(seed: int, num_labels: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, num_labels, (6, 6)).astype(np.uint8)
    return np.kron(coarse, np.ones((7, 7), np.uint8))


def test_the_figures_are_those_of_the_naive_formulas():
    names = [f"picture {number}" for number in range(5)]
    found = {name: blobs(number, 5) for number, name in enumerate(names)}
    found[names[4]][found[names[4]] == 2] = 0
    found[names[3]][found[names[3]] == 2] = 1
    found[names[3]][0, 0] = 2  # less than 1 %
    of_warped = {
        name: np.where(blobs(9 + number, 4) == 0, blobs(7, 5), naive_warp(found[name], name)[0]).astype(np.uint8)
        for number, name in enumerate(names)
    }
    of = protocol(5)  # the fifth is nowhere
    told(of, found, "crop")
    told(of, of_warped, "warped")

    all_of_parts = sum((labels > 0).sum() for labels in found.values())
    expected = []
    for part in range(1, 6):
        pixels = {name: (labels == part).sum() for name, labels in found.items()}
        there = [name for name in names if pixels[name] > 0 and pixels[name] >= 0.01 * (found[name] > 0).sum()]
        both = either = 0
        for name in names:
            moved, inside = naive_warp(found[name], name)
            both += ((moved == part) & (of_warped[name] == part) & inside).sum()
            either += (((moved == part) | (of_warped[name] == part)) & inside).sum()
        row = {"share": 100 * sum(pixels.values()) / all_of_parts, "presence": 100 * len(there) / 5}
        if there:
            row["compactness"] = 100 * np.mean([largest_piece(found[name] == part) / pixels[name] for name in there])
            row["warp_agreement"] = 100 * both / either
        expected.append(row)
    assert [row["presence"] for row in expected] == [100, 60, 100, 100, 0]
    assert 20 < expected[0]["warp_agreement"] < 95
    for row, naive in zip(of.per_part(), expected, strict=True):
        assert row == pytest.approx(naive, abs=1.5) and row.keys() == naive.keys()
        for name in ("share", "presence", "compactness"):
            assert row.get(name) == pytest.approx(naive.get(name))
    assert of.metrics() == pytest.approx(
        {
            "warp_agreement": np.mean([row.get("warp_agreement", 0) for row in of.per_part()]),
            "presence": np.mean([row["presence"] for row in expected]),
            "compactness": np.mean([row["compactness"] for row in expected if "compactness" in row]),
            "largest_share": max(row["share"] for row in expected),
            "smallest_share": 0,
        }
    )


class Third(ColourLabeller):
    """Parts by place in the picture, which do not move with what is in it."""

    def scores(self, images, foreground):
        columns = torch.arange(images.shape[-1]) * 4 // images.shape[-1]
        one_hot = 50.0 * F.one_hot(columns, 4).T[None, :, None, :]
        return one_hot.expand(len(images), -1, images.shape[-2], -1)


class One(ColourLabeller):
    """Part 1 everywhere."""

    def scores(self, images, foreground):
        return torch.tensor([9.0, 0, 0, 0])[None, :, None, None].expand(len(images), -1, *images.shape[-2:])


def test_parts_that_move_with_the_object_agree_more_than_those_that_stay_and_than_one_alone():
    found = {
        kind: evaluated(kind(), draw_split("test", 12), truth_free=True, image_size=64).metrics
        for kind in (ColourLabeller, Third, One)
    }
    figures = {kind: metrics["warp_agreement"] for kind, metrics in found.items()}
    assert figures[ColourLabeller] > 90 > 80 > figures[Third] > figures[One]
    assert found[One]["largest_share"] == 100 and found[One]["presence"] == 25
    assert found[ColourLabeller]["presence"] == 100 and found[ColourLabeller]["compactness"] > 95


def test_they_come_beside_the_others_on_request_and_change_none():
    given = draw_split("test", 6, part_maps=True), draw_split("training", 5, part_maps=True)
    without, with_them = evaluated(ColourLabeller(), *given), evaluated(ColourLabeller(), *given, truth_free=True)
    assert not without.parts and len(with_them.parts) == 4
    assert with_them.metrics == without.metrics | {
        name: with_them.metrics[name] for name in truth_free.Protocol.metric_names
    }
    assert sum(part["share"] for part in with_them.parts) == pytest.approx(100)
    assert json.dumps(with_them.parts)


def test_they_depend_neither_on_batches_nor_on_the_order_of_pictures():
    split = draw_split("test", 9)
    expected = evaluated(Third(), split, truth_free=True).parts
    for changed in ({"batch_size": 1}, {"batch_size": 64}, {"num_workers": 1}):
        assert evaluated(Third(), split, truth_free=True, **changed).parts == expected
    split.samples.reverse()
    assert evaluated(Third(), split, truth_free=True).parts == expected


def test_of_pictures_without_an_object_there_is_nothing():
    of = protocol(3)
    told(of, {"empty": np.zeros((8, 8), np.uint8)}, "crop")
    assert of.metrics() == {} and of.counts() == {"images": 1}


def test_label_maps_made_elsewhere_are_not_asked_again():
    of, (sample,) = protocol(4), draw_split("test", 1).samples
    assert [shown.view for shown in of.inputs(sample)] == ["crop", "warped"]
    assert [shown.view for shown in of.inputs(sample, predicted=sample.part_map)] == ["crop"]
    told(of, {"a": blobs(1, 5)}, "crop")
    assert "warp_agreement" not in of.metrics() and of.metrics()["presence"] == 100
