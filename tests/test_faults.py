"""What a run does when something around it fails: docs/reliability.md has the table."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.batch import TrainBatch
from evaluation.examples import Example
from evaluation.options import Sets
from evaluation.progress import Progress, collapsed, largest_part
from models import methods
from models.methods import contrastive_reconstruction
from tests.composition import composed
from tests.quadrants import ColourLabeller, draw_split
from tests.test_train import resume, rows, run, weights
from utils import checkpoints
from utils.errors import Stopped, UserError
from utils.logging import RunLogger, Table
from utils.run_directory import RunDirectory

FEW = ("checkpointing.every=100", "evaluation.every=0", "evaluation.pictures=0", "optimizer=sgd")


@pytest.fixture
def before_step(monkeypatch):
    """Has something done in the middle of a step; gives the function that says what, and before which update."""

    def set_action(step: int, action) -> None:
        def views(self, batch, random, make_views=contrastive_reconstruction.Method.views):
            made = make_views(self, batch, random)
            if batch.step == step:
                action(made)
            return made

        monkeypatch.setattr(contrastive_reconstruction.Method, "views", views)

    return set_action


def same_weights(ours: dict, expected: dict) -> bool:
    return all(torch.equal(ours[name], expected[name]) for name in expected)


def test_a_signal_to_end_finishes_the_step_saves_and_says_how_to_go_on(tmp_path, before_step):
    before_step(1, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Stopped, match=f"SIGTERM: saved after 2 steps.*train.py resume={tmp_path}/run") as ended:
        run(tmp_path, "run", *FEW)
    assert ended.value.status == 143
    assert checkpoints.find(tmp_path / "run").step == 2
    assert [row["step"] for row in rows(tmp_path / "run/metrics.csv")] == ["1", "2"]


def test_a_signal_to_save_does_not_end_the_run(tmp_path, before_step):
    before_step(0, lambda _: os.kill(os.getpid(), signal.SIGUSR1))
    run(tmp_path, "run", "num_steps=2", *FEW)
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["model_1.pth", "model_2.pth"]


def test_a_signal_to_end_does_not_wait_for_an_evaluation_and_the_resumed_run_makes_up_for_it(tmp_path, monkeypatch):
    def slow(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    start = time.monotonic()
    with monkeypatch.context() as patch, pytest.raises(Stopped, match="saved after 1 steps"):
        patch.setattr("evaluation.progress.evaluate", slow)
        run(tmp_path, "run", "num_steps=2", "checkpointing.every=100", "evaluation.every=1")
    assert time.monotonic() - start < 50
    assert not (tmp_path / "run/evaluation.csv").exists()
    resume(tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run/evaluation.csv")] == ["1", "2"]


def test_a_run_without_a_checkpoint_yet_is_resumed_from_its_beginning(tmp_path, before_step, monkeypatch):
    def killed(_):
        raise KeyboardInterrupt

    before_step(1, killed)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, "run", "num_steps=2", *FEW)
    monkeypatch.undo()
    resume(tmp_path / "run")
    assert [row["step"] for row in rows(tmp_path / "run/metrics.csv")] == ["1", "2"]


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("plain"), "plain", "num_steps=2", *FEW)


def test_generators_that_others_use_do_not_touch_the_numbers(tmp_path, monkeypatch, plain):
    def views(self, batch, numbers, make_views=contrastive_reconstruction.Method.views):
        random.seed(batch.step)
        np.random.seed(batch.step)
        torch.manual_seed(batch.step)
        return make_views(self, batch, numbers)

    monkeypatch.setattr(contrastive_reconstruction.Method, "views", views)
    other = run(tmp_path, "other", "num_steps=2", *FEW)
    assert (other / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    assert same_weights(weights(other, 2), weights(plain, 2))


def test_a_loss_that_is_not_finite_is_kept_with_its_pictures_met_again_and_once_mended_forgotten(
    tmp_path, before_step, monkeypatch
):
    with monkeypatch.context():
        before_step(1, lambda views: views.lab.fill_(torch.nan))
        with pytest.raises(UserError, match=r"not finite at step 1 \(visual, total, gradient_norm\)") as told:
            run(tmp_path, "run", "num_steps=3", "logging.every=3", *FEW, "checkpointing.every=1")
        path = tmp_path / "run"
        assert f"python train.py resume={path} logging.every=1" in str(told.value)
        found = json.loads((path / "not_finite/step_1.json").read_text())
        assert (found["step"], found["seed"], found["visual"]) == (1, 1234, "nan")
        assert float(found["feature"]) > 0
        assert len(found["pictures"]) == 2
        for picture in found["pictures"]:
            assert picture["path"].endswith(f"{picture['name']}") and os.path.isfile(picture["path"])
        assert checkpoints.find(path).step == 1

        with pytest.raises(UserError, match="not finite at step 1"):
            resume(path, "logging.every=1")
        assert not (path / "metrics.csv").exists()
    monkeypatch.undo()
    resume(path, "logging.every=1")
    whole = run(tmp_path, "whole", "num_steps=3", *FEW)
    assert same_weights(weights(path, 3), weights(whole, 3))
    assert rows(path / "metrics.csv") == rows(whole / "metrics.csv")[1:]


def test_on_a_full_disk_the_run_stops_with_its_tables_and_no_half_a_checkpoint(tmp_path, small_disk):
    output = small_disk / "run"
    with pytest.raises(UserError, match="Cannot write the checkpoint .*model_1.pth: No space left on device"):
        run(tmp_path, "run", f"output_dir={output}")
    assert list((output / "checkpoints").iterdir()) == []
    assert [row["step"] for row in rows(output / "metrics.csv")] == ["1"]


def test_a_row_for_which_there_is_no_space_stops_the_run_and_the_rows_before_it_stay(small_disk):
    table = Table(small_disk / "metrics.csv", 0)
    table.add(1, {"total": 1.0})
    (small_disk / "others").write_bytes(bytes(os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_bsize))
    with pytest.raises(UserError, match="Cannot write .*metrics.csv: No space left on device.*resume="):
        for step in range(2, 1000):
            table.add(step, {"total": 1.0})
    (small_disk / "others").unlink()
    kept = rows(small_disk / "metrics.csv")
    Table(small_disk / "metrics.csv", 1)
    assert rows(small_disk / "metrics.csv") == kept[:1] == [{"step": "1", "total": "1.0"}]


def test_a_picture_that_cannot_be_written_is_told_and_the_run_goes_on(tmp_path, capsys):
    directory = RunDirectory(tmp_path)
    (tmp_path / "pictures").touch()
    with RunLogger(directory, composed("logging.wandb=disabled")) as logger:
        logger.log_pictures(3, {"parts": np.zeros((8, 8, 3), np.uint8)})
        logger.log(4, {"total": 1.0})
    assert f"warning: cannot write {tmp_path}/pictures/parts_3.png: " in capsys.readouterr().err
    assert len(rows(tmp_path / "metrics.csv")) == 1


def test_a_disk_that_becomes_read_only_stops_the_run(small_disk):
    directory = RunDirectory(small_disk)
    table = Table(small_disk / "metrics.csv", 0)
    table.add(1, {"total": 1.0})
    (small_disk / "config.yaml").write_text("num_parts: 4\n")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    config = composed(f"resume={small_disk}")
    for write in (
        lambda: table.add(2, {"total": 1.0}),
        lambda: checkpoints.save(small_disk / "model_1.pth", {}),
        lambda: RunDirectory.of(composed(f"output_dir={small_disk}/new")),
        lambda: RunDirectory.of(config),
    ):
        with pytest.raises(UserError, match="Read-only file system"):
            write()
    assert directory.path == small_disk and rows(small_disk / "metrics.csv") == [{"step": "1", "total": "1.0"}]


def test_a_run_whose_directory_vanishes_stops_and_writes_nowhere_else(tmp_path, before_step):
    path = tmp_path / "run"
    before_step(1, lambda _: shutil.rmtree(path))
    with pytest.raises(UserError, match="Cannot write .*run/metrics.csv: No such file or directory"):
        run(tmp_path, "run", *FEW)
    assert not path.exists()


def service() -> list[int]:
    """The processes of W&B that this one has started."""
    children = [int(pid) for file in Path("/proc/self/task").glob("*/children") for pid in file.read_text().split()]
    return [pid for pid in children if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="looks for a process where Linux lists them")
def test_a_run_goes_on_when_the_process_of_wandb_is_ended_and_the_next_run_gets_a_new_one(tmp_path, capsys):
    for name, killed in (("first", True), ("second", False)):
        path = tmp_path / name
        path.mkdir()
        with RunLogger(RunDirectory(path), composed("logging.wandb=offline", "num_steps=4")) as logger:
            logger.log(1, {"total": 1.0})
            for pid in service() if killed else []:
                os.kill(pid, signal.SIGKILL)
                time.sleep(0.5)
            for step in (2, 3, 4):
                logger.log(step, {"total": 1.0})
        assert [row["step"] for row in rows(path / "metrics.csv")] == ["1", "2", "3", "4"]
        told = capsys.readouterr().err
        assert told.count("Going on without it; the tables in the run directory stay.") == killed, told


def example(counts: list[int]) -> Example:
    """A picture with so many pixels of the background, of part 1, ..."""
    return Example(None, np.repeat(np.arange(len(counts), dtype=np.uint8), counts)[None], None)


def test_the_part_that_holds_most_of_the_foreground_is_found_with_its_share():
    assert largest_part([example([10, 0, 2, 998])]) == (3, 0.998)
    assert largest_part([example([0, 50, 10]), example([7, 0, 60])]) == (2, 70 / 120)
    assert largest_part([example([100])]) == (1, 0)


def test_a_part_that_was_alone_in_so_many_looks_in_a_row_is_told_once():
    alone, fine = (2, 0.998), (2, 0.5)
    looks = [alone, fine, (1, 0.0), alone, alone, alone, fine, alone, alone]
    told = [collapsed(looks[:count], share=0.99, checks=2) for count in range(1, len(looks) + 1)]
    assert told == [False] * 4 + [True] + [False] * 4
    assert not collapsed([(1, 0.99)] * 5, share=0.99, checks=2) and collapsed([(1, 0.991)] * 3, share=0.99, checks=3)
    assert not collapsed([(1, 1.0), (2, 1.0)] * 5, share=0.99, checks=2), "parts that take turns are no collapse"


def test_what_a_part_holds_in_the_first_tenth_of_the_steps_warns_of_no_collapse():
    held, warned = [], []

    class Logger:
        def log_largest_part(self, step, part, share):
            held.append((step, part, share))
            return held

        def warn(self, *_):
            warned.append(held[-1][0])

        log_pictures = log_part_areas = lambda *_: None

    class One(ColourLabeller):
        def scores(self, images, foreground):
            return torch.nn.functional.one_hot(torch.full((len(images), 8, 8), 2), 4).permute(0, 3, 1, 2) * 1e4

    sets = Sets(draw_split("test", 2, part_maps=True), draw_split("training", 2, part_maps=True))
    batch = TrainBatch.collate([sets.fit.test_crop(sample, 32) for sample in sets.fit.samples], step=0)
    config = composed("num_steps=200", "logging.collapse_checks=3")
    told = Progress(config, One(), sets, ("part_maps",), torch.device("cpu"), lambda: batch)
    for step in (1, 5, 10, 15, 20, 25, 30, 35):
        told.show(batch, step, Logger())
    assert {(part, share) for _, part, share in held} == {(3, 1.0)} and warned == [30]


def test_a_collapsed_solution_is_warned_about_in_the_log_and_on_wandb(tmp_path, monkeypatch, capsys):
    wandb, alerts = pytest.importorskip("wandb"), []

    class Run:
        settings = wandb.Settings(mode="online")

        def alert(self, title, text):
            alerts.append((title, text))

        def log(self, *_, **__):
            pass

        define_metric = finish = log

    def collapsing(*given, build=methods.build):
        method = build(*given)
        method.predictor.layer5.conv2d_list[0].bias.data[1] = 1e3
        return method

    monkeypatch.setattr(wandb, "init", lambda **_: Run())
    monkeypatch.setattr(methods, "build", collapsing)
    often = ("logging.image_every=1", "logging.collapse_checks=2", "logging.wandb=online")
    run(tmp_path, "run", "num_steps=3", *often, *FEW)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    ((title, text),) = alerts
    assert warnings == [f"warning: {title}: {text}"]
    assert text.startswith("part 2 holds 100.0 % of the foreground, in the last 2 pictures")
    assert "loss_weights." not in text, "every method has weights of its own"
    assert [(row["part"], row["share"]) for row in rows(tmp_path / "run/largest_part.csv")] == [("2", "1.0")] * 3


def test_looks_before_an_interruption_count_for_a_collapse_and_what_was_told_is_not_told_again(tmp_path, capsys):
    directory, config = RunDirectory(tmp_path), composed("logging.wandb=disabled")
    told = []
    for resumed_step, steps in ((0, (1, 2, 9)), (2, (3, 4)), (4, (5,))):
        with RunLogger(directory, config, resumed_step) as logger:
            for step in steps:
                looks = [look[1:] for look in logger.log_largest_part(step, 2, 1.0)]
                told += [step] * collapsed(looks, share=0.9, checks=4)
    assert told == [4], "the look of step 9 was cut"


@pytest.fixture
def as_before(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def test_deterministic_algorithms_are_asked_for_and_change_nothing_on_the_cpu(tmp_path, as_before, plain):
    assert not torch.are_deterministic_algorithms_enabled()
    strict = run(tmp_path, "strict", "num_steps=2", "deterministic=true", *FEW)
    assert torch.are_deterministic_algorithms_enabled() and not torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert (strict / "metrics.csv").read_bytes() == (plain / "metrics.csv").read_bytes()
    assert same_weights(weights(strict, 2), weights(plain, 2))


def test_a_gradient_without_a_deterministic_algorithm_is_refused_by_name():
    config = composed("dataset_name=synthetic", "deterministic=true", "method.equivariance=paper")
    with pytest.raises(UserError, match="deterministic=true.*method.equivariance=paper.*method.equivariance=release"):
        methods.build(config, has_masks=True, device=torch.device("cuda"))
    assert methods.build(config, has_masks=True, device=torch.device("cpu")).options.equivariance == "paper"


@pytest.mark.cuda
def test_deterministic_runs_on_one_gpu_end_with_the_same_weights(tmp_path, as_before):
    first, second = (run(tmp_path, name, "deterministic=true", "device=cuda") for name in ("first", "second"))
    assert (first / "metrics.csv").read_bytes() == (second / "metrics.csv").read_bytes()
    assert same_weights(weights(first, 4), weights(second, 4))


@pytest.mark.cuda
def test_the_scale_of_half_precision_gradients_is_kept(tmp_path):
    whole = run(tmp_path, "whole", "device=cuda", "precision=16", "deterministic=true")
    run(tmp_path, "part", "device=cuda", "precision=16", "deterministic=true", "num_steps=2")
    resume(tmp_path / "part", "num_steps=4")
    assert checkpoints.find(tmp_path / "part").precision["scale"] > 0
    assert same_weights(weights(tmp_path / "part", 4), weights(whole, 4))
