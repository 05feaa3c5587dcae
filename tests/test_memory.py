"""What happens where memory does not suffice; on the CPU, where functions are made to raise CUDA's error."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conf import app
from datasets.pictures import Pictures
from evaluation.whole_pictures import label_maps
from models.methods import contrastive_reconstruction
from tests.quadrants import ColourLabeller, draw_split, evaluated
from tests.test_train import resume, rows, run, weights
from utils import checkpoints
from utils.errors import Halted, UserError
from utils.memory import Halving, shortage, ways_on

CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.02 GiB is "
    "free. Including non-PyTorch memory, this process has 22.60 GiB memory in use. Of the allocated memory 20.51 GiB "
    "is allocated by PyTorch, and 1.59 GiB is reserved by PyTorch but unallocated."
)
CPU = torch.device("cpu")


def out_of_memory(*_: object, **__: object) -> None:
    raise torch.OutOfMemoryError(CUDA)


class Small(ColourLabeller):
    """Has memory for so many pictures at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def scores(self, images: Tensor, foreground: Tensor) -> Tensor:
        if len(images) > self.most:
            out_of_memory()
        return super().scores(images, foreground)


def test_what_was_needed_and_what_there_was_is_read_from_the_error():
    told = shortage(torch.OutOfMemoryError(CUDA), CPU)
    assert told.startswith("20.51 GiB in use and 2.50 GiB more asked for; the machine has ")
    with pytest.raises(RuntimeError) as of_cpu:
        torch.empty(2**58)
    assert f"{2**60 / 2**30:.2f} GiB more asked for" in shortage(of_cpu.value, CPU)


@pytest.mark.parametrize("on_error", ["raise", "skip"])
def test_want_of_memory_in_the_reading_of_a_picture_is_no_fault_of_the_file(tmp_path, monkeypatch, on_error):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def lacking(*_: object) -> None:
        raise MemoryError("Unable to allocate 20.5 GiB for an array with shape (9, 9) and data type uint8")

    monkeypatch.setattr(Image.Image, "load", lacking)
    pictures = Pictures(tmp_path, None, box_padding=None, on_error=on_error)
    with pytest.raises(MemoryError) as of_picture:
        pictures[0]
    assert "20.5 GiB more asked for; the machine has" in shortage(of_picture.value, CPU)
    monkeypatch.setattr(checkpoints, "load_tensors", lacking)
    with pytest.raises(MemoryError):
        checkpoints.find(tmp_path / "a.png")


def test_an_error_is_of_memory_where_it_comes_from_one_that_is():
    wrapped = RuntimeError("backend='inductor' raised")
    wrapped.__cause__ = torch.OutOfMemoryError(CUDA)
    assert shortage(wrapped, CPU).startswith("20.51 GiB in use")
    for told in (
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "MPS backend out of memory (MPS allocated: 17.9 GB, max allowed: 18.1 GB). Tried to allocate 256.0 MB",
        "GET was unable to find an engine: Unable to find a valid cuDNN algorithm to run convolution",
    ):
        assert shortage(RuntimeError(told), CPU) is not None
    told_already = UserError("a picture")
    told_already.__cause__ = torch.OutOfMemoryError(CUDA)
    for other in (RuntimeError("shapes differ"), ValueError("Tried to allocate"), told_already):
        assert shortage(other, CPU) is None


def test_half_of_what_is_too_much_is_tried_until_it_suffices_and_told_once(capsys):
    halving, tried = Halving(8, "image_size (64 now)", "cpu"), []

    def action(most: int) -> int:
        tried.append(most)
        return most if most <= 2 else out_of_memory()

    assert [halving.attempt(action), halving.attempt(action)] == [2, 2] and tried == [8, 4, 2, 2]
    assert capsys.readouterr().err == "Out of memory with evaluation.batch_size=8: it is 2 from here on.\n"
    with pytest.raises(
        UserError, match="^Out of memory with evaluation.batch_size=1: 20.51 GiB.* or a lower image_size"
    ):
        halving.attempt(out_of_memory)
    with pytest.raises(ZeroDivisionError):
        halving.attempt(lambda most: 1 / 0)


def test_the_cpu_is_advised_to_nobody_who_is_on_it():
    assert ways_on(CPU, "image_size") == "Give precision=bf16, or a lower image_size."
    assert ways_on(torch.device("cuda"), "image_size") == "Give precision=bf16, device=cpu, or a lower image_size."


def test_an_evaluation_halves_its_batch_by_itself_and_has_the_same_figures(capsys):
    test, fit = draw_split("test", 6, part_maps=True), draw_split("training", 7, part_maps=True)
    whole = evaluated(ColourLabeller(), test, fit)
    assert capsys.readouterr().err == "" and whole.batch_size == 4
    small = evaluated(Small(1), test, fit)
    assert small.metrics == pytest.approx(whole.metrics) and small.counts == whole.counts and small.batch_size == 1
    assert capsys.readouterr().err.count("evaluation.batch_size=4: it is 1 from here on") == 1
    with pytest.raises(UserError, match=r"bf16, or a lower evaluation.size \(48 now\) or image_size \(32 now\)"):
        evaluated(Small(0), test, fit)


def test_a_prediction_goes_on_with_less_at_once_and_finds_the_same(capsys):
    split = draw_split("test", 5)

    def found(labeller) -> list[np.ndarray]:
        options = {"image_size": 64, "batch_size": 4, "num_workers": 0, "device": "cpu"}
        return [labels for _, _, labels in label_maps(labeller, split, **options)]

    for labels, expected in zip(found(Small(1)), found(ColourLabeller()), strict=True):
        assert np.array_equal(labels, expected)
    assert capsys.readouterr().err.count("Out of memory") == 1


FEW = ("num_steps=3", "checkpointing.every=100", "evaluation.every=0", "evaluation.pictures=0")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"), "run", *FEW)


def lacking_in_forward(patch: pytest.MonkeyPatch, step: int) -> None:
    """After the networks of a step have seen its pictures, and their running statistics have changed."""
    steps = []

    def forward(self, views, given=contrastive_reconstruction.Method.forward):
        losses = given(self, views)
        steps.append(None)
        return losses if len(steps) <= step else out_of_memory()

    patch.setattr(contrastive_reconstruction.Method, "forward", forward)


def test_a_step_without_memory_ends_the_run_with_all_before_it_saved_and_it_goes_on_as_if_it_had_not_been_begun(
    tmp_path, monkeypatch, whole
):
    with monkeypatch.context() as patch, pytest.raises(Halted) as ended:
        lacking_in_forward(patch, 2)
        run(tmp_path, "run", *FEW)
    message, path = str(ended.value), tmp_path / "run"
    assert message.startswith("Out of memory after 2 steps, of which 2 are saved: 20.51 GiB in use and 2.50 GiB more")
    # Two pictures of 32 pixels are the least there is.
    assert "Another run" not in message
    assert message.endswith(
        f"in half precision, which needs about half of it: python train.py resume={path} precision=bf16"
    )
    assert checkpoints.find(path).step == 2
    resume(path)
    ours, expected = weights(path, 3), weights(whole, 3)
    assert [name for name in expected if not torch.equal(ours[name], expected[name])] == []
    assert rows(path / "metrics.csv") == rows(whole / "metrics.csv")


def test_smaller_batches_and_pictures_are_told_with_numbers(tmp_path, monkeypatch):
    lacking_in_forward(monkeypatch, 0)
    more = ("batch_size=4", "image_size=64", "precision=bf16")
    with pytest.raises(UserError, match=r"batch_size=2 \(4 now\) or image_size=48 \(64 now\)") as ended:
        run(tmp_path, "run", *FEW, *more)
    assert "after 0 steps, of which 0 are saved" in str(ended.value) and str(ended.value).endswith("/run")
    assert not [*(tmp_path / "run/checkpoints").iterdir()]


def test_half_an_update_is_not_saved(tmp_path, monkeypatch):
    def step(self, *arguments, given=torch.optim.AdamW.step, **options):
        given(self, *arguments, **options)
        if len(list(tmp_path.glob("run/checkpoints/*"))) == 1:
            out_of_memory()

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    with pytest.raises(Halted, match="after 1 steps, of which 1 are saved"):
        run(tmp_path, "run", *FEW, "checkpointing.every=1")
    assert checkpoints.find(tmp_path / "run").step == 1


def test_want_of_memory_anywhere_else_is_a_message_with_the_keys_and_their_values(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "batch_size=12"])
    with pytest.raises(SystemExit) as ended:
        app.run("train", out_of_memory)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: Out of memory: 20.51 GiB in use and 2.50 GiB more asked for")
    assert (
        "Give precision=bf16, or a lower batch_size (12 now), image_size (256 now), evaluation.batch_size (8 now)"
        in line
    )
