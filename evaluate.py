"""Evaluate a checkpoint, ``python evaluate.py checkpoint=PATH``, or anyone's label maps, ``predictions=DIR``.

Baselines are put beside it, or evaluated alone, ``baseline=[kmeans_features]``.

    python evaluate.py checkpoint=runs/my_run
    python evaluate.py checkpoint=runs/my_run baseline=[kmeans_features,untrained]
    python evaluate.py predictions=my_label_maps dataset_name=CUB dataset_root=data

A run is evaluated on the data that it was trained on, unless another data set is named. Keys are in conf/evaluate.yaml.
"""

import conf.start  # noqa: F401

# isort: split
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from conf import app
from conf.modules import module
from conf.schema import EvaluateConfig
from conf.trained import given_keys, saved_config, tells_own_data
from datasets.lists import lists_of
from evaluation import run
from evaluation.labellers import label_maps
from evaluation.labellers.base import Labeller
from evaluation.labellers.trained import of_checkpoint
from evaluation.options import EvaluationOptions, Sets
from evaluation.pages import model_card, report
from evaluation.pages.seen import Seen
from evaluation.report import held_out_picture, noun_of, print_table, write_metrics
from models.methods import method_class
from models.weights import require_place
from utils.checkpoints import Checkpoint
from utils.console import say
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import require_writable, written_whole
from utils.logging import WANDB_ID, WandbRun
from utils.run_directory import RunDirectory, versions

SUBJECT = "subject"  # what is evaluated, among the baselines


def evaluate(config: DictConfig) -> None:
    """One pass over the held-out pictures for what is evaluated, one for each baseline; a table, figures, a picture."""
    set_determinism(config.deterministic)
    fabric = build_fabric(config.device, config.precision)

    # What is evaluated, by what, on which pictures; and what it is compared with.
    subject, checkpoint, config, sets = inputs(config, fabric)
    labellers = {SUBJECT: subject} if subject else {}
    method, num_parts = method_class(config), subject.largest_label if subject else config.num_parts
    lists = lists_of(sets.test)
    on_own_data = checkpoint is not None and tells_own_data(checkpoint.config, config, lists)
    OmegaConf.update(config, "dataset.lists", lists, merge=False)
    for note in sets.test.notes:
        print(note)
    output = output_directory(config, checkpoint)
    for name, own in config.baselines.items():
        labellers[name] = module("baseline", name).build(own, config, num_parts, fabric.device)
        prepare(labellers[name], config, sets, is_first=len(labellers) == 1)
    options = EvaluationOptions.of(config)

    first, results, seen = next(iter(labellers)), {}, None
    if config.evaluation.report:
        seen = Seen(labellers[first], run.spread(config.evaluation.report, len(sets.test)))
    for name, labeller in labellers.items():
        own, told = (replace(options, label_maps=output / "label_maps"), seen) if name == first else (options, None)
        results[name] = run.evaluate(labeller, sets, method.protocols, own, fabric.device, told)
        options = replace(options, batch_size=results[name].batch_size)

    print_table({labellers[name].title: result.metrics for name, result in results.items()})
    for note in dict.fromkeys(note for result in results.values() for note in result.notes):
        print(note)
    figures = {name: result.metrics for name, result in results.items()}
    metrics, (counts, pictures) = figures.pop(SUBJECT, {}), (results[first].counts, results[first].pictures)
    write_metrics(
        output / "metrics.json",
        metrics,
        {
            **made_from(checkpoint, config),
            "num_parts": num_parts,
            "dataset_name": config.dataset_name,
            "dataset_root": config.dataset_root,
            "eval_mask": config.dataset.get("eval_mask") if sets.test.has_masks else None,
            "counts": counts,
            "parts": results[first].parts,
            "colours": results[first].colours.tolist(),
            "versions": versions(),
            "config": OmegaConf.to_container(config),
            "baselines": figures,
        },
    )
    print(f"Figures: {output / 'metrics.json'}")
    if checkpoint and checkpoint.run and checkpoint.run in output.parents:
        model_card.write(checkpoint.run)
    if seen:
        columns = [
            report.Column(labellers[name].title, None if name == SUBJECT else name, result)
            for name, result in results.items()
        ]
        write_report(output, report.Evaluated(config, columns, seen, len(sets.test), checkpoint, num_parts))
    shown = {}
    if pictures:
        noun = noun_of(labellers[first], sets.test)
        picture, rows = held_out_picture(results[first], labellers[first], noun, config.part_names)
        with left_out_if_not_written("The picture", output):
            with written_whole(output / "parts.png") as part:
                Image.fromarray(picture).save(part, "PNG")
            known = ", and what is known" if pictures[0].known else ""
            print(f"Held-out pictures, what was found in them{known}: {output / 'parts.png'}")
        if on_own_data:
            shown = {"pictures/evaluation_parts": picture, "evaluation/pictures": rows}
    if on_own_data:
        log_to_run(Path(config.checkpoint), config, checkpoint, metrics, shown, output / "report.html")


def inputs(
    config: DictConfig, fabric: Fabric | None = None
) -> tuple[Labeller | None, Checkpoint | None, DictConfig, Sets]:
    """What is evaluated, of a checkpoint or label maps; that checkpoint; the config with its settings; both splits.

    Args:
        fabric: as of ``evaluation.labellers.trained.of_checkpoint``.

    Raises:
        UserError: the checkpoint, data, masks, label maps or a file of weights that is given are not there or do not
            fit; see also :func:`prepare`.
    """
    labeller = checkpoint = None
    if config.checkpoint is not None:
        labeller, checkpoint, config = of_checkpoint(config, fabric)
    for node in ("segmenter", "perceptual") if config.baselines else ():
        if f"{node}.weights" in given_keys():
            require_place(config[node].weights, f"{node}.weights")
    sets = Sets.of(config, method_class(config).test_masks)
    if config.predictions is not None:
        labeller = label_maps.given(config, sets)
    if labeller is not None:
        prepare(labeller, config, sets, is_first=True)
    for name, own in config.baselines.items():
        made = module("baseline", name)
        if getattr(made, "NEEDS_KEYPOINTS", False):  # such a one has no network, and is made at once
            made.build(own, config, config.num_parts, torch.device("cpu")).prepare(sets.test)
    return labeller, checkpoint, config, sets


def prepare(labeller: Labeller, config: DictConfig, sets: Sets, is_first: bool) -> None:
    """Let a labeller look at the data that it is evaluated on, before anything is read.

    Args:
        is_first: ``part_names`` are of its parts.

    Raises:
        UserError: the data set has not what it needs, training pictures among that; or ``part_names`` are of another
            number.
    """
    labeller.prepare(sets.test)
    run.look_for_training_pictures(labeller, sets, method_class(config).protocols, EvaluationOptions.of(config))
    if is_first and config.part_names and len(config.part_names) != labeller.largest_label:
        raise UserError(f"part_names are {len(config.part_names)}, parts {labeller.largest_label}: name each, or none.")


def write_report(output: Path, evaluated: report.Evaluated) -> None:
    """Write the page and its tables, if they can be written."""
    with left_out_if_not_written("The report", output):
        *_, page = report.write(output, evaluated)
        print(f"Report: {page}")


@contextmanager
def left_out_if_not_written(what: str, output: Path) -> Iterator[None]:
    """A line where a file cannot be written: figures are there already, and a disk that is full ends nothing."""
    try:
        yield
    except OSError as error:
        say(f"{what} is left out: cannot write {error.filename or output}: {error.strerror or error}.")


def made_from(checkpoint: Checkpoint | None, config: DictConfig) -> dict[str, object]:
    """What was evaluated, for ``metrics.json``."""
    if checkpoint:
        trained_with = {"trained_with": dict(checkpoint.config)} if checkpoint.config else {}
        return {"checkpoint": str(checkpoint.file), "updates": checkpoint.step, **trained_with}
    if config.predictions is None:
        return {}
    return {"predictions": config.predictions, "predictions_background": config.predictions_background}


def output_directory(config: DictConfig, checkpoint: Checkpoint | None) -> Path:
    """``output_dir``; or a new dated directory, of a run in its ``evaluations/``, else under ``runs/``.

    Never one that holds an evaluation already.

    It can be made, and is once there is something to write: an evaluation that is refused leaves nothing behind.

    Raises:
        UserError: it holds one, or cannot be written.
    """
    now = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{config.dataset_name}"
    own_run = checkpoint and checkpoint.run
    in_run = own_run and os.access(own_run, os.W_OK)
    path = Path(config.output_dir or (own_run / "evaluations" / now if in_run else f"runs/{now}_evaluation"))
    if own_run and not in_run and not config.output_dir:
        print(f"{own_run} cannot be written: the evaluation goes to {path}.")
    if (path / "metrics.json").exists():
        raise UserError(f"output_dir {path} holds the figures of another evaluation: give another output_dir.")
    require_writable(path)
    return path


def log_to_run(
    path: Path, config: DictConfig, checkpoint: Checkpoint, metrics: dict, shown: dict, report: Path
) -> None:
    """Add the figures, what is shown and the report to the W&B run of ``path``, if that is the directory of such a run.

    With the settings in the checkpoint, which was read: the run's ``config.yaml`` may be damaged.
    """
    if not (path / WANDB_ID).is_file():
        return
    trained = saved_config(checkpoint.file, checkpoint.config)
    for key in given_keys():
        if key.startswith("logging."):
            OmegaConf.update(trained, key, OmegaConf.select(config, key))
    try:
        alone = RunDirectory.locked(path)
    except UserError as error:
        print(f"The figures do not go to W&B. {error}")
        return
    with alone:
        wandb = WandbRun(alone, trained, say=print, step=checkpoint.step)
        figures = {f"evaluation/{name}": value for name, value in metrics.items()}
        wandb.log(checkpoint.step, figures | shown, keep=True)
        if report.is_file():
            wandb.add(report, "report")
        wandb.close()


if __name__ == "__main__":
    app.run("evaluate", evaluate, EvaluateConfig, inputs)
