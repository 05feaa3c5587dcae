"""Pretrained weights: where each set comes from, how to get it, and the input normalisation it was trained with.

Files are read in whatever layout people have them (torchvision's, timm's, SwAV's, DINO's, DeepCluster's, MoCo's, this
project's): wrappers' names are dropped, and the network's tensors are looked for under the one prefix that fits most.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn
from torch.hub import HASH_REGEX, download_url_to_file
from torchvision.models import ResNet50_Weights, VGG16_BN_Weights, VGG16_Weights, VGG19_Weights, WeightsEnum

from utils import checkpoints
from utils.console import say
from utils.errors import UserError

# Segments of names that come from what a network was wrapped in.
WRAPPERS = ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Of several networks in a file that fit as well, what the one that is meant is called: DINO's teacher, MoCo's encoder
# that is trained; and what is not called so may be an average of it.
PREFERRED = ("teacher", "encoder_q")
MEANT = ("model_state_dict", "state_dict", "model", "net", "network")
URLS = ("http://", "https://", "file://")
WORDS = ("none", "imagenet", "hub", "coco")  # for weights, beside "package:NAME"; networks know some of them


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
    "vgg16_bn": _torchvision(VGG16_BN_Weights.IMAGENET1K_V1),
    "vgg19": _torchvision(VGG19_Weights.IMAGENET1K_V1),
}


def read_state(choice: str, weights_dir: str | Path, option: str) -> dict[str, Tensor]:
    """All tensors of a file, under dotted names.

    Args:
        choice: value of the config key ``option``: a path; the path of a run of this project, of which the newest
            checkpoint is meant; or a URL, downloaded to ``weights_dir`` once.
        weights_dir: folder of downloaded weights.
        option: config key, for messages.

    Raises:
        UserError: the file cannot be downloaded, is missing or damaged, or holds no tensors.
    """
    if choice.startswith(URLS):
        url = urlsplit(choice)  # the whole path: many are called model.safetensors
        return _fetched(choice, Path(weights_dir) / url.netloc / url.path.lstrip("/"), option)
    path = Path(choice)
    require_place(choice, option)
    if not path.exists():
        raise UserError(
            f"{option}={choice}: there are none of that kind for this network. Give a file, a URL, the directory of a "
            "run, or none."
        )
    return dict(checkpoints.find(path).model) if path.is_dir() else _read(path)


def require_place(choice: str, option: str) -> None:
    """Raises UserError where the value of the config key ``option`` is a path, and nothing is there."""
    if choice in WORDS or choice.startswith((*URLS, "package:")) or Path(choice).exists():
        return
    known = f" A run that goes on has them in its checkpoint: there {option}=none does."
    other = f" A run that goes on needs the same: {option}=PATH says where they are now."
    raise UserError(
        f"{option}={choice}: there is no such file or run. Give another one{', or none' * _needless(option)}."
        f"{known if option.startswith('segmenter') else other * _needless(option)}"
    )


def pretrained_state(
    choice: str, imagenet: PretrainedWeights, weights_dir: str | Path, option: str
) -> dict[str, Tensor]:
    """As :func:`published_state`, where ``"imagenet"`` stands for ``imagenet``."""
    return published_state(choice, "imagenet", imagenet.url, weights_dir, option)


def published_state(choice: str, word: str, url: str, weights_dir: str | Path, option: str) -> dict[str, Tensor]:
    """As :func:`read_state`, where ``word`` stands for what is at ``url``, which lies in ``weights_dir`` itself."""
    if choice != word:
        return read_state(choice, weights_dir, option)
    return _fetched(url, Path(weights_dir) / url.rsplit("/", 1)[1], option)


def tensors_of_package(package: str, names: Sequence[str], option: str) -> dict[str, Tensor]:
    """Tensors of the one ``.pth`` file that a Python package brings, under other names in the same order.

    Args:
        package: as pip has it.
        names: of all tensors of the network, in its order.
        option: config key, for messages.

    Raises:
        UserError: it is not installed, brings no such file, or one with another number of tensors.
    """
    try:
        paths = [file.locate() for file in files(package) or () if file.suffix == ".pth"]
    except (PackageNotFoundError, ValueError):  # the latter of no name at all
        raise UserError(f"{option}=package:{package}: it is not installed. python -m pip install {package}") from None
    if len(paths) != 1:
        raise UserError(f"{option}=package:{package}: it brings {len(paths)} .pth files, and should bring one.")
    state = _read(Path(paths[0]))
    if len(state) != len(names):
        raise UserError(
            f"{option}=package:{package}: it holds {len(state)} tensors, and the network has {len(names)}: they are "
            "weights of another network."
        )
    last = [[name.rpartition(".")[2] for name in own] for own in (names, state)]
    if last[0] != last[1]:
        place = next(place for place, (a, b) in enumerate(zip(*last, strict=True)) if a != b)
        raise UserError(
            f"{option}=package:{package}: its tensor {[*state][place]} stands where the network has {names[place]}: it "
            "holds weights of another network, or in another order."
        )
    return dict(zip(names, state.values(), strict=True))


def copy_by_name(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: str,
    head: str | None = None,
    beside: Iterable[str] = (),
) -> None:
    """Copy tensors into ``network`` by name, and say in one line what was left out and what is new.

    Names may have wrappers' segments (``module.``, ``_orig_mod.``) anywhere, and all of the network's one prefix
    (``state_dict.``, ``teacher.backbone.``, ``encoder_q.``); of several that fit, the one that fits most is taken.

    Args:
        network: receives the tensors.
        state: names and tensors.
        source: ``KEY=VALUE``, for messages.
        head: what the names of the network's head begin with, which is taken whole where ``state`` has all of it in
            these shapes, and else not at all.
        beside: names of tensors beside the network that are new, for the line.

    Raises:
        UserError: another tensor of the network is missing from ``state``, has another shape, or is not finite.
    """
    wanted = network.state_dict()
    given = unwrapped(state)
    prefix = _prefix(given, wanted)
    found = {name: given[prefix + name] for name in wanted if prefix + name in given}
    other_shape = [name for name in found if found[name].shape != wanted[name].shape]
    of_head = {name for name in wanted if head and name.startswith(head)}
    needed = [name for name in wanted if name not in of_head and not name.endswith("num_batches_tracked")]
    if missing := [name for name in needed if name not in found]:
        raise UserError(
            f"The weights in {source} do not fit the network: {len(missing)} of its {len(needed)} tensors are missing, "
            f"the first is {missing[0]}."
        )
    if wrong := [name for name in other_shape if name in needed]:
        raise UserError(
            f"The weights in {source} do not fit the network: {wrong[0]} has the shape "
            f"{tuple(found[wrong[0]].shape)} instead of {tuple(wanted[wrong[0]].shape)}."
        )
    has_head = of_head <= found.keys() and not of_head & {*other_shape}
    taken = {name: found[name] for name in found if has_head or name not in of_head}
    if broken := [name for name in taken if not taken[name].isfinite().all()]:
        raise UserError(f"The weights in {source} are of no use: {broken[0]} has numbers that are not finite.")
    network.load_state_dict(taken, strict=False)
    left = groups_of(
        _inside(name, prefix) for name in given if not (name.startswith(prefix) and name[len(prefix) :] in taken)
    )
    new = groups_of([*(name for name in wanted if name not in taken and "num_batches_tracked" not in name), *beside])
    also = f" with its head ({head.rstrip('.')})" if of_head and has_head else ""
    say(
        f"{source}: {len(taken)} tensors{also}"
        + (f", left out {left}" * bool(left))
        + (f", new {new}" * bool(new))
        + "."
    )


def unwrapped(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same without the segments of wrappers in the names."""
    return {".".join(part for part in name.split(".") if part not in WRAPPERS): t for name, t in state.items()}


def inner_states(state: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """For everything that names begin with, and a dot: what is under it, by the rest of the name."""
    parts = [name.split(".") for name in state]
    for prefix in dict.fromkeys(".".join(own[:place]) + "." for own in parts for place in range(1, len(own))):
        yield prefix, {name.removeprefix(prefix): own for name, own in state.items() if name.startswith(prefix)}


def _prefix(given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
    """What stands before the network's names in the file's."""
    fits: Counter[str] = Counter()
    for name, tensor in given.items():
        parts = name.split(".")
        for place in range(len(parts)):
            inner = ".".join(parts[place:])
            if inner in wanted:
                fits[name[: len(name) - len(inner)]] += 1 + (tensor.shape == wanted[inner].shape)
    if not fits:
        return ""
    return max(fits, key=lambda prefix: (fits[prefix], preference(prefix)))


def preference(prefix: str) -> tuple[bool, bool]:
    """How surely a network is meant by what its tensors' names begin with; larger is surer."""
    parts = {*prefix.split(".")}
    return not parts.isdisjoint(PREFERRED), not parts.isdisjoint(MEANT)


def _inside(name: str, prefix: str) -> str:
    """A name without what it shares with the prefix."""
    for part in prefix.split("."):
        if part and name.startswith(f"{part}."):
            name = name.removeprefix(f"{part}.")
        else:
            break
    return name


def groups_of(names: Iterable[str]) -> str:
    """Names by their first part, with how many there are of each."""
    counts = Counter(name.partition(".")[0] for name in names)
    return ", ".join(f"{name} ({count})" for name, count in counts.items())


def _fetched(url: str, path: Path, option: str) -> dict[str, Tensor]:
    if not path.is_file():
        _download(url, path, option)
    return _read(path)


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"There is no weights file {path}.")
    try:
        payload = checkpoints.load_tensors(path)
    except Exception as error:
        raise UserError(f"Cannot read the weights file {path}: {checkpoints.why_unreadable(path, error)}") from error
    if not (state := dict(checkpoints.tensors_in(payload))):
        raise UserError(f"The weights file {path} does not hold a state dict (names and tensors).")
    return state


def _download(url: str, path: Path, option: str) -> None:
    digest = HASH_REGEX.search(path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        download_url_to_file(url, str(path), hash_prefix=digest.group(1) if digest else None)
    except Exception as error:
        without = f"\n  or start without pretrained weights: {option}=none"
        raise UserError(
            f"Cannot download the pretrained weights {path.name}: {first_line(error)}.\n"
            f"  source: {url}\n"
            f"  put the file here: {path.absolute()}\n"
            f"  or give another file: {option}=PATH{without * _needless(option)}"
        ) from error


def _needless(option: str) -> bool:
    """Whether the network that a key gives weights to can do without: not one that is used as it comes."""
    return not option.startswith("pretrained.")


def first_line(error: Exception) -> str:
    """What an error says first, without its last full stop."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
