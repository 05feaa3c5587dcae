"""InfoNCE between two views: a number computed by hand, the formula written naively, its bound, and the edges."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from losses import info_nce_loss
from losses.info_nce import draw_places


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def drawn(num_images: int, num_places: int) -> Tensor:
    return draw_places(num_images, num_places, np.random.default_rng(0))


def test_three_places_have_the_value_computed_by_hand():
    wanted = torch.tensor([[2.0, 0, 1], [0, 1, 0], [1, 0, 3]])
    # The anchors are axes; a fourth coordinate brings each candidate to length 1 and meets none of them.
    parts = 0.25 * wanted.T
    candidates = torch.cat([parts, (1 - parts.square().sum(1, keepdim=True)).sqrt()], dim=1)
    anchors = torch.eye(3, 4)
    loss = info_nce_loss(7 * anchors[..., None, None], 3 * candidates[..., None, None], drawn(3, 1), temperature=0.25)
    assert loss.item() == pytest.approx(-0.722313, abs=1e-6)


def naive(y: Tensor, other: Tensor, places: Tensor, temperature: float, half_window: int, mask: Tensor) -> Tensor:
    height, width = y.shape[2:]
    found = []
    for n, of_image in enumerate(places.tolist()):
        counting = mask[n].nonzero().tolist()
        for place, down, right in of_image if counting else []:
            row, column = counting[int(place * len(counting))]
            down, right = (math.floor(share * (2 * half_window + 1)) - half_window for share in (down, right))
            to = min(max(row + down, 0), height - 1), min(max(column + right, 0), width - 1)
            if mask[n][to]:
                found.append((n, y[n, :, row, column], other[n, :, to[0], to[1]]))
    terms = []
    for n, anchor, own in found:
        candidates = [own] + [candidate for m, _, candidate in found if m != n]
        scores = torch.stack([F.cosine_similarity(anchor, candidate, 0) / temperature for candidate in candidates])
        terms.append(-(scores[0].exp() / scores.exp().mean()).log())
    return sum(terms) / len(terms)


@pytest.mark.parametrize("half_window", [0, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradients_are_those_of_the_formula(half_window, masked):
    y, other = (torch.randn(4, 5, 6, 7, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.ones(4, 6, 7, dtype=torch.bool)
    if masked:
        mask[0, 1:4, 2:6] = False
        mask[2] = False  # a picture in which nothing counts
    places = drawn(4, 9)
    found = info_nce_loss(y, other, places, 0.3, half_window, mask[:, None].double() if masked else None)
    expected = naive(y, other, places, 0.3, half_window, mask)
    assert found.item() == pytest.approx(expected.item(), rel=1e-9)
    gradients, slow_ones = (torch.autograd.grad(value, (y, other)) for value in (found, expected))
    for own, slow in zip(gradients, slow_ones, strict=True):
        torch.testing.assert_close(own, slow, rtol=1e-7, atol=1e-12)


def test_it_is_bounded_by_the_logarithm_of_the_number_of_candidates():
    # Each image has a direction of its own: the positive is the only one that is alike.
    y = torch.eye(6)[:, :, None, None].expand(6, 6, 3, 3)
    limit = math.log(1 + 5 * 4)
    assert info_nce_loss(y, y, drawn(6, 4), 0.01).item() == pytest.approx(-limit, abs=1e-5)
    assert info_nce_loss(y, torch.ones_like(y), drawn(6, 4), 0.01).item() == pytest.approx(0, abs=1e-5)
    noise = torch.randn(6, 6, 3, 3)
    assert info_nce_loss(noise, noise + torch.randn_like(noise), drawn(6, 4), 0.1).item() > -limit


def test_the_draws_are_the_generators_alone():
    first, again, other = (draw_places(2, 3, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert first.equal(again) and not first.equal(other)
    assert first.shape == (2, 3, 3) and 0 <= first.min() and first.max() < 1
    y, view = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    values = [info_nce_loss(y, view, places, 0.2, 1).item() for places in (first, again, other)]
    assert values[0] == values[1] != values[2]


def test_it_is_computed_in_single_precision_under_autocast():
    y, other = (torch.randn(2, 4, 5, 5).bfloat16().requires_grad_() for _ in range(2))
    expected = info_nce_loss(y.detach().float(), other.detach().float(), drawn(2, 6), 0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = info_nce_loss(y, other, drawn(2, 6), 0.1)
    assert found.dtype == torch.float32 and found.item() == expected.item()


def test_one_image_is_refused_and_nothing_that_counts_has_no_gradient():
    y = torch.randn(2, 4, 5, 5, requires_grad=True)
    with pytest.raises(ValueError, match="needs a batch of 2 or more"):
        info_nce_loss(y[:1], y[:1], drawn(1, 6), 0.1)
    loss = info_nce_loss(y, y, drawn(2, 6), 0.1, 1, torch.zeros(2, 5, 5))
    assert loss.item() == 0 and not torch.autograd.grad(loss, y)[0].any()
