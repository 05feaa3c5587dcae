"""Files on disk to samples, crops and batches, and colour and geometric views of batches."""

from pathlib import Path
from typing import Any, Literal

from datasets.cub import CUB
from datasets.deepfashion import DeepFashion
from datasets.files import require_files
from datasets.folder import Folder
from datasets.pascal_part import PascalPart
from datasets.sample import Purpose
from datasets.synthetic import Synthetic

DATASETS = {"CUB": CUB, "DF": DeepFashion, "PP": PascalPart, "folder": Folder, "synthetic": Synthetic}


def build(
    name: str,
    node: Any,
    dataset_root: Path | str,
    split: Literal["train", "test"],
    purpose: Purpose,
) -> CUB:
    """One split of the data set of a config.

    Args:
        name: a key of ``DATASETS``.
        node: config node ``dataset``.
        dataset_root: the folder that holds every data set's own.
        purpose: decides which masks are read: of "training" ``node.train_mask``, of "evaluation" ``node.eval_mask``;
            that reads the training split too, to fit on it. "prediction" of masks needs none, and the mask is then the
            whole picture, or the true one where that is part of the annotation.

    Raises:
        UserError: something is missing or malformed on disk. Files of pictures are looked for, not opened; those of
            training pictures may be missing with ``node.on_error`` "skip".
    """
    dataset = DATASETS[name].from_config(node, Path(dataset_root), split, purpose)
    if purpose != "training" or node.on_error == "raise":
        require_files(dataset)
    return dataset
