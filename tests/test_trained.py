"""What a checkpoint was trained with, under what the command line gives."""

import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from conf import app
from conf.fields import number, reading
from conf.trained import num_parts_asked, tells_own_data, with_settings_of
from datasets import folder
from tests.composition import SCHEMAS, composed, given
from tests.shared import GOLDEN
from utils.errors import UserError

FILE = Path("runs/mine/checkpoints/model_5.pth")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch) -> None:
    """There is no ``data/``."""
    monkeypatch.chdir(tmp_path)


def trained(*overrides: str) -> dict:
    """The config in the checkpoint of ``python train.py OVERRIDES``."""
    return OmegaConf.to_container(composed(*overrides))


def used(checkpoint: dict | None, *overrides: str, name: str = "evaluate") -> DictConfig:
    """What ``python NAME.py checkpoint=... OVERRIDES`` goes by."""
    with given(f"checkpoint={FILE}", *overrides, name=name) as config:
        return with_settings_of(checkpoint, FILE, config)


@pytest.mark.parametrize("name", ["evaluate", "predict"])
def test_the_checkpoint_wins_over_the_defaults_and_the_command_line_over_both(name):
    run = trained(
        *("num_parts=7", "image_size=64", "seed=5", "evaluation.size=96", "evaluation.label_resize=nearest"),
        *("segmenter=torchvision", "perceptual=vgg16", "method.temperature=0.5", "augmentation.noise=0.1"),
        *("loss_weights.visual=3", "batch_size=3", "evaluation.batch_size=2", "num_steps=10"),
    )
    config = used(run, "seed=8", "evaluation.size=128", "perceptual.weights=none", name=name)
    assert (config.num_parts, config.image_size, config.segmenter.variant) == (7, 64, "torchvision")
    assert (config.method.temperature, config.augmentation.noise, config.loss_weights.visual) == (0.5, 0.1, 3)
    assert config.evaluation.label_resize == "nearest"
    assert (config.perceptual.network, config.perceptual.layers) == ("vgg16", {"relu3_2": 0.33, "relu5_3": 1.0})
    # Given.
    assert (config.seed, config.evaluation.size, config.perceptual.weights) == (8, 128, "none")
    # How a run is trained, and how fast it is evaluated, is not what it is.
    assert (config.batch_size, config.evaluation.batch_size, config.num_steps) == (6, 8, 60000)


def test_a_group_that_is_given_wins_whole():
    config = used(trained("perceptual=vgg19", "perceptual.weights=none"), "perceptual=vgg16")
    assert config.perceptual == composed("perceptual=vgg16").perceptual


def test_what_an_experiment_sets_is_given(tmp_path):
    run = trained("image_size=128", "seed=5", "perceptual=vgg16", "method.temperature=0.5", "segmenter.init=normal")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - small\n  - override /perceptual: vgg19\nmethod:\n  temperature: 0.25\n"
    )
    for experiments in ("experiment=mine", "experiment=[mine,debug]"):
        config = used(run, f"hydra.searchpath=[file://{tmp_path}]", experiments)
        assert (config.image_size, config.seed, config.evaluation.size) == (64, 5, 64)
        assert (config.perceptual.network, config.perceptual.weights) == ("vgg19", "none")
        assert (config.method.temperature, config.segmenter.weights, config.segmenter.init) == (0.25, "none", "normal")
    with pytest.raises(UserError, match="was trained with method=contrastive_reconstruction: leave out method=scops"):
        used(run, "experiment=laptop_scops")


def test_another_method_than_the_default_brings_its_nodes():
    run = trained("method=foreground", "loss_weights.foreground=2")
    config = used(run)
    assert config.method == {"name": "foreground"} and config.loss_weights == {"foreground": 2}
    assert used(run, "method=foreground").loss_weights == {"foreground": 2}
    with pytest.raises(UserError, match=f"{FILE} was trained with method=foreground: leave out method=contrastive_rec"):
        used(run, "method=contrastive_reconstruction")


def test_a_published_checkpoint_leaves_the_config_as_it_is():
    for nothing in (None, {}):
        assert used(nothing, "num_parts=9") == composed(f"checkpoint={FILE}", "num_parts=9", name="evaluate")


def test_the_data_are_the_runs_own_unless_others_are_named(capsys):
    run = trained("dataset_name=folder", "dataset_root=/mine", "dataset.test_share=0.5", "dataset.box_padding=0.2")
    config = used(run)
    assert (config.dataset_name, config.dataset_root) == ("folder", "/mine")
    assert (
        config.dataset == composed("dataset_name=folder", "dataset.test_share=0.5", "dataset.box_padding=0.2").dataset
    )
    assert tells_own_data(run, config, {})
    named = used(run, "dataset_name=folder")
    assert (named.dataset_root, named.dataset) == (config.dataset_root, config.dataset), "it is its own"
    assert capsys.readouterr().out == ""

    other = used(run, "dataset_name=DF", "dataset.eval_mask=gt")
    assert (other.dataset_name, other.dataset_root) == ("DF", "data")
    assert other.dataset == composed("dataset_name=DF", "dataset.eval_mask=gt").dataset
    assert not tells_own_data(run, other, {})
    told = "Trained on dataset_name=folder dataset_root=/mine; now on dataset_name={} dataset_root={}.\n"
    assert capsys.readouterr().out == told.format("DF", "data")


def test_keys_of_the_data_are_put_on_top_of_the_runs_own(capsys):
    run = trained("dataset_name=folder", "dataset_root=/mine", "dataset.test_share=0.5")
    config = used(run, "dataset.eval_mask=supervised")
    assert (config.dataset.name, config.dataset.test_share, config.dataset.eval_mask) == ("folder", 0.5, "supervised")
    assert config.dataset_root == "/mine" and tells_own_data(run, config, {}) and capsys.readouterr().out == ""
    config = used(run, "dataset_root=/yours", "dataset.box_padding=0.3")
    assert (config.dataset_name, config.dataset_root) == ("folder", "/yours")
    assert (config.dataset.test_share, config.dataset.box_padding) == (0.5, 0.3)
    assert not tells_own_data(run, config, {}), "it has kept no lists"
    assert capsys.readouterr().out.endswith("; now on dataset_name=folder dataset_root=/yours.\n")


def test_a_root_is_the_same_however_it_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = trained("dataset_root=mine")
    assert tells_own_data(run, used(run, f"dataset_root={tmp_path}/mine"), {})
    assert capsys.readouterr().out == ""


def test_a_key_of_the_runs_own_data_set_can_be_given_though_the_default_set_has_none():
    run = trained("dataset_name=PP", "dataset.category=car")
    assert used(run, "dataset_name=PP", "dataset.category=dog").dataset.category == "dog"
    assert used(run).dataset.category == "car"


def test_a_key_that_the_runs_data_set_has_not_is_refused_by_name():
    run = trained("dataset_name=DF")
    with pytest.raises(OmegaConfBaseException, match="full_key: dataset.box_padding"):
        used(run, "dataset.box_padding=0.1")


def test_another_folder_or_category_of_the_same_data_set_is_told_and_another_mask_is_none(capsys):
    run = trained("dataset_name=PP", "dataset.category=dog")
    assert tells_own_data(run, used(run, "dataset.eval_mask=gt"), {}) and capsys.readouterr().out == ""
    for change in ("dataset.folder=elsewhere", "dataset.category=cat"):
        assert not tells_own_data(run, used(run, "dataset_name=PP", change), {})
        assert f"{change}." in capsys.readouterr().out


def test_data_are_known_by_their_lists_wherever_they_lie(capsys):
    run = trained("dataset_name=folder", "dataset_root=/mine", "dataset.folder=a")
    run["dataset"]["lists"] = {"train": "12 names, ab", "test": "3 names, cd"}
    moved = used(run, "dataset_root=/yours", "dataset.folder=b")
    assert tells_own_data(run, moved, {"test": "3 names, cd"}) and capsys.readouterr().out == ""
    assert not tells_own_data(run, moved, {"test": "3 names, ef"})
    assert capsys.readouterr().out == (
        "Trained on dataset_name=folder dataset_root=/mine (test list: 3 names, cd); "
        "now on dataset_name=folder dataset_root=/yours (test list: 3 names, ef).\n"
    )
    other = used(run, "dataset_name=folder", "dataset_root=/yours", "dataset.test_share=0.5")
    assert not tells_own_data(run, other, {"test": "3 names, cd"})
    assert "dataset.test_share=0.2; now" in capsys.readouterr().out


def test_where_the_runs_data_are_not_any_more_those_of_the_program_are_taken_if_they_are_there(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    run = trained("dataset_name=folder", "dataset_root=/gone", "segmenter.weights_dir=/gone/weights")
    config = used(run)
    assert (config.dataset_root, config.segmenter.weights_dir) == ("/gone", "checkpoints/pretrained")
    (tmp_path / "data").mkdir()
    assert used(run).dataset_root == "data"
    told = "The run's dataset_root=/gone is not here: it is read from dataset_root=data.\n"
    assert capsys.readouterr().err == told
    assert used(run, "dataset_root=/given").dataset_root == "/given" and capsys.readouterr().err == ""
    used(run, "images=mine", name="predict")  # which are in no data set
    assert capsys.readouterr().err == ""
    (tmp_path / "own").mkdir()
    assert used(trained("dataset_name=folder", "dataset_root=own")).dataset_root == "own"


def test_a_data_set_says_itself_which_of_its_keys_leave_its_pictures_the_same(monkeypatch):
    @dataclass
    class Options(folder.Options):
        tint: float = reading(number(low=0))
        scene: int = number()

    monkeypatch.setattr(folder, "Options", Options)
    own = ("dataset_name=folder", "+dataset.tint=1", "+dataset.scene=1")
    run = trained(*own)
    reading_otherwise = composed(*own, "dataset.tint=2", "dataset.cache=disk", "dataset.box_padding=0.3")
    assert tells_own_data(run, reading_otherwise, {})
    assert not tells_own_data(run, composed(*own, "dataset.scene=2"), {})
    with pytest.raises(UserError, match="dataset.tint must be at least 0"):
        composed(*own, "dataset.tint=-1")


@pytest.mark.parametrize("kind", ["checkpoint", "run", "run with a damaged config"])
def test_the_keys_of_the_runs_modules_can_be_given_without_naming_the_modules(kind, tmp_path, monkeypatch, capsys):
    run = trained("method=scops", "dataset_name=PP", "dataset.category=car", "loss_weights.landmarks=7")
    place = tmp_path / "model_5.pth"
    torch.save({"config": run}, place)
    if kind != "checkpoint":
        place = tmp_path
        OmegaConf.save(run, place / "config.yaml")
    if kind == "run with a damaged config":
        (place / "config.yaml").write_text("method: [")
    given = ("method.basis_rate=0.5", "dataset.category=dog", "loss_weights.semantic=3", "dataset.saliency=null")
    for name in ("evaluate", "predict"):
        status, config = started(monkeypatch, name, f"checkpoint={place}", *given, checkpoint=run)
        assert status == 0 and (config.method.name, config.method.basis_rate) == ("scops", 0.5)
        assert (config.dataset_name, config.dataset.category, config.dataset.saliency) == ("PP", "dog", None)
        assert (config.loss_weights.semantic, config.loss_weights.landmarks) == (3, 7)
    assert capsys.readouterr().err == ""
    for wrong, message in (
        ("method.occurrence_beta=1", "method.occurrence_beta is a key of method=region_grouping only"),
        ("method.basis_rat=1", "unknown key 'method.basis_rat'. Did you mean 'method.basis_rate'?"),
        ("dataset.category=lion", "dataset.category must be one of"),
    ):
        assert started(monkeypatch, "evaluate", f"checkpoint={place}", wrong, checkpoint=run)[0] == 2
        assert f"error: {message}" in capsys.readouterr().err


def test_a_published_checkpoint_has_the_keys_of_the_modules_that_are_named(tmp_path, monkeypatch, capsys):
    torch.save({"model_state_dict": {}}, tmp_path / "model.pth")
    place = f"checkpoint={tmp_path}/model.pth"
    assert started(monkeypatch, "evaluate", place, "method.basis_rate=1")[0] == 2
    assert "method.basis_rate is a key of method=scops only" in capsys.readouterr().err
    _, config = started(monkeypatch, "evaluate", place, "method=scops", "method.basis_rate=1")
    assert config.method == {"name": "scops", "basis_rate": 1}


def test_a_resumed_run_takes_the_keys_of_its_own_modules(tmp_path, monkeypatch, capsys):
    run = trained("method=scops", "dataset_name=PP", "dataset.category=car")
    OmegaConf.save(run, tmp_path / "config.yaml")
    given = ("dataset.category=car", "loss_weights.semantic=3", "dataset.on_error=skip")
    status, config = started(monkeypatch, "train", f"resume={tmp_path}", *given)
    assert status == 0 and (config.loss_weights.semantic, config.dataset.on_error) == (3, "skip")
    assert started(monkeypatch, "train", f"resume={tmp_path}", "method.basis_rate=1")[0] == 2
    assert "trained with method.basis_rate=0.01: it cannot go on with method.basis_rate=1" in capsys.readouterr().err


def started(
    monkeypatch, name: str, *arguments: str, checkpoint: dict | None = None
) -> tuple[int | None, DictConfig | None]:
    """The status of ``python NAME.py ARGUMENTS``, and the config that it goes by once the checkpoint is read."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    found = []
    try:
        app.run(name, lambda config: found.append(with_settings_of(checkpoint, FILE, config)), SCHEMAS[name])
    except SystemExit as end:
        return end.code, None
    return 0, found[0]


def test_a_value_of_the_two_together_is_checked():
    run = trained() | {"image_size": 8}
    with pytest.raises(UserError, match="image_size must be at least 32, not 8"):
        used(run)
    assert used(run, "image_size=64").image_size == 64


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"method": {"name": "unheard"}}, "There is no method 'unheard'"),
        ({"segmenter": {"name": "deeplab", "depth": 101}}, "Key 'depth' not in"),
        ({"image_size": "large"}, "Value 'large'"),
        ({"num_partz": 4}, "Key 'num_partz' not in"),
        ({"optimizer": {}}, "optimizer is required"),
    ],
)
def test_a_config_of_another_version_is_refused_by_name(change, why):
    with pytest.raises(UserError, match=f"^{FILE} does not fit this version of the code: .*{why}.*use that one"):
        used(trained() | change)


def test_a_config_of_format_1_is_taken():
    run = OmegaConf.to_container(OmegaConf.load(GOLDEN / "config_format_1/synthetic_foreground.yaml"))
    config = used(run)
    wanted = composed("dataset_name=synthetic", "method=foreground")
    for key in ("dataset", "method", "segmenter", "perceptual", "loss_weights", "augmentation", "num_parts"):
        assert config[key] == wanted[key], key


def test_k_is_asked_for_where_it_is_given_or_nothing_else_says_it():
    for overrides, expected in (((), (None, 4)), (("num_parts=6",), (6, 6))):
        with given(f"checkpoint={FILE}", *overrides, name="evaluate") as config:
            assert (num_parts_asked(config, always=False), num_parts_asked(config, always=True)) == expected
