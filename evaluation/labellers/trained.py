"""The labeller of a checkpoint, and the config with what that was trained with."""

from lightning.fabric import Fabric
from omegaconf import DictConfig

from conf.modules import module
from conf.trained import num_parts_asked, with_settings_of
from evaluation.labellers.base import Labeller
from models.methods import method_class
from models.predictor import load_predictor
from utils import checkpoints
from utils.checkpoints import Checkpoint
from utils.devices import memory_format


def of_checkpoint(config: DictConfig, fabric: Fabric) -> tuple[Labeller, Checkpoint, DictConfig]:
    """What ``config.checkpoint`` scores pictures with, on the device; the checkpoint, read once; and the config to use.

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
    labeller = module("labeller", method_class(config).labeller).of_predictor(fabric.setup_module(predictor))
    return labeller, checkpoint, config
