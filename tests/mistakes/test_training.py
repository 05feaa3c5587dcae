"""Settings that the data, the machine or the place do not go with, found once training has started."""

from pathlib import Path

import pytest
import torch

from tests.mistakes.damage import flip_bit
from tests.mistakes.harness import Place, row
from tests.test_datasets import SMALL


def training(id: str, overrides: str, *words: str, prepare=lambda place: None):
    """train.py on a folder with 12 training pictures."""

    def with_data(place: Place) -> None:
        place.data("folder")
        prepare(place)

    own = "dataset_name=folder dataset_root=PLACE/data experiment=debug output_dir=PLACE/run logging.wandb=disabled"
    return row(id, " ".join(["train.py", own, *SMALL, overrides]), *words, prepare=with_data)


def other_weights(place: Place) -> None:
    torch.save({"features.0.weight": torch.zeros(1)}, place.path / "vgg.pth")


def damaged_weights(place: Place) -> None:
    file: Path = place.path / "damaged.pth"
    torch.save({"conv1.weight": torch.arange(300.0)}, file)
    flip_bit(file)


REFUSED = [
    training("a batch of the whole set", "device=cpu batch_size=13", "12 training images", "batch_size=13"),
    training(
        "a batch of a billion",
        "device=cpu batch_size=1000000000",
        "12 training images, fewer than batch_size=1000000000",
    ),
    training(
        "a batch too small for its positives",
        "device=cpu batch_size=2 method.positives=release",
        "batch_size=2",
        "method.positives=release",
        "3 or more",
    ),
    training(
        "all weights 0",
        "device=cpu "
        + " ".join(f"loss_weights.{name}=0" for name in ("feature", "contrastive", "visual", "equivariance")),
        "loss_weights.feature",
        "are all 0",
    ),
    training("unknown layer", "device=cpu +perceptual.layers.relu9_9=1", "perceptual.layers", "relu9_9", "relu5_4"),
    training(
        "a network that timm does not have",
        "device=cpu perceptual=timm perceptual.network=resnet_18 perceptual.layers={4:1}",
        "perceptual.network=resnet_18: timm has no such network",
        "The nearest: resnet18",
    ),
    training(
        "a block that a transformer lacks",
        "device=cpu segmenter=timm segmenter.network=vit_tiny_patch16_224 segmenter.layer=12",
        "segmenter.layer: vit_tiny_patch16_224 has no layer 12",
        "11 (blocks.11)",
    ),
    training(
        "finer than the patches",
        "device=cpu segmenter=timm segmenter.network=vit_tiny_patch16_224 segmenter.output_stride=8",
        "segmenter.output_stride=8: vit_tiny_patch16_224 cannot have it",
    ),
    training(
        "a factor that is no number",
        "device=cpu perceptual=timm perceptual.network=resnet18 perceptual.layers={2:a}",
        "perceptual.layers.2: Value 'a' of type 'str' could not be converted to Float; it must be a number",
    ),
    training("no layers", "device=cpu perceptual=timm perceptual.network=resnet18", "perceptual.layers is required"),
    training(
        "no such package",
        "device=cpu segmenter.weights=package:none-such",
        "none-such: there are none of that kind",
    ),
    training("no data set", "device=cpu dataset_root=PLACE/none", "No folder", "none/images", "dataset_root="),
    training(
        "no such weights", "device=cpu segmenter.weights=PLACE/none.pth", "none.pth: there is no such file or run"
    ),
    training(
        "damaged weights",
        "device=cpu segmenter.weights=PLACE/damaged.pth",
        "Cannot read the weights file",
        "damaged.pth",
        prepare=damaged_weights,
    ),
    training(
        "weights of another network",
        "device=cpu segmenter.weights=PLACE/vgg.pth",
        "segmenter.weights=",
        "vgg.pth do not fit",
        "conv1.weight",
        prepare=other_weights,
    ),
    training("a full directory", "device=cpu output_dir=PLACE/data", "output_dir", "data is not an empty directory"),
    training("Apple's device elsewhere", "device=mps", "device=mps", "give device=cpu or cuda"),
    training("no GPU", "device=cuda", "device=cuda", "give device=cpu"),
    training("half precision without a GPU", "device=auto precision=16", "precision=16 needs a CUDA device"),
]


@pytest.mark.parametrize("row", REFUSED)
def test_what_training_cannot_start_with_is_refused_with_the_key_to_change(row, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused(row)
