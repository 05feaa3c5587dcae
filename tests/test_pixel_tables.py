"""The tables of the second paper: their rows on the data that they are of, and on drawn textures; notes, deviations."""

import functools
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
import torch
import yaml
from omegaconf import DictConfig, OmegaConf

from conf import app
from conf.app import CONF
from datasets.batch import TrainBatch
from evaluation.tables import text
from evaluation.tables.found import Measured, Result
from evaluation.tables.jobs import Job
from evaluation.tables.rows import Entry, differences, evaluation_numbers, rows_of, training_numbers
from models.methods import method_class
from tests.composition import composed, given
from tests.shared import SHARED, needs_shared
from utils.errors import UserError
from utils.seeding import Randomness

FACTS = SHARED / "METHOD_AC.md"


def _composed_once(name: str, overrides: Sequence[str], composed: Callable = app.composed) -> DictConfig:
    """Tables share configs, and one takes a third of a second."""
    key = name, *sorted(overrides)
    if key not in _CONFIGS:
        _CONFIGS[key] = composed(name, overrides)
    return _CONFIGS[key]


_CONFIGS: dict[tuple[str, ...], DictConfig] = {}


@functools.cache
def entries(table: str, *keys: str) -> list[Entry]:
    with pytest.MonkeyPatch.context() as patch, given(f"table={table}", *keys, name="evaluation_table") as config:
        patch.setattr(app, "composed", _composed_once)
        return rows_of(config, [key for key in keys if not key.startswith(("rows=", "data="))]).entries


def result(table: str, row: str, data: str, *accuracies: float) -> Result:
    entry = next(entry for entry in entries(table, f"data=[{data}]") if entry.row == row)
    measured = [Measured(seed, {"pixel accuracy": own}, Path("x"), 0.0) for seed, own in enumerate(accuracies)]
    return Result(entry, measured)


def made(own: Iterable[Entry]) -> list[Entry]:
    """Those that are not published figures alone."""
    return [entry for entry in own if entry.kind != "published"]


@pytest.mark.parametrize(
    ("table", "data"),
    [
        ("ac", ("COCO-Stuff-3", "COCO-Stuff", "Potsdam-3", "Potsdam")),
        ("ac_ablations", ("Potsdam",)),
        ("ac_probes", ("Potsdam-3",)),
    ],
)
def test_networks_of_every_row_can_be_built_for_the_published_data_at_full_size(table, data):
    for name in data:
        own = entries(table, f"data=[{name}]")
        for entry in made(own):
            with torch.device("meta"):
                predictor = method_class(entry.config).from_config(entry.config).predictor
            channels = 4 if "potsdam" in entry.config.dataset_name else 5  # with infrared, or with edges
            assert next(predictor.parameters()).shape[1] == channels, entry.title
            assert predictor.num_parts == {"Potsdam": 6, "COCO-Stuff": 15}.get(name, 3)
        assert all(entry.spec.note for entry in own if entry.kind == "published"), "a row that is not made says why"


def test_ac_and_arl_have_one_recipe_on_both_sets_of_potsdam_classes():
    of_first = None
    for method in ("ac", "arl"):
        six, three = (
            training_numbers(OmegaConf.to_container(composed(f"method={method}", f"dataset_name={name}")))
            for name in ("potsdam", "potsdam3")
        )
        assert differences(six, three).keys() == {"dataset_name", "num_parts", "dataset.merged"}
        of_first = of_first or six
        assert not [key for key in differences(of_first, six) if not key.startswith(("method.", "loss_weights."))]


@pytest.mark.parametrize("table", ["ac_ablations", "ac_probes", "textures"])
def test_every_row_trains_on_drawn_textures_where_nothing_is_published(table):
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = TrainBatch(images, torch.ones(2, 1, 64, 64), [""] * 2, step=0)
    own = entries(table, *([] if table == "textures" else ["dataset_name=textures"]))
    assert not any(entry.published for entry in own)
    assert all(entry.spec.note for entry in own if entry.kind == "published"), "a row that is not made says why"
    for entry in made(own):
        assert entry.config.dataset_name == "textures"
        method = method_class(entry.config).from_config(entry.config)
        size = sum(parameter.numel() for parameter in method.predictor.parameters())
        assert size < 200_000 or entry.row == "f5", "small enough for a CPU"
        if entry.kind == "baseline":
            continue
        losses = method(method.views(batch, Randomness(1, 0, range(2))))
        losses[next(iter(entry.config.loss_weights))].backward()
        gradients = [parameter.grad for parameter in method.predictor.parameters() if parameter.grad is not None]
        assert gradients and any(gradient.any() for gradient in gradients), entry.title


@pytest.mark.parametrize(
    ("table", "data"), [("ac", "Potsdam"), ("ac_ablations", "Potsdam"), ("ac_probes", "Potsdam"), ("textures", None)]
)
def test_no_run_belongs_to_two_rows_of_a_table(table, data):
    own = made(entries(table, *([f"data=[{data}]"] if data else [])))
    numbers = [(entry.kind, entry.spec.baseline, entry.numbers) for entry in own]
    assert all(seen not in numbers[:place] for place, seen in enumerate(numbers))


@pytest.mark.parametrize(
    ("table", "row", "data", "published"),
    [
        ("ac", "random", "COCO-Stuff", 19.4),
        ("ac", "isola", "Potsdam-3", 63.9),
        ("ac", "iic", "COCO-Stuff-3", 72.3),
        ("ac", "ac", "Potsdam", 49.3),
        ("ac", "ac", "Potsdam-3", 66.5),
        ("ac_ablations", "f4", "Potsdam", 35.1),
        ("ac_ablations", "zigzag_attention", "Potsdam", 47.8),
        ("ac_ablations", "rotation", "Potsdam", 48.5),
        ("ac_ablations", "arl", "Potsdam-3", 57.1),
    ],
)
def test_some_published_figures(table, row, data, published):
    assert result(table, row, data).entry.published == {"pixel accuracy": published}


@needs_shared
@pytest.mark.parametrize("table", ["ac", "ac_ablations", "ac_probes"])
def test_published_figures_are_those_of_the_facts(table):
    facts = FACTS.read_text().partition("## 7")[2].replace("**", "").replace("|", "/")
    facts = re.sub(r"\s+", " ", facts)
    for name, spec in yaml.safe_load((CONF / f"table/{table}.yaml").read_text())["table"]["rows"].items():
        for metric, published in spec["published"].items():
            deviations, figures = spec.get("deviations", {}).get(metric), map(str, published)
            told = [f"{own} +- {deviations[place]}" if deviations else own for place, own in enumerate(figures)]
            assert " / ".join(told) in facts, (name, metric)


def test_the_main_row_is_the_best_configuration_of_the_ablations_on_each_set():
    for row, data in (("both_attention", "Potsdam"), ("zigzag_attention", "Potsdam-3")):
        (main,), (best,) = (
            entries(table, f"rows=[{own}]", f"data=[{data}]") for table, own in (("ac", "ac"), ("ac_ablations", row))
        )
        assert best.numbers == main.numbers and best.published == main.published


def test_a_run_without_probes_is_evaluated_with_them_and_any_probes_do_where_none_are_asked_for():
    (clustered,) = entries("ac_ablations", "rows=[f2]", "data=[Potsdam]")
    (probed,) = entries("ac_probes", "rows=[ac]", "data=[Potsdam]")
    assert clustered.numbers == probed.numbers, "one training serves both"
    job = Job(probed, seed=1, folder=Path("run"), trained=True)
    asked = "evaluation.probe.kinds=[linear,non_linear]"
    assert job.training is None and {"evaluate.py", asked, "checkpoint=run"} <= set(job.evaluation)
    assert not any(key.startswith(("method", "segmenter")) for key in job.evaluation), "these are in the checkpoint"
    without, with_probes = (evaluation_numbers(entry.plain) for entry in (clustered, probed))
    assert differences(with_probes, without) == {"evaluation.probe.kinds": ([], ["linear", "non_linear"])}
    assert not differences(without, with_probes | {"evaluation.probe.steps": 7})
    assert differences(with_probes, with_probes | {"evaluation.probe.steps": 7})


def test_published_deviations_stand_behind_their_figures_and_mark_what_is_far():
    near, far = (result("ac_ablations", "two_orderings", "Potsdam", value) for value in (47.5, 47.7))  # 43.2 +- 2.19
    none = result("ac_ablations", "f2", "Potsdam", 10.0)
    shown = [text.figures(own, "pixel accuracy") for own in (near, far, none)]
    assert [cell.published_text for cell in shown] == ["43.2 ± 2.19", "43.2 ± 2.19", "46.4"]
    assert [cell.measured_text for cell in shown] == ["47.5 (1)", "47.7* (1)", "10.0 (1)"]
    lines = list(text.footnotes([far, none], ["pixel accuracy"]))
    assert "Published behind ±: a deviation, of how many runs is not known." in lines
    assert not any("five seeds" in line for line in lines)
    (row,) = text.rows([far], ["pixel accuracy"])
    assert (row["published"], row["published std"], row["outside two published std"]) == (43.2, 2.19, True)


def test_notes_of_rows_stand_below_the_table_once_for_all_that_share_one(tmp_path):
    shown = [result("ac", row, data) for data in ("Potsdam", "Potsdam-3") for row in ("doersch", "isola", "iic")]
    lines = list(text.footnotes(shown, ["pixel accuracy"]))
    assert sum(line.startswith("Doersch 2015; Isola 2016: published is the best epoch") for line in lines) == 1
    text.write(tmp_path, "Notes", shown, ["pixel accuracy"], {})
    assert all("IIC: published is the best epoch" in (tmp_path / f"table.{end}").read_text() for end in ("md", "tex"))


def test_deviations_of_nothing_are_refused():
    with given("table=ac_ablations", "rows=[f2]", name="evaluation_table") as config:
        config.table.rows.f2.published = {}
        config.table.rows.f2.deviations = {"pixel accuracy": [1.0, 2.0]}
        with pytest.raises(UserError, match="all others are of published figures"):
            rows_of(config, [])
