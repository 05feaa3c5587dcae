from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate
from torchvision.transforms import functional as pil
from torchvision.transforms.v2 import functional as tensors

from datasets.batch import TrainBatch, to_device
from datasets.transforms import colour, warp
from datasets.transforms.colour import BRIGHTNESS, CONTRAST, HUE, SATURATION, Jitter
from datasets.transforms.lab import rgb_to_lab
from datasets.transforms.pair import JitterAndWarp, Pair, jittered_pair
from tests.shared import GOLDEN, SHARED, needs_shared
from utils.seeding import Randomness, generator

PUBLISHED = dict(
    jitter_probability=0.8,
    brightness=0.3,
    contrast=0.3,
    saturation=0.2,
    hue=0.2,
    greyscale_probability=0.2,
    control_points=5,
    noise=0.01,
    scale=[1 / 2.0, 1 / 0.7],
    rotation=60.0,
    translation=0.1,
)
STILL = PUBLISHED | dict(
    jitter_probability=0.0, greyscale_probability=0.0, noise=0.0, scale=[1.0, 1.0], rotation=0.0, translation=0.0
)


def augmentation(**changes) -> JitterAndWarp:
    return JitterAndWarp(**PUBLISHED | changes)


def pictures(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """Smooth colours and some noise, (count, 3, size, size) uint8: neighbouring hues, greys and saturated pixels."""
    random = torch.Generator().manual_seed(seed)
    smooth = interpolate(torch.rand(count, 3, 5, 5, generator=random), size, mode="bicubic", align_corners=True)
    noisy = smooth * 1.4 - 0.2 + 0.1 * torch.randn(count, 3, size, size, generator=random)
    noisy[..., :4, :] = noisy[:, :1, :4, :]
    return (noisy.clamp(0, 1) * 255).to(torch.uint8)


def batch_of(image: Tensor, step: int = 0, first_place: int = 0) -> TrainBatch:
    foreground = (image[:, :1] > 100).float()
    return TrainBatch(image, foreground, [str(i) for i in range(len(image))], step, first_place)


def make_pair(batch: TrainBatch, numbers: JitterAndWarp, seed: int) -> Pair:
    return jittered_pair(batch, numbers, Randomness(seed, batch.step, batch.places))


def test_views_have_the_shapes_and_ranges_they_promise():
    batch = batch_of(pictures(3), step=7)
    made = make_pair(batch, augmentation(), seed=1)
    for image in (made.image, made.jittered, made.jittered_to_warp):
        assert image.shape == (3, 3, 32, 32) and image.dtype == torch.float32
        assert 0 <= image.min() and image.max() <= 1
    assert made.grid.shape == (3, 32, 32, 2) and made.grid.dtype == torch.float32
    assert torch.equal(made.image * 255, batch.image.float()) and torch.equal(made.foreground, batch.foreground)


# Colour


@pytest.mark.parametrize(
    ("operation", "factor"),
    [(BRIGHTNESS, 0.7), (BRIGHTNESS, 1.3), (CONTRAST, 0.7), (CONTRAST, 1.3), (SATURATION, 0.8), (SATURATION, 1.2)],
)
def test_blends_agree_with_pil(operation, factor):
    image = pictures(1)[0]
    adjust = {BRIGHTNESS: pil.adjust_brightness, CONTRAST: pil.adjust_contrast, SATURATION: pil.adjust_saturation}
    expected = np.asarray(adjust[operation](Image.fromarray(image.permute(1, 2, 0).numpy()), factor)).astype(int)
    got = jittered(image, (operation,), factor)
    assert np.abs(got - expected).max() <= 1


@pytest.mark.parametrize("turns", [-0.2, -0.05, 0.1, 0.2])
def test_hue_agrees_with_torchvision(turns):
    image = pictures(1)[0]
    got = jittered(image, (HUE,), turns)
    expected = tensors.adjust_hue(image, turns).permute(1, 2, 0).int().numpy()
    assert np.abs(got - expected).max() <= 1
    # PIL keeps the hue itself in eight bits, so single pixels differ more.
    by_pil = np.asarray(pil.adjust_hue(Image.fromarray(image.permute(1, 2, 0).numpy()), turns)).astype(int)
    assert np.abs(got - by_pil).mean() < 1.5


def test_greyscale_agrees_with_pil():
    image = pictures(1)[0]
    got = colour.jitter(image[None].float(), [Jitter((), (1, 1, 1, 0), True)])[0].permute(1, 2, 0).numpy()
    expected = np.asarray(pil.to_grayscale(Image.fromarray(image.permute(1, 2, 0).numpy()), 3)).astype(int)
    assert np.abs(got - expected).max() <= 1


def test_a_whole_sequence_per_image_agrees_with_torchvision():
    image = pictures(6)
    rng = np.random.default_rng(3)
    draws = [
        Jitter(tuple(rng.permutation(4).tolist()), (*rng.uniform(0.7, 1.3, 3).tolist(), float(turns)), bool(i % 2))
        for i, turns in enumerate(rng.uniform(-0.2, 0.2, 6))
    ]
    draws[4] = replace(draws[4], order=())
    got = colour.jitter(image.float(), draws)
    adjust = {
        BRIGHTNESS: tensors.adjust_brightness,
        CONTRAST: tensors.adjust_contrast,
        SATURATION: tensors.adjust_saturation,
        HUE: tensors.adjust_hue,
    }
    for expected, draw, result in zip(image, draws, got, strict=True):
        for operation in draw.order:
            expected = adjust[operation](expected, draw.factors[operation])
        expected = tensors.rgb_to_grayscale(expected, 3) if draw.greyscale else expected
        difference = (result - expected.float()).abs()
        assert difference.mean() < 1 and difference.quantile(0.999) <= 4


def jittered(image: Tensor, order: tuple[int, ...], factor: float) -> np.ndarray:
    factors = [1.0, 1.0, 1.0, 0.0]
    factors[order[0]] = factor
    result = colour.jitter(image[None].float(), [Jitter(order, tuple(factors), False)])
    assert torch.equal(result, result.round()) and 0 <= result.min() and result.max() <= 255
    return result[0].permute(1, 2, 0).int().numpy()


def test_jitter_is_drawn_as_published():
    draws = [colour.draw_jitter(augmentation(), generator(0, "test", i)) for i in range(2000)]
    applied = [draw for draw in draws if draw.order]
    factors = np.array([draw.factors for draw in applied])
    assert 0.77 < len(applied) / 2000 < 0.83
    assert 0.17 < np.mean([draw.greyscale for draw in draws]) < 0.23
    assert 0.15 < np.mean([draw.greyscale for draw in applied]) < 0.25
    np.testing.assert_allclose(factors.min(0), [0.7, 0.7, 0.8, -0.2], atol=0.01)
    np.testing.assert_allclose(factors.max(0), [1.3, 1.3, 1.2, 0.2], atol=0.01)
    assert len({draw.order for draw in applied}) == 24 and all(sorted(draw.order) == [0, 1, 2, 3] for draw in applied)


def test_an_amplitude_of_zero_leaves_its_operation_out():
    draws = [colour.draw_jitter(augmentation(hue=0.0, contrast=0.0), generator(0, "test", i)) for i in range(50)]
    assert {operation for draw in draws for operation in draw.order} == {BRIGHTNESS, SATURATION}


def test_a_brightness_beyond_one_never_turns_negative():
    draws = [colour.draw_jitter(augmentation(brightness=2.0), generator(0, "test", i)) for i in range(50)]
    assert min(draw.factors[BRIGHTNESS] for draw in draws) == 0


def test_the_two_views_are_jittered_apart():
    made = make_pair(batch_of(pictures(4)), augmentation(jitter_probability=1.0), seed=1)
    for first, second, clean in zip(made.jittered, made.jittered_to_warp, made.image, strict=True):
        assert not torch.equal(first, second) and not torch.equal(first, clean)


def test_without_augmentation_the_views_are_the_image():
    batch = batch_of(pictures(2))
    made = make_pair(batch, JitterAndWarp(**STILL), seed=1)
    assert torch.equal(made.jittered, made.image) and torch.equal(made.jittered_to_warp, made.image)
    warped = grid_sample(made.image, made.grid, align_corners=True)
    torch.testing.assert_close(warped, made.image, atol=1e-4, rtol=0)


def test_lab_agrees_with_scikit_image():
    image = pictures(2)
    corners = torch.tensor([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 0, 255], [1, 2, 3]], dtype=torch.uint8)
    image[0, :, 0, :5] = corners.T
    lab = rgb_to_lab(image.float() / 255)
    expected = rgb2lab(image.permute(0, 2, 3, 1).numpy())
    assert lab.dtype == torch.float32
    np.testing.assert_allclose(lab.permute(0, 2, 3, 1).numpy(), expected, atol=1e-2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(rgb_to_lab(image.float() / 255), lab)


# Warp


def golden_points(case: int) -> np.ndarray:
    golden = np.load(GOLDEN / "warps.npz")
    return warp.move_control_points(
        golden["warp_control_points"].astype(float),
        golden["warp_noise"][case],
        float(golden["warp_scale"][case]),
        float(np.deg2rad(golden["warp_angle_degrees"][case])),
        golden["warp_translation"][case],
    )


def test_control_points_agree_with_the_release():
    np.testing.assert_allclose(warp.control_points(5), np.load(GOLDEN / "warps.npz")["warp_control_points"], atol=1e-6)


def test_sampling_grids_agree_with_the_release():
    expected = torch.from_numpy(np.load(GOLDEN / "warps.npz")["warp_grid"])
    grid = warp.sampling_grid(np.stack([golden_points(case) for case in range(3)]), 40, 40)
    torch.testing.assert_close(grid, expected, atol=1e-5, rtol=0)


@needs_shared
def test_the_kept_warps_are_those_of_the_release():
    original, kept = np.load(SHARED / "golden/views.npz"), np.load(GOLDEN / "warps.npz")
    for name in kept:
        np.testing.assert_array_equal(kept[name], original[name])


@pytest.mark.parametrize("side", [2, 3, 5])
def test_the_interpolation_is_exact_at_the_control_points(side):
    moved = np.random.default_rng(0).normal(size=(2, side * side, 2))
    size = 2 * (side - 1) + 1
    grid = warp.sampling_grid(moved, size, size)[:, ::2, ::2]
    # Points go along the columns first.
    torch.testing.assert_close(grid.transpose(1, 2).reshape(2, -1, 2), torch.from_numpy(moved).float())


def test_warps_are_drawn_as_published():
    still = warp.control_points(5)
    points = np.stack([warp.draw_control_points(augmentation(), generator(0, "test", i)) for i in range(2000)])
    centres = points.mean(1)
    # The least-squares similarity: complex numbers make it one division.
    plane, moved = still @ [1, 1j], (points - centres[:, None]) @ [1, 1j]
    similarity = moved @ plane.conj() / (np.abs(plane) ** 2).sum()
    scale, angle = np.abs(similarity), np.rad2deg(np.angle(similarity))
    noise = np.abs(moved - similarity[:, None] * plane) / scale[:, None]
    assert 0.49 < scale.min() < 0.51 and 1.41 < scale.max() < 1.45
    assert -62 < angle.min() < -58 and 58 < angle.max() < 62
    assert 0.095 < np.abs(centres).max() < 0.106
    assert 0.008 < noise.max() < 0.02


@pytest.mark.parametrize("size", [(64, 64), (512, 512), (48, 80)])
def test_every_image_size_works(size):
    image = pictures(2, 8).repeat(1, 1, size[0] // 8, size[1] // 8)
    made = make_pair(batch_of(image), augmentation(), seed=1)
    assert made.grid.shape == (2, *size, 2) and made.jittered.shape == (2, 3, *size)


# Randomness


def fields(made: Pair) -> dict[str, Tensor]:
    return {name: getattr(made, name) for name in ("jittered", "jittered_to_warp", "grid")}


def test_views_are_a_function_of_seed_and_step():
    image = pictures(3)
    made = fields(make_pair(batch_of(image, 4), augmentation(), seed=1))
    torch.manual_seed(99)
    np.random.seed(99)
    again = fields(make_pair(batch_of(image, 4), augmentation(), seed=1))
    assert all(torch.equal(made[name], again[name]) for name in made)
    for other in (make_pair(batch_of(image, 5), augmentation(), 1), make_pair(batch_of(image, 4), augmentation(), 2)):
        assert all(not torch.equal(made[name], value) for name, value in fields(other).items())


def test_the_same_picture_draws_other_numbers_at_another_place():
    made = make_pair(batch_of(pictures(1).repeat(4, 1, 1, 1)), augmentation(jitter_probability=1.0), seed=1)
    for value in fields(made).values():
        assert len({tuple(of_image.flatten().tolist()) for of_image in value}) == 4


def test_the_numbers_drawn_are_those_of_seed_purpose_step_and_place():
    batch, numbers = batch_of(pictures(2), step=5, first_place=3), augmentation(jitter_probability=1.0)
    made = make_pair(batch, numbers, seed=9)
    for place in range(2):
        for view, found in enumerate((made.jittered, made.jittered_to_warp)):
            draw = colour.draw_jitter(numbers, generator(9, f"jitter {view}", 5, 3 + place))
            alone = colour.jitter(batch.image[place : place + 1].float(), [draw]) / 255
            assert torch.equal(found[place], alone[0])
        points = warp.draw_control_points(numbers, generator(9, "warp", 5, 3 + place))
        torch.testing.assert_close(made.grid[place], warp.sampling_grid(points[None], 32, 32)[0])
    random = Randomness(9, 5, batch.places)
    assert random.of_step("positives").random() == generator(9, "positives", 5).random()


def test_a_second_view_alone_can_be_jittered_in_every_picture_and_never_greyed():
    made = make_pair(batch_of(pictures(8)), augmentation(jitter_probability=1.0, greyscale_probability=0.0), seed=1)
    for clean, second in zip(made.image, made.jittered_to_warp, strict=True):
        assert not torch.equal(clean, second) and (second[:1] != second).any()


def test_parts_of_a_batch_give_what_the_whole_gives():
    image = pictures(6)
    whole = fields(make_pair(batch_of(image), augmentation(), seed=1))
    halves = [fields(make_pair(batch_of(image[p : p + 3], first_place=p), augmentation(), seed=1)) for p in (0, 3)]
    for name, value in whole.items():
        torch.testing.assert_close(torch.cat([half[name] for half in halves]), value)


def test_what_is_drawn_is_copied_to_the_device_through_page_locked_memory(monkeypatch):
    copied = []
    for module in (colour, warp):
        monkeypatch.setattr(module, "to_device", lambda array, device: copied.append(array) or to_device(array, device))
    make_pair(batch_of(pictures(3)), augmentation(), seed=0)
    assert [(array.dtype, array.shape) for array in copied] == [(np.float32, (6, 8, 3)), (np.float64, (3, 25, 2))]


def test_making_views_leaves_the_batch_as_it_was():
    batch = batch_of(pictures(2))
    before = batch.image.clone()
    make_pair(batch, augmentation(), seed=1)
    assert torch.equal(batch.image, before)


def test_mixed_precision_does_not_reach_the_views():
    batch = batch_of(pictures(2))
    plain = make_pair(batch, augmentation(), seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = make_pair(batch, augmentation(), seed=1)
    assert all(torch.equal(value, fields(mixed)[name]) for name, value in fields(plain).items())
