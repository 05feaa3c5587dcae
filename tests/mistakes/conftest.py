"""The fixtures that try a row; see harness.py."""

from functools import cache

import pytest

from tests.mistakes.harness import DataSet, Place, Row, ended, make, tree


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    return cache(lambda name: make(name, tmp_path_factory.mktemp("made")))


@pytest.fixture
def place(tmp_path, made, monkeypatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, made)


@pytest.fixture
def refused(place, monkeypatch, capsys):
    """Tries a row: it ends with status 2 and one message with all its words, and the folder stays as it was."""

    def attempt(row: Row, started: bool = True) -> None:
        row.prepare(place)
        before = tree(place.path)
        capsys.readouterr()
        status = ended(row.line, place.path, monkeypatch, started)
        out, err = capsys.readouterr()
        assert status == 2, err
        *told_before, message = err.splitlines()  # by the log of a run
        assert message.startswith("error: ") and err.count("error: ") == 1 and "Traceback" not in err, err
        assert started or not told_before and not out
        for word in row.words:
            assert word.replace("PLACE", str(place.path)) in message, message
        after = tree(place.path)
        assert {path: after.get(path) for path in before} == before
        # What was begun may be left in the run's own directory.
        assert not [path for path in set(after) - set(before) if path.partition("/")[0] != "run"]
        if row.line.startswith("read "):
            # The check says the same, without ending at the first mistake.
            status = ended(row.line.replace("read", "check", 1), place.path, monkeypatch)
            out, _ = capsys.readouterr()
            assert status == 1 and "Training could not start" in out and row.words[0].partition(": ")[0] in out

    return attempt


@pytest.fixture
def accepted(place, monkeypatch):
    """Runs a command line that is no mistake."""

    def attempt(line: str) -> None:
        assert ended(line, place.path, monkeypatch) == 0

    return attempt


@pytest.fixture
def read_whole(place, accepted):
    """Reads a data set that is whole."""

    def attempt(dataset: DataSet) -> None:
        place.data(dataset.name)
        accepted(f"read {dataset.config}")

    return attempt
