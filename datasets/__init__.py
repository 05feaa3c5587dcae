"""Files on disk to samples, crops and batches; in ``transforms`` colour and geometric views of batches."""

import conf.start  # noqa: F401

# isort: split
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from conf.modules import module
from datasets.base import Masked, Source, Split
from datasets.files import require_files
from datasets.saliency import WithSaliency
from datasets.sample import Purpose
from utils.once import once


def _read(config: DictConfig, split: Split, purpose: Purpose) -> tuple[str, ...]:
    """What tells one data set from another."""
    return OmegaConf.to_yaml(config.dataset, resolve=True), str(config.dataset_root), split, purpose


@once(_read)
def build(config: DictConfig, split: Split, purpose: Purpose) -> Source:
    """One split of the data set of a config.

    Args:
        config: the whole config: its ``dataset`` is of the module ``dataset.name``, below ``dataset_root``.
        purpose: decides which masks are read: of "training" ``dataset.train_mask``, of "evaluation"
            ``dataset.eval_mask``; that reads the training split too, to fit on it. "prediction" of masks needs none,
            and the mask is then the whole picture, or the true one where that is part of the annotation.

    Raises:
        UserError: something is missing or malformed on disk. Files of pictures are looked for, not opened; those of
            training pictures may be missing with ``dataset.on_error`` "skip", whatever they are read for.
    """
    source = build_from_lists(config, split, purpose)
    if split == "test" or config.dataset.on_error == "raise":
        require_files(source)
    return source


@once(_read)
def build_from_lists(config: DictConfig, split: Split, purpose: Purpose) -> Source:
    """As :func:`build`, but files of pictures are not looked for."""
    options = OmegaConf.to_object(config.dataset)
    salient = options.saliency is not None and (split, purpose) == ("train", "training")
    purpose = "prediction" if salient else purpose  # no masks are read
    source = module("dataset", config.dataset.name).build(options, Path(config.dataset_root), split, purpose)
    if salient:
        return WithSaliency(source, Path(options.saliency))
    if isinstance(options, Masked) and not source.has_masks and purpose != "prediction":
        source.notes.append(f"{source.name}: the {split} split is read without masks, each object fills its picture.")
    return source
