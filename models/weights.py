"""Pretrained weights: where each set comes from, how to get it, and the input normalisation it was trained with."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.hub import HASH_REGEX, download_url_to_file
from torchvision.models import ResNet50_Weights, VGG16_Weights, VGG19_Weights, WeightsEnum

from utils.checkpoints import load_tensors
from utils.errors import UserError


class Normalisation(nn.Module):
    """(scale * image - mean) / deviation per channel, of RGB images (N, 3, H, W) in [0, 1].

    The constants follow the module to its device and are left out of state dicts.
    """

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...], scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("deviation", torch.tensor(deviation)[:, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return (images * self.scale - self.mean) / self.deviation


@dataclass(frozen=True)
class PretrainedWeights:
    """One published set of weights and the normalisation of its inputs."""

    url: str
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    scale: float = 1.0

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[1]

    def normalisation(self) -> Normalisation:
        return Normalisation(self.mean, self.deviation, self.scale)


def _torchvision(weights: WeightsEnum) -> PretrainedWeights:
    transforms = weights.transforms()
    return PretrainedWeights(weights.url, tuple(transforms.mean), tuple(transforms.std))


RESNET50 = {
    # These are the means of B, G, R; the published segmenters were trained with them subtracted from R, G, B.
    "caffe": PretrainedWeights(
        url="http://vllab1.ucmerced.edu/~whung/adv-semi-seg/resnet50-caffe-22edcc82.pth",
        mean=(104.00698793, 116.66876762, 122.67891434),
        deviation=(1.0, 1.0, 1.0),
        scale=255.0,
    ),
    "torchvision": _torchvision(ResNet50_Weights.IMAGENET1K_V1),
}
VGG = {
    "vgg16": _torchvision(VGG16_Weights.IMAGENET1K_V1),
    "vgg19": _torchvision(VGG19_Weights.IMAGENET1K_V1),
}


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict.

    Raises:
        UserError: the file is missing, truncated, or holds something other than named tensors.
    """
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        state = load_tensors(path)
    except Exception as error:
        raise UserError(
            f"Cannot read the weights file {path}: {_first_line(error)}. It may be truncated or no PyTorch state dict: "
            f"delete it and fetch it again."
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"The weights file {path} does not hold a state dict (names and tensors).")
    return dict(state)


def pretrained_state(
    choice: str, imagenet: PretrainedWeights, weights_dir: str | Path, option: str
) -> dict[str, Tensor]:
    """State dict of ``choice``: ``"imagenet"`` or the path of a file.

    ``imagenet`` is looked for in ``weights_dir`` first and downloaded to it otherwise.

    Args:
        choice: value of the config key ``option``.
        imagenet: what ``"imagenet"`` stands for.
        weights_dir: folder of downloaded weights.
        option: config key, for messages.

    Raises:
        UserError: the file cannot be read or downloaded.
    """
    if choice != "imagenet":
        return read_weights(Path(choice).expanduser())
    path = Path(weights_dir) / imagenet.file_name
    if not path.is_file():
        _download(imagenet, path, option)
    return read_weights(path)


def _download(weights: PretrainedWeights, path: Path, option: str) -> None:
    digest = HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(weights.url, str(path), hash_prefix=digest.group(1) if digest else None)
    except Exception as error:
        raise UserError(
            f"Cannot download the pretrained weights {weights.file_name}: {_first_line(error)}.\n"
            f"  source: {weights.url}\n"
            f"  put the file here: {path.absolute()}\n"
            f"  or give another file: {option}=PATH\n"
            f"  or start without pretrained weights: {option}=none"
        ) from error


def copy_by_name(network: nn.Module, state: Mapping[str, Tensor], source: str, skip: str | None = None) -> None:
    """Copy tensors into ``network`` by name; names that only ``state`` has (a classifier) are ignored.

    Args:
        network: receives the tensors.
        state: names and tensors.
        source: file or choice, for messages.
        skip: prefix of the network's own names that ``state`` need not have.

    Raises:
        UserError: a tensor of the network is missing from ``state`` or has another shape.
    """
    # Files older than the counter of batches lack it, and nothing here reads it.
    wanted = {
        name: tensor
        for name, tensor in network.state_dict().items()
        if not (skip and name.startswith(skip)) and not name.endswith("num_batches_tracked")
    }
    missing = [name for name in wanted if name not in state]
    other_shape = [name for name in wanted if name in state and state[name].shape != wanted[name].shape]
    if missing:
        raise UserError(
            f"The weights in {source} do not fit the network: {len(missing)} of its {len(wanted)} tensors are missing, "
            f"the first is {missing[0]}."
        )
    if other_shape:
        name = other_shape[0]
        raise UserError(
            f"The weights in {source} do not fit the network: {name} has the shape {tuple(state[name].shape)} instead "
            f"of {tuple(wanted[name].shape)}."
        )
    network.load_state_dict({name: state[name] for name in wanted}, strict=False)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
