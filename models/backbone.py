"""Feature maps of timm's networks: convolutional ones by stage, vision transformers by block and facet."""

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from socket import getaddrinfo
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import getproxies

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.weights import Normalisation, first_line, read_state, tensors_of_package
from utils.errors import UserError

Facet = Literal["token", "key", "query", "value"]


class Backbone(nn.Module):
    """A timm network up to its last wanted layer, without its classifier.

    Vision transformers see a picture of the nearest size that is a multiple of their patch, and give their tokens as a
    map, after the last norm and without those of class and registers.

    Args:
        network: timm's name, with or without the tag of its weights.
        layers: indices or names of the layers, of which the deepest may have index -1. Those of a convolutional network
            are its stages, from the finest; those of a transformer its blocks.
        option: node of the config that names the network, for messages.
        facet: of transformers: ``"token"``, or what the attention of a block compares: ``"key"``, ``"query"``,
            ``"value"``, of all heads, before any rotation by place.
        output_stride: pixels of a cell of the last map, by dilation; None: as the network has it.
        frozen: index or name of a layer that keeps its weights, with all before it; None: all are trained.
        enlarge: how many times larger than given pictures are seen, for finer maps.

    Attributes:
        channels: of each layer's map.

    Raises:
        UserError: timm has no such network, or it no such layer, facet or output stride.
    """

    def __init__(
        self,
        network: str,
        layers: Sequence[str],
        option: str,
        facet: Facet = "token",
        output_stride: int | None = None,
        frozen: str | None = None,
        enlarge: float = 1.0,
    ) -> None:
        super().__init__()
        self.network, self.option, self.facet, self.enlarge = network, option, facet, enlarge
        strided = {} if output_stride is None else {"output_stride": output_stride}
        with torch.device("meta"):
            probe = _create(network, option, strided)
        maps, stride = _maps_of(probe, network, option)
        if output_stride not in (None, stride):
            raise UserError(
                f"{option}.output_stride={output_stride}: {network} has {stride} pixels a cell, and timm cannot change "
                f"that. Give {option}.output_stride=null, or another network."
            )
        known = _names(probe, len(maps))
        if not layers:
            last = len(known) - 1
            raise UserError(
                f"{option}.layers is required: give {option}.layers={{{last}: 1}}, or others of {_listed(known)}."
            )
        key = f"{option}.layers" if option == "perceptual" else f"{option}.layer"
        indices = [_index(layer, known, network, key) for layer in layers]
        self.channels = [maps[index].shape[1] for index in indices]
        # Once each, from the finest, as timm gives them.
        self._wanted = sorted(set(indices))
        self._places = [self._wanted.index(index) for index in indices]
        self.model = _create(network, option, strided)
        self.is_transformer = hasattr(self.model, "blocks") and hasattr(self.model, "num_prefix_tokens")
        self.model.prune_intermediate_layers(self._wanted, prune_norm=not self.is_transformer, prune_head=True)
        if facet != "token" and not (self.is_transformer and all(_has_facets(self._block(index)) for index in indices)):
            raise UserError(
                f"{option}.facet={facet}: {network} has no attention with such a facet. Give {option}.facet=token."
            )
        if frozen is not None:
            self._freeze(known[_index(frozen, known, network, f"{option}.frozen")])

    def _freeze(self, layer: str) -> None:
        """All parameters to the end of a layer: networks have their modules in the order of computing."""
        if layer not in dict(self.model.named_modules()):
            raise UserError(f"{self.option}.frozen: timm does not say where layers of {self.network} are: give null.")
        reached = False
        for name, module in self.model.named_modules():
            if reached and not name.startswith(f"{layer}."):
                break
            reached = reached or name == layer
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)

    @property
    def patch(self) -> tuple[int, int]:
        """Height and width that a picture's are to be multiples of, pixels."""
        size = getattr(getattr(self.model, "patch_embed", None), "patch_size", 1) if self.is_transformer else 1
        return (size, size) if isinstance(size, int) else tuple(size)

    def normalisation(self, mean: Sequence[float] | None = None, deviation: Sequence[float] | None = None) -> nn.Module:
        """Of inputs in [0, 1]: that of timm's weights for what is not given."""
        own = self.model.pretrained_cfg
        return Normalisation(tuple(mean or own["mean"]), tuple(deviation or own["std"]))

    def read(self, weights: str, weights_dir: str) -> dict[str, Tensor]:
        """Tensors of pretrained weights, for ``models.weights.copy_by_name``.

        Args:
            weights: ``"hub"``: those that timm has for the network's name; ``package:NAME``: those of a Python package,
                in timm's order; or what ``models.weights.read_state`` reads.
            weights_dir: folder of downloads.

        Raises:
            UserError: they cannot be had.
        """
        key = f"{self.option}.weights"
        if weights == "hub":
            return _from_hub(self.network, key)
        if weights.startswith("package:"):
            with torch.device("meta"):
                names = [*_create(self.network, self.option, {}, classes=True).state_dict()]
            return tensors_of_package(weights.removeprefix("package:"), names, key)
        return read_state(weights, weights_dir, key)

    def require_sizes(self, *sizes: tuple[int, int]) -> None:
        """Raises UserError if the network cannot take pictures of a height and width, pixels; nothing is computed."""
        probe = copy.deepcopy(self).to("meta").eval()
        for height, width in dict.fromkeys(sizes):
            try:
                with torch.no_grad():
                    probe(torch.zeros(1, 3, height, width, device="meta"))
            except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
                raise UserError(
                    f"{self.option}.network={self.network}: it cannot take pictures of {height} x {width} pixels "
                    f"({first_line(error)}). Give another image_size or evaluation.size, or a network for any size."
                ) from error

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Maps (N, C_i, h_i, w_i), in the order of ``layers``, from normalised images (N, 3, H, W)."""
        height, width = inputs.shape[-2:]
        if self.patch != (1, 1) or self.enlarge != 1:
            sides = zip(inputs.shape[-2:], self.patch, strict=True)
            height, width = (self._nearest_multiple(side, patch) for side, patch in sides)
            # To the same size it changes nothing, and an export is for any.
            if torch.compiler.is_exporting() or (height, width) != inputs.shape[-2:]:
                inputs = F.interpolate(inputs, size=(height, width), mode="bilinear", antialias=True)
        if self.facet == "token":
            maps = self._tokens(inputs)
        else:
            maps = self._facets(inputs, (height // self.patch[0], width // self.patch[1]))
        return [maps[place] for place in self._places]

    def _nearest_multiple(self, side: int, patch: int) -> int:
        """Of the patch, to a side as the network sees it, pixels; the larger of two, at least one patch."""
        seen = side if self.enlarge == 1 else self.enlarge * side
        # Whole numbers alone, and no round(): sides that are symbols of an export have neither.
        return max(1, torch.sym_int((2 * seen + patch) // (2 * patch))) * patch

    def _tokens(self, inputs: Tensor) -> list[Tensor]:
        normed = {"norm": True} if self.is_transformer else {}
        return self.model.forward_intermediates(
            inputs, indices=self._wanted, intermediates_only=True, output_fmt="NCHW", stop_early=True, **normed
        )

    def _facets(self, inputs: Tensor, grid: tuple[int, int]) -> list[Tensor]:
        seen: list[Tensor] = []
        hooks = [
            self._block(index).register_forward_pre_hook(lambda attention, given: seen.append(given[0]))
            for index in self._wanted
        ]
        try:
            self._tokens(inputs)
        finally:
            for hook in hooks:
                hook.remove()
        return [
            _facet(self._block(index), tokens[:, self.model.num_prefix_tokens :], self.facet)
            .transpose(1, 2)
            .unflatten(2, grid)
            for index, tokens in zip(self._wanted, seen, strict=True)
        ]

    def _block(self, index: int) -> nn.Module:
        return self.model.blocks[index].attn


def _create(network: str, option: str, strided: dict[str, int], classes: bool = False) -> nn.Module:
    import timm  # seconds, and most runs do without

    if not timm.is_model(network) or ("." in network and network not in timm.list_pretrained()):
        known, name = timm.list_models() + timm.list_pretrained(), network.rpartition("/")[2]
        family = [other for other in known if name.partition("_")[0] in other]  # dinov2_vits14: what has dinov2
        near = get_close_matches(name, family or known, n=3, cutoff=0.1 if family else 0.5)
        hint = f" The nearest: {', '.join(near)}." if near else ""
        raise UserError(f"{option}.network={network}: timm has no such network.{hint}")
    keep = {} if classes else {"num_classes": 0}
    try:
        # Transformers then take pictures of any size; others do not know the word.
        return timm.create_model(network, dynamic_img_size=True, **keep, **strided)
    except TypeError:
        pass
    try:
        return timm.create_model(network, **keep, **strided)
    except (TypeError, NotImplementedError, AssertionError, RuntimeError) as error:
        if not strided:
            raise
        raise UserError(
            f"{option}.output_stride={strided['output_stride']}: {network} cannot have it ({first_line(error)}). Give "
            f"8, 16 or 32 if it is convolutional, or {option}.output_stride=null."
        ) from error


def _maps_of(probe: nn.Module, network: str, option: str) -> tuple[list[Tensor], int]:
    """All maps of a network on the meta device, and the stride of the last."""
    if not (hasattr(probe, "forward_intermediates") and hasattr(probe, "prune_intermediate_layers")):
        raise UserError(f"{option}.network={network}: timm gives no feature maps of it. Give another network.")
    images = torch.zeros(1, *probe.pretrained_cfg["input_size"], device="meta")
    with torch.no_grad():
        maps = probe.eval().forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    size, cells = images.shape[-1], maps[-1].shape[-1]
    # Of a size that is no multiple of the stride the last cell is cut: 260 pixels have 17 cells of 16.
    return maps, size // cells if size % cells == 0 else 2 ** round(math.log2(size / cells))


def _names(probe: nn.Module, count: int) -> list[str]:
    """Of the layers; their indices where timm's table has others than those the network gives."""
    table = probe.feature_info
    names = [row["module"] for row in (table.info if hasattr(table, "info") else table)]
    return names if len(names) == count else [str(index) for index in range(count)]


def _index(layer: str, names: list[str], network: str, key: str) -> int:
    if layer in names:
        return names.index(layer)
    try:
        return range(len(names))[int(layer)]
    except (ValueError, IndexError):
        raise UserError(f"{key}: {network} has no layer {layer}; it has {_listed(names)}.") from None


def _listed(names: list[str]) -> str:
    return ", ".join(name if name == str(index) else f"{index} ({name})" for index, name in enumerate(names))


def _has_facets(attention: nn.Module) -> bool:
    return isinstance(getattr(attention, "qkv", None), nn.Linear) or hasattr(attention, "k_proj")


def _facet(attention: nn.Module, tokens: Tensor, facet: Facet) -> Tensor:
    """Queries, keys or values (N, L, C) of all heads, from what goes into the attention (N, L, C)."""
    place = ("query", "key", "value").index(facet)
    letter = facet[0]
    if getattr(attention, "qkv", None) is None:
        return getattr(attention, f"{letter}_proj")(tokens)
    weight = attention.qkv.weight.chunk(3)[place]
    bias = attention.qkv.bias
    own = getattr(attention, f"{letter}_bias", None) if bias is None else bias.chunk(3)[place]
    return F.linear(tokens, weight, own)


def _from_hub(network: str, key: str) -> dict[str, Tensor]:
    import timm

    try:
        with _cache_alone_where_unreachable():
            return timm.create_model(network, pretrained=True, num_classes=0).state_dict()
    except Exception as error:  # of the hub's client, of the network below it, of files
        place = _place_on_hub(network)
        raise UserError(
            f"Cannot get timm's weights of {network}: {first_line(error)}.\n"
            f"  they are at: {place}\n"
            f"  with the network there: fetch its model.safetensors elsewhere, and give {key}=FILE\n"
            f"  or start without pretrained weights: {key}=none"
        ) from error


@contextmanager
def _cache_alone_where_unreachable() -> Iterator[None]:
    """Where the hub's name is not known its client would try for a minute before it looks into its cache."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    try:
        if not getproxies():
            getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _place_on_hub(network: str) -> str:
    import timm

    config: Any = timm.get_pretrained_cfg(network)
    if config and config.hf_hub_id:
        return f"https://huggingface.co/{config.hf_hub_id}"
    return (config and config.url) or "nowhere: timm has none for this name (timm.list_pretrained() names those it has)"
