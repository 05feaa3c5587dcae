"""Files on disk to samples, crops and batches, and colour and geometric views of batches."""

from pathlib import Path
from typing import Any, Literal

from datasets.cub import CUB

DATASETS = {"CUB": CUB, "synthetic": CUB}


def build(
    name: str,
    node: Any,
    dataset_root: Path | str,
    split: Literal["train", "test"],
    mask: str | None = None,
) -> CUB:
    """The data set of a config.

    Args:
        name: a key of ``DATASETS``.
        node: config node with folder (below ``dataset_root``), train_mask, eval_mask, box_padding, box_jitter and
            flip_probability; for the drawn set also ``drawing``.
        dataset_root: the folder that holds every data set's own.
        mask: instead of the split's own (train_mask for train, eval_mask for test).

    Raises:
        UserError: something is missing or malformed on disk.
    """
    root = Path(dataset_root) / node.folder
    if name == "synthetic":
        from datasets import synthetic

        synthetic.ensure(root, synthetic.Drawing(**node.drawing))
    return DATASETS[name](
        root,
        split,
        mask or (node.train_mask if split == "train" else node.eval_mask),
        name=name,
        box_padding=node.box_padding,
        box_jitter=node.box_jitter,
        flip_probability=node.flip_probability,
    )
