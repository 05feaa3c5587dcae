"""The Python of docs/python.md and docs/export.md runs as it stands there, on small networks and pictures."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.example import draw_folder
from tests.test_export import SMALL, exported, save_run

ROOT = Path(__file__).resolve().parents[1]


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A working directory with what the pages name."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_page_on_python_loads_labels_describes_and_trains(place):
    save_run(place, *SMALL["parts"], "perceptual.weights=none", "image_size=64")
    (place / "runs").mkdir()
    (place / "run").rename(place / "runs/birds")
    draw_folder(place / "my_pictures", count=12, size=48)
    for folder, name in (("photos", "one.jpg"), ("masks", "one.png")):
        (place / folder).mkdir()
        source = place / "my_pictures" / folder.replace("photos", "images") / f"creature_001{Path(name).suffix}"
        (place / folder / name).write_bytes(source.read_bytes())

    names: dict = {}
    quick = ["experiment=small", "segmenter=hourglass", "segmenter.widths=[4,8]", "num_steps=2", "batch_size=2"]
    for block in blocks("python.md"):
        exec(block.replace('"experiment=laptop"', ", ".join(f'"{override}"' for override in quick)), names)
    assert names["labels"].shape == (64, 64) and set(names["labels"].unique().tolist()) <= {1, 2, 3, 4}
    assert names["found"].labels.shape == np.asarray(Image.open("photos/one.jpg")).shape[:2]
    assert names["descriptors"].shape[:2] == (1, 4) and names["descriptors"].isfinite().all()
    assert names["loss"].isfinite()
    trained, fresh = names["method"].predictor.state_dict(), names["labeller"].predictor.state_dict()
    assert all(torch.equal(trained[name], fresh[name]) for name in fresh)


def test_the_page_on_export_runs_both_formats(place, capsys):
    checkpoint = save_run(place, *SMALL["parts"])
    exported(checkpoint).rename("parts.onnx")
    exported(checkpoint, "format=torch").rename("parts.pt2")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)).save("photo.jpg")
    maps = []
    for block in blocks("export.md"):
        names: dict = {}
        exec(block, names)
        maps.append(np.asarray(names["label_map"]))
    assert len(maps) == 2 and maps[0].shape == (64, 64) and (maps[0] == maps[1]).mean() > 0.999
    assert "'part 1', 'part 2'" in capsys.readouterr().out
