"""The page of a run, and following it in a terminal."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from evaluation.palette import PALETTE
from tests.test_logging import Clock, config, train
from utils import page, run_directory, watch
from utils.errors import UserError
from utils.logging import RunLogger
from utils.page import Page, State, curve, rendered
from utils.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "a <run> & more"
    path.mkdir()
    (path / "config.yaml").write_text("num_steps: 20\nname: '<b>'\n")
    train(RunDirectory(path), config(path.parent, "disabled"), 0, 10)
    train(RunDirectory(path), config(path.parent, "disabled"), 10, 20)
    return path


class Read(HTMLParser):
    """What a page loads or links to, the headings, and pictures without a text in their place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.linked, self.headings, self.silent, self._in = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        given, self._in = dict(attributes), tag
        self.linked += [given[name] for name in ("src", "href") if name in given]
        if (tag == "img" and not given.get("alt")) or (given.get("role") == "img" and not given.get("aria-label")):
            self.silent.append(given)

    def handle_data(self, data):
        if self._in in ("h1", "h2"):
            self.headings.append(data)
            self._in = ""


def test_the_page_of_a_run_shows_its_curves_pictures_log_and_config_and_loads_nothing_from_elsewhere(run):
    text = (run / page.NAME).read_text()
    found = Read(text)
    assert found.headings == [
        "a <run> & more",
        "Pictures",
        "Losses",
        "Held-out pictures",
        "Areas of the parts",
        "Time and memory",
        "Last lines of the log",
    ]
    assert set(found.linked) == {"pictures/parts_20.png", "train.log"} | {
        f"{table}.csv" for table in ("metrics", "evaluation", "part_areas", "timing")
    }
    assert all((run / name).is_file() for name in found.linked) and "http" not in text and not found.silent
    assert ">Done</p>" in text and "20 of 20" in text and "&lt;b&gt;" in text and "evaluated after 20 steps" in text
    assert re.search(r"""data-steps="\[10, ?20\]">\s*<figcaption><b>parts</b>""", text)
    feature = text.partition("<span>feature</span>")[2].partition("</figure>")[0]
    assert "<output>0.05</output>" in feature and "between 0.05 and 1 so far" in feature


def test_a_legend_says_which_part_has_which_colour_and_so_do_the_curves_of_their_areas(run):
    text = rendered(run, state(), datetime.now(), 30.0)
    legend, areas = text.partition('<ul class="legend">')[2].partition("</ul>")[::2]
    chips = re.compile(r'background: rgb\((\d+), (\d+), (\d+)\)"></span>(part \d)')
    expected = [(*map(str, PALETTE[part]), f"part {part}") for part in (1, 2)]
    assert chips.findall(legend) == chips.findall(areas) == expected


def test_what_was_told_once_is_a_small_table_and_becomes_curves_with_what_comes_after(tmp_path):
    train(RunDirectory(tmp_path), config(tmp_path, "disabled"), 0, 3)
    held_out = re.compile(r"<h2>Held-out pictures</h2>.*?</section>", re.DOTALL)
    (once,) = held_out.findall((tmp_path / page.NAME).read_text())
    assert "<svg" not in once and "after 3 steps" in once
    cells = [("FG-NMI", "46"), ("keypoint error all", "9.2")]
    assert re.findall(r'<th scope="row">\s*(.*?)</th><td>(.*?)</td>', once) == cells
    train(RunDirectory(tmp_path), config(tmp_path, "disabled"), 3, 5)
    (twice,) = held_out.findall((tmp_path / page.NAME).read_text())
    assert twice.count("<svg") == 2 and "<table" not in twice


def test_a_curve_ends_where_its_values_do():
    found = curve([2, 4, 10], [3.0, 1.0, 2.0])
    assert found["line"] == "0.0,0.0 75.0,100.0 300.0,50.0" and found["band"] == ""
    assert (found["low"], found["high"], found["last"], found["first"]) == (1.0, 3.0, 2.0, 2)
    assert curve([5], [7.0])["line"] == "0.0,50.0"


def test_a_long_curve_is_thinned_to_means_with_all_values_in_its_band():
    values = [*np.random.default_rng(0).normal(size=10_007)]
    found = curve(range(10, 100_080, 10), values)
    points = [point.split(",") for point in found["line"].split()]
    assert len(points) <= page.MOST_POINTS and found["steps"][-1] == 100_070
    size = -(-len(values) // page.MOST_POINTS)
    assert found["values"][1] == page.figure(np.mean(values[size : 2 * size]))
    heights = [float(point.split(",")[1]) for point in found["band"].split()]
    assert (min(heights), max(heights)) == (0, page.HEIGHT) and len(heights) == 2 * len(points)


def state(outcome: str = "running") -> State:
    return State(5, 20, outcome, 1.5, 3600.0)


def test_while_it_runs_it_says_until_when_and_after_an_error_what_that_was(run):
    now = datetime(2030, 1, 1, 23, 30)
    text = rendered(run, state(), now, 30.0)
    assert "60 min, until 02 January, 00:30" in text and "1.5 s a step" in text and ">Running</p>" in text
    text = rendered(run, state("the disk <is> full"), now, 30.0)
    assert "Ended. the disk &lt;is&gt; full" in text and "until" not in text


def test_it_is_written_no_more_often_than_one_percent_of_the_time_allows(tmp_path, monkeypatch):
    clock, written = Clock(), []

    def slow(*_):
        clock.sleep(2)
        written.append(clock.seconds)
        return "text"

    monkeypatch.setattr(page, "time", clock)
    monkeypatch.setattr(page, "rendered", slow)
    of_run = Page(tmp_path, print)
    for _ in range(1000):
        clock.sleep(1)
        of_run.refresh(state)
    assert np.diff(written).min() >= 200 and len(written) == 5
    assert not list(tmp_path.glob(".*"))


def test_a_page_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path):
    said = []
    of_run = Page(tmp_path / "gone", said.append)
    of_run.write(state())
    of_run.write(state())
    assert len(said) == 1 and "cannot write" in said[0] and not (tmp_path / "gone").exists()


def test_a_run_without_a_page_has_none(tmp_path):
    train(RunDirectory(tmp_path), config(tmp_path, "disabled", "logging.page=false"), 0, 2)
    assert not (tmp_path / page.NAME).exists()


def test_a_run_that_fails_says_so_on_its_page(tmp_path):
    with pytest.raises(UserError), RunLogger(RunDirectory(tmp_path), config(tmp_path, "disabled")) as logger:
        logger.advance(1)
        assert ">Running</p>" in (tmp_path / page.NAME).read_text()
        raise UserError("the picture is gone")
    assert "Ended. the picture is gone" in (tmp_path / page.NAME).read_text()


BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCRIPT = """<script>
window.onerror = message => { document.title = "error: " + message; };
addEventListener("load", () => {
  const slider = document.querySelector("input[type=range]"), figure = document.querySelector(".curve");
  const told = [document.getElementById("outcome").textContent];
  slider.value = 0; slider.dispatchEvent(new Event("input"));
  for (const name of ["img", "output"]) told.push(document.querySelector(`[data-kind] ${name}`));
  told[1] = told[1].getAttribute("src"); told[2] = told[2].textContent;
  for (const key of ["ArrowRight", "ArrowLeft"]) figure.dispatchEvent(new KeyboardEvent("keydown", {key}));
  told.push(figure.querySelector("output").textContent);
  if (!document.title.startsWith("error")) document.title = JSON.stringify(told);
});
</script>"""


@pytest.mark.skipif(not BROWSER, reason="there is no Chromium here")
def test_in_a_browser_slider_and_curves_answer_and_a_run_that_was_killed_is_told(run, tmp_path):
    text = rendered(run, state(), datetime.now() - timedelta(minutes=10), 30.0)
    (run / "killed.html").write_text(text.replace("<head>", f"<head>{SCRIPT}"))
    options = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-sync"
    command = [BROWSER, *options.split(), f"--user-data-dir={tmp_path}", "--dump-dom", (run / "killed.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = re.search("<title>(.*)</title>", done.stdout)[1]
    told = json.loads(title)
    assert told[0].startswith("No news for 10 minutes")
    assert "<dt>Time left</dt>" in text and "<dt>Time left</dt>" not in done.stdout
    assert told[1:3] == ["pictures/parts_10.png", "after 10 steps"]
    assert told[3] == "step 19: 29"


def test_following_a_run_prints_the_lines_of_its_log_until_it_ends(run, capsys, monkeypatch):
    looks = iter([False, False, True])

    def is_over(self):
        with (run / "train.log").open("a") as file:
            file.write("2030-01-01 00:00:00  a line\n")
        return next(looks)

    monkeypatch.setattr(watch.Run, "is_over", is_over)
    monkeypatch.setattr(watch, "SECONDS_BETWEEN", 0)
    before = (run / "train.log").read_text()
    assert watch.main([str(run)]) == 1
    assert capsys.readouterr().out.startswith(before + 3 * "2030-01-01 00:00:00  a line\n" + "Nothing trains in ")
    (run / "train.log").write_text(before)
    monkeypatch.undo()
    assert watch.main([str(run)]) == 0


def test_of_a_run_that_ended_before_its_first_checkpoint_it_says_that_it_begins_again(tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("num_steps: 20\n")
    resume = f"{run_directory.to_resume(tmp_path)}\n"
    assert watch.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith(
        f"To go on with it (from step 1: nothing was saved): python train.py {resume}"
    )
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/model_10.pth").touch()
    assert watch.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.endswith(f"To go on with it: python train.py {resume}")


def test_a_run_that_trains_is_known_by_its_lock(tmp_path):
    program = (
        "import sys; from utils.run_directory import _locked; from pathlib import Path; "
        "file = _locked(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    (tmp_path / "config.yaml").write_text("num_steps: 20\n")
    of_run = watch.Run(tmp_path)
    assert of_run.is_over()
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        assert not of_run.is_over()
        process.communicate("")
    assert of_run.is_over()


LOCKS = {"LOCK_SH": 1, "LOCK_NB": 4}


@pytest.mark.parametrize("without", ["a system", "a drive"])
def test_without_locks_a_run_is_followed_until_it_is_done_or_long_without_news(tmp_path, monkeypatch, without):
    def none(*_):
        raise OSError("No locks available")

    monkeypatch.setattr(run_directory, "fcntl", None if without == "a system" else SimpleNamespace(**LOCKS, lockf=none))
    (tmp_path / "config.yaml").write_text("num_steps: 20\n")
    (tmp_path / "lock").touch()
    of_run, log = watch.Run(tmp_path), tmp_path / "train.log"
    log.write_text("2030-01-01 00:00:00  Done.\n")
    assert of_run.is_done() and of_run.is_over()
    log.write_text("2030-01-01 00:00:00  step 7/20\n")
    assert not of_run.is_over()
    long_ago = time.time() - watch.LONG - 1
    os.utime(log, (long_ago, long_ago))
    assert of_run.is_over() and not of_run.is_done()


def test_a_terminal_shows_progress_curves_and_the_end_of_the_log(run, capsys):
    Console(width=120).print(watch.Run(run).shown(40))
    shown = capsys.readouterr().out
    assert "step 20 of 20" in shown and re.search(r"feature +0.05 +0.05 +1 +█", shown) and "FG-NMI" in shown
    assert "Done." in shown and shown.index(" total ") < shown.index(" feature ")
    Console(width=80).print(watch.Run(run).shown(14, runs=False))
    small = capsys.readouterr().out
    assert len(small.splitlines()) == 13 and "total" in small and " left" not in small and "Done." in small
    assert watch.sparkline([0.0, 1.0]) == "▁█" and watch.sparkline([3.0]) == "▁"
    assert len(watch.sparkline([*range(1000)])) <= watch.WIDTH


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "it is not there"),
        (lambda path: path.mkdir(), "it has no config.yaml"),
        (lambda path: path.write_text(""), "it is a file"),
        (lambda path: path.mkdir() or (path / "config.yaml").write_text("a: ["), "is damaged"),
        (lambda path: path.mkdir() or (path / "config.yaml").write_text("a: 1"), "no num_steps"),
    ],
)
def test_what_is_no_run_is_told_in_a_message(tmp_path, prepare, words, capsys):
    prepare(tmp_path / "run")
    assert watch.main([str(tmp_path / "run")]) == 2
    assert words in capsys.readouterr().err
    assert watch.main([]) == 2


def test_pictures_have_no_plate_behind_them(run):
    (rule,) = re.findall(r"\.pictures img {([^}]*)}", rendered(run, state(), datetime.now(), 30.0))[:1]
    assert "background" not in rule


def test_pictures_are_found_by_name_and_step(tmp_path):
    (tmp_path / "pictures").mkdir()
    for name in ("training_parts_100", "training_parts_20", "held_out_parts_20", "other"):
        Image.new("RGB", (2, 2)).save(tmp_path / f"pictures/{name}.png")
    assert page.pictures(tmp_path) == {"held_out_parts": [20], "training_parts": [20, 100]}
