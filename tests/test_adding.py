"""docs/adding.md: the method and the data set that it shows work as they stand there, and no other file changes."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/adding.md").read_text()
QUICK = {"train.py": ("num_steps=2", "evaluation.every=0", "logging.wandb=disabled"), "evaluate.py": ()}


def blocks() -> dict[str, str]:
    """The page's files: path -> content, which has the path in a comment at its start."""
    found = re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)
    return {re.search(r"^# (\S+/\S+)$", content, re.MULTILINE)[1]: content for content in found}


@pytest.mark.slow
def test_the_pages_method_and_data_set_train_and_are_evaluated_as_they_stand_there(tmp_path):
    folders = ("conf", "datasets", "evaluation", "losses", "models", "utils")
    for folder in folders:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for program in QUICK:
        shutil.copy(ROOT / program, tmp_path)
    files = blocks()
    assert sorted(Path(name).suffix for name in files) == [".py", ".py", ".yaml", ".yaml"]
    for name, content in files.items():
        assert not (tmp_path / name).exists()
        (tmp_path / name).write_text(content)

    commands = re.findall(r"^python (\S+) (.*)$", PAGE, re.MULTILINE)
    assert [program for program, _ in commands] == list(QUICK)
    for program, arguments in commands:
        command = [sys.executable, program, *shlex.split(arguments), *QUICK[program]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "runs/discs/figures/metrics.json").read_text())
    assert {"FG-NMI", "FG-ARI", "NMI", "ARI"} <= set(figures)
    assert set(figures["produced_by"]["baselines"]) == {"untrained", "kmeans_colours"}
