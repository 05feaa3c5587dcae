"""A run's model card, ``model_card.md`` in its directory: what was trained on what, by whom's weights, and its figures.

It is made from the run's own files alone: so whoever adds to these has it written anew, and nobody tells it anything.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from omegaconf import DictConfig

from conf.trained import saved_config
from models.licences import weights_of
from models.methods import method_class
from utils.checkpoints import Checkpoint, latest
from utils.console import say
from utils.errors import UserError
from utils.files import written_whole
from utils.forecast import duration
from utils.page import read
from utils.run_directory import CARD, ROOT, RunDirectory
from utils.sweep import metrics_in, training_figures

MOST_EVALUATIONS = 6  # the newest; the others are in their folders


@contextmanager
def kept(run: RunDirectory | None) -> Iterator[None]:
    """Writes a run's card, and again once the run is left, if it is not killed; None has none.

    The first one says that it is of the start: of a run that was killed it stays until somebody writes it anew.
    """
    if run:
        write(run.path, at_start=True)
    try:
        yield
    finally:
        if run:
            write(run.path)


def write(run: Path, at_start: bool = False) -> None:
    """Write a run's card, or write it anew; what is in the way is told, and ends nothing.

    Args:
        run: the run's directory, with its ``config.yaml``.
        at_start: the run begins, or goes on: the card says that it knows nothing of what comes.
    """
    path = run / CARD
    try:
        text = rendered(run, at_start=at_start)
        with written_whole(path) as part:
            part.write_text(text, encoding="utf-8")
    except (OSError, UserError) as error:
        reason = error if isinstance(error, UserError) else f"{error.strerror or error}."
        say(f"warning: cannot write {path}: {reason} Going on without it.")


def rendered(run: Path, shared: Checkpoint | None = None, at_start: bool = False) -> str:
    """The card's Markdown.

    Args:
        run: the run's directory.
        shared: one of its checkpoints; of an earlier one than the newest its own steps and figures alone are told.
            None: the newest, with all figures.
        at_start: see :func:`write`.

    Raises:
        UserError: the run's config is damaged.
        OSError: it cannot be read.
    """
    config = saved_config(run / "config.yaml")
    checkpoint, only = latest(run), None
    steps = int(checkpoint.stem.rpartition("_")[2]) if checkpoint else 0
    if shared and shared.file != checkpoint:
        checkpoint, steps = shared.file, shared.step or 0
        only = steps
    seconds = training_figures(run).get("seconds") if only is None else None  # of all steps
    environments, columns = list(_environments(run)), list(_columns(run, config, only))
    names = dict.fromkeys(name for column in columns for name in column["metrics"])
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md").render(
        name=run.resolve().name,
        config=config,
        steps=steps,
        at_start=at_start and f"{datetime.now():%Y-%m-%d %H:%M}",
        checkpoint=checkpoint and checkpoint.relative_to(run),
        time=seconds and duration(seconds),
        device=_device(config, environments),
        data=_data(config),
        networks=[_network(node, config[node]) for node in method_class(config).networks(config.method)],
        columns=columns,
        rows={name: [column["metrics"].get(name) for column in columns] for name in names},
        environments=environments,
    )


def _data(config: DictConfig) -> dict[str, str]:
    """What is to be known of the pictures, by its name."""
    dataset = config.dataset
    told = {"Data set": f"`{config.dataset_name}`"}
    for split, listed in (dataset.lists or {}).items():
        told[f"The {split} list"] = listed
    for key, use in (("train_mask", "training"), ("eval_mask", "evaluations")):
        if mask := dataset.get(key):
            told[f"Masks of {use}"] = f"`{mask}`"
    if dataset.saliency:
        told["Saliency maps instead of masks in training"] = f"`{Path(dataset.saliency).name}`"
    return told


def _network(node: str, options: Mapping[str, Any]) -> dict[str, str]:
    weights, licence = weights_of(options)
    name = options.get("network") or " ".join(filter(None, (options["name"], options.get("variant"))))
    return {"role": node, "name": name, "weights": weights, "licence": licence}


def _columns(run: Path, config: DictConfig, only: int | None) -> Iterator[dict[str, Any]]:
    """What the run was evaluated with, the training's last evaluation first: ``what`` and ``metrics``, in percent.

    ``only`` is the step whose evaluations are told; None: the last of training, and all others.
    """
    of_training = read(run / "evaluation.csv")
    last = max((steps[-1] for steps, _ in of_training.values()), default=0)
    step = last if only is None else only
    metrics = {name: values[steps.index(step)] for name, (steps, values) in of_training.items() if step in steps}
    if metrics:
        yield {"what": f"while training, after {step} steps, `{config.dataset_name}`", "metrics": metrics}
    for path in sorted((run / "evaluations").glob("*/metrics.json"))[-MOST_EVALUATIONS:]:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            made = found["produced_by"]
            if only not in (None, made["updates"]):
                continue
            what = f"`evaluations/{path.parent.name}`: after {made['updates']} steps, `{made['dataset_name']}`"
            what += f", {made['counts']['images']} pictures" if "images" in made["counts"] else ""
            what += f", masks `{made['eval_mask']}`" if made["eval_mask"] else ""
            yield {"what": what, "metrics": metrics_in(found)}
        except (ValueError, KeyError, TypeError):
            say(f"{path} is damaged: the card leaves it out.")


def _environments(run: Path) -> Iterator[dict[str, str]]:
    """What ``environment.txt`` says of each start of the run, in their order: the first, and when it went on."""
    for path in (run / "code/environment.txt", *sorted((run / "code").glob("resumed_*/environment.txt"))):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            found = dict(line.split(": ", 1) for line in lines if ": " in line)
            if {"command", "code", "torch", "accelerator"} <= found.keys():
                yield found | {"command": found["command"].replace(f"{ROOT}{os.sep}", "")}


def _device(config: DictConfig, environments: list[dict[str, str]]) -> str:
    accelerator = environments[-1]["accelerator"] if environments else "none"
    device = config.device if config.device != "auto" else "cpu" if accelerator == "none" else "cuda"
    return f"{device} ({accelerator})" if device == "cuda" else device
