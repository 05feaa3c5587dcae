import csv
import functools
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from rich.console import Console

from conf import app
from conf.app import CONF
from datasets.example import draw_folder
from evaluation import table as program
from evaluation.tables import jobs, text
from evaluation.tables.found import Measured, Result, find, results_of
from evaluation.tables.rows import merged, rows_of, training_numbers
from tests.composition import composed, given
from tests.shared import SHARED, needs_shared
from tests.test_docs import program_and_arguments
from tests.trees import draw_cub_tree, draw_pascal_tree
from utils.errors import Stopped, UserError
from utils.run_directory import ROOT

OF_PIXELS = ("ac", "ac_ablations", "ac_probes", "textures")  # tests/test_pixel_tables.py has their rows
TABLES = sorted(path.stem for path in (CONF / "table").glob("*.yaml") if path.stem not in OF_PIXELS)
DRAWN = ("dataset_name=synthetic", "experiment=drawn", "num_steps=7")
KMEANS = ("table=synthetic", "rows=[kmeans_features]", "num_steps=7")
THIS = ("table=synthetic", "rows=[this_method]", "num_steps=7")


_composed_once = functools.cache(app.composed)


@pytest.fixture(autouse=True)
def once(monkeypatch):
    """Each config is composed once for all tests: that takes a third of a second."""
    monkeypatch.setattr(app, "composed", lambda name, own, *schema: _composed_once(name, tuple(own), *schema).copy())


def saved(*overrides: str, **changed) -> dict:
    """A run's config with some keys changed, ``perceptual__factor=2`` is one of a node."""
    config = OmegaConf.to_container(app.composed("train", overrides))
    for key, value in changed.items():
        *nodes, name = key.split("__")
        functools.reduce(dict.__getitem__, nodes, config)[name] = value
    return config


def draw_run(run: Path, *overrides: str, reached: int | None = None, nmi: float = 40.0, **changed) -> Path:
    """A run directory as training leaves it, cut off at a step if one is given."""
    config = saved(*(overrides or DRAWN), **changed)
    last = reached or config["num_steps"]
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / f"model_{last}.pth").touch()
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "evaluation.csv").write_text(f"step,FG-NMI,NMI\n3,1.0,2.0\n{last},{nmi},{nmi + 1}\n")
    return run


def draw_evaluation(
    folder: Path, config: dict, nmi: float, checkpoint: str | None = None, time: int = 0, **more
) -> Path:
    """What evaluate.py writes."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {"config": config, "num_parts": config["num_parts"], "baselines": {}, "updates": 7, **more}
    made |= {"checkpoint": checkpoint} if checkpoint else {}
    (folder / "metrics.json").write_text(json.dumps({"FG-NMI": nmi, "produced_by": made}))
    os.utime(folder / "metrics.json", (time, time))
    return folder


def results(runs: Path, *overrides: str) -> tuple[list[Result], list[str]]:
    with given(*overrides, name="evaluation_table") as config:
        own = [override for override in overrides if override.partition("=")[0] not in program.OWN]
        entries = rows_of(config, own).entries
        return results_of(entries, find([runs]), config.table.metrics)


def show(*overrides: str) -> None:
    """The program, in this process."""
    with given(*overrides, name="evaluation_table") as config:
        program.table(config)


# Rows


@pytest.mark.parametrize("name", TABLES)
def test_every_row_of_a_table_composes(name, capsys):
    (first, *_), rows = [_table(name)["data"][key] for key in _table(name)["data"]], _table(name)["rows"]
    category = next((f"data=[{value.partition('=')[2]}]" for value in first if "category" in value), "data=[]")
    with given(f"table={name}", *([category] if name == "pascal_part" else []), name="evaluation_table") as config:
        entries = rows_of(config, []).entries
    assert {entry.row for entry in entries} == rows.keys()
    nothing_to_run = {row for row in rows if not rows[row].keys() & {"overrides", "baseline", "checkpoint"}}
    bare = {entry.row for entry in entries if entry.kind == "published"} - nothing_to_run
    assert not bare, capsys.readouterr().err


def _table(name: str) -> dict:
    return yaml.safe_load((CONF / f"table/{name}.yaml").read_text())["table"]


def test_keys_of_the_command_line_win_and_experiments_add_up():
    assert merged(["dataset_name=CUB", "experiment=a/b", "x=1", "dataset_name=DF", "+x=2", "experiment=[c,d]"]) == [
        "dataset_name=DF",
        "+x=2",
        "experiment=[a/b,c,d]",
    ]
    assert merged(["experiment=null", "a=1"]) == ["a=1"]
    with given("table=cub", "rows=[this_method]", name="evaluation_table") as config:
        (entry,) = rows_of(config, ["experiment=small", "num_parts=5"]).entries
    assert (entry.config.num_parts, entry.config.image_size, entry.config.dataset_name) == (5, 64, "CUB")


def test_on_another_data_set_nothing_is_published_and_two_data_sets_become_one():
    with given("table=parts", "dataset_name=synthetic", "rows=[four,six]", name="evaluation_table") as config:
        rows = rows_of(config, ["dataset_name=synthetic"])
    assert rows.moved and [entry.data for entry in rows.entries] == ["synthetic", "synthetic"]
    assert all(entry.published == {} == entry.five_seeds for entry in rows.entries)
    assert [entry.config.dataset_name for entry in rows.entries] == ["synthetic"] * 2
    with given("table=parts", "dataset_name=DF", "rows=[six]", name="evaluation_table") as config:
        rows = rows_of(config, ["dataset_name=DF"])
    assert not rows.moved and [entry.published["NMI"] for entry in rows.entries] == [66.2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["rows=[this_methd]"], "rows: the table has no 'this_methd'. Did you mean 'this_method'?"),
        (["data=[DF]"], "data: the table has no 'DF'"),
        (["table.rows.scops.overrides=[dataset_name=DF]"], "all rows of a table are of the same data"),
        (["+table.rows.scops.published.FG_NMI=3"], "FG_NMI, which is none of table.metrics. Did you mean 'FG-NMI'"),
        (["+table.data.DF=[dataset_name=DF]"], "needs a list of 2: CUB, DF"),
        (["seed=3"], "give seeds="),
        (["table=pascal_part", "dataset.category=dog"], r"tells the columns of table=pascal_part apart"),
        (["seeds=[1,1]"], "give one or more, each once"),
        (["seeds=[]"], "give one or more, each once"),
        (["runs=no/where"], "There is no folder no/where"),
        (["+table.rows.scpos.label=x"], "has neither published figures nor anything to run. Did you mean 'scops'"),
    ],
)
def test_mistakes_are_told(overrides, message):
    overrides = [override if "=[dataset_name=" not in override else _quoted(override) for override in overrides]
    with pytest.raises(UserError, match=re.escape(message)):
        show("table=cub", *overrides)


def _quoted(override: str) -> str:
    return re.sub(r"\[(\S+)\]$", r"['\1']", override)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table=cubb"], "table has no option 'cubb'. Did you mean 'cub'?"),
        (["table=cub", "num_partz=3"], "unknown key 'num_partz'"),
        (["table=cub", "+table.rows.scops.labl=3"], "Did you mean 'table.rows.scops.label'"),
        (["table=cub", "table.rows.scpos.label=3"], "no 'scpos' to change. Did you mean 'table.rows.scops'"),
        ([], "You must specify 'table'"),
        (
            ["table=cub", "seeds=[a]"],
            "error: seeds: Value 'a' of type 'str' could not be converted to Integer; it must",
        ),
    ],
)
def test_mistakes_in_names_are_told_in_one_line(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["table", *arguments])
    with pytest.raises(SystemExit) as ended:
        program.app.run("evaluation_table", program.table, program.TableConfig)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_row_whose_keys_give_no_config_is_told_and_keeps_its_published_figures(capsys):
    with given("table=cub", "rows=[scops,this_method]", name="evaluation_table") as config:
        config.table.rows.scops.overrides = ["method=scopz"]
        scops, ours = rows_of(config, []).entries
        assert (scops.kind, scops.published["FG-NMI"], ours.kind) == ("published", 39.1, "training")
        assert "Row scops of table=cub: method has no option 'scopz'" in " ".join(capsys.readouterr().err.split())
        config.rows = ["scops"]
        with pytest.raises(UserError, match="no option 'scopz'"):
            rows_of(config, [])


# Runs that belong to a row


def test_a_run_belongs_to_the_row_whose_config_it_has_whatever_its_seed_place_and_machine(tmp_path):
    draw_run(tmp_path / "a", seed=1, nmi=40.0)
    elsewhere = {"device": "cpu", "dataset_root": "/other", "loader__num_workers": 9, "checkpointing__every": 3}
    draw_run(tmp_path / "sweeps/date/b", seed=2, nmi=44.0, evaluation__every=1, perceptual__factor=2.5, **elsewhere)
    (result,), notes = results(tmp_path, *THIS)
    assert [(own.seed, own.figures["FG-NMI"]) for own in result.measured] == [(1, 40.0), (2, 44.0)]
    (note,) = notes
    assert note.startswith("'this method' (synthetic) is of different data") and "/other" in note


def test_data_is_known_by_its_lists_wherever_it_lies_and_figures_of_other_pictures_are_told(tmp_path):
    lists = {"train": "9 names, 1111", "test": "5 names, aaaa"}
    draw_run(tmp_path / "a", seed=1, dataset__lists=lists)
    draw_run(tmp_path / "b", seed=2, dataset__lists=lists, dataset_root="/other")
    (result,), notes = results(tmp_path, *THIS)
    assert (len(result.measured), notes) == (2, [])
    other = {**lists, "test": "5 names, bbbb"}
    draw_run(tmp_path / "c", seed=3, dataset__lists=other)
    (result,), (note,) = results(tmp_path, *THIS)
    assert "'this method' (synthetic) is of different data" in note and "aaaa; 5 names, bbbb" in note
    keys = "dataset_name=synthetic", "experiment=[drawn,cub/no_visual]", "num_steps=7"
    draw_run(tmp_path / "d", *keys, dataset__lists=other)
    _, notes = results(tmp_path, "table=synthetic", "rows=[no_visual,this_method]", "num_steps=7")
    assert notes[-1] == "Rows of synthetic are of different data and cannot be compared: 5 names, aaaa; 5 names, bbbb."


def test_runs_that_differ_are_told_apart_and_never_averaged_in(tmp_path):
    draw_run(tmp_path / "good")
    draw_run(tmp_path / "parts", num_parts=8)
    draw_run(tmp_path / "long", num_steps=9, optimizer__lr=0.5)
    draw_run(tmp_path / "masks", dataset__train_mask="unsupervised")
    draw_run(tmp_path / "other_method", *DRAWN, "method=scops")
    draw_run(tmp_path / "other_data", "dataset_name=CUB", "num_steps=7")
    (result,), notes = results(tmp_path, *THIS)
    assert [own.source.name for own in result.measured] == ["good"]
    assert notes == [
        f"{tmp_path}/long left out of 'this method' (synthetic): num_steps=9 instead of 7, optimizer.lr=0.5 instead of "
        "0.00015.",
        f"{tmp_path}/masks left out of 'this method' (synthetic): dataset.train_mask=unsupervised instead of gt.",
        f"{tmp_path}/parts left out of 'this method' (synthetic): num_parts=8 instead of 4.",
    ]


def test_of_many_runs_that_differ_a_few_are_named_and_each_once_at_the_row_that_it_is_most_like(tmp_path):
    for number in range(6):
        draw_run(tmp_path / f"run_{number}", num_parts=8, batch_size=number + 20)
    draw_run(tmp_path / "six", num_parts=6)
    found, notes = results(tmp_path, "table=synthetic", "rows=[this_method,six_parts,eight_parts]", "num_steps=7")
    assert [len(result.measured) for result in found] == [0, 1, 0]
    assert len(notes) == 4 and all("'this method, K = 8'" in note for note in notes)
    assert notes[-1] == "3 more left out of 'this method, K = 8' (synthetic)."


def test_a_run_that_was_cut_or_not_evaluated_is_left_out_and_named(tmp_path):
    draw_run(tmp_path / "cut", reached=5)
    (draw_run(tmp_path / "silent") / "evaluation.csv").unlink()
    (draw_run(tmp_path / "torn") / "evaluation.csv").write_text("step,NMI\n7,4x\n")
    (result,), notes = results(tmp_path, *THIS)
    assert not result.measured
    reasons = [note.split(": ", 1)[1] for note in notes]
    assert reasons[:2] == ["it has come to step 5 of 7.", "it was not evaluated."]
    assert reasons[2].startswith("its evaluation.csv is damaged: ")


def test_the_newest_evaluation_of_the_last_checkpoint_counts_before_the_training_s_own(tmp_path):
    run = draw_run(tmp_path / "run", nmi=40.0)
    last = str(run / "checkpoints/model_7.pth")

    def found() -> float:
        return results(tmp_path, *THIS)[0][0].measured[0].figures["FG-NMI"]

    assert found() == 40.0
    draw_evaluation(tmp_path / "early", saved(*DRAWN), 10.0, str(run / "checkpoints/model_3.pth"), updates=3)
    draw_evaluation(tmp_path / "masks", saved(*DRAWN, dataset__eval_mask="unsupervised"), 11.0, last)
    draw_evaluation(tmp_path / "data", saved("dataset_name=CUB"), 12.0, last)
    assert found() == 40.0
    own_steps = saved(*DRAWN[:2])  # what evaluate.py composes has the data set's, not those of the run
    draw_evaluation(tmp_path / "old", own_steps, 41.0, last, time=1000)
    assert found() == 41.0
    draw_evaluation(run / "evaluation", saved(*DRAWN), 42.0, "/moved/since/model_7.pth", time=2000)
    assert found() == 42.0


def test_of_two_runs_of_one_seed_the_newest_is_taken_and_that_is_said(tmp_path):
    for name, nmi in (("a", 40.0), ("b", 50.0)):
        run = draw_run(tmp_path / name, seed=3, nmi=nmi)
        os.utime(run / "evaluation.csv", (nmi, nmi))
    (result,), notes = results(tmp_path, *THIS)
    assert result.values("FG-NMI") == [50.0]
    assert notes == [
        f"{tmp_path}/a left out of 'this method' (synthetic): {tmp_path}/b is newer and of seed 3 too.",
    ]


def test_baselines_count_wherever_they_were_measured_if_what_they_depend_on_is_the_same(tmp_path):
    def beside(name: str, figures: dict, *overrides: str, **changed) -> None:
        config = saved(*DRAWN[:2], "baseline=[untrained,kmeans_features]", *overrides, **changed)
        draw_evaluation(tmp_path / name, config, 90.0, "runs/x/model_9.pth", baselines=figures)

    own = {"untrained": {"FG-NMI": 1.0}, "kmeans_features": {"FG-NMI": 30.0}}
    beside("by_module", own, seed=1, num_steps=99, dataset__flip_probability=0.3)
    titles = {"untrained": {"FG-NMI": 1.0}, "k-means features": {"FG-NMI": 34.0}}
    beside("by_title", titles, "method=scops", "perceptual.matched_to=22200", seed=2)
    beside("parts", own, seed=3, num_parts=6)
    beside("network", own, seed=4, perceptual__layers={"4": 1.0})
    beside("restarts", own, seed=5, baselines__kmeans_features__restarts=2)
    beside("crop", own, seed=6, evaluation__size=64)
    (result,), notes = results(tmp_path, *KMEANS)
    assert [(measured.seed, measured.figures["FG-NMI"]) for measured in result.measured] == [(1, 30.0), (2, 34.0)]
    assert len(notes) == 4 and notes[-1].startswith(str(tmp_path / "restarts"))
    assert "baselines.kmeans_features.restarts=2 instead of 10" in notes[-1]
    (untrained,), _ = results(tmp_path, "table=synthetic", "rows=[untrained]")
    assert [own.seed for own in untrained.measured] == [1, 2, 4, 5], "the features are no concern of it"


def test_a_checkpoint_that_is_there_is_known_by_its_file(tmp_path):
    for nmi, folder in enumerate(("checkpoints", "other")):
        file = f"/somewhere/{folder}/CUB/model_60000.pth"
        draw_evaluation(tmp_path / f"of_{folder}", saved("dataset_name=CUB"), float(nmi), file)
    (result,), notes = results(tmp_path, "table=cub", "rows=[published_checkpoint]")
    assert result.values("FG-NMI") == [0.0] and notes == []


def test_what_is_damaged_is_named_and_left_out(tmp_path):
    draw_run(tmp_path / "good")
    (draw_run(tmp_path / "torn") / "config.yaml").write_text("dataset_name: [")
    (draw_run(tmp_path / "strange") / "config.yaml").write_text("dataset_name: synthetic\nnothing: 3\n")
    for name, content in (("cut", '{"FG-NMI": 1'), ("empty", "{}"), ("list", "[]")):
        draw_evaluation(tmp_path / name, saved(*DRAWN), 1.0)
        (tmp_path / name / "metrics.json").write_text(content)
    (result,), notes = results(tmp_path, *THIS)
    assert len(result.measured) == 1
    assert sorted(note.split()[0] for note in notes) == [
        *(f"{tmp_path}/{name}" for name in ("cut/metrics.json", "empty/metrics.json", "list/metrics.json")),
        *(f"{tmp_path}/{name}" for name in ("strange", "torn")),
    ]


def test_the_paper_s_names_of_categories_are_those_of_the_data_set(tmp_path):
    keys = "dataset_name=PP", "num_steps=7"
    draw_run(tmp_path / "bike", *keys, "dataset.category=bike", nmi=1.0)
    draw_run(tmp_path / "bus", *keys, "dataset.category=bus", nmi=2.0)
    found, notes = results(tmp_path, "table=pascal_part", "rows=[this_method]", "data=[bicycle,bus,car]", "num_steps=7")
    assert [result.values("FG-NMI") for result in found] == [[2.0], [], [1.0]] and notes == []


def test_classes_that_a_run_read_from_its_data_count_as_the_row_s(tmp_path):
    draw_run(tmp_path / "run", "dataset_name=synthetic", "method=region_grouping", "num_steps=7", method__num_classes=3)
    (result,), notes = results(tmp_path, "table=synthetic", "rows=[region_grouping]", "num_steps=7")
    assert len(result.measured) == 1 and notes == []


WITH_BACKGROUND = "evaluation.ari_with_background=true"


def test_an_evaluation_belongs_to_the_run_that_it_lies_in_and_never_to_another_that_has_its_old_place(tmp_path):
    """A run was renamed, evaluated before that, and another is where it was."""
    other = draw_run(tmp_path / "a", *DRAWN, "loss_weights.visual=0", seed=1)
    moved = draw_run(tmp_path / "b", seed=1)
    draw_evaluation(moved / "evaluation", saved(*DRAWN, seed=1), 77.0, f"{other}/checkpoints/model_7.pth")
    aside = draw_evaluation(tmp_path / "aside", saved(*DRAWN, seed=2), 88.0, f"{other}/checkpoints/model_7.pth")
    keys = "table=synthetic", "rows=[this_method,no_visual]", "num_steps=7"
    found, notes = results(tmp_path, *keys)
    by_row = {result.entry.row: [(own.source, own.figures["FG-NMI"]) for own in result.measured] for result in found}
    assert by_row["this_method"] == [(moved, 77.0)] and all(value != 77.0 for _, value in by_row["no_visual"])
    (note,) = (note for note in notes if str(aside) in note)
    assert f"it is not of the run that is in {other} now: seed=2 instead of 1, loss_weights.visual=" in note


def test_two_folders_of_pictures_are_two_data_sets(tmp_path):
    roots = tmp_path / "birds", tmp_path / "cars"
    for seed, root in enumerate(roots):
        draw_run(root, "dataset_name=folder", "num_steps=7", f"dataset_root={root}", seed=seed)
    keys = "table=ablations", "rows=[full]", "dataset_name=folder", "num_steps=7"
    (result,), (note,) = results(tmp_path, *keys, f"dataset_root={roots[0]}")
    assert [own.source for own in result.measured] == [roots[0]]
    assert f"{roots[1]} left out of" in note and f"dataset_root={roots[1]} instead of {roots[0]}" in note


def test_figures_that_are_no_numbers_are_named_and_left_out(tmp_path):
    for seed in (1, 2):
        run = draw_run(tmp_path / f"run_{seed}", seed=seed)
    text_of = (run / "evaluation.csv").read_text()
    (run / "evaluation.csv").write_text(text_of.replace("40.0", "nan"))
    (result,), notes = results(tmp_path, *THIS)
    assert len(result.measured) == 1
    (note,) = notes
    assert "run_2 left out" in note and "evaluation.csv is damaged: " in note and "=nan is not finite" in note


def test_keys_that_make_two_rows_one_are_refused():
    with pytest.raises(UserError, match="With num_parts=6 the rows 'K = 4' and 'K = 6' are the same runs"):
        show("table=parts", "rows=[four,six]", "data=[CUB]", "num_parts=6")


def test_figures_that_were_added_harm_no_row_and_where_they_are_asked_for_others_are_left_out(tmp_path):
    for seed, added in ((1, False), (2, True)):
        beside = {"kmeans_features": {"FG-NMI": 30.0 + seed}}
        run = draw_run(tmp_path / f"run_{seed}", seed=seed, evaluation__ari_with_background=added)
        config = saved(*DRAWN[:2], "baseline=[kmeans_features]", seed=seed, evaluation__ari_with_background=added)
        draw_evaluation(run / "evaluation", config, 50.0 + seed, f"{run}/checkpoints/model_7.pth", baselines=beside)
    rows = "table=synthetic", "rows=[this_method,kmeans_features]", "num_steps=7"
    found, notes = results(tmp_path, *rows)
    assert [result.values("FG-NMI") for result in found] == [[31.0, 32.0], [51.0, 52.0]] and notes == []
    found, notes = results(tmp_path, *rows, WITH_BACKGROUND)
    assert [result.values("FG-NMI") for result in found] == [[32.0], [52.0]]
    key = "evaluation.ari_with_background"
    said = "\n".join(notes)
    assert f"run_1 left out of 'this method' (synthetic): it was not evaluated with {key}=True." in said
    assert f"left out of 'k-means on features' (synthetic): {key}=False instead of True." in said
    found, notes = results(tmp_path, *rows, "metrics=['FG-ARI (with background)']")
    assert f"it was not evaluated with {key}=True." in "\n".join(notes)
    assert [len(result.measured) for result in found] == [1, 1]


# The text


def result_of(row: str, *figures: dict, table: str = "deepfashion") -> Result:
    with given(f"table={table}", f"rows=[{row}]", name="evaluation_table") as config:
        entry = rows_of(config, []).entries[0]
    return Result(entry, [Measured(seed, own, Path("x"), 0.0) for seed, own in enumerate(figures, start=1)])


METRICS = ["FG-NMI", "FG-ARI", "NMI", "ARI"]


def test_mean_and_deviation_are_of_a_sample_and_far_from_the_published_ones_they_are_marked():
    # Published: 44.6 +- 0.4 of five seeds, and 46.1 +- 0.6.
    inside = result_of("this_method", {"FG-NMI": 43.0, "FG-ARI": 44.8}, {"FG-NMI": 45.0, "FG-ARI": 45.0})
    cell = text.figures(inside, "FG-NMI")
    assert (cell.mean, cell.deviation, cell.outside) == (44.0, pytest.approx(2**0.5), False)
    assert cell.published_text == "44.8 (44.6 ± 0.4)" and cell.measured_text == "44.0 ± 1.4 (2)"
    far = text.figures(inside, "FG-ARI")
    assert far.outside and far.measured_text == "44.9 ± 0.1* (2)"
    assert text.figures(result_of("this_method", {"FG-NMI": 45.39}), "FG-NMI").measured_text == "45.4 (1)"
    assert text.figures(result_of("this_method", {"FG-NMI": 45.41}), "FG-NMI").measured_text == "45.4* (1)"
    assert not text.figures(result_of("scops", {"FG-NMI": 1.0}), "FG-NMI").outside, "no deviation is published"


def test_the_three_formats_hold_the_same_figures(tmp_path):
    ours, scops = result_of("this_method", {"FG-NMI": 43.125}, {"FG-NMI": 43.0}), result_of("scops")
    checkpoint = result_of("published_checkpoint")
    scops.status = "failed"
    text.write(tmp_path, "A & B", [scops, checkpoint, ours], METRICS, {"Left out": ["- x"]})
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[:9] == [
        *("# A & B", ""),
        "|  |  | FG-NMI | FG-ARI | NMI | ARI |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
        "| SCOPS | published | 30.7 | 27.6 | 56.6 | 81.4 |",
        "|  | measured | failed | failed | failed | failed |",
        "| this method, published checkpoint | published | 44.54 | 46.2 | 68.1 | 90.6 |",
        "|  | measured | - | - | - | - |",
        "| this method | published | 44.8 (44.6 ± 0.4) | 46.6 (46.1 ± 0.6) | 68.1 (68.2 ± 0.2) | 90.6 (90.7 ± 0.1) |",
    ]
    assert "|  | measured | 43.1 ± 0.1* (2) | - | - | - |" in lines and lines[-3:] == ["## Left out", "", "- x"]
    assert any(line.startswith("* More than two of these deviations") for line in lines)
    latex = (tmp_path / "table.tex").read_text()
    assert r" & measured & 43.1 $\pm$ 0.1$^{*}$ (2) & - & - & - \\" in latex
    assert r"\begin{tabular}{llrrrr}" in latex and r"A \& B" in latex and "± " not in latex
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (own,) = (row for row in rows if (row["row"], row["metric"]) == ("this_method", "FG-NMI"))
    assert (own["published"], own["published mean of five"], own["measured"]) == ("44.8", "44.6", "43.0625")
    assert float(own["measured std"]) == pytest.approx(0.125 / 2**0.5)
    assert (own["seeds"], own["outside two published std"]) == ("2", "True")
    assert [row["status"] for row in rows if row["row"] == "scops"] == ["failed"] * 4


def test_what_would_be_too_wide_is_a_table_for_each_metric_with_the_data_as_columns():
    with given("table=pascal_part", "rows=[this_method]", name="evaluation_table") as config:
        found = [Result(entry) for entry in rows_of(config, []).entries]
        metrics = list(config.table.metrics)
    nmi, ari = text.grids("PASCAL-Part", found, metrics)
    assert nmi.columns[2:] == ["sheep", "horse", "cow", "motorbike", "aeroplane", "bus", "car", "bicycle", "dog", "cat"]
    assert nmi.lines[0][1:4] == ["published", "35.0", "37.4"] and ari.lines[0][-1] == "75.4"
    (parts,) = text.grids("Parts", [result_of("six", table="parts")], METRICS)
    assert parts.columns[2:] == ["CUB FG-NMI", "CUB FG-ARI", "CUB NMI", "CUB ARI"]


def test_a_table_without_runs_is_shown_with_commands_that_can_be_given(tmp_path, capsys):
    with pytest.raises(UserError, match=f"No run under {tmp_path} belongs to a row"):
        show(f"runs={tmp_path}", f"output_dir={tmp_path}/out", "table=synthetic", "rows=[this_method,kmeans_features]")
    shown = capsys.readouterr().out
    lines = [line.strip() for line in shown.splitlines() if line.startswith("  python")]
    commands = [part for line in lines for part in line.split(" && ")]
    assert [program_and_arguments(command)[0] for command in commands] == ["evaluate.py", "train.py", "evaluate.py"]
    run = f"{tmp_path}/out/this_method/seed_1"
    assert commands[1] == f"python train.py dataset_name=synthetic experiment=drawn seed=1 output_dir={run}"
    for name, arguments in map(program_and_arguments, commands):
        OverridesParser.create().parse_overrides(arguments)
        if "kmeans" not in str(arguments):
            composed(*arguments, name=name.removesuffix(".py"))
    assert "'baseline=[kmeans_features]'" in lines[0] and lines[0] in (tmp_path / "out/table.md").read_text()


# run=true


class Programs:
    """Stands for the programs: writes what they leave behind; fails, or is interrupted, where it is told to."""

    def __init__(self, fail: str | None = None, interrupt: str | None = None) -> None:
        self.calls: list[list[str]] = []
        self.fail, self.interrupt = fail, interrupt

    def __call__(self, name: str, *arguments: str) -> bool:
        self.calls.append([name, *arguments])
        call = " ".join(self.calls[-1])
        keys = dict(argument.split("=", 1) for argument in arguments)
        folder = Path(keys.get("output_dir") or keys.get("resume") or "")
        if self.fail and re.search(self.fail, call):
            return False
        stopped = self.interrupt and re.search(self.interrupt, call)
        if name == "train.py" and "resume" in keys:
            num_steps = yaml.safe_load((folder / "config.yaml").read_text())["num_steps"]
            (folder / "checkpoints" / f"model_{num_steps}.pth").touch()
            (folder / "evaluation.csv").write_text(f"step,NMI\n{num_steps},10.0\n")
        elif name == "train.py":
            own = [argument for argument in arguments if not argument.startswith(("output_dir=", "seed="))]
            draw_run(folder, *own, seed=int(keys.get("seed", 1)), reached=3 if stopped else None)
        elif name == "predict.py":
            draw_pascal_tree(Path(keys["dataset_root"], "VOCdevkit_2010"), keys["dataset.category"])
        elif "baseline" in keys:
            own = [argument for argument in arguments if not argument.startswith(("output_dir=", "seed="))]
            (baseline,) = keys["baseline"].strip("[]").split(",")
            figures = {baseline: {"NMI": 20.0}}
            draw_evaluation(folder, saved(*own, seed=int(keys["seed"])), 0.0, baselines=figures)
        if stopped:
            raise KeyboardInterrupt
        return True

    def of(self, name: str) -> list[list[str]]:
        return [call[1:] for call in self.calls if call[0] == name]


FEW = ("dataset.drawing.num_train=3", "dataset.drawing.num_test=3")


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Runs the program with stand-ins for the others, and gives these."""

    def call(*overrides: str, **told) -> Programs:
        programs = Programs(**told)
        monkeypatch.setattr(jobs, "program", programs)
        synthetic = FEW if "table=synthetic" in overrides else ()
        folders = (f"runs={tmp_path}", f"output_dir={tmp_path}/out", f"dataset_root={tmp_path}")
        show(*folders, *overrides, "run=true", "num_steps=7", *synthetic)
        return programs

    return call


SOME = ("table=synthetic", "rows=[kmeans_features,this_method]")


def test_what_is_missing_is_made_and_a_second_call_has_nothing_to_do(make, tmp_path, capsys):
    programs = make(*SOME, "seeds=[1,2]")
    assert [call[0] for call in programs.calls] == ["evaluate.py"] * 2 + ["train.py", "evaluate.py"] * 2
    run = tmp_path / "out/this_method/seed_2"
    train, evaluate = programs.of("train.py")[1], programs.of("evaluate.py")[-1]
    assert {"dataset_name=synthetic", "num_steps=7", "seed=2", f"output_dir={run}"} <= set(train)
    assert {f"checkpoint={run}", f"output_dir={run}/evaluation", "seed=2"} <= set(evaluate)
    shown = capsys.readouterr().out
    assert re.search(r"4 of 4: 'this method' \(synthetic\), seed 2; about \d+ s left", shown)
    assert "20.0 ± 0.0 (2)" in shown.replace("\u00a0", " ") and "41.0 ± 0.0 (2)" in shown.replace("\u00a0", " ")
    assert make(*SOME, "seeds=[1,2]").calls == []
    assert len(make(*SOME, "seeds=[2,3]").calls) == 3, "another seed of each is made, and no more"


def test_a_run_that_lacks_its_evaluation_alone_is_evaluated_where_it_is_and_not_trained_again(make, tmp_path):
    run = draw_run(tmp_path / "elsewhere", *DRAWN, *FEW, seed=1)
    draw_run(tmp_path / "whole", *DRAWN, *FEW, seed=2, evaluation__ari_with_background=True)
    assert make("table=synthetic", "rows=[this_method]", "seeds=[1]").calls == []
    programs = make("table=synthetic", "rows=[this_method]", "seeds=[1]", WITH_BACKGROUND)
    (evaluate,) = programs.calls
    assert {"evaluate.py", WITH_BACKGROUND, f"checkpoint={run}", f"output_dir={run}/evaluation"} <= set(evaluate)
    draw_evaluation(run / "evaluation", saved(*DRAWN, *FEW, seed=1), 3.0, f"{run}/checkpoints/model_7.pth")
    (evaluate,) = make("table=synthetic", "rows=[this_method]", "seeds=[1]", WITH_BACKGROUND).calls
    assert f"output_dir={run}/evaluation_2" in evaluate, "evaluate.py overwrites nothing"
    shutil.rmtree(run / "evaluation")
    (run / "evaluation.csv").unlink()
    assert [call[0] for call in make("table=synthetic", "rows=[this_method]", "seeds=[1]").calls] == ["evaluate.py"]


def test_a_run_that_fails_does_not_stop_the_others_and_the_same_command_tries_it_again(make, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        make(*SOME, "seeds=[1,2]", fail="train.py .*seed=1 ")
    assert ended.value.code == 1
    shown = capsys.readouterr()
    assert "error: 'this method' (synthetic), seed 1 failed, the others go on." in shown.err
    assert "41.0 (1)" in shown.out.replace("\u00a0", " ")
    with pytest.raises(SystemExit):
        make("table=synthetic", "rows=[no_visual]", "seeds=[1]", fail="train.py")
    assert "failed" in capsys.readouterr().out
    assert [call[0] for call in make(*SOME, "seeds=[1,2]").calls] == ["train.py", "evaluate.py"]


def test_an_interrupted_run_goes_on_where_it_was(make, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make(*SOME, "seeds=[1,2]", interrupt="train.py .*seed=1 ")
    run = tmp_path / "out/this_method/seed_1"
    programs = make(*SOME, "seeds=[1,2]")
    assert programs.of("train.py")[0] == [f"resume={run}"] and len(programs.of("train.py")) == 2
    assert [path.name for path in run.parent.iterdir()] == ["seed_1", "seed_2"]


def test_what_is_in_the_way_is_kept_beside(make, tmp_path):
    place = tmp_path / "out/this_method"
    draw_run(place / "seed_1", seed=1, num_parts=9)  # made by an earlier version, with other numbers
    (place / "seed_2").mkdir()  # ended before its first checkpoint
    (place / "seed_2/config.yaml").write_text("cut")
    make("table=synthetic", "rows=[this_method]", "seeds=[1,2]")
    assert (place / "seed_2/config.yaml").read_text() == "cut"
    (one,), (other,) = ([*place.glob(f"seed_{seed}_2/checkpoints/*")] for seed in (1, 2))
    assert one.name == other.name == "model_7.pth"


def test_a_checkpoint_that_is_not_there_is_no_failure(make, capsys, tmp_path):
    with pytest.raises(UserError, match="No run under"):
        make("table=cub", "rows=[published_checkpoint]")
    shown = capsys.readouterr().out
    assert "left out: there is no checkpoints/CUB/model_60000.pth." in shown and "no file" in shown


@pytest.fixture
def pascal(tmp_path) -> Path:
    """Three categories are on disk, of one only its list."""
    for category in ("horse", "car"):
        draw_pascal_tree(tmp_path / "VOCdevkit_2010", category)
    return draw_pascal_tree(tmp_path / "VOCdevkit_2010", "cat", num_train=0)


PASCAL = ("table=pascal_part", "rows=[this_method]", "seeds=[1]")


def test_a_category_without_data_is_told_and_the_others_go_on(make, pascal, tmp_path, capsys):
    programs = make(*PASCAL, "data=[horse,cow,car]")
    keys = {"dataset_name=PP", "dataset.category=horse", "num_steps=7", f"dataset_root={tmp_path}"}
    assert keys <= set(programs.of("train.py")[0])
    assert f"output_dir={tmp_path}/out/this_method/car/seed_1" in programs.of("train.py")[1]
    assert len(programs.of("train.py")) == 2
    with (tmp_path / "out/table.csv").open(newline="") as file:
        nmi = {row["data"]: (row["measured"], row["status"]) for row in csv.DictReader(file) if row["metric"] == "NMI"}
    assert nmi == {"horse": ("41.0", ""), "cow": ("", "no data"), "car": ("41.0", "")}
    assert "cow" in capsys.readouterr().out


def test_a_row_of_keypoints_is_left_out_where_there_are_none_and_the_title_names_what_was_measured(
    make, pascal, tmp_path, capsys
):
    keys = "dataset_name=PP", "dataset.category=horse", "dataset.eval_mask=gt"
    programs = make("table=cub", "rows=[midpoint,kmeans]", "seeds=[1]", *keys)
    assert [call[0] for call in programs.calls] == ["evaluate.py"] and "baseline=[kmeans_features]" in programs.calls[0]
    assert "'image midpoint' (PP) left out: PASCAL-Part horse has no keypoints." in capsys.readouterr().out
    with (tmp_path / "out/table.csv").open(newline="") as file:
        statuses = {row["row"]: row["status"] for row in csv.DictReader(file)}
    assert statuses == {"midpoint": "no keypoints", "kmeans": ""}
    title = (tmp_path / "out/table.md").read_text().splitlines()[0]
    assert title.startswith("# The rows of table=cub on PP, with dataset_name=PP dataset.category=horse")


@pytest.mark.parametrize("run", [True, False])
def test_that_there_are_no_keypoints_is_said_before_masks_are_asked_for(make, pascal, tmp_path, capsys, run):
    for path in (pascal / "supervisedlabels/horse").iterdir():
        path.unlink()
    table = "table=cub", "rows=[midpoint]", "seeds=[1]", "dataset_name=PP", "dataset.category=horse"
    with pytest.raises(UserError, match="belongs to a row. Nothing makes one: choose other rows."):
        make(*table) if run else show(
            f"runs={tmp_path}", f"dataset_root={tmp_path}", f"output_dir={tmp_path}/o", *table
        )
    told = capsys.readouterr()
    assert "'image midpoint' (PP) left out: PASCAL-Part horse has no keypoints." in told.out and not told.err
    assert "python" not in told.out, "no command is printed that would ask for masks"


def test_rows_of_published_figures_alone_promise_no_command(tmp_path):
    with pytest.raises(UserError, match="belongs to a row. Nothing makes one: choose other rows."):
        show("table=cub", "rows=[scops_paper]", f"runs={tmp_path}", f"output_dir={tmp_path}/out")


def test_nothing_is_trained_for_figures_that_pictures_without_annotation_cannot_have(make, tmp_path, capsys):
    draw_folder(tmp_path / "mine", count=10, size=48)
    shutil.rmtree(tmp_path / "mine/parts")
    (tmp_path / "mine/masks").rename(tmp_path / "masks")
    (tmp_path / "mine/keypoints.csv").unlink()
    table = "table=cub", "rows=[this_method]", "seeds=[1]", "dataset_name=folder", f"dataset_root={tmp_path}/mine"
    with pytest.raises(UserError, match="No run under"):
        make(*table)
    shown = capsys.readouterr().out
    assert "folder has no annotation to compare with" in shown and "not annotated" in shown
    (tmp_path / "masks").rename(tmp_path / "mine/masks")
    programs = make(*table, "metrics=[presence]")
    assert [call[0] for call in programs.calls] == ["train.py", "evaluate.py"]


def test_the_commands_that_are_printed_begin_with_masks_where_these_are_missing(pascal, tmp_path, capsys):
    for path in (pascal / "supervisedlabels/car").iterdir():
        path.unlink()
    folders = (f"runs={tmp_path}", f"output_dir={tmp_path}/out", f"dataset_root={tmp_path}")
    with pytest.raises(UserError, match="No run under"):
        show("table=pascal_part", "rows=[dff,this_method]", "data=[horse,car]", "num_parts=5", *folders)
    lines = [line.strip() for line in capsys.readouterr().out.splitlines() if line.startswith("  python")]
    masks, *others = lines
    training, prediction = map(program_and_arguments, masks.split(" && "))
    run = f"{tmp_path}/out/foreground/car"
    assert training[0] == "train.py" and training[1][-3:] == [
        *("method=foreground", "num_steps=20000", f"output_dir={run}")
    ]
    assert prediction[0] == "predict.py" and {f"checkpoint={run}", "only_missing=true"} <= set(prediction[1])
    assert len(others) == 4 and not any("foreground" in line for line in others)


def test_masks_that_one_row_lacks_stop_no_other_row(make, tmp_path, capsys):
    draw_cub_tree(tmp_path / "CUB", masks=("segmentations", "supervisedlabels"))
    rows = "rows=[swav_deepcluster_unsupervised,imagenet_dino]"
    with pytest.raises(SystemExit):
        make("table=less_supervision", rows, "seeds=[1]")
    shown = capsys.readouterr()
    assert "unsupervised" in shown.err and "and what is of the same data" in shown.err
    with (tmp_path / "out/table.csv").open(newline="") as file:
        statuses = {row["row"]: row["status"] for row in csv.DictReader(file)}
    assert statuses == {"swav_deepcluster_unsupervised": "failed", "imagenet_dino": ""}


def test_what_is_printed_goes_on_with_a_run_that_was_cut(tmp_path, capsys):
    run = draw_run(tmp_path / "out/this_method/seed_1", *DRAWN, *FEW, seed=1, reached=3)
    folders = (f"runs={tmp_path}", f"output_dir={tmp_path}/out", f"dataset_root={tmp_path}")
    with pytest.raises(UserError, match="No run under"):
        show("table=synthetic", "rows=[this_method]", "num_steps=7", *FEW, *folders)
    assert f"  python train.py resume={run} && python evaluate.py " in capsys.readouterr().out


def test_a_category_that_is_broken_is_told_and_the_others_go_on(make, pascal, capsys):
    (pascal / "Annotations_Part/2010_horse000.mat").unlink()
    with pytest.raises(SystemExit):
        make(*PASCAL, "data=[horse,car]")
    shown = capsys.readouterr()
    assert "2010_horse000.mat" in shown.err and "failed" in shown.out and "41.0" in shown.out


def test_masks_that_are_missing_are_predicted_first(make, pascal, tmp_path):
    for path in (pascal / "supervisedlabels/car").iterdir():
        path.unlink()
    programs = make(*PASCAL, "data=[car]", "num_parts=5", "table.foreground_steps=5")
    foreground, parts = programs.of("train.py")
    assert [call[0] for call in programs.calls] == ["train.py", "predict.py", "train.py", "evaluate.py"]
    run = f"{tmp_path}/out/foreground/car"
    assert foreground[-3:] == ["method=foreground", "num_steps=5", f"output_dir={run}"]
    assert "num_parts=5" not in foreground and "num_parts=5" in parts
    assert {f"checkpoint={run}", "only_missing=true", "dataset.category=car"} <= set(*programs.of("predict.py"))
    assert len(list((pascal / "supervisedlabels/car").iterdir())) > 1


@pytest.mark.slow
def test_a_program_that_is_interrupted_is_waited_for(tmp_path):
    done = tmp_path / "done"
    wait = "import signal, sys, time, pathlib\nsignal.signal(signal.SIGINT, lambda *_: None)\nprint(1, flush=True)\n"
    (tmp_path / "wait.py").write_text(f"{wait}time.sleep(3)\npathlib.Path({str(done)!r}).touch()\n")
    # A test run in the background of a shell ignores Ctrl-C, and so would this.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom evaluation.tables import jobs\n"
    code += f"print(jobs.program({str(tmp_path / 'wait.py')!r}))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"1\n"
    os.killpg(process.pid, 2)
    assert process.wait(60) != 0 and done.exists()


@pytest.mark.parametrize("status", (130, 143))
def test_a_program_that_a_signal_ended_ends_the_table_and_not_its_row_alone(tmp_path, status):
    (tmp_path / "ended.py").write_text(f"raise SystemExit({status})\n")
    with pytest.raises(Stopped) as stopped:
        jobs.program(str(tmp_path / "ended.py"))
    assert stopped.value.status == status


def test_sigterm_is_passed_on_to_what_runs(tmp_path):
    """It would go on alone otherwise, in the way of the next try."""
    begun = tmp_path / "begun"
    (tmp_path / "wait.py").write_text(f"import pathlib, time\npathlib.Path({str(begun)!r}).touch()\ntime.sleep(60)\n")

    def once_begun():
        while not begun.exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=once_begun)
    sender.start()
    with pytest.raises(Stopped):
        jobs.program(str(tmp_path / "wait.py"))
    sender.join()


def test_signs_of_markup_are_shown_as_they_are():
    grid = text.Grid("with [a/b]", ["", "", "x"], [["[0, 1] mask ^2 ~ a|b [/x]", "measured", "1"]])
    console = Console(file=io.StringIO(), width=120)
    console.print(text.rich_table(grid))
    assert "[0, 1] mask ^2 ~ a|b [/x]" in console.file.getvalue() and "with [a/b]" in console.file.getvalue()
    assert r"| [0, 1] mask ^2 ~ a\|b [/x] | measured | 1 |" in text.markdown(grid)
    assert r"{[}0, 1] mask \^{}2 \textasciitilde{} a|b" in text.latex(grid, [])


# Published figures


@needs_shared
@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("synthetic", "photographs")])
def test_published_figures_are_those_of_the_paper(name):
    facts = re.sub(r"\s+", " ", (SHARED / "METHOD.md").read_text().partition("## 7")[2])
    facts = re.sub(r" -(?= )", "", facts)  # no figure
    order = ["keypoint_error_001", "keypoint_error_002", "keypoint_error_003", "keypoint_error_all", *METRICS]
    table = _table(name)
    count = len(table["data"])
    for row, spec in table["rows"].items():
        figures = {
            key: value if isinstance(value, list) else [value] for key, value in spec.get("published", {}).items()
        }
        for place in range(1 if name == "pascal_part" else count):
            names = [metric for metric in order if metric in figures]
            numbers = [figures[metric] if name == "pascal_part" else [figures[metric][place]] for metric in names]
            for group in numbers if name == "pascal_part" else [sum(numbers, [])]:
                digits = 2 if "checkpoint" in row else 1
                told = " ".join("0" if value == 0 else f"{value:.{digits}f}" for value in group)
                assert told in facts, (row, told)
        means, deviations = (spec.get(key, {}) for key in ("five_seeds", "deviations"))
        for metric in means:
            pairs = zip(*(own[metric] if count > 1 else [own[metric]] for own in (means, deviations)), strict=True)
            assert all(f"{mean}+-{deviation}" in facts for mean, deviation in pairs), (row, metric)


METHOD = "docs/methods/contrastive_reconstruction.md"
SHOWN = {
    "cub": (METHOD, "### CUB"),
    "deepfashion": (METHOD, "### DeepFashion"),
    "pascal_part": (METHOD, "### PASCAL-Part"),
    "ablations": (METHOD, "### Ablations"),
    "parts": (METHOD, "### Number of parts"),
    "less_supervision": ("docs/networks.md", "## Less supervision"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_pages_show_the_published_figures_of_the_tables(name):
    page, heading = SHOWN[name]
    section = re.split(r"^##", (ROOT / page).read_text().partition(f"\n{heading}\n")[2], flags=re.MULTILINE)[0]
    lines = [re.sub(r"`.*?`", "", line) for line in section.splitlines() if line.startswith("|")]
    shown = [float(number) for line in lines for number in re.findall(r"-?\d+\.\d+", line)]
    nodes = ["published", *(["five_seeds", "deviations"] if name in ("cub", "deepfashion") else [])]
    own = [value for spec in _table(name)["rows"].values() for node in nodes for value in spec.get(node, {}).values()]
    figures = [figure for value in own for figure in (value if isinstance(value, list) else [value])]
    assert sorted(shown) == sorted(figure for figure in figures if figure), "but noughts"


def test_runs_made_with_other_keys_are_in_another_folder():
    assert program.folder_name("cub", []) == "cub"
    assert program.folder_name("cub", ["num_steps=50", "dataset_name=synthetic"]) == (
        "cub+dataset_name_synthetic+num_steps_50"
    )
    names = {program.folder_name("cub", [f"experiment=[a,{name}]"]) for name in "bc"}
    assert len(names) == 2 and all(re.fullmatch(r"[\w+.-]+", name) for name in names)


@pytest.mark.slow
def test_one_command_makes_and_shows_a_table(tmp_path):
    small = ["experiment=debug", "num_steps=1", "image_size=32", "evaluation.size=32", "logging.wandb=disabled"]
    small += ["baseline=[]", "loader.num_workers=0", f"dataset_root={tmp_path}", f"output_dir={tmp_path / 'out'}"]
    draw_pascal_tree(tmp_path / "VOCdevkit_2010", "car")
    masks = tmp_path / "VOCdevkit_2010/supervisedlabels/car"
    for path in masks.iterdir():
        path.unlink()
    command = [sys.executable, "-m", "evaluation.table", *PASCAL, "data=[car,dog]", "run=true", f"runs={tmp_path}"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run([*command, *small], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr
    assert len(list(masks.glob("*.png"))) == 10, "they were predicted on the way"
    with (tmp_path / "out/table.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["data"] == "car" and row["seeds"] == "1"]
    names = {"NMI", "ARI", "NMI (ground-truth mask)", "ARI (ground-truth mask)", "FG-NMI", "FG-ARI"}
    assert {row["metric"] for row in rows} == names
    evaluated = json.loads((tmp_path / "out/this_method/car/seed_1/evaluation/metrics.json").read_text())
    assert all(float(row["measured"]) == pytest.approx(evaluated[row["metric"]]) for row in rows)


def test_a_file_of_weights_is_the_same_by_its_whole_path_and_by_that_from_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.pth").touch()
    data = {"dataset": {"name": "cub"}}
    kept = {"segmenter": {"weights": f"{tmp_path}/own.pth"}, "perceptual": {"weights": "imagenet"}} | data
    assert training_numbers(kept) == training_numbers(kept | {"segmenter": {"weights": "own.pth"}})
    assert training_numbers(kept)["perceptual.weights"] == "imagenet"
