"""What several methods find in the same pictures: ``python -m evaluation.compare RUN_A RUN_B kmeans_features DIR``.

    python -m evaluation.compare runs/a runs/b
    python -m evaluation.compare runs/my_run kmeans_features my_label_maps count=12
    python -m evaluation.compare runs/a runs/b dataset_name=folder dataset_root=my_birds

Each stands in a column, its parts in the colours of those that they match best in the others. Written are a page and a
figure for a paper. Keys are in conf/evaluation_compare.yaml; the page is docs/report.md.
"""

import conf.start  # noqa: F401

# isort: split
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import torch
from lightning.fabric import Fabric
from omegaconf import MISSING, DictConfig

from conf import app
from conf.early import WITH_WORD
from conf.fields import number, probability
from conf.modules import module, names, nearest
from conf.schema import MAX_PARTS, EvaluateConfig, TrainConfig
from datasets.lists import lists_of
from datasets.sample import VOID, Sample
from evaluation import run
from evaluation.labellers import label_maps
from evaluation.labellers.base import Labeller
from evaluation.labellers.known_landmark import Landmark
from evaluation.labellers.label_maps import LabelMaps
from evaluation.labellers.trained import of_checkpoint
from evaluation.matching import matched_accuracy, recolouring
from evaluation.options import EvaluationOptions, Sets
from evaluation.pages import comparison
from evaluation.pages.measured import Figures, Kept
from evaluation.whole_pictures import predictions
from models.methods import method_class
from utils.checkpoints import Checkpoint
from utils.console import say
from utils.devices import build_fabric, set_determinism
from utils.errors import UserError
from utils.files import require_writable

CUT = "sees a crop of each picture; beyond it there are no parts"


@dataclass
class CompareConfig(EvaluateConfig):
    methods: list[str] = MISSING
    titles: list[str] = MISSING
    count: int = number(low=1)
    pictures: list[str] = MISSING
    matched_on: int = number(low=1)
    opacity: float = probability()
    evaluate: bool = MISSING

    @staticmethod
    def check(config: DictConfig) -> None:
        TrainConfig.check(config)
        if not config.methods:
            raise UserError(
                "Nothing to compare: name runs, checkpoints, baselines or folders of label maps, for example "
                "python -m evaluation.compare RUN_A RUN_B kmeans_features."
            )
        if not all(name.strip() for name in config.methods):
            raise UserError(
                "One of what is to be compared is empty: give its name, or leave it out. (So is a shell variable that "
                "is not set.)"
            )
        if config.titles and len(config.titles) != len(config.methods):
            raise UserError(f"titles are {len(config.titles)}, methods {len(config.methods)}: give one each, or none.")


@dataclass
class Method:
    """What is compared.

    Attributes:
        title: of its column.
        labeller: on the device.
        config: its own, with what the command line gives.
        sets: the data as it sees them.
        checkpoint: whose it is, if it was trained.
        baseline: its module, if it is one.
    """

    title: str
    labeller: Labeller
    config: DictConfig
    sets: Sets
    checkpoint: Checkpoint | None = None
    baseline: str | None = None


def compare(config: DictConfig) -> None:
    """One pass over the chosen pictures for each method; then colours, the page and the figures."""
    for key in ("checkpoint", "predictions"):
        if config[key] is not None:
            raise UserError(f"{key}={config[key]} is of evaluate.py: here it stands alone, without {key}=.")
    set_determinism(config.deterministic)
    fabric = build_fabric(config.device, config.precision)
    output = output_directory(config)
    methods = methods_of(config.methods, config, fabric)
    shared = shared_pictures(methods)
    shown = chosen_pictures(config, shared)
    seen = list(dict.fromkeys([*shown, *(shared[place] for place in run.spread(config.matched_on, len(shared)))]))

    samples: dict[str, Sample] = {}
    found: list[dict[str, np.ndarray]] = []
    cut: list[bool] = []
    figures = kept_figures(methods)
    for place, method in enumerate(methods):
        own = measured(method, fabric.device) if config.evaluate and figures[place] is None else None
        if own:
            figures[place] = own  # and what needs it is fitted
        else:
            fit(method, fabric.device)
        of_method = {}
        cut.append(False)
        for sample, labels, ends in maps_of(method, seen, fabric.device):
            samples.setdefault(sample.name, sample)
            of_method[sample.name] = labels
            cut[-1] |= sample.name in shown and ends
        found.append(of_method)

    true = {name: sample.part_map for name, sample in samples.items() if sample.part_map is not None}
    columns = [comparison.Column(comparison.TRUE, true)] if len(true) == len(samples) else []
    titles = titles_of(config, methods)
    columns += [comparison.Column(*of_one) for of_one in zip(titles, found, figures, strict=True)]
    colour_alike(columns)
    notes = [f"{title} {CUT}." for title, of_one in zip(titles, cut, strict=True) if of_one]
    lists = of_other_pictures(methods, titles, figures)
    for line in filter(None, [*notes, lists]):
        say(line)
    files = comparison.write(output, config, [samples[name] for name in shown], columns, notes, lists)
    print("Comparison: " + ", ".join(map(str, files)))


def methods_of(chosen: Sequence[str], config: DictConfig, fabric: Fabric) -> list[Method]:
    """All of them, each with its data; baselines and label maps have those of the first run.

    Args:
        chosen: runs, checkpoints, baselines by name, and folders of label maps.

    Raises:
        UserError: one is none of what can be compared, or cannot be read.
    """
    made: dict[str, Method] = {}
    first = None
    for name in dict.fromkeys(chosen):
        if is_trained(name):
            own = config.copy()
            own.checkpoint = name
            labeller, checkpoint, own = of_checkpoint(own, fabric)
            made[name] = Method(_name_of(name), labeller, own, Sets.of(own, method_class(own).test_masks), checkpoint)
            first = first or made[name]
    base = first.config if first else config
    sets = first.sets if first else Sets.of(config, "evaluation")
    num_parts = first.labeller.num_parts if first else config.num_parts
    for name in chosen:
        if name in made:
            continue
        if name in names("baseline"):
            labeller = module("baseline", name).build(config.baselines[name], base, num_parts, fabric.device)
            if isinstance(labeller, Landmark):
                raise UserError(f"{name} finds a landmark and no parts, which have no pictures: leave it out.")
            labeller.prepare(sets.test)
            if labeller.needs_fit and sets.fit is None:
                raise UserError(
                    f"{name} is fitted on training pictures, and {sets.test.name} has none: leave it out, or hold out "
                    "fewer pictures."
                )
            made[name] = Method(labeller.title, labeller, base, sets, baseline=name)
        elif Path(name).is_dir():
            maps = LabelMaps(Path(name), MAX_PARTS, has_background=True, ignore_label=sets.ignore_label)
            made[name] = Method(_name_of(name), maps, base, sets)
        else:
            raise UserError(
                f"{name} is no run, checkpoint, baseline or folder of label maps."
                + nearest(name, names("baseline"), cutoff=0.7)
            )
    for name, title in distinct_titles(made).items():
        made[name].title = title
    return [made[name] for name in chosen]


def distinct_titles(made: Mapping[str, Method]) -> dict[str, str]:
    """Titles of what was chosen by its name: of those alike, with as many folders before as tell them apart.

    Checkpoints of one run, which no folder does, get their steps.
    """
    titles = {name: method.title for name, method in made.items()}
    for title in set(titles.values()):
        places = {name: _place_of(name) for name in made if made[name].title == title and not made[name].baseline}
        others = len(set(places.values()))
        length = 1
        while len({place.parts[-length:] for place in places.values()}) < others:
            length += 1
        for name, place in places.items():
            titles[name] = "/".join(place.parts[-length:])
            beside = [other for other in places if places[other] == place]
            if len({made[other].checkpoint.file for other in beside if made[other].checkpoint}) > 1:
                checkpoint = made[name].checkpoint
                of_file = checkpoint.file.stem if checkpoint.step is None else f"step {checkpoint.step:,}"
                titles[name] += f", {of_file}"
    return titles


def is_trained(name: str) -> bool:
    """Whether it is a run directory or a checkpoint; else a baseline, or a folder of label maps."""
    path = Path(name)
    return path.is_file() or (path / "config.yaml").is_file() or (path / "checkpoints").is_dir()


def kept_figures(methods: Sequence[Method]) -> list[Figures | None]:
    """Of each method those of an evaluation in one of the runs, if there is one of the same thing."""
    trained = [method for method in methods if method.checkpoint and method.checkpoint.run]
    kept = Kept(method.checkpoint.run for method in trained)
    found = []
    for method in methods:
        if method.checkpoint:
            found.append(kept.of_checkpoint(method.checkpoint, method.config, method.sets))
        elif method.baseline:
            found.append(kept.of_baseline(method.baseline, method.labeller.num_parts, method.config, method.sets))
        else:
            found.append(None)
    return found


def measured(method: Method, device: torch.device) -> Figures | None:
    """Those of an evaluation on all test pictures; None, and a line, where there can be none."""
    try:
        labeller, config = with_parts_counted(method).labeller, method.config
        protocols = method_class(config).protocols
        result = run.evaluate(labeller, method.sets, protocols, EvaluationOptions.of(config), device)
    except UserError as error:
        say(f"{method.title} has no figures: {error}")
        return None
    return Figures(result.metrics, len(method.sets.test))


def with_parts_counted(method: Method) -> Method:
    """Of label maps K is counted, as evaluate.py does.

    Raises:
        UserError: a held-out picture has none, or one cannot be read.
    """
    if not isinstance(method.labeller, LabelMaps):
        return method
    config = method.config.copy()
    config.predictions = str(method.labeller.directory)
    return replace(method, labeller=label_maps.given(config, method.sets))


def of_other_pictures(methods: Sequence[Method], titles: Sequence[str], figures: Sequence[Figures | None]) -> str:
    """A sentence where the figures are not all of the same list of test pictures; else nothing."""
    own = [(title, method.sets.test) for title, method, of_one in zip(titles, methods, figures, strict=True) if of_one]
    if len({lists_of(test)[test.split] for _, test in own}) < 2:
        return ""
    said = ", ".join(f"{title} on {len(test):,}" for title, test in own)
    return f"The figures are of different lists of test pictures and cannot be compared: {said}."


def fit(method: Method, device: torch.device) -> None:
    """What has to be fitted; a line where training pictures are skipped.

    Raises:
        UserError: see ``evaluation.run.fit``.
    """
    skipped: dict[int, str] = {}
    run.fit(method.labeller, method.sets, EvaluationOptions.of(method.config), device, skipped)
    if skipped:
        print(f"{len(skipped):,} training pictures are skipped. The first: {skipped[min(skipped)]}")


def shared_pictures(methods: Sequence[Method]) -> list[str]:
    """Names of the held-out pictures that all methods have, in the order of the first; a line where not all are.

    Raises:
        UserError: there are none.
    """
    of_each = {id(method.sets): (method, _names(method.sets)) for method in methods}
    first, wanted = next(iter(of_each.values()))
    for method, own in of_each.values():
        common = wanted.keys() & own.keys()
        if not common:
            places = " and ".join(f"{other.title} ({_data_of(other.config)})" for other in (first, method))
            raise UserError(f"{places} share no test picture: compare methods on the same data.")
        if len(common) < max(len(wanted), len(own)):
            say(f"{first.title} and {method.title} share {len(common):,} test pictures; the others are left out.")
        wanted = {name: place for name, place in wanted.items() if name in common}
    return list(wanted)


def chosen_pictures(config: DictConfig, shared: Sequence[str]) -> list[str]:
    """Those that are asked for, or some spread evenly.

    Raises:
        UserError: one is not among them.
    """
    if not config.pictures:
        return list(dict.fromkeys(shared[place] for place in run.spread(config.count, len(shared))))
    for name in config.pictures:
        if name not in shared:
            meant = nearest(name, shared, cutoff=0.75, separator="/")
            raise UserError(f"pictures: there is no test picture '{name}'.{meant}")
    return list(config.pictures)


def maps_of(method: Method, wanted: Sequence[str], device: torch.device) -> Iterator[tuple[Sample, np.ndarray, bool]]:
    """Each picture with its label map (H, W) uint8, at the picture's own size, and whether parts end where a crop does.

    What is void in a label map made elsewhere is background: nothing is seen there, and no colour is matched by it.

    Raises:
        UserError: a picture or a label map cannot be read.
    """
    places = _names(method.sets)
    indices = [places[name] for name in wanted]
    if isinstance(method.labeller, LabelMaps):
        for index in indices:
            sample = method.sets.test[index]
            labels = method.labeller.label_map(sample)
            yield sample, np.where(labels == VOID, 0, labels), False
        return
    own = method.config
    size, batch_size, num_workers = own.image_size, own.evaluation.batch_size, own.loader.num_workers
    how = {"image_size": size, "batch_size": batch_size, "num_workers": num_workers, "device": device}
    for _, sample, found in predictions(method.labeller, method.sets.test, indices=indices, **how):
        yield sample, found.labels, method.labeller.has_background and not found.inside.all()


def colour_alike(columns: Sequence[comparison.Column]) -> None:
    """Give each part the colour of what it lies on most, one to one, in the columns before its own."""
    for place, column in enumerate(columns[1:], start=1):
        num_colours = max(int(before.recolouring.max()) for before in columns[:place])
        overlap = np.zeros((num_colours + 1, column.num_labels + 1), np.int64)
        for before in columns[:place]:
            for name, labels in column.maps.items():
                pairs = before.recolouring[before.maps[name]] * overlap.shape[1] + labels
                overlap += np.bincount(pairs.ravel(), minlength=overlap.size).reshape(overlap.shape)
        if overlap[1:, 1:].any():
            assignment = matched_accuracy(overlap[1:, 1:], many_to_one=False)[1]
            column.recolouring = recolouring(assignment, num_colours)


def titles_of(config: DictConfig, methods: Sequence[Method]) -> list[str]:
    return list(config.titles) or [method.title for method in methods]


def output_directory(config: DictConfig) -> Path:
    """``output_dir``, or a new dated directory under ``runs/``; it is made once there is something to write.

    Raises:
        UserError: it holds a comparison already, or cannot be written.
    """
    path = Path(config.output_dir or f"runs/{datetime.now():%Y-%m-%d_%H-%M-%S}_comparison")
    if (path / "comparison.html").exists():
        raise UserError(f"output_dir {path} holds another comparison: give another output_dir.")
    require_writable(path)
    return path


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """The command line as Hydra reads it: what stands alone becomes ``methods``, and baselines get their options."""
    methods, others = [], []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        if before in WITH_WORD:
            others.append(argument)
        elif argument.startswith("methods=["):
            methods += [name.strip(" '\"") for name in argument.removeprefix("methods=[").rstrip("]").split(",")]
        elif ("=" in argument and not os.path.exists(argument)) or argument.startswith("-"):
            others.append(argument)
        else:
            methods.append(argument)
    if not methods:
        return others
    known = names("baseline")
    wanted = [name for name in methods if name in known and not Path(name).exists()]
    if wanted and not any(argument.startswith("baseline=") for argument in others):
        others.append(f"baseline=[{','.join(dict.fromkeys(wanted))}]")
    return [f"methods=[{','.join(map(_quoted, methods))}]", *others]


def _quoted(name: str) -> str:
    """As Hydra reads it in a list."""
    if re.fullmatch(r"[\w./-]+", name, re.ASCII):
        return name
    return "'{}'".format(name.replace("\\", "\\\\").replace("'", "\\'"))


def _names(sets: Sets) -> Mapping[str, int]:
    return {sets.test.sample_name(index): index for index in range(len(sets.test))}


def _data_of(config: DictConfig) -> str:
    return f"{config.dataset_name} in {config.dataset_root}"


def _name_of(name: str) -> str:
    return _place_of(name).name


def _place_of(name: str) -> Path:
    """The run of a checkpoint in one, or what is named itself; its last part is its title."""
    path = Path(os.path.abspath(name))
    if path.parent.name == "checkpoints":
        return path.parent.parent
    return path.with_suffix("") if path.is_file() else path


if __name__ == "__main__":
    sys.argv[1:] = as_overrides(sys.argv[1:])
    app.run("evaluation_compare", compare, CompareConfig)
