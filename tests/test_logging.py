import csv
import errno
import json
import os
import re
import struct
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from tests.composition import composed
from utils.console import say, tracked
from utils.errors import UserError
from utils.logging import RunLogger, Table, WandbRun
from utils.run_directory import RunDirectory

wandb = pytest.importorskip("wandb")  # which a run needs not
wandb_internal_pb2 = pytest.importorskip("wandb.proto.wandb_internal_pb2")

PICTURE = np.arange(8 * 9 * 3, dtype=np.uint8).reshape(8, 9, 3)


def config(path: Path, wandb_mode: str, *overrides: str):
    return composed(f"output_dir={path}", f"logging.wandb={wandb_mode}", "num_steps=20", *overrides)


def scalars(step: int) -> dict[str, float]:
    losses = {"feature": 1 / step, "contrastive": 2.0, "visual": 3.0, "equivariance": 4.0, "total": 10.0 + step}
    return losses | {"learning_rate": 1e-5, "gradient_norm": 0.5}


def train(run: RunDirectory, settings, first: int, last: int) -> None:
    """What a training loop tells."""
    with RunLogger(run, settings, first) as logger:
        for step in range(first + 1, last + 1):
            logger.advance(step)
            logger.log(step, scalars(step))
        logger.log_pictures(last, {"parts": PICTURE})
        logger.log_evaluation(last, {"FG-NMI": 46.0, "keypoint_error_all": 9.2})
        logger.log_test_pictures(last, [{"name": name, "picture": PICTURE, "part 1": 12.5} for name in "ab"])
        logger.log_part_areas(last, [0.25, 0.75])


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def steps(path: Path) -> list[int]:
    return [int(row["step"]) for row in rows(path)]


def test_tables_and_pictures_hold_what_was_logged(tmp_path):
    run = RunDirectory(tmp_path)
    train(run, config(tmp_path, "disabled"), 0, 3)
    metrics = rows(tmp_path / "metrics.csv")
    assert [{name: float(value) for name, value in row.items()} for row in metrics] == [
        {"step": step, **scalars(step)} for step in (1, 2, 3)
    ]
    assert rows(tmp_path / "evaluation.csv") == [{"step": "3", "FG-NMI": "46.0", "keypoint_error_all": "9.2"}]
    np.testing.assert_array_equal(Image.open(tmp_path / "pictures" / "parts_3.png"), PICTURE)
    assert not (tmp_path / "wandb").exists()


def test_a_resumed_run_cuts_what_came_after_its_checkpoint(tmp_path):
    run = RunDirectory(tmp_path)
    train(run, config(tmp_path, "disabled"), 0, 7)
    train(run, config(tmp_path, "disabled"), 5, 6)
    assert steps(tmp_path / "metrics.csv") == steps(tmp_path / "timing.csv") == [1, 2, 3, 4, 5, 6]
    assert steps(tmp_path / "evaluation.csv") == [6]


class Clock:
    """Stands for the module ``time``; goes on when told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds

    def perf_counter(self) -> float:
        return self.seconds

    monotonic = perf_counter


def test_time_per_step_leaves_pictures_and_evaluations_out(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("utils.logging.time", clock)
    save = Image.Image.save
    monkeypatch.setattr(Image.Image, "save", lambda *given: clock.sleep(70) or save(*given))
    with RunLogger(RunDirectory(tmp_path), config(tmp_path, "disabled")) as logger:
        for step in range(1, 5):
            clock.sleep(step)
            logger.advance(step)
            if step == 2:
                clock.sleep(500)
                logger.log_evaluation(step, {"FG-NMI": 46.0})
                clock.sleep(500)
                logger.log_pictures(step, {"parts": PICTURE})
        logger.log(4, {"total": torch.ones((), requires_grad=True)})
    (row,) = rows(tmp_path / "timing.csv")
    assert row["step"] == "4"
    assert float(row["seconds_per_step"]) == 2.5
    assert 10 < float(row["peak_memory_mb"]) < 100_000


def test_a_row_is_on_disk_as_soon_as_it_is_logged(tmp_path):
    table = Table(tmp_path / "t.csv", 0)
    for step in (1, 2):
        table.add(step, {"loss": 0.5})
        assert steps(tmp_path / "t.csv")[-1] == step


@pytest.mark.parametrize("torn", ["3", "1", "3,0.1", "3,0.12345,"])
def test_a_row_that_was_cut_off_is_dropped(tmp_path, torn):
    path = tmp_path / "t.csv"
    path.write_text(f"step,a,b\n1,0.1,0.2\n2,0.1,0.2\n{torn}")
    Table(path, 2).add(3, {"a": 1.0, "b": 2.0})
    assert path.read_text() == "step,a,b\n1,0.1,0.2\n2,0.1,0.2\n3,1.0,2.0\n"


def test_an_empty_file_is_begun_anew(tmp_path):
    (tmp_path / "t.csv").touch()
    Table(tmp_path / "t.csv", 5).add(6, {"a": 1.0})
    assert (tmp_path / "t.csv").read_text() == "step,a\n6,1.0\n"


def test_a_number_that_appears_later_gets_a_column(tmp_path):
    table = Table(tmp_path / "t.csv", 0)
    table.add(1, {"a": 1.0})
    table.add(2, {"a": 2.0, "b": 3.0})
    table.add(3, {"b": 4.0})
    expected = [("1", "1.0", ""), ("2", "2.0", "3.0"), ("3", "", "4.0")]
    assert [tuple(row.values()) for row in rows(tmp_path / "t.csv")] == expected


def test_without_a_terminal_progress_is_plain_lines(tmp_path, capsys):
    train(RunDirectory(tmp_path), config(tmp_path, "disabled"), 0, 20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("step 1/20")
    assert lines[-1].startswith("step 20/20  total 30, feature 0.05, contrastive 2, visual 3, equivariance 4  ")
    assert len(lines) < 5


def slow_steps(path: Path, clock: Clock, seconds: float, count: int, *overrides: str) -> list[str]:
    """Steps that take so long; gives the lines of ``train.log``, without their times."""
    with RunLogger(RunDirectory(path), config(path, "disabled", "num_steps=1000", *overrides)) as logger:
        for step in range(1, count + 1):
            clock.sleep(seconds)
            logger.advance(step)
            if step % 10 == 0:
                logger.log(step, scalars(step))
    return [line[21:] for line in (path / "train.log").read_text().splitlines()]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_log_gets_a_line_a_minute_with_step_losses_speed_and_time_left(tmp_path, monkeypatch, is_terminal, capsys):
    clock = Clock()
    monkeypatch.setattr("utils.logging.time", clock)
    monkeypatch.setattr("utils.console.stderr", Console(stderr=True, force_terminal=is_terminal))
    lines = [line for line in slow_steps(tmp_path, clock, 2.5, 500) if line.startswith("step ")]
    steps = [int(re.match(r"step (\d+)/1000", line)[1]) for line in lines]
    assert max(np.diff(steps)) * 2.5 <= 60 and len(steps) < 100
    line = next(line for line in lines if line.startswith("step 205/"))
    assert line == (
        "step 205/1000  total 210, feature 0.005, contrastive 2, visual 3, equivariance 4  2.5 s/step  33 min left"
    )
    assert ("step 205/" in capsys.readouterr().err) != is_terminal


def test_time_left_has_the_evaluations_in_it_once_one_was_timed(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("utils.logging.time", clock)
    settings = config(tmp_path, "disabled", "num_steps=100", "evaluation.every=30")
    with RunLogger(RunDirectory(tmp_path), settings) as logger:
        assert logger.seconds_left(0) is None
        clock.sleep(1000)  # the first step has more to do than steps
        for step in range(1, 31):
            logger.advance(step)
            clock.sleep(2)
        assert logger.seconds_left(30) == pytest.approx(70 * 60 / 29)
        logger.advance(31)
        clock.sleep(500)
        logger.log_evaluation(30, {"NMI": 1.0})
        assert logger.seconds_left(31) == 69 * 2 + 500 * 3  # after 60, 90 and 100 steps


def test_the_log_keeps_what_was_told_and_how_the_run_ended_and_goes_on_when_it_is_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py", "output_dir=a run"])
    run, settings = RunDirectory(tmp_path), config(tmp_path, "disabled")
    with pytest.raises(UserError), RunLogger(run, settings) as logger:
        logger.say("a note with a [name] and a \udcff")
        say("one from elsewhere")
        logger.log_evaluation(3, {"NMI": 12.34})
        raise UserError("the picture is gone")
    say("before")
    with pytest.raises(ZeroDivisionError), RunLogger(run, settings, 5):
        raise ZeroDivisionError
    with RunLogger(run, settings, 20):
        pass
    text = (tmp_path / "train.log").read_text()
    lines = [re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", "", line) for line in text.splitlines()]
    assert lines[:6] == [
        "train.py 'output_dir=a run' (0 of 20 steps done)",
        "a note with a [name] and a \\udcff",
        "one from elsewhere",
        "evaluated after 3 steps: NMI 12.3",
        "error: the picture is gone",
        "train.py 'output_dir=a run' (5 of 20 steps done)",
    ]
    assert lines[6].startswith("Traceback") and lines[-3] == "ZeroDivisionError"
    assert lines[-1] == "Done." and "before" not in lines


def test_a_log_for_which_there_is_no_space_is_told_once_and_ends_nothing(tmp_path, capsys):
    (tmp_path / "train.log").symlink_to("/dev/full")
    train(RunDirectory(tmp_path), config(tmp_path, "disabled"), 0, 20)
    assert capsys.readouterr().err.count(f"cannot write {tmp_path}/train.log: No space left on device") == 1
    assert steps(tmp_path / "metrics.csv")[-1] == 20


def test_an_evaluation_says_now_and_then_how_far_it_has_come(tmp_path, monkeypatch, capsys):
    clock = Clock()
    monkeypatch.setattr("utils.console.time", clock)
    for number in tracked(range(100), "evaluating"):
        assert number is not None
        clock.sleep(1)
    lines = [line for line in capsys.readouterr().err.splitlines() if line]
    assert lines == ["evaluating: 30 of 100", "evaluating: 60 of 100", "evaluating: 90 of 100"]


def records(folder: Path):
    """Everything in the file that `wandb sync` would upload.

    The file has 7 bytes of its own, then LevelDB's log format: in blocks of 32 KiB, chunks of a checksum (4 bytes), a
    length (2), a type (1: a whole record; 2, 3, 4: its first, middle and last chunk) and the data.
    """
    (file,) = folder.glob("*.wandb")
    content = file.read_bytes()
    place, data = 7, b""
    while place + 7 <= len(content):
        if place % 32768 > 32768 - 7:  # what is left of a block is too short for a chunk
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        data += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            data = b""
            yield record


def history(folder: Path) -> list[dict]:
    found = (record.history for record in records(folder) if record.WhichOneof("record_type") == "history")
    return [{item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in one.item} for one in found]


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """A run that was logged offline, stopped after step 7 and resumed from its checkpoint at step 5."""
    path = tmp_path_factory.mktemp("offline")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_NAME", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        settings = config(path, "offline", "logging.tags=[one]", "logging.group=all", "num_parts=8")
        for first, last in ((0, 7), (5, 6)):
            train(RunDirectory(path), settings, first, last)
            time.sleep(1)  # W&B names the folder after the second in which it started
    folders = [*path.glob("wandb/superseded-offline-run-*"), *path.glob("wandb/offline-run-*")]
    assert len(folders) == 2
    deadline = time.monotonic() + 20  # its own process writes the files, and may end a little later
    while any("exit" not in {one.WhichOneof("record_type") for one in records(folder)} for folder in folders):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    return path, folders


def test_wandb_gets_losses_rate_and_evaluation_numbers_by_step(offline):
    logged = history(offline[1][0])
    losses = {row["step"]: row for row in logged if "train/total" in row}
    assert sorted(losses) == list(range(1, 8))
    for name, value in scalars(4).items():
        assert losses[4][f"train/{name}"] == pytest.approx(value)
    (evaluation,) = (row for row in logged if "evaluation/FG-NMI" in row)
    assert (evaluation["step"], evaluation["evaluation/FG-NMI"]) == (7, 46.0)
    assert evaluation["evaluation/keypoint_error_all"] == 9.2
    assert any("timing/seconds_per_step" in row for row in logged)


def test_wandb_gets_the_pictures(offline):
    folder = offline[1][0]
    (row,) = (row for row in history(folder) if any(name.startswith("pictures/parts") for name in row))
    media = row["pictures/parts"] if "pictures/parts" in row else {"path": row["pictures/parts.path"]}
    np.testing.assert_array_equal(Image.open(folder / "files" / media["path"]), PICTURE)


def test_wandb_gets_a_table_of_pictures_and_the_areas_of_parts(offline):
    folder = offline[1][0]
    logged = history(folder)
    (areas,) = (row for row in logged if "part_areas/part_1" in row)
    assert (areas["part_areas/part_1"], areas["part_areas/part_2"]) == (25, 75)
    (row,) = (row for row in logged if any(name.startswith("evaluation/pictures") for name in row))
    shown = row.get("evaluation/pictures")
    path = json.loads(shown)["path"] if isinstance(shown, str) else shown["path"] if shown else None
    table = json.loads((folder / "files" / (path or row["evaluation/pictures.path"])).read_text())
    assert table["columns"] == ["name", "picture", "part 1"] and [row[0] for row in table["data"]] == ["a", "b"]
    assert table["data"][0][2] == 12.5
    # The table's pictures lie in an artifact of W&B's own.
    found = [one.artifact for one in records(folder) if one.WhichOneof("record_type") == "artifact"]
    (pictures,) = (artifact for artifact in found if artifact.type == "run_table")
    assert any(entry.path.endswith(".png") for entry in pictures.manifest.contents)


def test_a_file_goes_to_the_wandb_run_as_an_artifact(tmp_path):
    (tmp_path / "report.html").write_text("<title>figures</title>")
    said, deadline = [], time.monotonic() + 20
    run = WandbRun(RunDirectory(tmp_path), config(tmp_path, "offline"), said.append)
    run.add(tmp_path / "report.html", "report")
    run.close()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    while not (found := [one.artifact for one in records(folder) if one.WhichOneof("record_type") == "artifact"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert found[0].type == "report" and [entry.path for entry in found[0].manifest.contents] == ["report.html"]
    assert len(said) == 1, "only how to upload it"


def test_the_newest_file_of_a_kind_is_in_a_later_offline_folder_too(tmp_path):
    """The folder that had it is superseded, and is not what one is told to upload."""
    for name in ("first", "second"):
        (tmp_path / f"{name}.html").write_text(f"<title>{name}</title>")
    settings, said, deadline = config(tmp_path, "offline"), [], time.monotonic() + 60
    run = WandbRun(RunDirectory(tmp_path), settings, said.append)
    for name in ("first", "second"):
        run.add(tmp_path / f"{name}.html", "report")
    run.close()
    time.sleep(1)  # a folder is named by its second
    WandbRun(RunDirectory(tmp_path), settings, said.append).close()
    (folder,) = tmp_path.glob("wandb/offline-run-*")
    assert len([*tmp_path.glob("wandb/superseded-offline-run-*")]) == 1
    while not (found := [one.artifact for one in records(folder) if one.WhichOneof("record_type") == "artifact"]):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert [[entry.path for entry in artifact.manifest.contents] for artifact in found] == [["second.html"]]
    assert len(said) == 2, "only how to upload each"


def test_wandb_gets_the_config_and_the_names(offline):
    path, (folder, _) = offline
    (run,) = (record.run for record in records(folder) if record.WhichOneof("record_type") == "run")
    logged = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert logged["num_parts"] == 8 and logged["loss_weights"]["contrastive"] == 2300
    assert (run.project, run.run_group, list(run.tags)) == ("unsupervised-parts", "all", ["one"])
    assert run.display_name == path.name


def test_a_resumed_run_stays_the_same_wandb_run(offline):
    path, folders = offline
    identity = (path / "wandb_id.txt").read_text().strip()
    assert [folder.name.endswith(identity) for folder in folders] == [True, True]
    assert [row["step"] for row in history(folders[1]) if "train/total" in row] == [1, 2, 3, 4, 5, 6]


def test_how_to_upload_an_offline_run_is_told_in_one_line(tmp_path, monkeypatch):
    said = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setattr(wandb, "login", lambda **_: False)
    run = WandbRun(RunDirectory(tmp_path), config(tmp_path, "auto"), said.append)
    run.close()
    assert len(said) == 1
    pattern = re.search(r"wandb sync (\S+)$", said[0])[1]
    assert list(Path("/").glob(pattern.lstrip("/")))


@pytest.mark.parametrize(
    ("wanted", "variable", "logged_in", "mode"),
    [
        ("auto", None, True, "online"),
        ("auto", None, False, "offline"),
        ("auto", "disabled", True, None),
        ("auto", "offline", True, "offline"),
        ("offline", "online", True, "offline"),
        ("disabled", "online", True, None),
    ],
)
def test_where_wandb_logs(tmp_path, monkeypatch, wanted, variable, logged_in, mode):
    started = []
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if variable is not None:
        monkeypatch.setenv("WANDB_MODE", variable)
    monkeypatch.setattr(wandb, "login", lambda **_: logged_in)
    monkeypatch.setattr(wandb, "init", lambda **options: started.append(options["mode"]) or _refuse())
    WandbRun(RunDirectory(tmp_path), config(tmp_path, wanted), lambda _: None)
    assert started[:1] == ([] if mode is None else [mode])


def _refuse(*_, **__):
    raise ConnectionError("no network")


def test_wandb_failing_to_start_or_to_log_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(wandb, "init", _refuse)
    train(RunDirectory(tmp_path), config(tmp_path, "online"), 0, 2)
    assert "no network" in capsys.readouterr().err
    assert steps(tmp_path / "metrics.csv") == [1, 2]

    class Broken:
        id = "abc"
        settings = wandb.Settings(mode="online")
        log = finish = _refuse

        def define_metric(self, *_, **__):
            pass

    monkeypatch.setattr(wandb, "init", lambda **_: Broken())
    train(RunDirectory(tmp_path), config(tmp_path, "online"), 2, 4)
    assert capsys.readouterr().err.count("no network") == 1
    assert steps(tmp_path / "metrics.csv") == [1, 2, 3, 4]


def test_a_picture_that_cannot_be_made_for_wandb_does_not_end_the_run(tmp_path, monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp")

    monkeypatch.setattr(wandb, "Image", full)
    settings = config(tmp_path, "offline")
    with RunLogger(RunDirectory(tmp_path), settings) as logger:
        logger.log_pictures(1, {"parts": np.zeros((4, 4, 3), np.uint8)})
        logger.log(1, scalars(1))
    assert "No space left on device" in capsys.readouterr().err
    assert steps(tmp_path / "metrics.csv") == [1] and (tmp_path / "pictures/parts_1.png").is_file()


def test_a_run_after_one_that_wandb_gave_up_is_one_of_its_own(tmp_path, monkeypatch):
    """Jobs of a sweep run in one process."""
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        path.mkdir()
    with monkeypatch.context() as patched:
        patched.setattr(wandb, "Table", lambda *_: 1 / 0)
        train(RunDirectory(first), config(first, "offline"), 0, 1)
    train(RunDirectory(second), config(second, "offline"), 0, 1)
    assert all(len(list(path.glob("wandb/offline-run-*/*.wandb"))) == 1 for path in (first, second))


@pytest.mark.parametrize(("mode", "told"), [("disabled", 0), ("offline", 1), ("auto", 1)])
def test_a_run_needs_no_wandb(tmp_path, monkeypatch, capsys, mode, told):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    train(RunDirectory(tmp_path), config(tmp_path, mode), 0, 2)
    assert capsys.readouterr().err.count("Going on without it") == told
    assert steps(tmp_path / "metrics.csv") == [1, 2]


def test_rows_are_on_the_disk_itself_before_a_checkpoint_is(tmp_path, monkeypatch):
    flushed = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: flushed.append(os.readlink(f"/proc/self/fd/{file}")) or sync(file))
    with RunLogger(RunDirectory(tmp_path), config(tmp_path, "disabled", "logging.page=false")) as logger:
        logger.log(1, scalars(1))
        logger.flush()
    assert flushed[-1] == str(tmp_path / "metrics.csv")
