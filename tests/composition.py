"""Configs composed as an entry point composes them, without its process."""

from collections.abc import Iterator
from contextlib import contextmanager

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from benchmarks.evaluate import BenchmarkEvaluateConfig
from conf import app
from conf.schema import EvaluateConfig, PredictConfig, TrainConfig, typed, validate
from evaluation.compare import CompareConfig
from evaluation.figure import FigureConfig
from evaluation.table import TableConfig
from models.export import ExportConfig

SCHEMAS = {
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "evaluation_table": TableConfig,
    "evaluation_compare": CompareConfig,
    "evaluation_figure": FigureConfig,
    "benchmark_evaluate": BenchmarkEvaluateConfig,
    "export": ExportConfig,
}


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """The checked config of ``python NAME.py OVERRIDES``."""
    return app.composed(name, overrides, SCHEMAS[name])


@contextmanager
def given(*overrides: str, name: str = "train") -> Iterator[DictConfig]:
    """The same, while Hydra knows what the command line gives, which programs that read a checkpoint ask it."""
    with initialize_config_dir(str(app.CONF), version_base="1.3"):
        config = compose(name, list(overrides), return_hydra_config=True)
    hydra = HydraConfig.instance()
    before = hydra.cfg
    hydra.set_config(config.copy())
    try:
        OmegaConf.set_struct(config, False)
        del config["hydra"]
        yield validate(typed(config, SCHEMAS[name]))
    finally:
        hydra.cfg = before
