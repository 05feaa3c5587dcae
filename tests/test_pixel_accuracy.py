"""The protocol for class maps: matched clusters, pixel by pixel."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from datasets.sample import VOID
from evaluation.inputs import batch
from evaluation.palette import colours
from evaluation.protocols.pixel_accuracy import Protocol
from evaluation.report import part_picture
from tests.quadrants import ColourLabeller, Quadrants, draw_split, evaluated, evaluation_options
from utils.errors import UserError

SIZE = 32


def classes(count: int = 5) -> Quadrants:
    """Quadrants whose parts are classes, 0 to 3; outside them is void, and some pixels have another class."""
    split = draw_split("test", count)
    split.pixel_classes = ["a", "b", "c", "d"]
    for place, sample in enumerate(split.samples):
        sample.class_map = np.where(sample.part_map == 0, VOID, sample.part_map - 1).astype(np.uint8)
        sample.class_map[10 + place : 25, 10:40][sample.class_map[10 + place : 25, 10:40] != VOID] = 3
    return split


class Shuffled(ColourLabeller):
    """Cluster i is the colour ``order[i]``; one named twice has two clusters, by columns in turn."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order, self.num_parts = order, len(order)

    def scores(self, images, foreground):
        scores = super().scores(images, foreground)[:, self.order]
        side = 1e-3 * (-1) ** torch.arange(scores.shape[-1])
        for cluster, colour in enumerate(self.order):
            if self.order.count(colour) == 2:
                scores[:, cluster] += side if self.order.index(colour) == cluster else -side
        return scores


def found_and_true(split: Quadrants, labeller: ColourLabeller) -> tuple[np.ndarray, np.ndarray]:
    crops = [split.test_crop(sample, SIZE) for sample in split.samples]
    images = torch.from_numpy(np.stack([crop.image for crop in crops])).permute(0, 3, 1, 2)
    true = np.stack([crop.class_map for crop in crops])
    return labeller.scores(images, None).argmax(1).numpy()[true != VOID], true[true != VOID]


def test_the_figures_are_those_of_all_pixels_with_a_class():
    split, order = classes(), [2, 0, 3, 1]
    result = evaluated(Shuffled(order), split, protocols=("pixel_accuracy",), image_size=SIZE, batch_size=2)
    found, true = found_and_true(split, Shuffled(order))
    expected = {
        "pixel accuracy": 100 * (np.array(order)[found] == true).mean(),
        "NMI": 100 * normalized_mutual_info_score(true, found),
        "ARI": 100 * adjusted_rand_score(true, found),
    }
    assert result.metrics == pytest.approx(expected) and 50 < expected["pixel accuracy"] < 99
    assert result.counts == {"images": 5, "class_pixels": true.size} and true.size < 5 * SIZE**2
    assert result.notes == []


def test_more_clusters_than_classes_have_a_figure_of_another_name():
    split, order = classes(), [2, 0, 3, 1, 0, 3]
    result = evaluated(Shuffled(order), split, protocols=("pixel_accuracy",), image_size=SIZE)
    found, true = found_and_true(split, Shuffled(order))
    assert len(np.unique(found)) == 6
    right = sum(np.bincount(true[found == cluster]).max() for cluster in range(6))
    assert set(result.metrics) == {"pixel accuracy (many-to-one)", "NMI", "ARI"}
    assert result.metrics["pixel accuracy (many-to-one)"] == pytest.approx(100 * right / true.size)


def test_fewer_clusters_than_classes_are_refused_before_anything_is_read():
    split = classes()
    with pytest.raises(UserError, match="2 clusters cannot stand for the 4 classes of quadrants.*num_parts=4 or more"):
        evaluated(Shuffled([2, 0]), split, protocols=("pixel_accuracy",), image_size=SIZE)
    assert split.reads == [0] * 5


@pytest.mark.parametrize("order", [[2, 0, 3, 1], [2, 0, 3, 1, 0]])
def test_a_figure_shows_clusters_in_the_colours_of_their_classes(order):
    split = classes()
    result = evaluated(Shuffled(order), split, protocols=("pixel_accuracy",), image_size=SIZE, num_pictures=2)
    example = result.pictures[0]
    assert example.recolouring.tolist() == [0, *(colour + 1 for colour in order)]
    assert example.known.caption == "true classes"
    crop = split.test_crop(split.samples[0], SIZE)
    assert ((example.known.labels == 0) == (crop.class_map == VOID)).all()
    assert (example.known.labels[crop.class_map != VOID] == crop.class_map[crop.class_map != VOID] + 1).all()
    shown = colours(example.recolouring[example.predicted])[crop.class_map == 1]
    assert (shown == colours(np.array(2))).all(1).mean() > 0.8
    assert part_picture(result.pictures, "clusters").ndim == 3


def test_a_cluster_without_a_class_has_a_colour_of_its_own():
    split = classes()
    protocol = Protocol(split, Shuffled([2, 0, 3, 1]), evaluation_options(image_size=SIZE))
    inputs = batch([shown for sample in split.samples for shown in protocol.inputs(sample)])
    protocol.update(inputs, protocol.labeller.scores_of(inputs))
    assert sorted(protocol.recolouring()) == [0, 1, 2, 3, 4]


def test_memory_does_not_grow_with_the_pictures():
    split = classes(1)
    protocol = Protocol(split, ColourLabeller(), evaluation_options(image_size=SIZE))
    inputs = batch(protocol.inputs(split.samples[0]))
    kept = set(vars(protocol))
    for times in range(1, 4):
        protocol.update(inputs, protocol.labeller.scores_of(inputs))
        assert protocol.table.counts.shape == (4, 4) and set(vars(protocol)) == kept
        assert protocol.table.total == times * int((inputs.class_map != VOID).sum())


def test_a_split_without_classes_has_no_such_protocol_and_wrong_labels_are_refused():
    assert Protocol.of(draw_split("test", 1), ColourLabeller(), evaluation_options()) is None
    split = classes(1)
    protocol = Protocol(split, ColourLabeller(), evaluation_options(image_size=SIZE))
    with pytest.raises(UserError, match="No held-out picture has a pixel with a class; the first is test/0.jpg"):
        protocol.metrics()
    split.samples[0].class_map[0, 0] = 4
    with pytest.raises(UserError, match=r"test/0\.jpg has no class map, or one with labels above 3 that are not 255"):
        protocol.inputs(split.samples[0])
