"""Configs composed as an entry point composes them, without its process."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from conf.schema import validate
from utils.app import CONF


def composed(*overrides: str, name: str = "train") -> DictConfig:
    """The checked config of ``python NAME.py OVERRIDES``."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return validate(compose(name, list(overrides)))
