"""Masked convolutions and attention in an order that each pass chooses (Ouali et al., ECCV 2020), and their network.

An ordering is a scan of the pixels: with it, an output sees the pixels up to its own. Orderings 1 to 8 are raster
scans, 9 to 16 zigzags, 0 is none. One set of weights serves all: an ordering chooses mask and padding.

The paper's text was not at hand. Kernels, shifts and the rule of attention are the paper's (its slides); the numbering
of the raster scans, the residual blocks and where attention stands are a third party's reading of it; zigzags and
whatever else is said to be ours is this project's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.devices import memory_available
from utils.errors import UserError

PIXELS_OF_STEM = 2  # a cell of its pool


@dataclass(frozen=True)
class Ordering:
    """A scan of the pixels of a picture: a first one, mirrored and transposed.

    Rows down, each from left to right, is the first raster scan. The first zigzag goes along the diagonals from the top
    left, which turn: down the first one, up the next (ours; the paper does not say where they start and turn).

    Attributes:
        zigzag: whether it goes along the diagonals.
        transposed: rows and columns change their roles.
        rows_up, columns_left: it comes from the bottom, from the right.
    """

    zigzag: bool = False
    transposed: bool = False
    rows_up: bool = False
    columns_left: bool = False

    def ranks(self, height: int, width: int) -> Tensor:
        """When each pixel's turn is: (height, width) int64, each of 0 .. height * width - 1 once."""
        size = (width, height) if self.transposed else (height, width)
        ranks = (_zigzag if self.zigzag else _raster)(*size)
        return self._placed(ranks).contiguous()

    def mask(self, kind: Literal["A", "B"]) -> Tensor:
        """Which weights of a 3 x 3 kernel may be used: (3, 3), ones and zeros.

        A raster scan's kernel is shifted against the scan, so that type B keeps 8 weights (A: 7) instead of 5 (4). A
        zigzag's is not: of a pixel's neighbours, the three in the square towards the start alone are before it at
        every turn, so that type B keeps 4.
        """
        mask = torch.ones(3, 3)
        if self.zigzag:
            mask[2], mask[:, 2] = 0, 0
        else:
            mask[2, 2] = 0
        if kind == "A":
            mask[(1, 1) if self.zigzag else (2, 1)] = 0
        return self._placed(mask)

    def padding(self) -> tuple[int, int, int, int]:
        """Zeros to put left, right, above and below, so that the kernel stands where the mask is for."""
        columns, rows = ((1, 1), (1, 1)) if self.zigzag else ((1, 1), (2, 0))
        if self.transposed:
            columns, rows = rows, columns
        return (*(columns[::-1] if self.columns_left else columns), *(rows[::-1] if self.rows_up else rows))

    def _placed(self, array: Tensor) -> Tensor:
        array = array.T if self.transposed else array
        return array.flip([axis for axis, mirrored in enumerate((self.rows_up, self.columns_left)) if mirrored])


def _raster(height: int, width: int) -> Tensor:
    return torch.arange(height * width).view(height, width)


def _zigzag(height: int, width: int) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    diagonal = rows + columns
    along = torch.where(diagonal % 2 == 1, rows, -rows)
    order = (diagonal * 2 * (height + 1) + along).flatten().argsort()
    ranks = torch.empty_like(order)
    ranks[order] = torch.arange(len(order))
    return ranks.view(height, width)


def _scans(zigzag: bool) -> list[Ordering]:
    """As numbered by the third party: (1, 7), (2, 8), (3, 6) and (4, 5) are each other's reverses."""
    symmetries = ["", "t", "l", "tl", "tu", "u", "ul", "tul"]
    return [Ordering(zigzag, *(letter in those for letter in "tul")) for those in symmetries]


ORDERINGS = dict(enumerate([*_scans(zigzag=False), *_scans(zigzag=True)], start=1))


def opposite(ordering: int) -> int:
    """The ordering that comes from the opposite corner; of a raster scan its reverse."""
    scan = ORDERINGS[ordering]
    wanted = Ordering(scan.zigzag, scan.transposed, not scan.rows_up, not scan.columns_left)
    return next(number for number, other in ORDERINGS.items() if other == wanted)


def require_orderings(orderings: Sequence[int], option: str) -> None:
    """Raises UserError if one of them does not exist; ``option`` is the key that names them."""
    if wrong := [ordering for ordering in orderings if ordering not in ORDERINGS]:
        raise UserError(
            f"{option}={[*orderings]}: there is no ordering {wrong[0]}. 1 to 8 are raster scans, 9 to 16 zigzags."
        )


class MaskedConv2d(nn.Module):
    """A 3 x 3 convolution with bias that sees no pixel after its own, in whichever ordering it is called with.

    Masked weights have no gradient; what an optimiser does to them without one (momentum, decay), it does.

    Args:
        in_channels, out_channels: of the maps.
        kind: ``"A"`` without the pixel itself, ``"B"`` with it.
    """

    def __init__(self, in_channels: int, out_channels: int, kind: Literal["A", "B"]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.empty(out_channels))
        nn.Conv2d.reset_parameters(self)
        masks = torch.stack([torch.ones(3, 3), *(scan.mask(kind) for scan in ORDERINGS.values())])
        self.register_buffer("masks", masks, persistent=False)

    # What ``nn.Conv2d.reset_parameters`` reads.
    kernel_size, transposed = (3, 3), False

    def forward(self, x: Tensor, ordering: int) -> Tensor:
        """Maps (N, out_channels, H, W) of maps (N, in_channels, H, W).

        Args:
            ordering: 1 to 16; 0: all weights, padding 1, whatever the kind.

        Raises:
            UserError: there is no such ordering.
        """
        if ordering == 0:
            return F.conv2d(x, self.weight, self.bias, padding=1)
        require_orderings([ordering], "ordering")
        return F.conv2d(F.pad(x, ORDERINGS[ordering].padding()), self.weight * self.masks[ordering], self.bias)


class ResidualBlock(nn.Module):
    """Three residual pairs of convolutions, of which the very first is 3 x 3 and masked, and the others are 1 x 1.

    ReLU after each convolution, none after the sums, no normalisation (third party). The first skip is brought to the
    width by channels of zeros. From c to 2 c channels there are 38 c^2 + 12 c parameters.

    Args:
        in_channels, out_channels: no fewer after it than before.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.masked = MaskedConv2d(in_channels, out_channels, "B")
        self.rest = nn.ModuleList(nn.Conv2d(out_channels, out_channels, kernel_size=1) for _ in range(5))
        self.added = out_channels - in_channels

    def forward(self, x: Tensor, ordering: int = 0) -> Tensor:
        """Maps (N, out_channels, H, W) of maps (N, in_channels, H, W); with ordering 0 an ordinary block."""
        skip = F.pad(x, (0, 0, 0, 0, 0, self.added)) if self.added else x
        x = self.rest[0](self.masked(x, ordering).relu()).relu() + skip
        for first, second in zip(self.rest[1::2], self.rest[2::2], strict=True):
            x = second(first(x).relu()).relu() + x
        return x


class MaskedAttention(nn.Module):
    """Each place attends to those before it, and to itself: softmax(Q K^T) V over these places, then W_o.

    The mask is inside the softmax. One head, products not scaled, no positions; the result is joined to the input and
    brought to its width by a 1 x 1 convolution (third party).

    Args:
        channels: of input and output.
        width: of queries, keys and values.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Conv2d(channels, width, kernel_size=1) for _ in range(3))
        self.output = nn.Conv2d(width, channels, kernel_size=1)
        self.joined = nn.Conv2d(2 * channels, channels, kernel_size=1)

    def forward(self, x: Tensor, ordering: int) -> Tensor:
        """Maps (N, channels, H, W); with ordering 0 every place attends to all.

        Raises:
            UserError: there is not as much memory as it takes; nothing was allocated yet.
        """
        height, width = x.shape[-2:]
        mask = None
        if ordering:
            require_memory(height, width, x.device)
            ranks = _ranks(ordering, height, width).to(x.device)
            mask = ranks <= ranks[:, None]
        rows = (convolution(x).flatten(2).mT for convolution in (self.query, self.key, self.value))
        attended = attention(*rows, mask).mT.unflatten(2, (height, width))
        return self.joined(torch.cat([x, self.output(attended)], dim=1))


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(Q K^T) V (N, P, C) of queries, keys and values (N, P, C).

    Args:
        mask: (P, P) bool, where a query of a row may attend to a key of a column; None: everywhere.
    """
    # With an axis of heads: without it the kernels that do not keep all the products are not taken.
    query, key, value = (x[:, None].contiguous() for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)[:, 0]


def attention_memory(height: int, width: int) -> int:
    """Bytes of the mask between all cells: PyTorch's kernels make float32 of its bytes, and keep no products."""
    return 5 * (height * width) ** 2


def require_memory(height: int, width: int, device: torch.device, passes: int = 1) -> None:
    """Raises UserError if a device has not the memory that attention between so many cells takes.

    Args:
        passes: in orderings of their own, whose masks are kept for the way back.
    """
    needed, there = passes * attention_memory(height, width), memory_available(device)
    if there is not None and needed > there:
        raise UserError(
            f"segmenter.attention_after: attention between {height} x {width} cells takes {needed / 2**30:.1f} GiB "
            f"(masks of {passes} passes), and {there / 2**30:.1f} GiB are free. Give a larger segmenter.stride, a "
            "smaller image_size, or segmenter.attention_after=null."
        )


@lru_cache(maxsize=32)
def _ranks(ordering: int, height: int, width: int) -> Tensor:
    require_orderings([ordering], "ordering")
    return ORDERINGS[ordering].ranks(height, width).flatten()


class MaskedBlocks(nn.Module):
    """The autoregressive part, g_ar: residual blocks, with attention after one of them.

    Args:
        in_channels: of the input.
        widths: channels after each block, none fewer than before it.
        attention_after: the block, from 1, that attention follows; None: there is none.
        attention_width: of its queries, keys and values.
        dropout: probability, of each number after each block, and without any of each that comes in. Its place is ours.
    """

    def __init__(
        self,
        in_channels: int,
        widths: Sequence[int],
        attention_after: int | None = None,
        attention_width: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(*pair) for pair in pairwise([in_channels, *widths]))
        self.attention_after = attention_after
        self.attention = attention_after and MaskedAttention(widths[attention_after - 1], attention_width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, ordering: int) -> Tensor:
        """Maps of the input's size, in which a place sees those up to its own turn."""
        if not self.blocks:
            return self.dropout(x)
        for place, block in enumerate(self.blocks, start=1):
            x = self.dropout(block(x, ordering))
            if place == self.attention_after:
                x = self.attention(x, ordering)
        return x


class AutoregressiveNetwork(nn.Module):
    """h, g_ar and d: what comes before the autoregressive part, that part, and a 1 x 1 convolution to scores.

    The forms of the paper are F1 (nothing, 5 masked blocks), F2 (stem, 5), F3 (one ordinary block, 4), F4 (5 ordinary
    blocks, none) and F5 (ResNet-18, none). Whatever an h of more than 1 x 1 sees, later pixels too, g_ar gets.

    Args:
        in_channels, out_channels: of the network.
        stem: ``"none"``; ``"convolution"``, 3 x 3 to 64 channels with batch norm, ReLU and a 3 x 3 max pool (third
            party); or ``"resnet18"``, without its classifier.
        ordinary: how many of the blocks, the first, are ordinary ones and belong to h.
        widths: channels after each block.
        stride: pixels of a cell. Where h begins with an ordinary block, a max pool after it makes the cells (ours).
        attention_after, attention_width, dropout: see :class:`MaskedBlocks`; of the masked blocks the first is 1.
        initialisation: ``"xavier"``, normal numbers for all weights (third party), with which deep and wide networks
            begin sure of their clusters and do not learn; or ``"scaled"``, the same with what each residual pair adds
            divided by the root of their number, so that sums of pairs are not the larger for it (ours).

    Raises:
        UserError: there is no such network; the message names the key of ``segmenter``.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        stem: str,
        ordinary: int,
        widths: Sequence[int],
        stride: int,
        attention_after: int | None,
        attention_width: int,
        dropout: float,
        initialisation: Literal["scaled", "xavier"],
    ) -> None:
        super().__init__()
        _require_form(stem, ordinary, widths, stride, attention_after)
        self.stem, channels = _stem(in_channels, stem, stride)
        sizes = [channels, *widths]
        if sizes != sorted(sizes):
            raise UserError(
                f"segmenter.widths={[*widths]}: blocks do not get narrower, and {channels} channels come before them."
            )
        blocks = [ResidualBlock(*pair) for pair in pairwise(sizes[: ordinary + 1])]
        pools = [nn.MaxPool2d(stride, ceil_mode=True)] if ordinary and stem == "none" else []
        self.ordinary = nn.Sequential(*blocks[:1], *pools, *blocks[1:])
        self.masked = MaskedBlocks(sizes[ordinary], widths[ordinary:], attention_after, attention_width, dropout)
        self.decoder = nn.Conv2d(sizes[-1], out_channels, kernel_size=1)
        # Of third party's history: uniform numbers are marked as bad there.
        for parameter in self.parameters():
            if parameter.ndim >= 2:
                nn.init.xavier_normal_(parameter)
        if initialisation == "scaled":
            added = [pair for block in self.modules() if isinstance(block, ResidualBlock) for pair in block.rest[::2]]
            with torch.no_grad():
                for convolution in added:
                    convolution.weight /= len(added) ** 0.5

    def forward(self, inputs: Tensor, ordering: int = 0) -> Tensor:
        """Scores (N, out_channels, H, W) of inputs (N, in_channels, H, W), upsampled from the cells.

        Args:
            ordering: 1 to 16, or 0: none.

        Raises:
            UserError: there is no such ordering, or not as much memory as attention takes.
        """
        scores = self.decoder(self.features(inputs, ordering))
        return F.interpolate(scores, size=inputs.shape[-2:], mode="bilinear", align_corners=False)

    def features(self, inputs: Tensor, ordering: int = 0) -> Tensor:
        """The last map before the decoder (N, C, h, w); arguments and errors as of :meth:`forward`."""
        return self.masked(self.ordinary(self.stem(inputs)), ordering)


def _require_form(stem: str, ordinary: int, widths: Sequence[int], stride: int, attention_after: int | None) -> None:
    strides = {"convolution": (2, 4), "resnet18": (8, 16, 32)}.get(stem, (1,) if not ordinary else range(1, 33))
    if stride not in strides:
        allowed = " or ".join(map(str, strides)) if len(strides) < 32 else "1 to 32"
        raise UserError(
            f"segmenter.stride={stride}: with segmenter.stem={stem} and segmenter.ordinary={ordinary} it is {allowed}."
        )
    if ordinary > len(widths):
        raise UserError(f"segmenter.ordinary={ordinary}: segmenter.widths={[*widths]} has {len(widths)} blocks in all.")
    if attention_after is not None and attention_after > len(widths) - ordinary:
        raise UserError(
            f"segmenter.attention_after={attention_after}: there are {len(widths) - ordinary} masked blocks. Give one "
            "of them, from 1, or null."
        )


def _stem(in_channels: int, stem: str, stride: int) -> tuple[nn.Module, int]:
    """A stem, and how many channels it gives."""
    if stem == "none":
        return nn.Identity(), in_channels
    if stem == "resnet18":
        network = timm.create_model(
            "resnet18", in_chans=in_channels, num_classes=0, global_pool="", output_stride=stride
        )
        return network, network.num_features
    convolution = nn.Conv2d(in_channels, 64, kernel_size=3, stride=stride // PIXELS_OF_STEM, padding=1)
    pool = nn.MaxPool2d(kernel_size=3, stride=PIXELS_OF_STEM, padding=1)
    return nn.Sequential(convolution, nn.BatchNorm2d(64), nn.ReLU(inplace=True), pool), 64
