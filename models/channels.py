"""What networks that cluster pixels see of a picture: colour, edges, infrared (IIC, Ji et al., ICCV 2019)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from omegaconf import MISSING
from torch import Tensor

from conf.fields import choice
from utils.errors import UserError

# Rows down, then columns: dx and dy, as cross-correlation.
_SOBEL = (
    ((1.0, 0.0, -1.0), (2.0, 0.0, -2.0), (1.0, 0.0, -1.0)),
    ((1.0, 2.0, 1.0), (0.0, 0.0, 0.0), (-1.0, -2.0, -1.0)),
)
_GREY = (0.299, 0.587, 0.114)  # of the first, second and third colour, whichever they are


@dataclass
class Channels:
    """Keys of ``segmenter`` of such networks.

    Attributes:
        colour: order of the colours, or none of them. IIC reads COCO as B, G, R and never turns that round.
        sobel: two channels of edges of the grey picture. In the order B, G, R red's weight falls on blue, as in IIC.
        infrared: the fourth channel of the pictures.
    """

    colour: str = choice("rgb", "bgr", "none")
    sobel: bool = MISSING
    infrared: bool = MISSING


def num_channels(options: Channels) -> int:
    """How many channels :func:`network_input` gives; UserError where there are none."""
    count = 3 * (options.colour != "none") + 2 * options.sobel + options.infrared
    if not count:
        raise UserError(
            "segmenter.colour=none segmenter.sobel=false segmenter.infrared=false: the network would see nothing. Give "
            "it one of them."
        )
    return count


def network_input(images: Tensor, infrared: Tensor | None, options: Any, shown: Tensor | None = None) -> Tensor:
    """The channels that are asked for (N, C, H, W), in the order colour, dx, dy, infrared.

    Sobel's filters are not normalised (-4 to 4) and see zeros outside of the picture, so that it has edges all around.

    Args:
        images: (N, 3, H, W) in [0, 1], RGB.
        infrared: (N, 1, H, W) in [0, 1], or None where the data set has none.
        options: with the keys of :class:`Channels`.
        shown: (N, 3, H, W), RGB, what the colour channels show instead of the images, of which the edges are.

    Raises:
        UserError: infrared is asked for, and there is none.
    """
    if options.infrared and infrared is None:
        raise UserError(
            "segmenter.infrared=true: the pictures have no infrared. A network that sees it needs a data set that has "
            "it, such as dataset_name=potsdam; to train another one, give segmenter.infrared=false."
        )
    colours, shown = (
        maps.flip(1) if options.colour == "bgr" else maps for maps in (images, images if shown is None else shown)
    )
    channels = [] if options.colour == "none" else [shown]
    if options.sobel:
        grey = (colours * colours.new_tensor(_GREY)[:, None, None]).sum(1, keepdim=True)
        channels.append(F.conv2d(grey, grey.new_tensor(_SOBEL)[:, None], padding=1))
    if options.infrared:
        channels.append(infrared)
    return channels[0] if len(channels) == 1 else torch.cat(channels, dim=1)
