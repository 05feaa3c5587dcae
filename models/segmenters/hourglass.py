"""The hourglass of ULD (Zhang et al., CVPR 2018): a small network from scratch whose scores are as fine as the picture.

It has no fixed statistics: its batch norms are of the batch in training.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig
from torch import Tensor, nn

from conf.fields import number, path
from models.hourglass import Hourglass
from models.inputs import require_pictures
from models.segmenters.base import num_parts_of, with_weights

HEAD = "hourglass.head."


@dataclass
class Options:
    """Keys of the node ``segmenter``.

    Attributes:
        weights: ``"none"`` (random), or the path or URL of a file; the path of a run of this project starts from that
            one's segmenter, head included where K is the same.
        weights_dir: of downloads.
        widths: channels at each scale, the finest first.
    """

    name: str = MISSING
    weights: str = path("none", "imagenet", "hub")
    weights_dir: str = path()
    widths: list[int] = number(low=1)


class Segmenter(nn.Module):
    """Part logits from images.

    Args:
        widths: channels at each scale.
        num_parts: K.
        has_background: one channel more, the first, is the background's; in the release it is the last.
    """

    def __init__(self, widths: list[int], num_parts: int, has_background: bool = False) -> None:
        super().__init__()
        self.num_parts, self.has_background = num_parts, has_background
        self.hourglass = Hourglass(3, widths, num_parts + has_background)

    def preprocess(self, images: Tensor) -> Tensor:
        """RGB images (N, 3, H, W) in [0, 1] as they are; see ``models.inputs`` for what is refused."""
        require_pictures(images, self)
        return images

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (N, K [+ 1], H, W) of images (N, 3, H, W)."""
        return self.hourglass(inputs)

    def parameter_groups(self, head_multiplier: float) -> list[dict[str, Any]]:
        """The trained parameters for ``utils.optimizer``: the head learns ``head_multiplier`` times as fast."""
        head = [*self.hourglass.head.parameters()]
        body = [*self.hourglass.down.parameters(), *self.hourglass.up.parameters()]
        return [{"params": body, "multiplier": 1.0}, {"params": head, "multiplier": head_multiplier}]


def build(options: DictConfig, num_parts: int, has_background: bool) -> Segmenter:
    """See ``models.segmenters.build``."""
    return with_weights(Segmenter(options.widths, num_parts, has_background), options, HEAD)


def from_state(options: DictConfig, state: Mapping[str, Tensor], has_background: bool) -> Segmenter:
    """See ``models.segmenters.from_state``."""
    num_parts = num_parts_of(options, state, has_background, f"{HEAD}weight", shape="C, 1, 1")
    return Segmenter(options.widths, num_parts, has_background)
