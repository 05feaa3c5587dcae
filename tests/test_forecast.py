"""What a run says that it will take, of the disk and of time."""

import shutil
from types import SimpleNamespace

import pytest

from tests.composition import composed
from tests.test_train import run
from utils.forecast import checkpoints_to_come, duration, forecast, laptop_recipe, size, storage


def config(*overrides: str):
    return composed("dataset_name=synthetic", "num_steps=1000", *overrides)


@pytest.mark.parametrize(
    ("overrides", "step", "expected"),
    [
        (("checkpointing.every=300", "evaluation.every=0", "checkpointing.keep=null"), 0, [300, 600, 900, 1000]),
        (("checkpointing.every=300", "evaluation.every=500", "checkpointing.keep=null"), 0, [300, 500, 600, 900, 1000]),
        (("checkpointing.every=300", "evaluation.every=0"), 600, [900, 1000]),
        (("checkpointing.every=100", "evaluation.every=0", "checkpointing.keep=2"), 0, [900, 1000]),
        (
            (
                "checkpointing.every=100",
                "evaluation.every=0",
                "checkpointing.keep=1",
                "checkpointing.milestone_every=400",
            ),
            100,
            [400, 800, 1000],
        ),
    ],
)
def test_it_counts_the_checkpoints_that_will_be_there_in_the_end(overrides, step, expected):
    assert checkpoints_to_come(config(*overrides), step) == expected


def test_it_says_how_long_the_run_takes():
    (line,) = forecast(config(), 10, pace=1.0, on_cpu=False)
    assert line == "At 1 s a step the 990 to come take 16 min, evaluations left out."


def test_at_the_end_of_a_run_there_is_nothing_to_foretell():
    assert [*forecast(config(), 1000, pace=1.0, on_cpu=False)] == []


def needs(free: int | None, step: int = 0) -> list[str]:
    return [*storage(config("checkpointing.every=500", "evaluation.every=0"), step, 300_000_000, free)]


def test_it_says_what_checkpoints_need_and_warns_where_the_disk_is_too_small():
    assert needs(free=10**12) == ["Checkpoints need 600 MB (2 of 300 MB); the disk has 1,000 GB left."]
    assert "will not hold" in needs(free=599_999_999)[1] and len(needs(free=600_000_000)) == 1
    assert needs(free=None) == ["Checkpoints need 600 MB (2 of 300 MB)."]
    assert needs(free=10**12, step=1000) == []


def test_a_run_of_days_on_a_cpu_names_the_recipe_for_laptops():
    line = [*forecast(config("dataset_root=my data"), 10, pace=100.0, on_cpu=True)][-1]
    assert line.endswith("python train.py dataset_name=synthetic 'dataset_root=\"my data\"' experiment=laptop")
    for pace, on_cpu in ((100.0, False), (1.0, True)):
        assert len([*forecast(config(), 10, pace, on_cpu)]) == 1
    assert [laptop_recipe(name) for name in ("contrastive_reconstruction", "uld", "ac")] == [
        "laptop",
        "laptop_uld",
        None,
    ]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0.2, "1 s"), (99, "99 s"), (100, "2 min"), (5999, "100 min"), (6000, "2 h"), (360_000, "4 days")],
)
def test_durations_have_two_digits(seconds, expected):
    assert duration(seconds) == expected


def test_sizes_are_those_of_disks():
    assert [size(5.31e9), size(283_700_000)] == ["5.31 GB", "284 MB"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_run_says_so_before_it_starts_and_after_ten_steps_and_is_right(tmp_path, monkeypatch, capsys, optimizer):
    free = SimpleNamespace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free)
    given = ("experiment=uld_drawn", "image_size=32", "num_steps=11", "checkpointing.every=100")
    path = run(tmp_path, "run", *given, f"optimizer={optimizer}")
    said = capsys.readouterr().err
    sizes = [file.stat().st_size for file in (path / "checkpoints").iterdir()]
    assert "the 1 to come take" in said and "warning: the disk will not hold" in said
    assert len(sizes) == 1 and size(sizes[0]) != "0 MB"
    told = float(said.split("Checkpoints need ")[1].split(" MB")[0])
    assert told * 1e6 == pytest.approx(sum(sizes), rel=0.02)
    log = (path / "train.log").read_text()
    assert log.index("Checkpoints need") < log.index("step 1") < log.index("the 1 to come take")
