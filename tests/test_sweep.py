import csv
import json
import re
import shutil
import subprocess
from pathlib import Path

import hydra
import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

import evaluate as evaluate_program
import predict as predict_program
import train as train_program
from conf import app
from conf.schema import EvaluateConfig, PredictConfig, TrainConfig
from datasets import synthetic
from datasets.example import draw_folder
from models.export import ExportConfig
from tests.composition import composed
from tests.processes import ROOT, run_elsewhere, run_python
from utils.once import keeping
from utils.sweep import Job, final_metrics, job_name, main, read, report, summary

DRAWN = ("dataset_name=synthetic", "dataset.drawing.num_train=4", "dataset.drawing.num_test=4")
JOBLIB = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
# A task that is quick and writes what evaluate.py writes. Its seeds: 5 waits, 6 is killed by the system, 7 is refused,
# 8 is a fault, 9 is Ctrl-C.
PROGRAM = """
import json, multiprocessing, os, signal, sys, time
from pathlib import Path
from conf.app import run
from utils.errors import UserError

def task(config):
    if config.seed == 5:
        time.sleep(60)
    if config.seed == 6:
        while not (Path(config.output_dir).parent / "jobs/seed_5.yaml").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 7:
        raise UserError("seven is no good")
    if config.seed == 8:
        raise KeyError("a fault")
    if config.seed == 9:
        raise KeyboardInterrupt
    child = multiprocessing.Process(target=print, args=("a process of the job's",))  # as DataLoader starts them
    child.start()
    child.join()
    print("seed", config.seed, "of", config.logging.group, "from", *sys.argv[1:])
    directory = Path(config.output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    figures = {"FG-NMI": 10.0 * config.seed + config.num_parts, "ARI": 50.0, "produced_by": {}}
    (directory / "metrics.json").write_text(json.dumps(figures))

run("train", task)
"""


@pytest.fixture
def sweep(tmp_path):
    """Runs the program in a directory that is neither its own nor the project's, and gives its result."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/program.py").write_text(PROGRAM)

    def call(*arguments: str) -> subprocess.CompletedProcess:
        return run_elsewhere(tmp_path / "elsewhere/program.py", *arguments, cwd=tmp_path)

    return call


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def record(sweep: Path, number: int, overrides: dict, status: int | None = 0, **metrics: float) -> Job:
    """A job on disk."""
    (sweep / "jobs").mkdir(parents=True, exist_ok=True)
    (sweep / "sweep.yaml").write_text(yaml.safe_dump({"command": ["train.py"], "swept": list(overrides)}))
    job = Job(job_name(overrides, number), number, overrides, status=status, error="no good" if status else "")
    job.save(sweep)
    if metrics:
        (sweep / job.name).mkdir()
        (sweep / job.name / "metrics.json").write_text(json.dumps(metrics))
    return job


@pytest.mark.parametrize(
    "launcher", ["basic", *(pytest.param(name, marks=pytest.mark.slow) for name in ("joblib", "submitit_local"))]
)
def test_a_failed_job_is_reported_and_the_others_go_on(sweep, tmp_path, launcher):
    workers = ["hydra.launcher.n_jobs=2"] if launcher == "joblib" else []
    done = sweep("-m", "seed=1,7,3", "num_parts=4", f"hydra/launcher={launcher}", *workers)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (directory,) = (tmp_path / "runs/sweeps").iterdir()
    assert [(row["job"], row["seed"], row["outcome"], row["FG-NMI"]) for row in rows(directory / "sweep.csv")] == [
        ("seed_1", "1", "done", "14.0"),
        ("seed_7", "7", "failed", ""),
        ("seed_3", "3", "done", "34.0"),
    ]
    assert "24.0 ±\u00a014.1" in done.stdout and "mean ± std of 2" in done.stdout
    *_, failed, summary = done.stderr.splitlines()
    assert failed == "seed=7: failed: seven is no good"
    assert summary.startswith("error: 1 of 3 jobs not done: seed=7.")

    # Where jobs run side by side each one's output is a file.
    output = done.stdout if launcher == "basic" else (directory / "jobs/seed_3.log").read_text()
    its_command = f"from seed=3 num_parts=4 output_dir=runs/sweeps/{directory.name}/seed_3"
    assert f"seed 3 of {directory.name} {its_command}" in output


def test_every_job_is_checked_before_the_first_one_starts(sweep, tmp_path):
    done = sweep("-m", "seed=1,2", "num_parts=3,1", "dataset_name=synthetic")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: job seed=1 num_parts=1: num_parts must be at least 2, not 1.",
        "error: job seed=2 num_parts=1: num_parts must be at least 2, not 1.",
        "No job was started.",
    ]
    assert not list(tmp_path.rglob("jobs"))


def test_a_fault_of_the_code_in_one_job_is_status_1_and_keeps_its_traceback(sweep, tmp_path):
    done = sweep("-m", "seed=8,7,1", "output_dir=mine")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "seed=8: failed: KeyError: 'a fault'" in done.stderr
    assert (tmp_path / "mine/seed_1/metrics.json").is_file() and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_job_that_is_killed_ends_the_command_with_a_table_of_those_that_were_started(sweep, tmp_path):
    killed = sweep("-m", "seed=5,6,3", "num_parts=4", "output_dir=a b", *JOBLIB)
    assert killed.returncode == 1
    outcomes = [(row["job"], row["outcome"]) for row in rows(tmp_path / "a b/sweep.csv")]
    assert outcomes == [("seed_5", "unfinished"), ("seed_6", "unfinished")]
    assert "error: the launcher gave up: " in killed.stderr
    assert killed.stderr.splitlines()[-1].startswith("error: 2 of 2 jobs not done: seed=5, seed=6.")


def test_ctrl_c_ends_the_sweep_and_shows_what_is_done(sweep):
    done = sweep("-m", "seed=1,9,2")
    assert done.returncode == 130
    assert "Interrupted.\n" in done.stderr and "seed=9: unfinished" in done.stderr and "seed 2" not in done.stdout
    assert "14.0" in done.stdout


@pytest.mark.slow
def test_a_mistake_in_the_command_starts_nothing_and_leaves_nothing(sweep, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    for argument, message in {
        "num_partz=4,5": "unknown key 'num_partz'",
        "output_dir=a,b": "output_dir is the directory of the whole sweep",
        "output_dir=full": "full: it is not an empty directory",
        "num_parts=4,4": "num_parts=4,4 makes the same job twice",
        "optimizer.lr=interval(1,2)": "does not support sweep type",
    }.items():
        done = sweep("-m", "seed=1,2", argument)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.count("\n") == 1 and message in done.stderr, argument
    assert {path.name for path in tmp_path.rglob("*")} - {"runs", "sweeps"} == {
        *("elsewhere", "program.py", "full", "file"),
    }


def test_jobs_keep_a_group_that_is_given(sweep):
    assert "of mine from" in sweep("-m", "seed=1,2", "logging.group=mine").stdout


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ({"seed": "1"}, "seed_1"),
        ({"num_parts": "4", "optimizer.lr": "1e-4"}, "num_parts_4+optimizer.lr_1e-4"),
        ({"checkpoint": "runs/a"}, "checkpoint_runs_a_3"),
        ({"dataset.category": "'a b'"}, "dataset.category__a_b__3"),
        ({}, "job_3"),
    ],
)
def test_a_job_is_named_after_its_overrides_in_characters_that_need_no_quotes(overrides, name):
    assert job_name(overrides, 3) == name
    assert composed(f"resume=runs/sweeps/2026-11-21_11-25-09/{name}").resume.endswith(name)
    long = [job_name({"loss_weights": "x" * 300 + end}, number) for number, end in enumerate("ab")]
    assert long[0] != long[1] and max(map(len, long)) < 255


def test_the_mean_is_over_jobs_that_differ_in_the_seed_alone():
    def job(number, seed, num_parts, status=0, **metrics):
        return Job("", number, {"seed": seed, "num_parts": num_parts}, status=status, metrics=metrics)

    jobs = [
        job(0, "1", "4", nmi=45.0, ari=20.0),
        job(1, "1", "8", nmi=50.0),
        job(2, "2", "4", nmi=48.0),
        job(3, "2", "8", status=2),
        job(4, "3", "4", nmi=42.0, ari=21.0),
    ]
    four = {"num_parts": "4", "seeds": 3, "nmi": 45.0, "nmi std": 3.0}
    assert summary(jobs)[1] == [four]
    assert summary([Job("", 0, {"num_parts": str(k)}, status=0, metrics={"nmi": 1.0}) for k in (4, 5)])[1] == []


def test_the_table_puts_seeds_of_a_setting_together_and_cuts_no_figure_on_a_narrow_terminal(tmp_path, capsys):
    for number, (seed, num_parts) in enumerate([(1, 4), (1, 8), (2, 4), (2, 8)]):
        metrics = {f"metric_number_{place}": 10.0 * seed + num_parts + place for place in range(12)}
        record(tmp_path, number, {"seed": str(seed), "num_parts": str(num_parts)}, **metrics)
    Console(width=60).print(summary(read(tmp_path))[0], crop=False)
    shown = [line.split() for line in capsys.readouterr().out.splitlines() if "num_parts" in line]
    assert [line[:2] for line in shown] == [
        *(["seed=1", "num_parts=4"], ["seed=2", "num_parts=4"], ["num_parts=4", "mean"]),
        *(["seed=1", "num_parts=8"], ["seed=2", "num_parts=8"], ["num_parts=8", "mean"]),
    ]
    assert shown[0][2:] == [f"{14 + place:.1f}" for place in range(12)]


def test_the_heads_of_the_table_say_what_is_in_percent():
    training = {"loss_total": 8.0, "seconds": 20.0}
    table = summary([Job("", 0, {"seed": "1"}, status=0, metrics={"FG-NMI": 1.0}, training=training)])[0]
    assert [column.header for column in table.columns] == ["job", "FG-NMI %", "loss total", "seconds"]
    failed = summary([Job("", 0, {"seed": "1"}, status=2)])[0]
    assert [column.header for column in failed.columns] == ["job", "outcome"]


def test_a_large_loss_is_not_cut_on_a_narrow_terminal_either(capsys):
    jobs = [
        Job("", seed, {"seed": str(seed)}, status=0, metrics={"nmi": 1.0}, training={"loss_total": 85040.0 * seed})
        for seed in (1, 2)
    ]
    Console(width=24).print(summary(jobs)[0], crop=False)
    shown = capsys.readouterr().out
    assert "8.504e+04" in shown and "1.276e+05" in shown and "6.013e+04" in shown


def test_files_of_the_table_hold_every_digit(tmp_path, capsys):
    record(tmp_path, 0, {"seed": "1"}, nmi=10.123456)
    record(tmp_path, 1, {"seed": "2"}, nmi=12.123456)
    assert report(tmp_path) == 0
    assert rows(tmp_path / "sweep.csv")[1] == {"job": "seed_2", "seed": "2", "outcome": "done", "nmi": "12.123456"}
    (mean,) = rows(tmp_path / "sweep_mean.csv")
    assert {name: float(value) for name, value in mean.items()} == pytest.approx(
        {"seeds": 2, "nmi": 11.123456, "nmi std": 2**0.5}
    )


def test_a_run_gives_its_last_evaluation_and_a_failed_one_that_was_resumed_to_the_end_counts(tmp_path, capsys):
    for number, (status, last) in enumerate([(0, 20), (1, 20), (1, 10), (None, 10)]):
        job = record(tmp_path, number, {"num_parts": str(number)}, status)
        run = tmp_path / job.name
        run.mkdir()
        (run / "config.yaml").write_text("num_steps: 20\n")
        (run / "evaluation.csv").write_text(f"step,NMI,ARI\n5,1.0,2.0\n{last},3.0,\n")
    done, resumed, failed, unfinished = read(tmp_path)
    assert done.metrics == resumed.metrics == {"NMI": 3.0}
    assert (failed.metrics, failed.outcome, unfinished.outcome) == ({}, "failed", "unfinished")
    assert main([str(tmp_path)]) == 1
    assert "error: 2 of 4 jobs not done: num_parts=2, num_parts=3." in capsys.readouterr().err


def test_the_table_has_last_losses_and_seconds_of_runs_and_figures_also_where_nothing_is_annotated(tmp_path, capsys):
    for number, (parts, seed) in enumerate([(4, 1), (4, 2), (8, 1)]):
        job = record(tmp_path, number, {"num_parts": str(parts), "seed": str(seed)}, 0)
        run = tmp_path / job.name
        run.mkdir()
        (run / "config.yaml").write_text("num_steps: 20\nloss_weights: {feature: 1, visual: 2}\n")
        columns = "step,feature,visual,total,learning_rate"
        (run / "metrics.csv").write_text(f"{columns}\n10,9,9,9,1\n20,0.5,0.25,{1234.5 + seed},1\n")
        (run / "timing.csv").write_text("step,seconds_per_step,peak_memory_mb\n10,2.0,1\n20,4.0,1\n")
        (run / "evaluation.csv").write_text(f"step,warp_agreement\n20,{70.0 + parts}\n")
    assert read(tmp_path)[0].training == {"loss_total": 1235.5, "loss_feature": 0.5, "loss_visual": 0.25, "seconds": 60}
    assert main([str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"warp agreement % +loss total +seconds", shown)
    assert re.search(r"num_parts=4 seed=1 +74.0 +1236 +60", shown)
    assert re.search(r"num_parts=4 mean ± std of 2 +74.0 ±.0.0 +1236 ±.0.7071 +60 ±.0", shown)
    with (tmp_path / "sweep.csv").open() as file:
        assert (
            file.readline() == "job,num_parts,seed,outcome,warp_agreement,loss_total,loss_feature,loss_visual,seconds\n"
        )
    assert "loss_total std" in (tmp_path / "sweep_mean.csv").read_text()


def test_the_command_asks_for_a_sweep(tmp_path, capsys):
    assert main([]) == main([str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("python -m utils.sweep") == 2


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The real program, small; with one thread wherever it runs, as sums depend on how many there are."""
    small = ["dataset_name=synthetic", "dataset.drawing.num_train=4", "dataset.drawing.num_test=4", "image_size=32"]
    small += ["experiment=debug", "num_steps=1", "evaluation.size=32", "logging.wandb=offline", "device=cpu"]
    command = ROOT / "train.py", *arguments, *small
    return run_python(*command, cwd=folder, timeout=600, environment={"OMP_NUM_THREADS": "1"})


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The run of seed 2 outside of any sweep."""
    folder = tmp_path_factory.mktemp("alone")
    done = train(folder, "seed=2", "output_dir=run")
    assert done.returncode == 0, done.stderr
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_seed_trains_in_a_sweep_as_it_does_alone(tmp_path, alone, launcher):
    done = train(tmp_path, "-m", "seed=1,2", "num_parts=4,5", "output_dir=swept", f"hydra/launcher={launcher}")
    assert done.returncode == 0, done.stderr
    run, other = tmp_path / "swept/seed_2+num_parts_4", tmp_path / "swept/seed_1+num_parts_4"
    assert (run / "evaluation.csv").read_text() == (alone / "evaluation.csv").read_text()
    assert yaml.safe_load((run / "config.yaml").read_text())["logging"]["group"] == "swept"
    assert (run / "wandb_id.txt").read_text() != (other / "wandb_id.txt").read_text()
    assert rows(tmp_path / "swept/sweep_mean.csv")[0]["seeds"] == "2"


def test_a_damaged_table_of_a_run_is_said_and_ends_no_table_of_a_sweep(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("num_steps: 10\n")
    (tmp_path / "evaluation.csv").write_text("step,FG-NMI\n10,3o.5\n")
    assert final_metrics(tmp_path) is None
    assert "evaluation.csv left out: it is damaged" in capsys.readouterr().err.replace("\n", " ")


@pytest.fixture
def refused(monkeypatch, tmp_path):
    """What is said of a job of a training sweep before the first one starts."""
    monkeypatch.chdir(tmp_path)
    small = ("batch_size=4", "segmenter.weights=none", "perceptual.weights=none")
    with hydra.initialize_config_dir(str(app.CONF), version_base="1.3"):
        yield lambda *own: app._refused(
            "train",
            [*small, *(() if "dataset_name=CUB" in own else DRAWN), *own],
            TrainConfig,
            train_program.inputs,
        )


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (["dataset_name=CUB", "dataset_root=gone"], "gone/CUB"),
        (["segmenter.weights=gone.pth"], "segmenter.weights=gone.pth: there is no such file or run"),
        (["perceptual.weights=gone.pth"], "perceptual.weights=gone.pth: there is no such file or run"),
        (["batch_size=5"], "has 4 training images, fewer than batch_size=5"),
        (["dataset.saliency=gone"], "gone"),
        (["method=region_grouping", "method.num_classes=5"], "method.num_classes=5: dataset_name=synthetic has "),
        (["num_parts=1"], "num_parts must be at least 2, not 1."),
    ],
    ids=str,
)
def test_what_a_job_would_miss_at_its_start_is_told_before_the_first_one(refused, own, message):
    assert message in refused(*own)


def test_a_job_that_can_start_is_not_refused_and_says_nothing_yet(refused, capsys):
    assert refused("seed=3") is None and capsys.readouterr() == ("", "")


def test_on_the_machines_of_a_cluster_files_are_not_looked_for_here(refused):
    assert refused("segmenter.weights=gone.pth", "hydra/launcher=submitit_slurm") is None
    assert "at least 2" in refused("num_parts=1", "hydra/launcher=submitit_slurm")


def test_jobs_on_runs_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with hydra.initialize_config_dir(str(app.CONF), version_base="1.3"):
        of_training = app._refused("train", ["resume=gone"], TrainConfig, train_program.inputs)
        others = [
            app._refused("evaluate", ["checkpoint=gone"], EvaluateConfig, evaluate_program.inputs),
            app._refused("predict", ["checkpoint=gone"], PredictConfig, predict_program.inputs),
            app._refused("export", ["checkpoint=gone", "output_path=a.onnx"], ExportConfig, app._require_checkpoint),
        ]
    assert "No run to resume in gone" in of_training
    assert all(message.startswith("No checkpoint at gone") for message in others)


@pytest.mark.parametrize(
    ("program", "own", "message"),
    [
        ("evaluate", ["dataset_name=CUB", "dataset_root=gone"], "gone/CUB"),
        ("evaluate", ["predictions=gone"], "predictions=gone is no directory"),
        ("evaluate", ["baseline=[dff]", "perceptual.weights=gone.pth"], "weights=gone.pth: there is no such file"),
        ("evaluate", ["baseline=[untrained]"], None),
        ("predict", ["images=gone"], "gone"),
        ("predict", ["images=pictures", "masks=gone"], "gone"),
        ("predict", ["images=pictures", "foreground=gone"], "No checkpoint at gone"),
        ("predict", ["images=pictures", "pretrained.weights=gone.pth"], "weights=gone.pth: there is no such file"),
        ("predict", ["images=pictures", "task=parts"], "pretrained=maskrcnn finds the foreground"),
        ("predict", ["images=pictures"], None),
    ],
    ids=str,
)
def test_what_an_evaluation_or_a_prediction_would_miss_is_told_before_the_first_job(
    monkeypatch, tmp_path, program, own, message
):
    monkeypatch.chdir(tmp_path)
    Path("pictures").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("pictures/a.png")
    schema, inputs, more = {
        "evaluate": (EvaluateConfig, evaluate_program.inputs, [*DRAWN, "baseline=[midpoint]"]),
        "predict": (PredictConfig, predict_program.inputs, ["pretrained=maskrcnn"]),
    }[program]
    given = {argument.partition("=")[0]: argument for argument in [*more, *own]}
    if "dataset_name=CUB" in own:
        given = {key: argument for key, argument in given.items() if not key.startswith("dataset.")}
    with hydra.initialize_config_dir(str(app.CONF), version_base="1.3"):
        found = app._refused(program, [*given.values()], schema, inputs)
    assert found is None if message is None else message in found


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (["part_names=[a,b]"], "part_names are 2, parts 4: name each, or none."),
        (["baseline=[kmeans_colours,midpoint]"], "baseline=[midpoint] is a row of the keypoint error, and "),
        (["part_names=[a,b,c,d]", "baseline=[kmeans_colours]"], None),
    ],
    ids=str,
)
def test_names_and_baselines_that_do_not_fit_are_told_before_the_first_job(monkeypatch, tmp_path, own, message):
    monkeypatch.chdir(tmp_path)
    draw_folder(Path("data"), count=4, size=48)
    Path("data/keypoints.csv").unlink()
    Path("found").mkdir()
    for path in Path("data/parts").glob("*.png"):
        shutil.copy(path, f"found/{path.stem}.jpg.png")
    given = ["dataset_name=folder", "dataset_root=data", "predictions=found", *own]
    with hydra.initialize_config_dir(str(app.CONF), version_base="1.3"):
        found = app._refused("evaluate", given, EvaluateConfig, evaluate_program.inputs)
    assert found is None if message is None else message in found


def test_jobs_that_share_a_data_set_have_it_read_once_for_their_check_and_no_longer(refused, monkeypatch):
    read = []
    build = synthetic.build
    monkeypatch.setattr(synthetic, "build", lambda *how: read.append(how) or build(*how))
    with keeping():
        assert [refused(f"seed={seed}", "num_parts=5") for seed in (1, 2, 3)] == [None] * 3
        assert [(split, purpose) for _, _, split, purpose in read] == [
            *(("train", "training"), ("test", "evaluation"), ("train", "evaluation")),
        ]
        assert refused("seed=1", "dataset.drawing.num_train=5") is None and len(read) == 6  # another one
    assert refused("seed=1") is None and len(read) == 9


@pytest.mark.slow
def test_a_sweep_whose_last_job_lacks_its_weights_starts_none(tmp_path):
    done = train(tmp_path, "-m", "segmenter.weights=none,gone.pth", "perceptual.weights=none", "output_dir=swept")
    assert done.returncode == 2 and not (tmp_path / "swept").exists()
    assert done.stderr.splitlines()[0].startswith("error: job segmenter.weights=gone.pth: segmenter.weights=gone.pth: ")
    assert done.stderr.splitlines()[1:] == ["No job was started."]
