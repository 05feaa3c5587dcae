import numpy as np
import pytest
import torch
from rich.console import Console

from benchmarks import loader
from datasets import crops
from datasets.loader import train_batches
from datasets.transforms.lab import rgb_to_lab
from datasets.transforms.pair import jittered_pair
from tests.composition import composed
from tests.shared import SHARED, needs_shared
from tests.trees import cub, draw_cub_tree
from utils.seeding import Randomness, generator

SMALL = ("image_size=32", "batch_size=2", "device=cpu")
STILL = ("augmentation.jitter_probability=0", "augmentation.greyscale_probability=0")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return draw_cub_tree(tmp_path_factory.mktemp("benchmark") / "CUB", num_train=4).parent


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_reference_makes_what_our_loader_and_views_make(root):
    config = composed("dataset_name=CUB", f"dataset_root={root}", *SMALL, *STILL)
    dataset = cub(root / "CUB", "train", "gt")
    reference = loader.Reference(dataset, config)
    options = dict(image_size=32, batch_size=2, seed=config.seed, first_step=0, num_steps=1, num_workers=0)
    batch = next(iter(train_batches(dataset, **options)))
    made = jittered_pair(batch, config.augmentation, Randomness(config.seed, batch.step, batch.places))
    lab = rgb_to_lab(made.image)
    indices = generator(config.seed, "order", 0).permutation(4)[:2]
    for place, index in enumerate(indices.tolist()):
        item = reference[index, 0, place]
        level = 1.01 / 255  # resized as floats, and as bytes
        for name in ("image", "jittered", "jittered_to_warp"):
            pixels = (
                item[name] if name == "image" else (item[name] + torch.from_numpy(loader.MEANS)[:, None, None]) / 255
            )
            torch.testing.assert_close(pixels, getattr(made, name)[place], atol=level, rtol=0)
        assert (item["lab"] - lab[place]).abs().mean() < 1
        assert torch.equal(item["foreground"], made.foreground[place])
        assert all(one.dtype == torch.float32 for one in item.values())


@needs_shared
@pytest.mark.parametrize("case", ["crop0", "crop1"])
def test_crops_of_the_reference_are_those_of_the_release_to_the_bit(case, monkeypatch):
    golden = np.load(SHARED / "golden/views.npz")
    name, box = str(golden[f"{case}_name"]), golden[f"{case}_square_box"].astype(int)
    splits = [cub(SHARED / "data/CUB", split, "gt", flip_probability=0.0) for split in ("train", "test")]
    dataset, index = next((one, i) for one in splits for i in range(len(one)) if one.sample_name(i) == name)
    monkeypatch.setattr(crops, "square_box", lambda *_: box)
    config = composed("dataset_name=CUB", "image_size=96")
    cropped = loader.Reference(dataset, config).crop((index, 0, 0))
    np.testing.assert_array_equal(cropped.image, golden[f"{case}_image"])
    np.testing.assert_array_equal(cropped.foreground, golden[f"{case}_mask"])


def test_every_loader_has_a_row_with_times(root):
    config = composed("dataset_name=CUB", f"dataset_root={root}", *SMALL)
    times = loader.measure(config, rounds=2)
    assert list(times) == ["reference", "cache=none", "cache=disk", "views on cpu"]
    assert all(len(values) == 2 and min(values) > 0 for values in times.values())
    console = Console(width=120, record=True, quiet=False)
    loader.print_table(times | {"reference": [20.0, 10.0], "cache=none": [2.0, 2.0]}, config, console)
    text = console.export_text()
    assert "2.0 (2.0-2.0)" in text and "7.5 (5.0-10.0)" in text and "cache=none, and views on cpu" in text
