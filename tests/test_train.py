"""The training loop: what a run's numbers depend on, and what it leaves behind when it breaks."""

import csv
import os
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

import train
from conf.modules import module
from conf.trained import resumed_config
from datasets.batch import to_device
from datasets.loader import StepSampler
from datasets.synthetic import Synthetic
from datasets.transforms.pair import Pair
from evaluation import progress
from models import methods
from models.methods import contrastive_reconstruction
from tests.composition import composed
from tests.waits import counted_waits
from utils import checkpoints
from utils.devices import build_fabric, searches, set_determinism
from utils.errors import UserError
from utils.finite import FiniteUpdates, NotFinite

SMALL = (
    "dataset_name=synthetic",
    "dataset.drawing.num_train=8",
    "dataset.drawing.num_test=4",
    "image_size=32",
    "evaluation.size=32",
    "batch_size=2",
    "num_steps=4",
    "logging.every=1",
    "logging.wandb=disabled",
    "checkpointing.every=1",
    "device=cpu",
)


def run(folder: Path, name: str, *overrides: str) -> Path:
    output = folder / name
    train.train(composed(*SMALL, f"dataset_root={folder}", f"output_dir={output}", *overrides))
    return output


def resume(path: Path, *overrides: str) -> None:
    given = composed(f"resume={path}", *overrides)
    train.train(resumed_config(given, [f"resume={path}", *overrides]))


def weights(path: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoints.find(path / "checkpoints" / f"model_{step}.pth").model


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


class Interrupted(Exception):
    pass


def test_an_interrupted_and_resumed_run_ends_as_one_that_was_not(tmp_path, monkeypatch):
    whole = run(tmp_path, "whole")

    def save_and_stop(path, payload, *options, save=checkpoints.save):
        save(path, payload, *options)
        if payload["iter"] == 2:
            raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(checkpoints, "save", save_and_stop)
        run(tmp_path, "broken")
    broken = tmp_path / "broken"
    assert not (broken / "checkpoints/model_3.pth").exists()
    resume(broken)

    ours, expected = weights(broken, 4), weights(whole, 4)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert not torch.equal(ours["conv1.weight"], weights(whole, 2)["conv1.weight"])
    for table in ("metrics.csv", "evaluation.csv"):
        assert rows(broken / table) == rows(whole / table)
    assert [row["step"] for row in rows(broken / "metrics.csv")] == ["1", "2", "3", "4"]


def test_a_run_goes_on_where_it_and_its_data_have_moved_to_as_if_they_had_not(tmp_path, monkeypatch):
    there, here = tmp_path / "there", tmp_path / "here"
    there.mkdir()
    here.mkdir()
    monkeypatch.chdir(there)
    few = ("optimizer=sgd", "dataset_root=data", "checkpointing.every=100", "evaluation.every=0")
    whole = run(there, "whole", *few, "num_steps=2")
    run(there, "run", *few, "num_steps=1")
    torch.save({"conv1.weight": torch.zeros(1)}, there / "weights.pth")
    config = OmegaConf.load(there / "run/config.yaml")
    assert config.dataset_root == str(there / "data") and list(config.dataset.lists) == ["train", "test"]
    config.segmenter.weights = str(there / "weights.pth")  # only the checkpoint's are needed
    OmegaConf.save(config, there / "run/config.yaml")

    (there / "run").rename(here / "run")
    (there / "data").rename(here / "pictures")
    monkeypatch.chdir(here)
    resume(here / "run", "num_steps=2", "dataset_root=pictures")
    ours, expected = weights(here / "run", 2), weights(whole, 2)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    config = OmegaConf.load(here / "run/config.yaml")
    assert (config.dataset_root, config.segmenter.weights) == (str(here / "pictures"), str(there / "weights.pth"))


def test_a_run_interrupted_in_an_evaluation_makes_up_for_it(tmp_path, monkeypatch):
    def stop(*_):
        raise Interrupted

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("evaluation.progress.evaluate", stop)
        run(tmp_path, "broken", "num_steps=1")
    assert not (tmp_path / "broken/evaluation.csv").exists()
    resume(tmp_path / "broken")
    assert [row["step"] for row in rows(tmp_path / "broken/evaluation.csv")] == ["1"]


def test_a_gradient_that_is_not_finite_ends_the_run_and_leaves_its_checkpoints_as_they_were(tmp_path):
    with pytest.raises(UserError, match="not finite at step 1"):
        run(tmp_path, "broken", "optimizer.lr=1e30")
    (saved,) = (tmp_path / "broken/checkpoints").iterdir()
    assert saved.name == "model_1.pth"
    assert weights(tmp_path / "broken", 1)["bn1.num_batches_tracked"] == 2


def test_what_pays_only_for_one_shape_is_left_out_of_evaluations_and_pictures(tmp_path, monkeypatch):
    def watch(place, name):
        function = getattr(place, name)

        def watched(*given):
            seen.append((name, torch.backends.cudnn.benchmark))
            return function(*given)

        monkeypatch.setattr(place, name, watched)

    seen = []
    for place, name in (
        (contrastive_reconstruction.Method, "views"),
        (progress, "examples"),
        (progress, "evaluate"),
    ):
        watch(place, name)
    run(tmp_path, "run", "num_steps=1", "cudnn_search=always")
    # Examples are those that are shown all along, and the step's own.
    assert seen == [("views", True), ("examples", False), ("examples", False), ("evaluate", False)]


@pytest.mark.parametrize(
    ("keys", "searched"),
    [
        ((), False),
        (("precision=bf16",), True),
        (("cudnn_search=always",), True),
        (("precision=bf16", "cudnn_search=never"), False),
        (("precision=bf16", "deterministic=true"), False),
    ],
)
def test_algorithms_are_searched_for_in_half_precision_alone_unless_the_key_says_otherwise(monkeypatch, keys, searched):
    for name in ("benchmark", "deterministic"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    config = composed("dataset_name=synthetic", *keys)
    try:
        set_determinism(config.deterministic, searches(config))
        assert torch.backends.cudnn.benchmark == searched
    finally:
        torch.use_deterministic_algorithms(False)


def test_weights_that_are_not_finite_are_not_saved_though_loss_and_gradient_are(tmp_path):
    with pytest.raises(UserError, match="After 1 steps the weights are not finite.*optimizer.lr"):
        run(tmp_path, "broken", "optimizer.lr=1e39", "num_steps=1")
    assert list((tmp_path / "broken/checkpoints").iterdir()) == []
    assert not (tmp_path / "broken/evaluation.csv").exists()


def test_a_gradient_that_is_not_finite_moves_nothing_though_the_loss_is(tmp_path):
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=True)
    updates, before = FiniteUpdates(optimizer, step=3), network.weight.clone()
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    loss = torch.ones(())
    norms = {"gradient_norm": torch.ones(()), "gradient_norm_basis": torch.tensor(torch.inf)}
    updates.watch({"feature": loss}, loss, norms)
    optimizer.step()
    assert torch.equal(network.weight, before)
    with pytest.raises(NotFinite, match=r"not finite at step 3 \(gradient_norm_basis\)"):
        updates.require_finite()


def test_of_a_step_that_is_not_finite_no_checkpoint_is_saved_and_none_before_it_given_up(tmp_path, monkeypatch):
    make_views = contrastive_reconstruction.Method.views

    def poison(self, batch, random):
        views = make_views(self, batch, random)
        return replace(views, lab=views.lab * torch.nan) if batch.step == 3 else views

    monkeypatch.setattr(contrastive_reconstruction.Method, "views", poison)
    with pytest.raises(UserError, match="not finite at step 3"):
        run(tmp_path, "run", "checkpointing.every=2", "checkpointing.keep=1", "evaluation.every=0")
    assert {file.name for file in (tmp_path / "run/checkpoints").iterdir()} == {"model_2.pth"}
    saved = weights(tmp_path / "run", 2)
    assert saved["bn1.num_batches_tracked"] == 4 and saved["bn1.running_mean"].isfinite().all()


def test_a_step_that_is_not_finite_is_raised_at_the_next_logged_one_with_the_weights_as_they_were(
    tmp_path, monkeypatch
):
    before = {}

    def poison(self, batch, random):
        views = make_views(self, batch, random)
        if batch.step == 1:
            views.lab.fill_(torch.nan)
        if batch.step == 3:
            before["broken"] = self.predictor.state_dict()["conv1.weight"].clone()
        return views

    method = []
    build, make_views = methods.build, contrastive_reconstruction.Method.views
    monkeypatch.setattr(methods, "build", lambda *given: method.append(build(*given)) or method[0])
    monkeypatch.setattr(contrastive_reconstruction.Method, "views", poison)
    with pytest.raises(UserError, match="not finite at step 1"):
        run(tmp_path, "run", "num_steps=6", "logging.every=4", "checkpointing.every=6", "evaluation.every=0")
    monkeypatch.undo()
    run(tmp_path, "first", "num_steps=1")
    assert torch.equal(before["broken"], weights(tmp_path / "first", 1)["conv1.weight"])
    assert torch.equal(method[0].predictor.conv1.weight, before["broken"])
    assert not list((tmp_path / "run/checkpoints").iterdir())


def test_half_precision_is_for_networks_and_not_for_their_views():
    seen = {}

    class Network(torch.nn.Conv2d):
        def forward(self, views):
            seen["grid"], seen["features"] = views.grid.dtype, super().forward(views.image).dtype
            return torch.zeros(())

    views = Pair(*[torch.zeros(1, 3, 8, 8)] * 3, foreground=torch.zeros(1, 1, 8, 8), grid=torch.zeros(1, 8, 8, 2))
    build_fabric("cpu", "bf16").setup(Network(3, 4, 3))(views)
    assert seen == {"grid": torch.float32, "features": torch.bfloat16}


def test_bfloat16_networks_give_nearly_the_losses_of_float32(tmp_path):
    exact, rounded = (
        rows(
            run(tmp_path, f"run{precision}", "num_steps=1", "evaluation.every=0", f"precision={precision}")
            / "metrics.csv"
        )[0]
        for precision in ("32", "bf16")
    )
    assert exact["feature"] != rounded["feature"]
    # Equivariance compares two predictions, which of an untrained network are nearly the same: much of it is rounding.
    for loss, tolerance in {"feature": 0.05, "contrastive": 0.05, "visual": 0.05, "equivariance": 0.5}.items():
        assert float(rounded[loss]) == pytest.approx(float(exact[loss]), rel=tolerance), loss


@pytest.mark.slow
def test_compiled_networks_give_the_same_losses_and_checkpoints_with_the_same_names(tmp_path):
    plain = run(tmp_path, "plain", "num_steps=2")
    compiled = run(tmp_path, "compiled", "num_steps=2", "compile=true")
    ours, expected = rows(compiled / "metrics.csv"), rows(plain / "metrics.csv")
    assert float(ours[0]["total"]) == pytest.approx(float(expected[0]["total"]), rel=1e-4)
    # Adam's first update is the gradient's sign: the rounding of small ones shows.
    assert float(ours[1]["total"]) == pytest.approx(float(expected[1]["total"]), rel=0.02)
    assert list(weights(compiled, 2)) == list(weights(plain, 2))


def test_where_pytorch_cannot_compile_the_user_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda _: (_ for _ in ()).throw(RuntimeError("no compiler")))
    with pytest.raises(UserError, match="compile=true.*no compiler.*compile=false"):
        run(tmp_path, "run", "compile=true")


def test_a_run_is_not_resumed_to_fewer_steps_than_it_has_done(tmp_path):
    path = run(tmp_path, "run", "num_steps=2")
    with pytest.raises(UserError, match="has done 2 steps already"):
        resume(path, "num_steps=1")
    assert "num_steps: 2" in (path / "config.yaml").read_text()


def test_another_seed_gives_another_run(tmp_path):
    first, second = (run(tmp_path, f"seed{seed}", f"seed={seed}", "num_steps=1") for seed in (1, 2))
    assert rows(first / "metrics.csv") != rows(second / "metrics.csv")


def test_workers_do_not_change_the_numbers(tmp_path):
    here, there = (run(tmp_path, f"by{n}", f"loader.num_workers={n}", "num_steps=2") for n in (0, 2))
    assert rows(here / "metrics.csv") == rows(there / "metrics.csv")


def test_a_picture_that_breaks_during_training_is_named_and_the_steps_before_it_are_kept(tmp_path):
    run(tmp_path, "draws the set", "num_steps=1")
    sampler = list(StepSampler(8, 2, seed=5, first_step=0, num_steps=4))
    seen = {index for step in sampler[:2] for index, _, _ in step}
    broken_in, index = next((step, index) for step in (2, 3) for index, _, _ in sampler[step] if index not in seen)
    pictures = sorted((tmp_path / "synthetic/CUB_200_2011/images").rglob("*.png"), key=lambda path: path.stem)
    os.truncate(pictures[index], 30)
    with pytest.raises(UserError, match=pictures[index].name):
        run(tmp_path, "broken", "seed=5", "checkpointing.every=100")
    (saved,) = (tmp_path / "broken/checkpoints").iterdir()
    assert saved.name == f"model_{broken_in}.pth"


def test_a_reader_that_the_system_ends_ends_the_run_with_its_steps_saved(tmp_path, monkeypatch):
    read, (of_fourth_step,) = Synthetic.__getitem__, StepSampler(8, 2, 1234, 3, 4)

    def read_or_die(self, index):
        if index == of_fourth_step[0][0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, index)

    monkeypatch.setattr(Synthetic, "__getitem__", read_or_die)
    with pytest.raises(UserError, match="ended from outside"):
        run(tmp_path, "run", "checkpointing.every=4", "evaluation.every=0", "loader.num_workers=1")
    (saved,) = (tmp_path / "run/checkpoints").iterdir()
    assert 1 <= int(saved.stem.removeprefix("model_")) <= 3


def test_a_broken_picture_is_skipped_and_counted_where_that_is_asked_for(tmp_path, capsys):
    run(tmp_path, "draws the set", "num_steps=1")
    pictures = sorted((tmp_path / "synthetic/CUB_200_2011/images").rglob("*.png"), key=lambda path: path.stem)
    os.truncate(pictures[0], 30)
    # The broken picture is one of the training split, which the keypoint regression is fitted on too.
    path = run(tmp_path, "run", "dataset.on_error=skip")
    told = capsys.readouterr().err
    assert "Skipped picture 1: " in told and "1 of 8 training pictures are skipped in what is fitted" in told
    assert "keypoint_error_all" in rows(path / "evaluation.csv")[-1]


@pytest.mark.parametrize(
    ("num_parts", "image_size", "batch_size"),
    [(2, 64, 2), (16, 72, 3), (5, 100, 2), pytest.param(4, 512, 2, marks=pytest.mark.slow)],
)
def test_other_numbers_of_parts_sizes_and_batches_train(tmp_path, num_parts, image_size, batch_size):
    values = f"num_parts={num_parts}", f"image_size={image_size}", f"batch_size={batch_size}"
    path = run(tmp_path, "run", *values, "num_steps=1")
    assert float(rows(path / "metrics.csv")[0]["gradient_norm"]) > 0
    assert weights(path, 1)["layer5.conv2d_list.0.weight"].shape[0] == num_parts


WAITS = {
    "cpu": lambda tensor: tensor.cpu(),
    "item": lambda tensor: tensor[0].item(),
    "float": lambda tensor: float(tensor[0]),
    "tolist": lambda tensor: tensor.tolist(),
    "numpy": lambda tensor: tensor.numpy(),
    "array": lambda tensor: np.asarray(tensor),
    "a condition": lambda tensor: bool(tensor[0] > 0),
    "a mask": lambda tensor: tensor[tensor > 0],
    "a constant": lambda tensor: tensor * torch.tensor(2.0, device=tensor.device),
    "a constant like another": lambda tensor: tensor * tensor.new_tensor([2.0]),
    "an upload": lambda tensor: torch.from_numpy(np.ones(2)).to(tensor.device),
    "an upload by name": lambda tensor: torch.ones(2).to(device="cpu", dtype=torch.float64),
    "synchronize": lambda _: torch.cuda.synchronize(),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_wait_is_counted(wait):
    tensor = torch.ones(2)
    with counted_waits() as counts:
        wait(tensor)
    assert counts.total() > 0


def test_work_and_copies_under_way_are_no_waits():
    tensor = torch.ones(2)
    with counted_waits() as counts:
        (tensor.to(torch.float64) * 2).sum()
        tensor.to("cpu", non_blocking=True)
        to_device(np.ones(2), tensor.device)
    assert not counts


QUIET = ("logging.every=100", "checkpointing.every=100", "evaluation.every=0", "optimizer.poly_steps=100")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
@pytest.mark.parametrize("method", ["contrastive_reconstruction", "foreground"])
def test_steps_between_two_logged_ones_never_wait_for_the_device(tmp_path, method, device):
    def waits(num_steps: int) -> Counter[str]:
        with counted_waits() as counts:
            given = f"num_steps={num_steps}", f"method={method}", f"device={device}"
            run(tmp_path, f"{num_steps} steps", *given, *QUIET)
        return counts

    waits(1)  # draws the set, and makes constants
    few = waits(2)
    assert few["_local_scalar_dense.default"] > 0  # the last step is logged
    assert waits(5) == few


@pytest.mark.cuda
@pytest.mark.parametrize("method", ["contrastive_reconstruction", "foreground"])
def test_cuda_sees_no_wait_between_two_logged_steps(tmp_path, monkeypatch, method):
    synchronize = torch.cuda.synchronize

    def refused(*given):
        assert torch.cuda.get_sync_debug_mode() == 0, "the device was asked to catch up"
        synchronize(*given)

    def watched(self, batch, random):
        # The first step makes constants, the last one is logged.
        torch.cuda.set_sync_debug_mode("error" if 0 < batch.step < 5 else "default")
        return make_views(self, batch, random)

    trained = module("method", method).Method
    make_views = trained.views
    monkeypatch.setattr(trained, "views", watched)
    monkeypatch.setattr(torch.cuda, "synchronize", refused)  # which the debug mode lets pass
    try:
        run(tmp_path, "run", "num_steps=6", f"method={method}", "device=cuda", *QUIET)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_pictures_show_the_same_crops_all_along_also_after_the_run_went_on(tmp_path, monkeypatch):
    seen = []

    def picture(examples, caption, draw=progress.part_picture):
        seen.append(np.stack([example.shown.image for example in examples]))
        return draw(examples, caption)

    monkeypatch.setattr(progress, "part_picture", picture)
    few = ("logging.image_every=1", "evaluation.every=0", "evaluation.pictures=0", "optimizer=sgd")
    path = run(tmp_path, "run", "num_steps=2", *few)
    resume(path, "num_steps=4")
    assert len(seen) == 4 and all(np.array_equal(images, seen[0]) for images in seen)
    areas = rows(path / "part_areas.csv")
    assert [row["step"] for row in areas] == ["1", "2", "3", "4"]
    assert all(sum(float(row[f"part_{part}"]) for part in range(1, 5)) == pytest.approx(100) for row in areas)


def test_the_first_picture_is_there_after_the_first_step(tmp_path):
    few = ("logging.image_every=3", "evaluation.every=0", "evaluation.pictures=0", "optimizer=sgd")
    path = run(tmp_path, "run", "num_steps=4", *few)
    assert [row["step"] for row in rows(path / "part_areas.csv")] == ["1", "3", "4"]


@pytest.mark.parametrize("recipe", ["laptop", "laptop_scops", "laptop_uld", "drawn", "small", "uld_drawn", None])
def test_short_recipes_have_several_pictures_of_the_training(recipe):
    config = composed("dataset_name=synthetic", *([f"experiment={recipe}"] if recipe else []))
    assert 5 <= config.num_steps // config.logging.image_every <= 7
