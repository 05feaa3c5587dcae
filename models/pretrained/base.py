"""What networks that find objects of named classes share: their keys, their weights, and the choice of classes."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from omegaconf import MISSING, DictConfig
from torch import Tensor, nn
from torchvision.models import WeightsEnum, get_model, get_model_weights

from conf.fields import choice, path, probability
from conf.modules import nearest
from models.weights import copy_by_name, published_state
from utils.errors import UserError

NEVER = 1e-6  # no probability is nearer to 0 or 1: logits stay finite


@dataclass
class Options:
    """Keys of the node ``pretrained``.

    Attributes:
        weights: ``"coco"``, torchvision's, downloaded to ``weights_dir`` once; or a file.
        classes: names of those that are objects; None: all that the network knows.
        objects: of each picture ``"largest"``, or ``"all"``.
        score: what is less probable is none.
    """

    name: str = MISSING
    weights: str = path("coco")
    weights_dir: str = path()
    classes: list[str] | None = MISSING
    objects: str = choice("largest", "all")
    score: float = probability()


def network_with_weights(options: DictConfig, networks: Mapping[str, str], **arguments) -> tuple[str, nn.Module]:
    """The one of several of torchvision's networks that the weights are of, and its name there.

    Args:
        networks: its names; of each the end of the name of a tensor that it alone has among those before it. The last
            one is downloaded.
        arguments: of the network.

    Raises:
        UserError: weights cannot be had, or do not fit.
    """
    *_, downloaded = networks
    state = published_state(
        options.weights, "coco", _weights(downloaded).url, options.weights_dir, "pretrained.weights"
    )
    name = next((name for name, own in networks.items() if any(given.endswith(own) for given in state)), downloaded)
    network = get_model(name, weights=None, weights_backbone=None, num_classes=len(classes_of(name)), **arguments)
    copy_by_name(network, state, f"pretrained.weights={options.weights}")
    return name, network


def wanted_classes(options: DictConfig, name: str) -> Tensor:
    """(C,) bool, for each class of a network of torchvision's, the background first, whether it is wanted.

    Raises:
        UserError: there is no class of a name in ``options.classes``.
    """
    known = classes_of(name)
    for asked in options.classes or ():
        if asked not in known[1:]:
            names = [name for name in known[1:] if name != "N/A"]
            raise UserError(
                f"pretrained.classes: {options.name} knows no {asked!r}.{nearest(asked, names)} It knows "
                f"{', '.join(names)}; without pretrained.classes whatever it finds is an object."
            )
    return torch.tensor([place > 0 and known[place] in (options.classes or known) for place in range(len(known))])


def classes_of(name: str) -> list[str]:
    """The names of the classes of a network of torchvision's, the background first."""
    return _weights(name).meta["categories"]


def _weights(name: str) -> WeightsEnum:
    return get_model_weights(name).DEFAULT
