"""Configs of format 1, as the last version wrote them: one of each data set and method in tests/golden."""

import copy

import pytest
from omegaconf import OmegaConf

from conf.schema import typed, validate
from conf.trained import resumed_config
from conf.upgrade import upgrade
from tests.composition import composed
from tests.shared import GOLDEN
from utils.errors import UserError

FILES = sorted((GOLDEN / "config_format_1").glob("*.yaml"))
# What those command lines gave beside data set and method.
GIVEN = {"PP": ("dataset.category=cat",), "folder": ("experiment=small",)}


def saved(file) -> dict:
    return OmegaConf.to_container(OmegaConf.load(file))


def now(file) -> dict:
    """What the command line of a file composes today."""
    name, _, method = file.stem.partition("_")
    # Then every checkpoint was kept, and short recipes had pictures as seldom as others.
    then = ("checkpointing.keep=null", "logging.image_every=1000")
    given = (f"dataset_name={name}", f"method={method}", *then, *GIVEN.get(name, ()))
    return OmegaConf.to_container(composed(*given))


def checked(config) -> dict:
    return OmegaConf.to_container(validate(typed(config)))


def test_there_is_one_of_each_data_set_and_method():
    names = {"CUB", "DF", "PP", "folder", "synthetic"}
    methods = {"contrastive_reconstruction", "foreground"}
    assert {file.stem for file in FILES} == {f"{name}_{method}" for name in names for method in methods}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_config_of_format_1_says_what_the_same_command_line_says_now(file):
    assert checked(upgrade(saved(file))) == now(file)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_config_that_is_given_is_left_as_it_was_and_is_upgraded_once(file):
    config = saved(file)
    before = copy.deepcopy(config)
    once = upgrade(config)
    assert config == before and upgrade(once) == once


@pytest.mark.parametrize("cache", ["memory", "disk", "none"])
def test_a_cache_in_memory_is_none_any_more(cache):
    config = saved(FILES[0])
    config["dataset"]["cache"] = cache
    assert checked(upgrade(config))["dataset"]["cache"] == ("none" if cache == "memory" else cache)


@pytest.mark.parametrize(
    "overrides",
    [(), ("dataset_name=synthetic", "method=foreground"), ("baseline=[kmeans_colours]", "optimizer=adamw")],
)
def test_a_config_of_this_version_goes_through_unchanged(overrides):
    config = OmegaConf.to_container(composed(*overrides))
    assert upgrade(config) == config and checked(upgrade(config)) == config


def test_values_of_the_run_are_kept():
    config = saved(GOLDEN / "config_format_1/DF_contrastive_reconstruction.yaml")
    config["num_parts"], config["dataset"]["crop_area"], config["optimizer"]["lr"] = 9, [0.25, 0.75], 3e-4
    found = checked(upgrade(config))
    assert (found["num_parts"], found["dataset"]["crop_area"], found["optimizer"]["lr"]) == (9, [0.25, 0.75], 3e-4)


def test_a_run_of_format_1_goes_on_with_its_values_and_what_is_given(tmp_path):
    file = GOLDEN / "config_format_1/synthetic_contrastive_reconstruction.yaml"
    (tmp_path / "config.yaml").write_text(file.read_text().replace("num_parts: 4", "num_parts: 6"))
    overrides = [f"resume={tmp_path}", "num_steps=100", "loader.num_workers=1"]
    found = validate(resumed_config(composed(*overrides), overrides))
    then = ("checkpointing.keep=null", "logging.image_every=1000")
    wanted = composed("dataset_name=synthetic", "num_parts=6", *then, *overrides[1:])
    wanted.resume = wanted.output_dir = str(tmp_path)
    wanted.optimizer.poly_steps = 150  # that of the run, whose num_steps it was
    assert found == wanted
    with pytest.raises(UserError, match="was trained with num_parts=6: it cannot go on with num_parts=4"):
        resumed_config(composed(f"resume={tmp_path}"), ["num_parts=4"])


def test_a_run_of_format_1_on_an_unknown_data_set_is_refused_by_its_file(tmp_path):
    text = FILES[0].read_text().replace("dataset_name: CUB", "dataset_name: mine")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="config.yaml does not fit this version of the code: dataset is required"):
        resumed_config(composed(f"resume={tmp_path}"), [])


def test_an_optimiser_from_before_there_were_schedules_has_the_poly_one():
    config = OmegaConf.to_container(composed())
    del config["optimizer"]["schedule"]
    assert checked(upgrade(config))["optimizer"]["schedule"] == "poly"
