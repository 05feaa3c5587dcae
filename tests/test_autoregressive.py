"""Masked convolutions, blocks and attention: what an output may see, in each ordering; and the whole network."""

import math
import re
from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import autoregressive
from models.autoregressive import (
    ORDERINGS,
    AutoregressiveNetwork,
    MaskedAttention,
    MaskedBlocks,
    MaskedConv2d,
    ResidualBlock,
    attention,
    attention_memory,
    opposite,
)
from utils.errors import UserError

RASTER, ZIGZAG = range(1, 9), range(9, 17)
# Ordering: padding (left, right, top, bottom), kernel cell of the current pixel, masked corner.
TABLE = {
    1: ((1, 1, 2, 0), (2, 1), (2, 2)),
    2: ((2, 0, 1, 1), (1, 2), (2, 2)),
    3: ((1, 1, 2, 0), (2, 1), (2, 0)),
    4: ((0, 2, 1, 1), (1, 0), (2, 0)),
    5: ((2, 0, 1, 1), (1, 2), (0, 2)),
    6: ((1, 1, 0, 2), (0, 1), (0, 2)),
    7: ((1, 1, 0, 2), (0, 1), (0, 0)),
    8: ((0, 2, 1, 1), (1, 0), (0, 0)),
}
REVERSES = ((1, 7), (2, 8), (3, 6), (4, 5))
# Of each raster scan: whether rows are the outer loop, and whether rows and columns are met from the first on.
SCANS = {
    1: (True, True, True),
    2: (False, True, True),
    3: (True, True, False),
    4: (False, True, False),
    5: (False, False, True),
    6: (True, False, True),
    7: (True, False, False),
    8: (False, False, False),
}


class Stack(nn.Module):
    """Masked layers, one after the other, with positive weights."""

    def __init__(self, kinds: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(MaskedConv2d(1, 1, kind) for kind in kinds)
        for parameter in self.parameters():
            nn.init.constant_(parameter, 0.5)

    def forward(self, x: torch.Tensor, ordering: int) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x, ordering)
        return x


def seen(network: nn.Module, ordering: int, channels: int, height: int, width: int) -> torch.Tensor:
    """(P, P) bool: whether the output at the pixel of a row depends on the input at that of a column, by gradients."""
    x = torch.rand(1, channels, height, width, dtype=torch.float64, requires_grad=True)
    outputs = network.double().eval()(x, ordering).abs().sum((0, 1)).flatten()
    rows = [torch.autograd.grad(output, x, retain_graph=True)[0].abs().sum((0, 1)).flatten() for output in outputs]
    return torch.stack(rows) > 0


def before(ordering: int, height: int, width: int, strictly: bool = False) -> torch.Tensor:
    ranks = ORDERINGS[ordering].ranks(height, width).flatten()
    return ranks < ranks[:, None] if strictly else ranks <= ranks[:, None]


def with_attention() -> MaskedBlocks:
    torch.manual_seed(0)
    blocks = MaskedBlocks(3, [6, 8], attention_after=1, attention_width=4, dropout=0.2)
    # A dead ReLU, or an attention that is sure of one place, would hide what is seen.
    for name, parameter in blocks.named_parameters():
        nn.init.uniform_(parameter, 0.01, 0.05 if "attention" not in name else 0.02)
    return blocks


# --- orderings -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", RASTER)
def test_raster_scans_have_the_shifts_and_masks_of_the_table(ordering):
    padding, current, corner = TABLE[ordering]
    scan = ORDERINGS[ordering]
    expected = torch.ones(3, 3)
    expected[corner] = 0
    assert scan.padding() == padding and torch.equal(scan.mask("B"), expected)
    expected[current] = 0
    assert torch.equal(scan.mask("A"), expected)


@pytest.mark.parametrize("ordering", RASTER)
@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_raster_scans_meet_the_pixels_in_the_order_of_two_loops(ordering, size):
    by_rows, down, rightwards = SCANS[ordering]
    rows, columns = range(size[0])[:: 1 if down else -1], range(size[1])[:: 1 if rightwards else -1]
    scan = [(y, x) for y in rows for x in columns] if by_rows else [(y, x) for x in columns for y in rows]
    ranks = ORDERINGS[ordering].ranks(*size)
    assert [int(ranks[place]) for place in scan] == list(range(math.prod(size)))


def test_the_first_zigzag_is_jpegs():
    assert ORDERINGS[9].ranks(4, 4).tolist() == [[0, 1, 5, 6], [2, 4, 7, 12], [3, 8, 11, 13], [9, 10, 14, 15]]
    assert ORDERINGS[10].ranks(4, 4).tolist() == ORDERINGS[9].ranks(4, 4).T.tolist()


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (5, 2)])
def test_zigzags_go_from_diagonal_to_diagonal_and_turn(size):
    for ordering in ZIGZAG:
        scan = ORDERINGS[ordering]
        ranks = ORDERINGS[ordering].ranks(*size)
        path = [tuple((ranks == rank).nonzero()[0].tolist()) for rank in range(math.prod(size))]
        corner = ((size[0] - 1) * scan.rows_up, (size[1] - 1) * scan.columns_left)
        assert path[0] == corner
        steps = [max(abs(a - c), abs(b - d)) for (a, b), (c, d) in zip(path, path[1:], strict=False)]
        assert set(steps) == {1}


def test_all_orderings_are_different_and_reverses_add_up():
    for orderings in (RASTER, ZIGZAG):
        maps = [ORDERINGS[ordering].ranks(4, 4) for ordering in orderings]
        assert all(not torch.equal(*pair) for pair in combinations(maps, 2))
    for one, other in REVERSES:
        assert (ORDERINGS[one].ranks(4, 4) + ORDERINGS[other].ranks(4, 4) == 15).all()
        assert opposite(one) == other and opposite(other) == one
    assert {opposite(ordering) for ordering in ZIGZAG} == set(ZIGZAG)


def test_masks_hold_only_zeros_and_ones_and_keep_the_known_numbers_of_weights():
    layers = {kind: MaskedConv2d(1, 1, kind) for kind in "AB"}
    for kind, layer in layers.items():
        assert set(layer.masks.unique().tolist()) == {0, 1}
        kept = layer.masks.sum((1, 2))
        assert kept[0] == 9 and (kept[1:9] == {"A": 7, "B": 8}[kind]).all()
        assert (kept[9:] == {"A": 3, "B": 4}[kind]).all()
    # The cross is never masked, each corner in two raster scans.
    masked = (1 - layers["B"].masks[1:9]).sum(0)
    assert masked.tolist() == [[2, 0, 2], [0, 0, 0], [2, 0, 2]]


# --- statement 1: nothing later is seen ----------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [*RASTER, *ZIGZAG])
@pytest.mark.parametrize("kinds", ["B", "BBB", "A", "AB"])
def test_a_pixel_sees_none_after_it_and_behind_a_first_layer_of_type_a_not_itself(kinds, ordering):
    found = seen(Stack(kinds), ordering, 1, 5, 4)
    allowed = before(ordering, 5, 4, strictly=kinds[0] == "A")
    assert not (found & ~allowed).any()
    assert found.diagonal().all() == (kinds[0] == "B")


@pytest.mark.parametrize("ordering", [*RASTER, *ZIGZAG])
def test_the_blocks_with_attention_see_exactly_the_pixels_up_to_their_own(ordering):
    assert torch.equal(seen(with_attention(), ordering, 3, 4, 5), before(ordering, 4, 5))


def offsets(kinds: str, ordering: int = 1, side: int = 23) -> set[tuple[int, int]]:
    """Rows and columns from the middle pixel to those that it sees."""
    x = torch.rand(1, 1, side, side, requires_grad=True)
    middle = side // 2
    Stack(kinds)(x, ordering)[0, 0, middle, middle].backward()
    return {(y - middle, c - middle) for y, c in x.grad[0, 0].nonzero().tolist()}


@pytest.mark.parametrize(("layers", "count"), [(1, 8), (2, 22), (3, 43), (5, 106)])
def test_the_receptive_field_is_that_of_the_formula(layers, count):
    found = offsets("B" * layers)
    expected = {(-k, c) for k in range(2 * layers + 1) for c in range(-layers, min(k, layers) + 1)}
    assert found == expected and len(found) == count
    for ordering in RASTER:
        assert len(offsets("B" * layers, ordering)) == count


def test_type_a_then_type_b_sees_21_pixels_and_not_its_own():
    found = offsets("AB")
    assert len(found) == 21 and (0, 0) not in found


# --- statement 2: reverses share the pixel alone -------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), REVERSES)
def test_reverses_share_the_pixel_alone_and_with_attention_see_the_whole_picture_together(one, other):
    first, second = (seen(Stack("BB"), ordering, 1, 5, 5) for ordering in (one, other))
    assert torch.equal(first & second, torch.eye(25, dtype=torch.bool))
    first, second = (seen(with_attention(), ordering, 3, 4, 4) for ordering in (one, other))
    assert torch.equal(first & second, torch.eye(16, dtype=torch.bool)) and (first | second).all()


# --- statement 3: symmetries ---------------------------------------------------------------------------------------


def mirrored(network: nn.Module, change) -> nn.Module:
    """A copy with changed 3 x 3 kernels."""
    other = with_attention()
    other.load_state_dict(network.state_dict())
    for layer in other.modules():
        if isinstance(layer, MaskedConv2d):
            layer.weight.data = change(layer.weight.data).contiguous()
    return other.double().eval()


@pytest.mark.parametrize(
    ("change", "pairs"),
    [
        (lambda x: x.flip(-1), [(1, 3), (2, 4), (5, 8), (6, 7), (9, 11)]),
        (lambda x: x.flip(-2), [(1, 6), (2, 5), (3, 7), (4, 8), (9, 14)]),
        (lambda x: x.mT, [(1, 2), (3, 5), (4, 6), (7, 8), (9, 10)]),
    ],
)
def test_an_ordering_on_a_mirrored_picture_with_mirrored_kernels_is_its_mirror_image(change, pairs):
    network = with_attention().double().eval()
    other, x = mirrored(network, change), torch.rand(2, 3, 5, 4, dtype=torch.float64)
    for one, partner in pairs:
        assert torch.allclose(network(x, partner), change(other(change(x), one)), atol=1e-10), (one, partner)


# --- statement 4: no ordering is the plain network, and orderings change nothing -----------------------------------


@pytest.mark.parametrize("kind", "AB")
def test_without_an_ordering_the_layer_is_the_plain_convolution_bit_for_bit(kind):
    layer, x = MaskedConv2d(3, 5, kind), torch.rand(2, 3, 7, 6)
    assert torch.equal(layer(x, 0), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_calling_with_other_orderings_changes_no_parameter_and_no_buffer():
    blocks = with_attention().eval()
    names = [*dict(blocks.named_parameters()), *dict(blocks.named_buffers())]
    kept = {name: blocks.get_parameter(name).clone() for name in dict(blocks.named_parameters())}
    kept |= {name: blocks.get_buffer(name).clone() for name in dict(blocks.named_buffers())}
    x = torch.rand(1, 3, 4, 4)
    first = blocks(x, 0)
    for ordering in ORDERINGS:
        blocks(x, ordering).sum().backward()
    assert torch.equal(blocks(x, 0), first)
    now = {**dict(blocks.named_parameters()), **dict(blocks.named_buffers())}
    assert list(now) == names and all(torch.equal(now[name], kept[name]) for name in names)


@pytest.mark.parametrize("ordering", [*RASTER, *ZIGZAG])
def test_the_output_is_that_of_the_naive_convolution(ordering):
    layer, x = MaskedConv2d(2, 3, "B"), torch.rand(1, 2, 5, 4)
    shown = F.pad(x, ORDERINGS[ordering].padding()).numpy()[0]
    kernel = layer.weight.detach().numpy() * ORDERINGS[ordering].mask("B").numpy()
    found = layer(x, ordering)[0].detach().numpy()
    assert found.shape == (3, 5, 4)
    for y, c in np.ndindex(5, 4):
        expected = (kernel * shown[None, :, y : y + 3, c : c + 3]).sum((1, 2, 3)) + layer.bias.detach().numpy()
        assert found[:, y, c] == pytest.approx(expected, abs=1e-5)


def test_masked_weights_have_no_gradient_and_plain_descent_leaves_them():
    layer = MaskedConv2d(2, 3, "B")
    start = layer.weight.detach().clone()
    descent = torch.optim.SGD(layer.parameters(), lr=0.1)
    for ordering in (1, 2):  # they share the corner (2, 2)
        layer(torch.rand(1, 2, 6, 6), ordering).sum().backward()
    descent.step()
    moved = (layer.weight != start).any(0).any(0)
    assert not moved[2, 2] and moved.sum() == 8


# --- statement 5: residual blocks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ordering", [1, 6, 9])
def test_residual_blocks_see_themselves_and_none_after_them(ordering):
    blocks = MaskedBlocks(2, [4, 6])
    for parameter in blocks.parameters():
        nn.init.constant_(parameter, 0.1)
    found = seen(blocks, ordering, 2, 4, 4)
    assert not (found & ~before(ordering, 4, 4)).any() and found.diagonal().all()


def test_a_block_after_a_layer_of_type_a_stays_strict():
    first, block = MaskedConv2d(2, 2, "A"), ResidualBlock(2, 4)

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList([first, block])

        def forward(self, x, ordering):
            return block(first(x, ordering), ordering)

    for parameter in Both().parameters():
        nn.init.constant_(parameter, 0.1)
    for ordering in (1, 5, 12):
        assert not (seen(Both(), ordering, 2, 4, 4) & ~before(ordering, 4, 4, strictly=True)).any()


@pytest.mark.parametrize("width", [3, 5])
def test_a_block_has_the_known_number_of_parameters(width):
    count = sum(parameter.numel() for parameter in ResidualBlock(width, 2 * width).parameters())
    assert count == 38 * width**2 + 12 * width


# --- attention -----------------------------------------------------------------------------------------------------


def test_the_mask_is_inside_the_softmax():
    # Products 1, 2, 3 of one query with three keys, of which the third may not be seen.
    query, key, value = torch.ones(1, 1, 1), torch.tensor([[[1.0], [2.0], [3.0]]]), torch.eye(3)[None]
    key = torch.cat([key, torch.zeros(1, 3, 2)], dim=2)
    query = torch.cat([query, torch.zeros(1, 1, 2)], dim=2)
    found = attention(query, key, value, torch.tensor([[True, True, False]]))
    assert found[0, 0].tolist() == pytest.approx([0.268941, 0.731059, 0], abs=1e-6)


@pytest.mark.parametrize("ordering", [0, 1, 4, 7, 13])
def test_attention_is_the_formula_place_by_place(ordering):
    torch.manual_seed(0)
    layer, x = MaskedAttention(4, 3), torch.rand(2, 4, 3, 5)
    found = layer(x, ordering)
    ranks = ORDERINGS[ordering].ranks(3, 5) if ordering else torch.zeros(3, 5)
    query, key, value = layer.query(x), layer.key(x), layer.value(x)
    for n, y, c in np.ndindex(2, 3, 5):
        places = [place for place in np.ndindex(3, 5) if ranks[place] <= ranks[y, c]]
        weights = torch.stack([query[n, :, y, c] @ key[n, :, i, j] for i, j in places]).softmax(0)
        sum_ = sum(weight * value[n, :, i, j] for weight, (i, j) in zip(weights, places, strict=True))
        attended = layer.output.weight[:, :, 0, 0] @ sum_ + layer.output.bias
        joined = layer.joined.weight[:, :, 0, 0] @ torch.cat([x[n, :, y, c], attended]) + layer.joined.bias
        assert torch.allclose(found[n, :, y, c], joined, atol=1e-5)


def test_attention_has_the_known_number_of_parameters():
    assert sum(parameter.numel() for parameter in MaskedAttention(256, 128).parameters()) == 263_040


def test_attention_that_needs_more_memory_than_there_is_says_how_much_before_it_is_taken(monkeypatch):
    assert attention_memory(200, 200) == 8_000_000_000
    layer, x = MaskedAttention(2, 2), torch.rand(1, 2, 200, 200)
    monkeypatch.setattr(autoregressive, "memory_available", lambda device: 2**30)
    with pytest.raises(UserError, match=r"200 x 200 cells takes 7\.5 GiB .* 1\.0 GiB are free\. Give a larger"):
        layer(x, 3)
    monkeypatch.setattr(autoregressive, "memory_available", lambda device: None)
    layer(x[..., :4, :4], 3)


# --- the network ---------------------------------------------------------------------------------------------------

FORMS = {
    "F1": {"stem": "none", "ordinary": 0, "widths": [6, 6, 6, 6, 8], "stride": 1},
    "F2": {"stem": "convolution", "ordinary": 0, "widths": [64] * 5, "stride": 4},
    "F3": {"stem": "none", "ordinary": 1, "widths": [6, 6, 6, 8, 8], "stride": 4},
    "F4": {"stem": "none", "ordinary": 5, "widths": [6, 6, 6, 8, 8], "stride": 4},
    "F5": {"stem": "resnet18", "ordinary": 0, "widths": [], "stride": 8},
}


def network(form: str, in_channels: int = 3, out_channels: int = 5, **changed) -> AutoregressiveNetwork:
    torch.manual_seed(0)
    beside = {"attention_after": None, "attention_width": 8, "dropout": 0.0, "initialisation": "scaled"}
    return AutoregressiveNetwork(in_channels, out_channels, **(FORMS[form] | beside | changed))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [(32, 32), (37, 50)])
def test_every_form_gives_scores_as_fine_as_the_picture(form, size):
    made = network(form).eval()
    x = torch.rand(1, 3, *size)
    with torch.no_grad():
        scores = [made(x, ordering) for ordering in (0, 1, 5)]
    assert {tuple(found.shape) for found in scores} == {(1, 5, *size)}
    same = torch.equal(scores[1], scores[2])
    assert same == (form in ("F4", "F5"))  # there g_ar is the identity
    assert len(made.masked.blocks) == {"F1": 5, "F2": 5, "F3": 4, "F4": 0, "F5": 0}[form]


@pytest.mark.parametrize("stride", [2, 4])
def test_the_stem_gives_cells_of_its_stride(stride):
    made = network("F2", stride=stride)
    assert made.stem(torch.rand(1, 3, 40, 64)).shape == (1, 64, 40 // stride, 64 // stride)


@pytest.mark.parametrize(
    ("blocks", "channels", "clusters", "count"),
    [(2, 4, 6, 784_582), (3, 4, 6, 3_279_558), (4, 4, 6, 13_250_246), (4, 3, 15, 13_258_895)],
)
def test_the_network_has_the_known_number_of_parameters(blocks, channels, clusters, count):
    with torch.device("meta"):
        made = network("F2", channels, clusters, widths=[64 * 2**place for place in range(1, blocks + 1)])
    assert sum(parameter.numel() for parameter in made.parameters()) == count


def test_logits_are_upsampled_bilinearly_without_aligned_corners():
    made = network("F2").eval()
    x = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        cells = made.decoder(made.masked(made.stem(x), 3))
        expected = F.interpolate(cells, size=(16, 16), mode="bilinear", align_corners=False)
        assert torch.equal(made(x, 3), expected) and cells.shape[-2:] == (4, 4)


def test_statement_six_a_stem_lets_later_pixels_in_and_the_form_without_one_does_not():
    for form, leaks in (("F1", False), ("F2", True)):
        made = network(form, widths=[6, 6] if form == "F1" else [64])
        for parameter in made.masked.parameters():
            nn.init.constant_(parameter, 0.05)
        found = seen(made, 1, 3, 8, 8)
        assert (found & ~before(1, 8, 8)).any() == leaks, form


@pytest.mark.parametrize(("form", "pairs"), [("F2", 15), ("F3", 15), ("F5", 0)])
def test_scaled_at_the_start_is_xavier_but_for_what_residual_pairs_add(form, pairs):
    xavier, scaled = (network(form, initialisation=name).state_dict() for name in ("xavier", "scaled"))
    changed = {name for name in xavier if not torch.equal(xavier[name], scaled[name])}
    assert changed == {name for name in xavier if re.search(r"\brest\.[024]\.weight", name)} and len(changed) == pairs
    for name in changed:
        assert torch.allclose(scaled[name], xavier[name] / pairs**0.5)


def test_scaled_at_the_start_five_blocks_do_not_swell_what_goes_through_them():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    swollen = {}
    for name in ("xavier", "scaled"):
        made = network("F2", initialisation=name).eval()
        with torch.no_grad():
            before = made.stem(x)
            swollen[name] = made.masked(before, 1).norm() / before.norm()
    assert swollen["scaled"] < 6 and swollen["xavier"] > 30


@pytest.mark.parametrize("form", FORMS)
def test_dropout_makes_two_passes_differ_in_training_alone(form):
    made, x = network(form, dropout=0.2), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert not torch.equal(made(x, 1), made(x, 1))
        made.eval()
        assert torch.equal(made(x, 1), made(x, 1))


@pytest.mark.parametrize("ordering", [-1, 17])
def test_an_ordering_that_does_not_exist_is_refused(ordering):
    with pytest.raises(UserError, match=f"no ordering {ordering}. 1 to 8 are raster scans, 9 to 16 zigzags"):
        network("F2")(torch.rand(1, 3, 16, 16), ordering)
    with pytest.raises(UserError, match=f"no ordering {ordering}"):
        network("F2", attention_after=1).masked.attention(torch.rand(1, 64, 4, 4), ordering)


@pytest.mark.parametrize(
    ("form", "changed", "message"),
    [
        ("F1", {"stride": 4}, r"segmenter\.stride=4: with segmenter\.stem=none and segmenter\.ordinary=0 it is 1\."),
        ("F2", {"stride": 3}, r"segmenter\.stride=3: .*it is 2 or 4"),
        ("F5", {"stride": 4}, r"it is 8 or 16 or 32"),
        ("F2", {"widths": [64, 32]}, r"segmenter\.widths=\[64, 32\]: blocks do not get narrower"),
        ("F2", {"widths": [32]}, r"and 64 channels come before them"),
        ("F3", {"ordinary": 6}, r"segmenter\.ordinary=6: .*has 5 blocks in all"),
        ("F3", {"attention_after": 5}, r"segmenter\.attention_after=5: there are 4 masked blocks"),
        ("F5", {"attention_after": 1}, r"there are 0 masked blocks"),
    ],
)
def test_a_network_that_does_not_exist_is_refused_by_its_key(form, changed, message):
    with pytest.raises(UserError, match=message):
        network(form, **changed)
