import errno
import shlex
import shutil
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from conf.schema import validate
from conf.trained import resumed_config
from tests.composition import composed
from tests.shared import GOLDEN
from utils import run_directory
from utils.errors import UserError
from utils.run_directory import RunDirectory, code_state, to_resume, versions


@pytest.fixture
def no_code_state(monkeypatch):
    monkeypatch.setattr(run_directory, "code_state", lambda: ("commit", b"difference"))


@pytest.fixture
def run(tmp_path, no_code_state):
    """A run on the drawn set."""
    config = composed("dataset_name=synthetic", "num_parts=8", f"output_dir={tmp_path}/run")
    return RunDirectory.of(config)


def resumed(run: RunDirectory, *overrides: str):
    arguments = [f"resume={run.path}", *overrides]
    return validate(resumed_config(composed(*arguments), arguments))


def test_a_run_holds_its_resolved_config_and_the_state_of_the_code(run):
    saved = OmegaConf.load(run.path / "config.yaml")
    assert saved.num_parts == 8
    assert "${" not in (run.path / "config.yaml").read_text()
    assert (run.path / "code" / "commit.txt").read_text() == "commit\n"
    assert (run.path / "code" / "uncommitted.diff").read_text() == "difference"
    assert "torch: " in (run.path / "code" / "environment.txt").read_text()
    assert (run.path / "checkpoints").is_dir() and (run.path / "pictures").is_dir()


def test_runs_of_the_same_second_get_directories_of_their_own(tmp_path, monkeypatch, no_code_state):
    monkeypatch.chdir(tmp_path)
    config = composed("dataset_name=synthetic")
    paths = {RunDirectory.of(config).path for _ in range(3)}
    assert len(paths) == 3
    assert all(path.parent.name == "runs" and "synthetic" in path.name for path in paths)


def test_a_directory_that_holds_a_run_is_not_used_again(run):
    with pytest.raises(UserError, match=f"resume={run.path}"):
        RunDirectory.of(composed(f"output_dir={run.path}"))


def test_a_directory_that_holds_something_else_is_not_used(tmp_path):
    (tmp_path / "notes.txt").touch()
    for place in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(UserError, match="not an empty directory: give another"):
            RunDirectory.of(composed(f"output_dir={place}"))


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write the run directory .*file/run"):
        RunDirectory.of(composed(f"output_dir={tmp_path}/file/run"))


def test_a_resumed_run_has_its_own_config_with_only_the_given_changes(run):
    before = OmegaConf.load(run.path / "config.yaml")
    config = resumed(run, "logging.every=3", "optimizer.lr=0.5", "loader.num_workers=0")
    assert (config.logging.every, config.optimizer.lr, config.loader.num_workers) == (3, 0.5, 0)
    config.logging.every, config.loader.num_workers = before.logging.every, before.loader.num_workers
    config.optimizer.lr, config.resume = before.optimizer.lr, None
    assert config == before


def test_a_run_that_a_broken_picture_ended_may_go_on_without_it(run):
    assert resumed(run, "dataset.on_error=skip").dataset.on_error == "skip"


def test_a_cache_can_be_taken_up_or_given_up_in_the_middle_of_a_run(run):
    dataset = resumed(run, "dataset.cache=disk", "dataset.cache_dir=elsewhere").dataset
    assert (dataset.cache, dataset.cache_dir) == ("disk", "elsewhere")


def test_a_resumed_run_may_train_longer_once_its_schedule_does(run):
    with pytest.raises(UserError, match="optimizer.poly_steps"):
        resumed(run, "num_steps=900")
    assert resumed(run, "num_steps=900", "optimizer.poly_steps=900").num_steps == 900


@pytest.mark.parametrize(
    ("override", "key", "before"),
    [
        ("num_parts=4", "num_parts", "8"),
        ("image_size=128", "image_size", "64"),
        ("batch_size=6", "batch_size", "8"),
        ("seed=1", "seed", "1234"),
        ("dataset_name=CUB", "dataset_name", "synthetic"),
        ("dataset.train_mask=supervised", "dataset.train_mask", "gt"),
        ("segmenter=torchvision", "segmenter.variant", "caffe"),
        ("segmenter.init=normal", "segmenter.init", "he"),
        ("perceptual=vgg16", "perceptual.network", "vgg19"),
        ("+perceptual.layers.relu1_1=1", "perceptual.layers.relu1_1", "None"),
        ("method.temperature=1", "method.temperature", "0.19"),
        ("optimizer=sgd", "optimizer.name", "adamw"),
    ],
)
def test_a_change_of_network_or_data_is_refused_with_both_values(run, override, key, before):
    with pytest.raises(UserError, match=f"trained with {key}={before}: it cannot go on with {key}="):
        resumed(run, override)


@pytest.mark.parametrize(
    "override",
    ["experiment=debug", "~experiment", "recipe=foreground_CUB", "baseline=[untrained]", "output_dir=elsewhere"],
)
def test_what_would_make_another_run_is_refused(run, override):
    with pytest.raises(UserError, match="resumed|goes on in"):
        resumed(run, override)


def test_values_that_the_run_has_already_are_accepted(run):
    same = ("num_parts=8", "dataset_name=synthetic", "dataset_root=data", "segmenter.variant=caffe", "seed=1234")
    assert resumed(run, *same, f"output_dir={run.path}/../run").num_parts == 8


def test_places_may_change_and_what_has_another_name_there_may_not(run, capsys):
    config = OmegaConf.load(run.path / "config.yaml")
    OmegaConf.update(config, "perceptual.weights", "/there/vgg.pth")
    OmegaConf.update(config, "dataset.lists", {"train": "200 names, ab"})
    OmegaConf.save(config, run.path / "config.yaml")
    moved = ("dataset_root=elsewhere", "dataset.folder=other", "perceptual.weights=/here/vgg.pth")
    config = resumed(run, *moved)
    assert (config.dataset_root, config.dataset.folder, config.perceptual.weights) == (
        "elsewhere",
        "other",
        "/here/vgg.pth",
    )
    assert (
        config.dataset.lists == {"train": "200 names, ab"} and resumed(run, "dataset.lists=null").dataset.lists is None
    )
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="perceptual.weights=/there/vgg.pth: it cannot go on with .*=/here/dino.pth"):
        resumed(run, "perceptual.weights=/here/dino.pth")
    with pytest.raises(UserError, match="dataset.saliency=None: it cannot go on with dataset.saliency=maps"):
        resumed(run, "dataset.saliency=maps")


def test_that_the_data_of_an_older_run_cannot_be_compared_is_told(run, capsys):
    assert resumed(run, "dataset_root=elsewhere").dataset_root == "elsewhere"
    assert "The run knows no lists of its data" in capsys.readouterr().err


def test_what_a_run_has_measured_stays_where_its_network_is_named_again(run):
    config = OmegaConf.load(run.path / "config.yaml")
    OmegaConf.update(config, "perceptual.factor", 2.5)
    OmegaConf.save(config, run.path / "config.yaml")
    assert resumed(run, "perceptual=vgg19", "perceptual.weights=none").perceptual.factor == 2.5
    with pytest.raises(UserError, match="perceptual.factor=2.5: it cannot go on with perceptual.factor=3"):
        resumed(run, "perceptual.factor=3")


def test_resuming_keeps_the_earlier_config_and_can_be_done_again(run):
    assert RunDirectory.of(resumed(run, "logging.every=3")).path == run.path
    assert OmegaConf.load(run.path / "config.yaml").logging.every == 3
    (kept,) = run.path.glob("code/resumed_*/config_before.yaml")
    assert OmegaConf.load(kept).logging.every != 3
    assert (kept.parent / "commit.txt").exists()
    assert resumed(run).logging.every == 3


def test_a_moved_run_goes_on_where_it_is_now(run):
    moved = run.path.rename(run.path.with_name("moved"))
    assert resumed(RunDirectory(moved)).output_dir == str(moved)


# What their command lines gave beside data set and method.
GIVEN = {"PP": ["dataset.category=cat"], "folder": ["experiment=small"]}


@pytest.mark.parametrize("file", sorted((GOLDEN / "config_format_1").iterdir()), ids=lambda file: file.stem)
def test_a_run_of_the_first_format_goes_on_with_the_config_that_it_would_have_now(file, tmp_path):
    shutil.copy(file, tmp_path / "config.yaml")
    name, _, method = file.stem.partition("_")
    # Every checkpoint was kept, and short recipes had pictures as seldom as others.
    then = ("checkpointing.keep=null", "logging.image_every=1000")
    given = [f"dataset_name={name}", f"method={method}", *then, *GIVEN.get(name, [])]
    assert resumed(RunDirectory(tmp_path)) == composed(*given, f"output_dir={tmp_path}", f"resume={tmp_path}")


def test_no_run_or_a_config_that_does_not_fit_is_told(tmp_path):
    with pytest.raises(UserError, match="No run to resume"):
        resumed(RunDirectory(tmp_path))
    for content in ("num_stepz: 3\n", "num_steps: [\n", "num_steps: many\n"):
        (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(UserError, match="config.yaml does not fit"):
            resumed(RunDirectory(tmp_path))


def test_what_a_cut_config_lacks_can_be_given(run):
    whole = (run.path / "config.yaml").read_text()
    (run.path / "config.yaml").write_text(whole.replace("num_steps:", "# num_steps:"))
    with pytest.raises(UserError, match="config.yaml has no num_steps: it is cut off"):
        resumed(run)
    assert resumed(run, "num_steps=7").num_steps == 7


def test_a_full_disk_leaves_no_half_a_config(tmp_path, monkeypatch, no_code_state):
    def save(config, path):
        path.write_text("dataset_name: syn")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(run_directory.OmegaConf, "save", save)
    with pytest.raises(UserError, match="No space left"):
        RunDirectory.of(composed(f"output_dir={tmp_path / 'run'}"))
    assert not list((tmp_path / "run").glob("*config.yaml*"))


def git(folder, *arguments: str) -> str:
    identity = ("-c", "user.name=n", "-c", "user.email=e@x")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_the_saved_difference_brings_the_code_back_new_files_included(tmp_path, monkeypatch):
    work, copy = tmp_path / "work", tmp_path / "copy"
    work.mkdir()
    git(work, "init", "-q")
    (work / "old.py").write_text("one\n")
    (work / ".gitignore").write_text("data/\n")
    git(work, "add", ".")
    git(work, "commit", "-qm", "first")
    git(tmp_path, "clone", "-q", str(work), str(copy))
    (work / "old.py").write_text("two\n")
    (work / "new.py").write_text("three\n")
    (work / "data").mkdir()
    (work / "data" / "big").write_text("not code")
    (work / "large.txt").write_text("x" * (run_directory.UNTRACKED_LIMIT + 1))
    status = git(work, "status", "--porcelain")

    monkeypatch.setattr(run_directory, "ROOT", work)
    commit, difference = code_state()
    assert commit == git(work, "rev-parse", "HEAD").strip()
    assert versions()["code"] == f"{commit}-dirty"
    assert git(work, "status", "--porcelain") == status
    (tmp_path / "saved.diff").write_bytes(difference)
    git(copy, "apply", str(tmp_path / "saved.diff"))
    assert (copy / "old.py").read_text() == "two\n"
    assert (copy / "new.py").read_text() == "three\n"
    assert not (copy / "large.txt").exists() and not (copy / "data").exists()


def test_where_there_is_no_git_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(run_directory, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert code_state() == ("unknown", b"")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code_state() == ("unknown", b"") and versions()["code"] == "unknown"


@pytest.mark.parametrize("name", ["run", "my run (a, b)", "lr=0.1", "it's", 'say "so"', "a,b", "$HOME", "ä"])
def test_the_command_that_goes_on_is_read_as_the_directory_by_shell_and_hydra(tmp_path, name):
    (argument,) = shlex.split(to_resume(tmp_path / name))
    (override,) = OverridesParser.create().parse_overrides([argument])
    assert (override.key_or_group, override.value()) == ("resume", str(tmp_path / name))


def test_two_processes_do_not_train_in_one_directory(run):
    held = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.lockf(file, fcntl.LOCK_EX)
print("locked", flush=True)
sys.stdin.read()
"""
    lock = run.path / "lock"
    lock.unlink()  # this process has it, and the same process may have it twice
    command = [sys.executable, "-c", held, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "locked\n"
        before = (run.path / "config.yaml").read_text()
        with pytest.raises(UserError, match=f"Another process trains in {run.path}"):
            RunDirectory.of(resumed(run, "num_steps=1"))
        assert (run.path / "config.yaml").read_text() == before
        other.communicate("")
    RunDirectory.of(resumed(run))
