"""Paths as shells hand them over: empty where a variable is not set, ``~`` where it was in quotes or after ``=``."""

import sys
from pathlib import Path

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from conf import app
from conf.schema import anchored, typed
from datasets import example
from tests.composition import SCHEMAS, composed
from tests.mistakes.harness import row
from utils import sweep


def empty(key: str, line: str, *words: str):
    return row(f"{line.split()[0]} {key}", line, f"{key} is empty: give {key}=", "or leave it out", *words)


EMPTY = [
    empty("output_dir", "train.py output_dir="),
    empty("resume", "train.py resume="),
    empty("resume", "train.py resume= dataset.on_error=skip"),
    empty("dataset_root", "train.py dataset_root= dataset_name=folder"),
    empty("dataset_root", "check 'dataset_root=\"\"'"),
    empty("dataset.folder", "train.py dataset.folder="),
    empty("dataset.cache_dir", "train.py 'dataset.cache_dir=\" \"'"),
    empty("dataset.saliency", "train.py dataset.saliency="),
    empty("segmenter.weights", "train.py segmenter.weights="),
    empty("perceptual.weights_dir", "train.py perceptual.weights_dir="),
    empty("checkpoint", "evaluate.py checkpoint="),
    empty("checkpoint", "evaluate.py checkpoint= method.temperature=1"),
    empty("predictions", "evaluate.py predictions="),
    empty("images", "predict.py checkpoint=a.pth images= output_dir=out"),
    empty("output_dir", "predict.py checkpoint=a.pth images=DIR output_dir="),
    empty("output_dir", "predict.py checkpoint=a.pth images=DIR 'output_dir=${oc.env:NOT_SET,\"\"}'"),
    empty("dataset_name", "train.py dataset_name="),
    empty("experiment", "train.py experiment="),
    row("train.py []", "train.py output_dir=[]", "output_dir is empty ([]): give output_dir=VALUE"),
    row(
        "predict.py a list",
        "predict.py images=[ab].jpg",
        "cannot read",
        """quotes within quotes, 'images="[ab].jpg"'""",
    ),
    row(
        "predict.py an apostrophe",
        """predict.py "images=Anna's [1] pictures" """,
        "cannot read",
        """quotes within quotes, 'images="Anna'"'"'s [1] pictures"'""",
    ),
    row("predict.py a comma", "predict.py 'images=my pictures, 2024'", """'images="my pictures, 2024"'"""),
    row("train.py a comma", "train.py dataset_root=data/a,b", "if it is one path", """'dataset_root="data/a,b"'"""),
    row("predict.py {}", "predict.py images=a/{b,c}.jpg", "cannot read", """'images="a/{b,c}.jpg"'"""),
    row("train.py [a]", "train.py dataset_root=[a]", "read as a list", """'dataset_root="[a]"'"""),
    row("a list", "evaluate.py part_names=[Flügel,Kopf]", "cannot read", """'part_names=["Flügel","Kopf"]'"""),
    row("a list's comma", """evaluate.py "part_names=['a, b',ö]" """, "cannot read", """'part_names=["a, b","ö"]'"""),
    row("an element", "evaluate.py part_names=Flügel", "cannot read", """'part_names=["Flügel"]'"""),
    row("values of masks", "train.py dataset.mask_values=[1,ö]", "cannot read", """'dataset.mask_values=["1","ö"]'"""),
    row("a number", "train.py num_parts=", "num_parts", "a whole number"),
]


@pytest.mark.parametrize("row", EMPTY)
def test_an_empty_value_is_refused_by_its_key(row, refused):
    refused(row, started=False)


def test_a_sweep_without_a_name_for_its_place_is_refused():
    assert sweep._mistake(OverridesParser.create().parse_overrides(["output_dir=", "seed=1,2"])) == (
        "output_dir is empty: give one, or leave it out."
    )


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def config_of(program: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> DictConfig:
    """What a program goes by."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setattr(sys, "argv", [f"{program}.py", *arguments])
    found = []
    app.run(program, found.append, SCHEMAS[program])
    return found[0]


QUOTED = "{}=~/{}", '{}="~/{}"', "{}='~/{}'"


@pytest.mark.parametrize("form", QUOTED)
def test_the_users_own_folder_is_meant_however_it_is_quoted(form, home, monkeypatch):
    keys = ("output_dir", "dataset_root", "dataset.cache_dir", "dataset.saliency", "segmenter.weights")
    config = config_of("train", *(form.format(key, key) for key in keys), monkeypatch=monkeypatch)
    assert [OmegaConf.select(config, key) for key in keys] == [f"{home}/{key}" for key in keys]
    config = config_of("predict", *(form.format(key, key) for key in ("checkpoint", "images")), monkeypatch=monkeypatch)
    assert (config.checkpoint, config.images) == (f"{home}/checkpoint", f"{home}/images")


def test_the_run_in_the_users_own_folder_says_its_keys_and_goes_on(home, monkeypatch):
    run = home / "run"
    run.mkdir(parents=True)
    own = composed("method=scops", "dataset_name=PP", "dataset.category=car")
    own.dataset.cache_dir = "~/cache"  # as earlier versions kept it
    OmegaConf.save(own, run / "config.yaml")
    config = config_of("train", "resume=~/run", "method.basis_rate=0.01", monkeypatch=monkeypatch)
    assert (config.resume, config.method.name) == (str(run), "scops")
    assert typed(OmegaConf.load(run / "config.yaml")).dataset.cache_dir == f"{home}/cache"


def test_a_sweep_in_the_users_own_folder_is_there(home):
    places = OmegaConf.create({"given": "${either:${place},runs}", "place": "~/sweep", "not": "${either:null,runs}"})
    assert (places.given, places["not"]) == (f"{home}/sweep", "runs")


def test_what_a_run_reads_is_kept_as_whole_paths_and_words_stay_words(home, tmp_path):
    (tmp_path / "imagenet").mkdir()
    (tmp_path / "own.pth").touch()
    config = anchored(composed("segmenter.weights=own.pth", "dataset.saliency=maps", "output_dir=out"))
    assert config.dataset_root == f"{tmp_path}/data" and config.dataset.saliency == f"{tmp_path}/maps"
    assert (config.segmenter.weights, config.perceptual.weights) == (f"{tmp_path}/own.pth", "imagenet")
    assert (config.dataset.folder, config.output_dir, config.resume) == ("CUB", "out", None)


def test_the_example_is_not_drawn_into_the_working_directory_for_want_of_a_name(home, capsys, tmp_path):
    with pytest.raises(SystemExit):
        example.main([""])
    assert "error: DIR is empty" in capsys.readouterr().err and not [*tmp_path.iterdir()]
