"""The labeller of a checkpoint, and the config with what that was trained with."""

from pathlib import Path

from lightning.fabric import Fabric
from omegaconf import DictConfig

from conf.app import composed
from conf.modules import module
from conf.schema import PredictConfig
from conf.trained import num_parts_asked, with_settings_of
from evaluation.labellers.base import Labeller
from models.methods import method_class
from models.predictor import load_predictor
from utils import checkpoints
from utils.checkpoints import Checkpoint
from utils.devices import memory_format
from utils.run_directory import argument


def of_checkpoint(config: DictConfig, fabric: Fabric | None = None) -> tuple[Labeller, Checkpoint, DictConfig]:
    """What ``config.checkpoint`` scores pictures with; the checkpoint, read once; and the config to use.

    Args:
        fabric: whose device the network is put on, and whose precision it has; None: it stays on the CPU as it is.

    Raises:
        UserError: there is no checkpoint, or it does not fit; see ``conf.trained`` and ``models.predictor``.
    """
    checkpoint = checkpoints.find(config.checkpoint)
    config = with_settings_of(checkpoint.config, checkpoint.file, config)
    predictor = load_predictor(
        checkpoint,
        config,
        num_parts=num_parts_asked(config, checkpoint.is_bare),
        memory_format=memory_format(config.channels_last),
    )
    if fabric is not None:
        predictor = fabric.setup_module(predictor)
    return module("labeller", method_class(config).labeller).of_predictor(predictor), checkpoint, config


def load(path: Path | str, *overrides: str) -> tuple[Labeller, DictConfig]:
    """From a program of one's own: what a checkpoint scores pictures with, on the CPU in eval mode, and its config.

    Args:
        path: a run directory or a ``.pth`` file.
        overrides: as on a command line, ``"method=scops"``, of what a published checkpoint does not say of itself.

    Raises:
        UserError: as :func:`of_checkpoint`.
    """
    labeller, _, config = of_checkpoint(composed("predict", [argument("checkpoint", path), *overrides], PredictConfig))
    return labeller, config
