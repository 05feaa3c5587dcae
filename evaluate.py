"""Evaluate a checkpoint, ``python evaluate.py checkpoint=PATH dataset_name=CUB``, or anyone's label maps,
``predictions=DIR``; keys are in conf/evaluate.yaml.
"""

from datetime import datetime
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from evaluation.baselines import build_baseline
from evaluation.held_out import HeldOut
from evaluation.label_maps import given_label_maps
from evaluation.labellers import CheckpointLabeller
from evaluation.report import part_picture, print_table, write_metrics
from models import load_segmenter
from utils import app, checkpoints
from utils.devices import build_fabric, memory_format, set_determinism
from utils.errors import UserError
from utils.logging import WANDB_ID, WandbRun
from utils.run_directory import RunDirectory, versions


def evaluate(config: DictConfig) -> None:
    """One pass over the held-out pictures for what is evaluated, one for each baseline; a table, figures, a picture."""
    set_determinism(config)
    fabric = build_fabric(config.device, config.precision)
    device = fabric.device
    checkpoint = {}
    if config.predictions is None:
        file, checkpoint = checkpoints.find(config.checkpoint)
        config = app.with_settings_of(checkpoint.get("config", {}), config)
        segmenter = fabric.setup_module(load_segmenter(file, memory_format=memory_format(config)))
        labeller = CheckpointLabeller(segmenter)
        num_parts, name, knows_training_pictures = labeller.num_parts, "this model", True
        evaluated = {"checkpoint": str(file), "updates": checkpoint.get("iter")}
    held_out = HeldOut.of(config)
    if config.predictions is not None:
        labeller, knows_training_pictures = given_label_maps(config, held_out)
        num_parts, name = labeller.largest_label, "label maps"
        evaluated = {"predictions": config.predictions, "predictions_background": config.predictions_background}
    output = output_directory(config)

    result = held_out.evaluate(labeller, device, output / "label_maps", knows_training_pictures)
    rows = {name: result.metrics}
    for baseline in config.evaluation.baselines:
        rival = build_baseline(baseline, config, num_parts=num_parts, device=device)
        rows[baseline.replace("kmeans_", "k-means ")] = held_out.evaluate(rival, device).metrics

    print_table(rows)
    for note in result.notes:
        print(note)
    if held_out.test_set.keypoint_names and not knows_training_pictures:
        print(f"{config.predictions} has no maps of the training pictures, which the keypoint error is fitted on.")
    produced_by = {
        **evaluated,
        "num_parts": num_parts,
        "dataset_name": config.dataset_name,
        "dataset_root": config.dataset_root,
        "eval_mask": config.dataset.eval_mask,
        "counts": result.counts,
        "versions": versions(),
        "config": OmegaConf.to_container(config),
    }
    write_metrics(output / "metrics.json", result.metrics, produced_by | {"baselines": dict(list(rows.items())[1:])})
    print(f"Figures: {output / 'metrics.json'}")
    if result.pictures:
        picture = part_picture(result.pictures)
        Image.fromarray(picture).save(output / "parts.png")
        print(f"Held-out pictures, their discovered and their true parts: {output / 'parts.png'}")
        if config.checkpoint is not None:
            log_to_run(Path(config.checkpoint), config, checkpoint, result.metrics, picture)


def output_directory(config: DictConfig) -> Path:
    """``output_dir``, or a new dated directory under ``runs/``; never one that holds an evaluation already.

    Raises:
        UserError: it holds one, or cannot be written.
    """
    dated = f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}_{config.dataset_name}_evaluation"
    path = Path(config.output_dir or dated)
    if (path / "metrics.json").exists():
        raise UserError(f"output_dir {path} holds the figures of another evaluation: give another output_dir.")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot write output_dir {path}: {error.strerror}. Give another one.") from error
    return path


def log_to_run(path: Path, config: DictConfig, checkpoint: dict, metrics: dict, picture: np.ndarray) -> None:
    """Add the figures to the W&B run of ``path``, if that is the directory of a run that has one."""
    if not (path / WANDB_ID).is_file():
        return
    trained = OmegaConf.load(path / "config.yaml")
    for key in app.given_keys():
        if key.startswith("logging."):
            OmegaConf.update(trained, key, OmegaConf.select(config, key))
    wandb = WandbRun(RunDirectory(path), trained, say=print)
    wandb.log(checkpoint["iter"], {f"evaluation/{name}": value for name, value in metrics.items()})
    wandb.log(checkpoint["iter"], {"pictures/evaluation_parts": picture})
    wandb.close()


if __name__ == "__main__":
    app.run("evaluate", evaluate)
