"""Runs on several devices, as gloo processes on the CPU: the same numbers as on one, one voice, one end."""

import csv
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.fabric.plugins.environments import SLURMEnvironment
from torch import Tensor, nn

import datasets
import train
from conf.trained import resumed_config
from datasets.batch import TrainBatch
from datasets.loader import StepSampler, train_batches
from models import methods
from tests.composition import composed
from utils import checkpoints
from utils.devices import build_fabric
from utils.errors import UserError
from utils.optimizer import build_optimizer
from utils.ranks import launch
from utils.seeding import Randomness

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    "dataset_name=synthetic",
    "dataset.drawing.num_train=8",
    "dataset.drawing.num_test=4",
    "image_size=32",
    "evaluation.size=32",
    "batch_size=6",
    "logging.every=1",
    "logging.wandb=disabled",
    "checkpointing.every=1",
    "device=cpu",
)
TORCHRUN = "-m", "torch.distributed.run", "--nproc_per_node=2", "train.py"
FORMULAS = {
    "release": ("dataset_name=synthetic",),
    "paper": ("experiment=cub/paper_formulas", "dataset_name=synthetic", "method.positives=release"),
    "same image": ("experiment=cub/same_image", "dataset_name=synthetic"),
    "foreground": ("method=foreground",),
}


def place_in_run(rank: int, port: int, started_by: str = "fabric") -> dict[str, str]:
    """The environment of one process of two, as Fabric, ``torchrun`` or SLURM's ``srun`` set it."""
    if started_by == "srun":
        tasks = {"NTASKS": 2, "NTASKS_PER_NODE": 2, "NNODES": 1, "PROCID": rank, "LOCALID": rank, "NODEID": 0}
        named = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "parts", "SLURM_NODELIST": "127.0.0.1"}
        return {f"SLURM_{name}": str(value) for name, value in tasks.items()} | named | {"MASTER_PORT": str(port)}
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    elastic = {"TORCHELASTIC_RUN_ID": "none", "RANK": str(rank), "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    return group | (elastic if started_by == "torchrun" else {"NODE_RANK": "0"})


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def test_the_parts_of_a_step_are_the_step():
    arguments = dict(num_samples=20, batch_size=6, seed=1, first_step=2, num_steps=9)
    whole = list(StepSampler(**arguments))
    parts = [list(StepSampler(**arguments, rank=rank, num_ranks=3)) for rank in range(3)]
    assert all(len(items) == 2 for part in parts for items in part)
    assert [sum(step, start=[]) for step in zip(*parts, strict=True)] == whole


def first_step(root: Path, name: str, devices: int) -> dict[str, dict[str, Tensor]]:
    """Losses and gradients of a step of 6 pictures, in float64 and with batch norm in eval mode."""
    config = composed(*SMALL, f"dataset_root={root}", f"devices={devices}", *FORMULAS[name])
    with launch(config) as ranks:
        method = methods.build(config, has_masks=True, device=ranks.fabric.device).double()
        predictor = method.predictor
        predictor.load_state_dict(torch.load(root / f"{predictor.num_parts}.pth"))
        make_views = method.views
        method, _ = ranks.setup(method, build_optimizer(method.parameter_groups(config.optimizer), config.optimizer))
        (views,) = views_of_first_step(config, make_views, ranks.fabric.global_rank, ranks.fabric.world_size)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "float", Tensor.double)  # what float32 is enough for elsewhere
            losses = method.eval()(views)
        ranks.fabric.backward(sum(config.loss_weights[name] * loss for name, loss in losses.items()))
        gradients = {name: one.grad for name, one in predictor.named_parameters() if one.requires_grad}
        return {"losses": ranks.mean(losses), "gradients": gradients}


def views_of_first_step(config, make_views, rank: int = 0, num_ranks: int = 1):
    training_set = datasets.build(config, "train", "training")
    for batch in train_batches(
        training_set,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=0,
        num_steps=1,
        num_workers=0,
        rank=rank,
        num_ranks=num_ranks,
    ):
        views = make_views(batch, Randomness(config.seed, batch.step, batch.places))
        yield doubled(views)


def doubled(views):
    """Tensors and dataclasses of them in float64."""
    if isinstance(views, Tensor):
        return views.double() if views.is_floating_point() else views
    return replace(views, **{name: doubled(value) for name, value in vars(views).items()})


def pseudo_clusters(rank: int) -> list[Tensor]:
    """DeepCluster's, and the network that they are of, where each rank's batch norm has seen other pictures."""
    sizes = "segmenter.widths=[4,6,8,10]", "segmenter.projection=6", "method.num_clusters=4", "method.cluster_batches=1"
    config = composed("method=deepcluster", "dataset_name=textures", *sizes, "device=cpu", "devices=2")
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=generator)
    batch = TrainBatch(images, torch.ones(2, 1, 32, 32), [""] * 2, step=0)
    with launch(config) as ranks:
        method = methods.build(config, has_masks=True, device=ranks.fabric.device)
        for name, statistics in method.predictor.named_buffers():
            if name.endswith("running_var"):
                statistics.mul_(1 + rank)
        method.before_step(0, lambda count: [batch])
        return [*method.before.state_dict().values(), method.means]


def one_of_two(rank: int, ports: Sequence[int], root: Path) -> None:
    os.environ.update(place_in_run(rank, ports[0]))
    torch.set_num_threads(1)
    found = {name: first_step(root, name, devices=2) for name in FORMULAS}
    os.environ.update(place_in_run(rank, ports[1]))
    found["told"] = told_until_a_mistake(rank)
    os.environ.update(place_in_run(rank, ports[2]))
    found["ended"] = ended_by_the_first(rank)
    os.environ.update(place_in_run(rank, ports[3]))
    torch.save(found | {"clusters": pseudo_clusters(rank)}, root / f"rank{rank}.pth")


def told_until_a_mistake(rank: int) -> list[list[str]]:
    """What is told of skipped pictures, by step, until the second of two ranks cannot go on; and then that."""

    def batches():
        yield SimpleNamespace(skipped=[])
        yield SimpleNamespace(skipped=[f"one on {rank}"])
        yield SimpleNamespace(skipped=["another"] if rank else [])
        if rank:
            raise UserError("a broken picture")
        yield SimpleNamespace(skipped=[])

    told = []
    with (
        pytest.raises(SystemExit if rank else UserError) as ended,
        launch(composed("device=cpu", "devices=2")) as ranks,
    ):
        for batch in ranks.in_step(batches()):
            told.append(batch.skipped)
    return [*told, [str(ended.value)]]


def ended_by_the_first(rank: int) -> str:
    """What a rank ends with where the first alone meets a mistake, while the other waits for it in the next step."""
    with (
        pytest.raises(SystemExit if rank else UserError) as ended,
        launch(composed("device=cpu", "devices=2")) as ranks,
    ):
        if ranks.is_first:
            raise UserError("a full disk")
        ranks.exchange()
    return str(ended.value)


@pytest.mark.slow
def test_two_devices_give_the_losses_and_gradients_of_one_and_speak_with_one_voice(tmp_path):
    for name in ("release", "foreground"):
        config = composed(*SMALL, f"dataset_root={tmp_path}", *FORMULAS[name])
        method = methods.build(config, has_masks=True, device=torch.device("cpu"))
        predictor = method.predictor.double().train()
        # Statistics of a real batch: those of an untrained network would let its activations grow without bound.
        for module in predictor.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        (views,) = views_of_first_step(config, method.views)
        with torch.no_grad():
            predictor(predictor.preprocess(getattr(views, "pair", views).jittered))
        torch.save(predictor.state_dict(), tmp_path / f"{predictor.num_parts}.pth")

    ports, context = [free_port() for _ in range(4)], multiprocessing.get_context("spawn")
    processes = [context.Process(target=one_of_two, args=(rank, ports, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    expected = {name: first_step(tmp_path, name, devices=1) for name in FORMULAS}
    for process in processes:
        process.join(timeout=300)
        assert process.exitcode == 0

    of_ranks = [torch.load(tmp_path / f"rank{rank}.pth") for rank in (0, 1)]
    first, second = (found["clusters"] for found in of_ranks)
    assert first[-1].any() and all(torch.equal(*pair) for pair in zip(first, second, strict=True))
    for rank, end in enumerate(("a broken picture", "0")):
        found = of_ranks[rank]
        for name in FORMULAS:
            for kind, whole in expected[name].items():
                assert found[name][kind].keys() == whole.keys()
                for key, value in whole.items():
                    error = (found[name][kind][key] - value).norm() / value.norm()
                    assert value.norm() > 0 and error < 1e-9, (name, kind, key, rank)
        assert found["told"] == [[], ["one on 0", "one on 1"], ["another"], [end]]
        assert found["ended"] == ("0" if rank else "a full disk")
    assert len(expected["release"]["losses"]) == 4 and len(expected["foreground"]["losses"]) == 1


def refusal(*overrides: str) -> str:
    with pytest.raises(UserError) as refused, launch(composed(*overrides)):
        pytest.fail("was launched")
    return str(refused.value)


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    message = refusal("device=cpu", "batch_size=6", "devices=2", "num_nodes=2")
    assert "batch_size=6" in message and "4 devices" in message


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    message = refusal("device=cuda", "devices=4", "batch_size=8")
    assert "devices=4" in message and "finds 3" in message


@pytest.mark.parametrize(("started_by", "starter"), [("torchrun", "torchrun"), ("srun", "SLURM")])
def test_another_number_of_devices_than_of_processes_is_refused(monkeypatch, started_by, starter):
    for name, value in place_in_run(0, free_port(), started_by).items():
        monkeypatch.setenv(name, value)
    message = refusal("device=cpu")
    assert f"{starter} runs 2 processes" in message and "devices=1" in message
    assert "2 processes" in refusal("device=cpu", "devices=3")


def test_slurm_says_which_rank_a_process_is(monkeypatch):
    for name, value in place_in_run(1, free_port(), "srun").items():
        monkeypatch.setenv(name, value)
    fabric = build_fabric("cpu", "32", devices=2, strategy="ddp")
    assert isinstance(fabric.strategy.cluster_environment, SLURMEnvironment)
    assert (fabric.global_rank, fabric.world_size, fabric.is_global_zero) == (1, 2, False)
    monkeypatch.setenv("SLURM_NNODES", "2")
    assert "num_nodes" in refusal("device=cpu", "devices=2")
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    assert "--ntasks-per-node" in refusal("device=cpu", "devices=2")


# train.py, but for batch norm: the statistics of a part of a batch are not those of the whole.
PROGRAM = """
import sys
from torch import nn
sys.path.insert(0, {root!r})
import train
from conf import app

nn.BatchNorm2d.train = lambda self, mode=True: nn.Module.train(self, False)
app.run("train", train.train)
"""


def start(*command: object, environment: dict[str, str] | None = None) -> subprocess.Popen:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("WANDB", "SLURM", "LOCAL"))}
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env=inherited | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    try:
        out, err = process.communicate(timeout=300)
    except subprocess.TimeoutExpired as error:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"it hung, after {error.stderr}")
    return process.returncode, out, err


def rows(run: Path, table: str = "metrics") -> list[dict[str, float]]:
    with (run / f"{table}.csv").open() as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_devices(tmp_path, monkeypatch):
    data = f"dataset_root={tmp_path}"
    run = tmp_path / "it's a run"
    optimizer = "optimizer=sgd", "optimizer.poly_steps=100"
    train.train(composed(*SMALL, data, f"output_dir='{tmp_path}/begun'", "num_steps=1", *optimizer))
    shutil.copytree(tmp_path / "begun", run)
    script = tmp_path / "train eval.py"
    script.write_text(PROGRAM.format(root=str(ROOT)))

    options = "devices=2", "strategy=ddp", "num_steps=3", "loader.num_workers=1"
    status, out, err = finished(start(script, f'resume="{run}"', *options))
    assert status == 0, err
    assert out.count(f"Run directory: {run}") == 1
    on_two, after_two = rows(run), checkpoints.find(run)

    monkeypatch.setattr(nn.BatchNorm2d, "train", lambda self, mode=True: nn.Module.train(self, False))
    arguments = f"resume='{tmp_path}/begun'", "num_steps=3"
    train.train(resumed_config(composed(*arguments), list(arguments)))
    on_one, after_one = rows(tmp_path / "begun"), checkpoints.find(tmp_path / "begun")

    assert [row["step"] for row in on_two] == [1, 2, 3]
    assert len(rows(run, "evaluation")) == 2
    for ours, expected in zip(on_two, on_one, strict=True):
        assert ours == pytest.approx(expected, rel=1e-3)
    assert on_two[1] == pytest.approx(on_one[1], rel=1e-5)
    for name, weight in after_one.model.items():
        assert torch.allclose(after_two.model[name], weight, rtol=1e-3, atol=1e-4), name
    assert after_two.optimizer.keys() == after_one.optimizer.keys()

    arguments = f'resume="{run}"', "num_steps=4", "devices=1"
    train.train(resumed_config(composed(*arguments), list(arguments)))
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4]


@pytest.mark.slow
def test_fabric_torchrun_and_slurm_start_the_same_run(tmp_path):
    def options(name: str) -> tuple[str, ...]:
        return (*SMALL, f"dataset_root={tmp_path}", f"output_dir={tmp_path / name}", "num_steps=2", "devices=2")

    status, _, err = finished(start("train.py", *options("fabric")))
    assert status == 0, err
    status, _, err = finished(start(*TORCHRUN, *options("torchrun")))
    assert status == 0, err
    port = free_port()
    tasks = [start("train.py", *options("srun"), environment=place_in_run(rank, port, "srun")) for rank in (0, 1)]
    first, second = map(finished, tasks)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    assert "Run directory: " in first[1] and (second[1], second[2]) == ("", "")

    assert {path.name for path in tmp_path.iterdir()} == {"fabric", "torchrun", "srun", "synthetic"}
    assert [row["step"] for row in rows(tmp_path / "fabric")] == [1, 2]
    assert rows(tmp_path / "fabric") == rows(tmp_path / "torchrun") == rows(tmp_path / "srun")
    names = methods.build(composed(*SMALL), True, torch.device("cpu")).predictor.state_dict().keys()
    assert checkpoints.find(tmp_path / "srun").model.keys() == names


@pytest.mark.slow
def test_a_picture_that_one_rank_cannot_read_ends_all_with_one_message(tmp_path):
    datasets.build(composed(*SMALL, f"dataset_root={tmp_path}"), "train", "training")
    second = list(StepSampler(8, 6, seed=1234, first_step=0, num_steps=3, rank=1, num_ranks=2))
    first = list(StepSampler(8, 6, seed=1234, first_step=0, num_steps=3, rank=0, num_ranks=2))
    # A picture that the second rank meets in the second or third step, and the first one not before that.
    step, index = next(
        (step, index)
        for step in (1, 2)
        for index, _, _ in second[step]
        if all(index not in np.array(part[:step])[..., 0] for part in (first, second))
    )
    pictures = sorted((tmp_path / "synthetic/CUB_200_2011/images").rglob("*.png"), key=lambda path: path.stem)
    os.truncate(pictures[index], 30)
    run = tmp_path / "run"
    own = f"dataset_root={tmp_path}", f"output_dir={run}", "num_steps=3", "devices=2", "checkpointing.every=100"
    status, out, err = finished(start("train.py", *SMALL, *own))
    assert (status, out) == (2, ""), err
    assert err.count("error: ") == 1 and pictures[index].name in err and "Traceback" not in err
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"model_{step}.pth"]


@pytest.mark.slow
def test_torchrun_tells_a_mistake_once(tmp_path):
    for own, part in (("num_stepz=3", "'num_steps'"), (f"dataset_root={tmp_path}", str(tmp_path))):
        status, out, err = finished(start(*TORCHRUN, "device=cpu", "devices=2", own))
        assert status != 0 and out == ""
        assert err.count("error: ") == 1 and part in err
