"""Views: colours image by image, warps and their inverses."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import grid_sample

from datasets.batch import TrainBatch
from datasets.transforms import colour, warp
from datasets.transforms.colour import Jitter
from datasets.transforms.lab import rgb_to_lab
from datasets.transforms.pair import JitterAndWarp, Pair, jittered_pair
from losses.foreground import foreground_loss
from models.methods import contrastive_reconstruction, foreground
from tests.properties import seeds, tried
from utils.seeding import Randomness

# Colours


def augmentation(**changes) -> JitterAndWarp:
    published = dict(jitter_probability=0.8, brightness=0.3, contrast=0.3, saturation=0.2, hue=0.2)
    published |= dict(greyscale_probability=0.2, control_points=5, noise=0.01, scale=[0.5, 1 / 0.7])
    return JitterAndWarp(**published | dict(rotation=60.0, translation=0.1) | changes)


def make_pair(batch: TrainBatch, numbers: JitterAndWarp, seed: int) -> Pair:
    return jittered_pair(batch, numbers, Randomness(seed, batch.step, batch.places))


STILL = dict(
    jitter_probability=0.0, greyscale_probability=0.0, noise=0.0, scale=[1.0, 1.0], rotation=0.0, translation=0.0
)


@st.composite
def pictures(draw, channels: int = 3, most: int = 4) -> Tensor:
    """(N, channels, H, W) float, whole numbers 0..255, the extremes often."""
    shape = draw(st.integers(1, most)), channels, draw(st.integers(1, 9)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(seeds))
    spread = draw(st.sampled_from([1, 40, 400]))
    return torch.from_numpy(rng.uniform(128 - spread, 128 + spread, shape).clip(0, 255).round()).float()


def jitters():
    orders = st.permutations(range(4)).flatmap(lambda order: st.integers(0, 4).map(lambda count: tuple(order[:count])))
    factors = st.tuples(*[st.floats(0, 3)] * 3, st.floats(-0.5, 0.5))
    return st.builds(Jitter, orders, factors, st.booleans())


@tried(60)
@given(pictures(), st.lists(jitters(), min_size=4, max_size=4))
def test_jitter_gives_whole_numbers_and_no_image_sees_another(image, draws):
    draws = draws[: len(image)]
    together = colour.jitter(image.clone(), draws)
    assert torch.equal(together, together.round()) and 0 <= together.min() and together.max() <= 255
    for place, draw in enumerate(draws):
        alone = colour.jitter(image[place : place + 1].clone(), [draw])
        assert torch.equal(alone[0], together[place])
        if draw.greyscale:
            assert (alone == alone[:, :1]).all()
    assert torch.equal(colour.jitter(image.flip(0), draws[::-1]), together.flip(0))


@tried(60)
@given(pictures(channels=1), jitters())
def test_grey_stays_grey(image, draw):
    grey = image.repeat(1, 3, 1, 1)
    after = colour.jitter(grey.clone(), [draw] * len(grey))
    assert (after == after[:, :1]).all()
    assert torch.equal(colour.jitter(grey.clone(), [Jitter((), draw.factors, greyscale=True)] * len(grey)), grey)


@tried(60)
@given(pictures(), st.permutations(range(4)), st.integers(0, 4))
def test_factors_that_change_nothing_change_nothing(image, order, count):
    draw = Jitter(tuple(order[:count]), (1.0, 1.0, 1.0, 0.0), greyscale=False)
    assert torch.equal(colour.jitter(image.clone(), [draw] * len(image)), image)


@tried(25)
@given(pictures(most=5), st.integers(0, 10**6), seeds, st.data())
def test_views_of_an_image_do_not_depend_on_the_rest_of_the_batch(image, step, seed, data):
    def made(first: int, last: int, images: Tensor) -> Pair:
        mask = (images[:, :1] > 128).float()
        batch = TrainBatch(images.to(torch.uint8), mask, [""] * len(images), step, first_place=first)
        return make_pair(batch, augmentation(jitter_probability=1.0), seed)

    assume(min(image.shape[2:]) > 1)
    place = data.draw(st.integers(0, len(image) - 1))
    others = 255 - image
    others[place] = image[place]
    for part in (made(0, len(image), others), made(place, place + 1, image[place : place + 1])):
        found = place if len(part.image) > 1 else 0
        whole = made(0, len(image), image)
        for name in ("image", "jittered", "jittered_to_warp", "foreground"):
            assert torch.equal(getattr(part, name)[found], getattr(whole, name)[place]), name
        # A product of another shape may round another way: the last bit.
        torch.testing.assert_close(part.grid[found], whole.grid[place], atol=0, rtol=2e-7)


# Warps


@st.composite
def similarities(draw):
    """Scale, angle, translation of the published range and beyond."""
    return (
        draw(st.floats(0.4, 2)),
        draw(st.floats(-math.pi, math.pi)),
        np.array(draw(st.tuples(*[st.floats(-0.3, 0.3)] * 2))),
    )


def inverse(scale: float, angle: float, translation: np.ndarray) -> tuple[float, float, np.ndarray]:
    return (
        1 / scale,
        -angle,
        -warp.move_control_points(translation[None], np.zeros(2), 1 / scale, -angle, np.zeros(2))[0],
    )


def grid_of(side: int, size: tuple[int, int], noise: np.ndarray | float, similarity) -> Tensor:
    return warp.sampling_grid(warp.move_control_points(warp.control_points(side), noise, *similarity)[None], *size)


def pixel_places(height: int, width: int) -> np.ndarray:
    """(H, W, 2), x and y in [-1, 1]."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([x, y], -1)


grids = st.tuples(st.integers(2, 7), st.tuples(*[st.integers(2, 33)] * 2))  # control points a side, pixels
# Float32 keeps seven digits; coordinates are below 5 here and grid_sample takes them times half a side.
DIGITS = 64 * torch.finfo(torch.float32).eps


@tried(40)
@given(grids, similarities())
def test_a_warp_without_noise_is_the_similarity_at_every_pixel(grid, similarity):
    side, size = grid
    scale, angle, translation = similarity
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    expected = scale * pixel_places(*size) @ turn.T + translation
    found = grid_of(side, size, 0.0, similarity)[0].double().numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=DIGITS)
    (across, down) = found[0, 1] - found[0, 0], found[1, 0] - found[0, 0]
    assert across[0] * down[1] - across[1] * down[0] > 0  # never mirrored


@tried(40)
@given(grids, seeds, st.floats(-2, 2))
def test_warps_are_linear_in_where_the_points_go_and_do_not_mix_images(grid, seed, factor):
    side, size = grid
    moved = np.random.default_rng(seed).uniform(-1, 1, (2, side * side, 2))
    both = warp.sampling_grid(moved, *size)
    combined = warp.sampling_grid(moved[:1] + factor * moved[1:], *size)
    # Between the points the interpolation overshoots, by no more than its Lebesgue constant.
    bound = DIGITS * (1 + abs(factor)) * lebesgue(side, size)
    assert (combined[0] - both[0] - factor * both[1]).abs().max() <= bound
    assert (warp.sampling_grid(moved[::-1].copy(), *size) - both.flip(0)).abs().max() <= bound


def lebesgue(side: int, size: tuple[int, int]) -> float:
    """The most that the interpolation can be of values of at most 1 at the points."""
    single = np.repeat(np.eye(side * side)[..., None], 2, axis=-1)
    return float(warp.sampling_grid(single, *size)[..., 0].abs().sum(0).max())


@tried(40)
@given(grids, similarities(), st.floats(0, 0.05), seeds)
def test_a_warp_after_its_inverse_leaves_every_place_but_for_the_noise(grid, similarity, noise, seed):
    side, size = grid
    drawn = np.random.default_rng(seed).uniform(-noise, noise, (side * side, 2))
    there = grid_of(side, size, drawn, similarity)
    back = grid_of(side, size, 0.0, inverse(*similarity))
    composed = grid_sample(there.permute(0, 3, 1, 2), back, align_corners=True)[0].permute(1, 2, 0)
    inside = (back[0].abs() <= 1).all(-1).numpy()
    wrong = np.abs(composed.numpy() - pixel_places(*size)).max(-1)[inside]
    # The grid is linear but for the noise, s R n, whose parts are below s sqrt(2) times that of n.
    scale = similarity[0]
    bound = scale * math.sqrt(2) * lebesgue(side, size) * noise
    assert wrong.size == 0 or wrong.max() <= bound + DIGITS * max(size)


@tried(40)
@given(st.integers(2, 5), st.tuples(*[st.integers(17, 40)] * 2), similarities(), st.tuples(*[st.floats(-3, 3)] * 3))
def test_a_picture_warped_there_and_back_is_the_picture(side, size, similarity, wave):
    height, width = size
    places = pixel_places(height, width)
    a, b, phase = wave
    picture = torch.from_numpy(np.sin(places @ [a, b] + phase))[None, None]
    there, back = (grid_of(side, size, 0.0, moved).double() for moved in (similarity, inverse(*similarity)))
    returned = grid_sample(grid_sample(picture, there, align_corners=True), back, align_corners=True)[0, 0].numpy()

    # Bilinear interpolation errs by at most step^2 / 8 times the second derivative, along each axis; that of the wave
    # is a^2 + b^2, and that of the warped wave s^2 times as large.
    scale, steps = similarity[0], np.array([2 / (width - 1), 2 / (height - 1)])
    bound = (steps**2).sum() / 8 * (a * a + b * b) * (1 + scale**2)
    # Every pixel that the way back reads, within a step, must have been read from inside the picture.
    reach = scale * np.hypot(*steps)
    inside = (back[0].abs() <= 1).all(-1).numpy() & (np.abs(places) <= 1 - reach).all(-1)
    wrong = np.abs(returned - picture[0, 0].numpy())[inside]
    assert wrong.size == 0 or wrong.max() <= bound + DIGITS * max(size) * (abs(a) + abs(b)) + 1e-14


class ColoursAlone(torch.nn.Module):
    """A segmenter that looks at one pixel at a time, and so follows every warp."""

    def __init__(self, num_parts: int, seed: int) -> None:
        super().__init__()
        self.num_parts = num_parts
        self.weights = torch.randn(num_parts, 3, generator=torch.Generator().manual_seed(seed))

    def preprocess(self, images: Tensor) -> Tensor:
        return images - 0.45

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.einsum("kc,nchw->nkhw", self.weights, inputs)


def picture_batch(count: int, size: tuple[int, int], seed: int) -> TrainBatch:
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.integers(0, 256, (count, 3, *size), dtype=np.uint8))
    foreground = torch.from_numpy(rng.random((count, 1, *size)) < 0.6).float()
    return TrainBatch(image, foreground, [""] * count, step=0)


@tried(25)
@given(st.integers(3, 5), st.tuples(*[st.integers(2, 16)] * 2), st.integers(1, 8), st.floats(0, 0.3), seeds)
def test_in_training_picture_and_mask_are_warped_alike(count, size, num_parts, noise, seed):
    batch = picture_batch(count, size, seed)
    changes = dict(jitter_probability=0.0, greyscale_probability=0.0, noise=noise, rotation=180.0, translation=0.3)
    numbers, random = augmentation(**changes), Randomness(seed, batch.step, batch.places)

    settings = SimpleNamespace(
        temperature=0.19,
        negatives="all_images",
        positives="release",
        descriptors="contrastive",
        equivariance="paper",
        normalisation="release",
    )
    segmenter = ColoursAlone(num_parts, seed)
    perceptual = torch.nn.Module()
    perceptual.forward = lambda image: [image]
    method = contrastive_reconstruction.Method(segmenter, perceptual, settings, numbers)
    seen_by_losses = method.views(batch, random)
    assert torch.equal(seen_by_losses.lab, rgb_to_lab(seen_by_losses.pair.image))
    # Zero but for rounding: linear maps of pixels and of interpolated ones, logits below 10.
    assert abs(float(method(seen_by_losses)["equivariance"])) <= DIGITS * 10

    # A picture of the mask, to a network that copies it: what it says of the warped picture is the warped mask.
    seen = []
    copying = torch.nn.Module()
    copying.preprocess = lambda images: images
    copying.forward = lambda inputs: seen.append(inputs[:, :1]) or inputs[:, :1]
    of_masks = foreground.Method(copying, numbers)
    made = of_masks.views(batch, random)
    made = replace(
        made, jittered=made.foreground.repeat(1, 3, 1, 1), jittered_to_warp=made.foreground.repeat(1, 3, 1, 1)
    )
    loss = of_masks(made)["foreground"]
    warped = grid_sample(made.foreground, made.grid, align_corners=True)
    expected = (foreground_loss(made.foreground, made.foreground) + foreground_loss(warped, warped)) / 2
    first, second = torch.cat(seen).chunk(2)  # in one pass or two
    assert torch.equal(first, made.foreground) and torch.equal(second, warped)
    assert float(loss) == float(expected)


@tried(25)
@given(st.integers(1, 3), st.tuples(*[st.integers(2, 33)] * 2), st.integers(2, 6), seeds)
def test_draws_that_change_nothing_leave_the_views_the_picture(count, size, control_points, seed):
    batch = picture_batch(count, size, seed)
    made = make_pair(batch, augmentation(**STILL, control_points=control_points), seed)
    assert torch.equal(made.jittered, made.image) and torch.equal(made.jittered_to_warp, made.image)
    warped = grid_sample(made.image, made.grid, align_corners=True)
    # A place wrong in its last digits is a colour wrong by as much as neighbours differ, at most 1, in each direction.
    torch.testing.assert_close(warped, made.image, atol=DIGITS * max(size), rtol=0)
