"""Files on disk to samples, crops and batches, and colour and geometric views of batches."""

from pathlib import Path
from typing import Any, Literal

from datasets.cub import CUB
from datasets.deepfashion import DeepFashion
from datasets.files import require_files
from datasets.folder import Folder
from datasets.pascal_part import PascalPart
from datasets.synthetic import Synthetic

DATASETS = {"CUB": CUB, "DF": DeepFashion, "PP": PascalPart, "folder": Folder, "synthetic": Synthetic}


def build(
    name: str,
    node: Any,
    dataset_root: Path | str,
    split: Literal["train", "test"],
    purpose: Literal["training", "evaluation"],
) -> CUB:
    """One split of the data set of a config.

    Args:
        name: a key of ``DATASETS``.
        node: config node ``dataset``.
        dataset_root: the folder that holds every data set's own.
        purpose: decides which masks are read, ``node.train_mask`` or ``node.eval_mask``; evaluation reads the training
            split too, to fit on it.

    Raises:
        UserError: something is missing or malformed on disk. Files of pictures are looked for, not opened; those of
            training pictures may be missing with ``node.on_error`` "skip".
    """
    dataset = DATASETS[name].from_config(node, Path(dataset_root), split, purpose)
    if purpose == "evaluation" or node.on_error == "raise":
        require_files(dataset)
    return dataset
