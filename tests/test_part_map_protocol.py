from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from evaluation.inputs import batch
from evaluation.protocols.part_maps import EVERYWHERE, ON_PARTS, Protocol
from tests.quadrants import ColourLabeller, Quadrants, draw_split, evaluation_options, quadrants
from utils.errors import UserError


def protocol_of(split, size, labeller=None, **options):
    return Protocol(split, labeller or ColourLabeller(), evaluation_options(image_size=size, **options))


def score(protocol, samples):
    for sample in samples:
        inputs = batch(protocol.inputs(sample))
        protocol.update(inputs, protocol.labeller.scores_of(inputs))


class Noisy(ColourLabeller):
    def scores(self, images, foreground):
        noise = torch.rand(len(images), 4, 8, 8, generator=torch.Generator().manual_seed(images.sum().item() % 1000))
        return super().scores(images, foreground) / 50 + 2 * torch.nn.functional.interpolate(noise, images.shape[-2:])


def read(folder, kind):
    return np.concatenate([np.array(Image.open(path)).ravel() for path in sorted((folder / kind).rglob("*.png"))])


def test_the_saved_label_maps_give_the_figures_again(tmp_path):
    split = draw_split("test", 5, part_maps=True)
    for sample in split.samples:  # a mask that misses some of the object
        sample.foreground[: sample.foreground.shape[0] // 2] = 0
    protocol = protocol_of(split, 48, Noisy(), label_maps=tmp_path / "maps")
    score(protocol, split.samples)
    metrics = protocol.metrics()
    true, parts, predicted = (read(tmp_path / "maps", kind) for kind in ("true", "parts", "predicted"))
    assert true.size == 5 * 48 * 48 and parts.min() >= 1 and set(np.unique(predicted)) == {0, 1, 2, 3, 4}
    on_object = true != 0
    expected = {
        "FG-NMI": 100 * normalized_mutual_info_score(true[on_object], parts[on_object]),
        "FG-ARI": 100 * adjusted_rand_score(true[on_object], parts[on_object]),
        "NMI": 100 * normalized_mutual_info_score(true, predicted),
        "ARI": 100 * adjusted_rand_score(true, predicted),
    }
    assert metrics == pytest.approx(expected, abs=1e-8)
    assert 5 < expected["FG-NMI"] < 95, "the case must not be trivial"


def test_the_commands_beside_the_label_maps_print_the_figures(tmp_path, monkeypatch, capsys):
    split = draw_split("test", 2, part_maps=True)
    protocol = protocol_of(split, 48, Noisy(), label_maps=tmp_path)
    score(protocol, split.samples)
    metrics = protocol.metrics()
    text = (tmp_path / "README.txt").read_text()
    code = "\n".join(line[4:] for line in text.splitlines() if line.startswith("    ") or not line)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.txt", "exec"), {})
    printed = {line.split()[0]: float(line.split()[1]) for line in capsys.readouterr().out.splitlines()}
    assert printed == pytest.approx(metrics, abs=1e-6)


def test_the_mask_decides_the_background_but_not_the_parts():
    split = draw_split("test", 4, part_maps=True)
    whole, halved = (protocol_of(split, 48) for _ in range(2))
    score(whole, split.samples)
    for sample in split.samples:
        sample.foreground[: sample.foreground.shape[0] // 2] = 0
    score(halved, split.samples)
    # 100 but for the mixed colours of resized edges.
    assert whole.metrics()["FG-NMI"] > 90
    assert (halved.tables[ON_PARTS].counts == whole.tables[ON_PARTS].counts).all()
    assert halved.metrics()["NMI"] < whole.metrics()["NMI"] - 10


def test_every_pixel_of_every_crop_is_counted_once():
    split = draw_split("test", 3, part_maps=True)
    protocol = protocol_of(split, 32)
    score(protocol, split.samples)
    assert protocol.tables[EVERYWHERE].total == 3 * 32 * 32
    crops = [split.test_crop(sample, 32) for sample in split.samples]
    assert protocol.counts() == {"images": 3, "part_pixels": sum(int((crop.part_map > 0).sum()) for crop in crops)}


def test_labels_without_a_name_and_sets_without_parts_are_refused():
    sample = quadrants("a", (80, 100), (10, 10, 60, 60))
    split = Quadrants([sample], part_maps=True)
    protocol = protocol_of(split, 32)
    with pytest.raises(UserError, match="No held-out picture shows an annotated part"):
        protocol.metrics()
    sample.part_map[0, 0] = 5
    with pytest.raises(UserError, match="a.jpg has no part map, or one with labels above 4"):
        protocol.inputs(sample)


def test_true_masks_stand_beside_given_ones_where_the_data_set_asks_for_them(tmp_path, monkeypatch, capsys):
    class Asking(Quadrants):
        def part_views(self, options):
            return [replace(view, true_masks=True) for view in super().part_views(options)]

    samples = draw_split("test", 4, part_maps=True).samples
    plain, asking = Quadrants(samples, part_maps=True), Asking(samples, part_maps=True)
    perfect = protocol_of(plain, 48)
    score(perfect, samples)
    for sample in samples:
        sample.foreground[: sample.foreground.shape[0] // 2] = 0
    protocol = protocol_of(asking, 48, label_maps=tmp_path)
    score(protocol, samples)
    metrics, expected = protocol.metrics(), perfect.metrics()
    assert {"NMI", "ARI"} < set(expected) and not any("mask" in name for name in expected)
    # A mask that is the union of the parts, as it was before the halving.
    assert metrics["NMI (ground-truth mask)"] == pytest.approx(expected["NMI"])
    assert metrics["ARI (ground-truth mask)"] == pytest.approx(expected["ARI"])
    assert metrics["NMI"] < expected["NMI"] - 10

    code = "\n".join(line[4:] for line in (tmp_path / "README.txt").read_text().splitlines() if line.startswith("    "))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.txt", "exec"), {})
    printed = dict(line.rsplit(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert {name: float(value) for name, value in printed.items()} == pytest.approx(metrics, abs=1e-6)
