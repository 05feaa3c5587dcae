"""Every network and method that a YAML file of conf/ names can be built, and every key is read by something."""

import re

import pytest
import torch

from conf.app import CONF
from conf.schema import EvaluateConfig, TrainConfig, known_keys
from evaluation.table import TableConfig
from models import perceptual, segmenters
from models.methods import method_class
from predict import PredictConfig
from tests.composition import composed
from tests.test_config import ASKED
from utils.run_directory import ROOT

# The data that a method can train on, where that is not CUB.
DATA = {"ac": "potsdam", "arl": "potsdam", "iic": "coco_stuff3", "doersch": "potsdam3", "isola": "coco_stuff15"}
DATA |= {"deepcluster": "textures"}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def config_of(group: str, option: str):
    choice = f"{group}={option}"
    weights = [f"{node}.weights=none" for node in ("segmenter", "perceptual")]
    return composed(choice, *ASKED.get(choice, ()), *weights)


@pytest.mark.slow
@pytest.mark.parametrize("option", sorted({*options("segmenter")} - {"iic_features"}))  # which methods below have
def test_every_segmenter_can_be_built(option):
    with torch.device("meta"):
        built = segmenters.build(config_of("segmenter", option).segmenter, num_parts=5)
    assert built.num_parts == 5 and any(parameter.requires_grad for parameter in built.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("option", options("perceptual"))
def test_every_perceptual_network_can_be_built(option):
    built = perceptual.build(config_of("perceptual", option).perceptual)
    assert not any(parameter.requires_grad for parameter in built.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("option", options("method"))
def test_every_method_can_be_built_on_data_that_it_is_for(option):
    given = [f"method={option}", f"dataset_name={DATA.get(option, 'CUB')}"]
    given += [f"{node}.weights=none" for node in ("segmenter", "perceptual")]
    given += ["method.num_classes=200"] if option == "region_grouping" else []
    config = composed(*given)
    with torch.device("meta"):
        built = method_class(config).from_config(config)
    assert built.predictor.num_parts >= 1


def test_every_key_is_read_somewhere():
    """By its own name: as an attribute, or as text."""
    rooms = ("conf", "datasets", "evaluation", "losses", "models", "utils")
    sources = [*ROOT.glob("*.py"), *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    text = "\n".join(path.read_text() for path in sources)
    read = set(re.findall(r"(?<=[\w\])])\.(\w+)\b", text)) | set(re.findall(r"""["'](?:\w+\.)*(\w+)["']""", text))
    keys = {key for schema in (TrainConfig, EvaluateConfig, PredictConfig, TableConfig) for key in known_keys(schema)}
    assert len(keys) > 200
    assert not sorted(key for key in keys if key.rpartition(".")[2] not in read)
