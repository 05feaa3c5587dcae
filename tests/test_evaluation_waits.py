"""An evaluation keeps the device busy: the host waits for no batch, but for results of the batch before."""

import gc
from collections import Counter

import numpy as np
import pytest
import torch

from evaluation.inputs import EvalInput
from evaluation.labellers import (
    dff,
    foreground,
    keypoint,
    kmeans,
    kmeans_colours,
    label_maps,
    landmarks,
    midpoint,
    regions,
)
from evaluation.labellers.segmenter import SegmenterLabeller
from evaluation.options import Sets
from evaluation.pages.seen import Seen
from evaluation.palette import save_label_map
from evaluation.run import evaluate
from models import segmenters
from tests.composition import composed
from tests.quadrants import ColourLabeller, Quadrants, draw_split, evaluation_options, quadrants
from tests.waits import counted_waits
from utils.transfers import Behind


@pytest.fixture(autouse=True)
def landed(monkeypatch) -> Counter[str]:
    """How many tensors came to the host a batch later."""
    count, add = Counter(numpy=0), Behind.add

    def counted(self, results, *given):
        count.update(numpy=len(results))
        add(self, results, *given)

    monkeypatch.setattr(Behind, "add", counted)
    return count


def split_of(name, count):
    split = draw_split(name, count, part_maps=True)
    split.pixel_classes = list("abcd")
    for sample in split.samples:
        sample.class_map = np.minimum(sample.part_map, 3)
    return split


def network(num_parts=4, has_background=False) -> torch.nn.Module:
    options = composed("segmenter=hourglass", "segmenter.weights=none", "segmenter.widths=[4,4]").segmenter
    return segmenters.build(options, num_parts=num_parts, has_background=has_background).eval()


def segmenter(device, folder):
    return SegmenterLabeller(network().to(device))


def with_features(device, folder):
    labeller = segmenter(device, folder)
    labeller.has_features, labeller.features_of = True, labeller.scores_of
    return labeller


def landmarks_of(device, folder):
    return landmarks.LandmarkLabeller(network(has_background=True).to(device))


def regions_of(device, folder):
    return regions.RegionLabeller(network().to(device))


def foreground_of(device, folder):
    return foreground.ForegroundLabeller(network(num_parts=1).to(device))


def clusters(device, folder):
    return kmeans_colours.KMeansColours(kmeans.Options(100, 1, None, None, 1), 4, seed=0)


def factors(device, folder):
    return dff.DFF(lambda images: [images], dff.Options("mu", 2, 0.1, None), 2, seed=0)


def one_keypoint(device, folder):
    labeller = keypoint.Keypoint("b")
    labeller.index = 1
    return labeller


def maps(device, folder):
    for sample in split_of("test", 8).samples:
        save_label_map(folder / "maps" / f"{sample.name}.png", sample.part_map + np.uint8(1))
    labeller = label_maps.LabelMaps(folder / "maps", 5, has_background=False)
    labeller.knows_training_pictures = False
    return labeller


PROBES = composed("evaluation.probe.kinds=[linear]", "evaluation.probe.steps=1").evaluation.probe
# A labeller, protocols, options, and whether anything of a batch goes to the host.
CASES = {
    "keypoints and parts": (segmenter, ("keypoints", "part_maps"), {}, False),
    "pixels": (segmenter, ("pixel_accuracy",), {}, False),
    "probes": (with_features, ("pixel_probe",), {"probe": PROBES}, False),
    "masks": (foreground_of, ("foreground",), {}, False),
    "landmarks": (landmarks_of, ("keypoints",), {}, False),
    "regions": (regions_of, ("keypoints",), {}, False),
    "clusters": (clusters, ("keypoints", "part_maps"), {}, False),
    "factors": (factors, ("keypoints",), {}, False),
    "a keypoint": (one_keypoint, ("keypoints",), {}, False),
    "the middle": (lambda *_: midpoint.Midpoint(), ("keypoints",), {}, False),
    "label maps": (maps, ("part_maps", "keypoints"), {}, False),
    "figures without truth": (segmenter, ("part_maps",), {"truth_free": True}, True),
    "label maps that are kept": (segmenter, ("part_maps",), {"label_maps": "kept"}, True),
    "a report": (segmenter, ("part_maps",), {"report": True}, True),
}


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize(("build", "protocols", "options", "to_host"), CASES.values(), ids=CASES)
def test_an_evaluation_waits_for_no_batch(tmp_path, landed, build, protocols, options, to_host, device):
    options = dict(options)
    if "label_maps" in options:
        options["label_maps"] = tmp_path / "kept"
    reported = options.pop("report", False)

    def waits(count: int) -> tuple[Counter[str], Counter[str]]:
        labeller, before = build(device, tmp_path), landed.copy()
        observer = Seen(labeller, [0]) if reported else None
        sets = Sets(split_of("test", count), split_of("training", 4))
        with counted_waits() as counts:
            evaluate(labeller, sets, protocols, evaluation_options(num_pictures=2, **options), device, observer)
        return counts, landed - before

    waits(1)  # makes constants
    few, more = waits(2), waits(8)
    expected = more[1] - few[1]
    assert bool(expected) == to_host
    assert more[0] - few[0] == expected and few[0] - more[0] == Counter()


def test_results_are_taken_a_batch_later_in_order():
    taken = []
    behind = Behind(lambda numbers, letters, name: taken.append((numbers.tolist(), letters.tolist(), name)))
    behind.finish()
    for place, name in enumerate("abc"):
        behind.add([torch.tensor([place]), torch.tensor([place, place])], name)
        assert [name for *_, name in taken] == list("abc"[:place])
    behind.finish()
    behind.finish()
    assert taken == [([0], [0, 0], "a"), ([1], [1, 1], "b"), ([2], [2, 2], "c")]


class Held(ColourLabeller):
    """Notes the most pictures that are in memory while it sees any."""

    most = 0

    def scores(self, images, foreground):
        alive = [one for one in gc.get_objects() if type(one) is EvalInput and one.image is not None]
        self.most = max(self.most, len(alive))
        return super().scores(images, foreground)


def test_of_more_pictures_no_more_are_held(tmp_path):
    def most(count: int) -> int:
        gc.collect()
        samples = [quadrants(f"{place}", (80, 80), (10, 10, 69, 69)) for place in range(count)]
        split, labeller = Quadrants(samples, part_maps=True), Held()
        options = evaluation_options(num_pictures=2, truth_free=True, label_maps=tmp_path / str(count))
        evaluate(labeller, Sets(split, None), ("part_maps", "keypoints"), options, "cpu", Seen(labeller, [0]))
        return labeller.most

    few = most(12)
    assert most(48) <= few + 4, "but for when Python forgets what nobody holds"
