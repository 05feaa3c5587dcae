"""Offline W&B runs that were interrupted and resumed: what `wandb sync` makes of their pieces, on a server here."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import evaluate
from tests.test_logging import PICTURE, config, history, records, rows, train
from utils.checkpoints import Checkpoint
from utils.logging import WandbRun
from utils.run_directory import RunDirectory


class Server(ThreadingHTTPServer):
    """As much of W&B's as keeps runs' histories: lines by their number, as uploads say it.

    Attributes:
        histories: by run, the line of each number.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.histories: dict[str, dict[int, dict]] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """Clients go away when they have what they want."""

    def answer(self, query: str, variables: dict) -> dict:
        project = {"id": "p", "name": variables.get("project"), "entity": {"id": "e", "name": "me"}}
        if "upsertBucket" in query:
            name = variables["name"]
            bucket = {"id": name, "name": name, "displayName": name, "config": "{}", "project": project}
            return {"upsertBucket": {"bucket": bucket, "inserted": name not in self.histories}}
        if "createRunFiles" in query:
            files = [{"name": name, "uploadUrl": f"{self.url}/file"} for name in variables["files"]]
            return {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}
        if "createArtifact" in query:
            return {"createArtifact": {"artifact": {"id": "a", "state": "COMMITTED", "artifactSequence": {"id": "s"}}}}
        return {}

    def stream(self, run: str, files: dict) -> None:
        for name, chunk in files.items():
            if "history" in name:
                lines = self.histories.setdefault(run, {})
                lines |= {chunk["offset"] + place: json.loads(line) for place, line in enumerate(chunk["content"])}

    def steps(self, run: str, key: str) -> list[int]:
        """Of the lines that have a key, in their order."""
        lines = self.histories[run]
        assert sorted(lines) == [*range(len(lines))]
        return [lines[number]["step"] for number in sorted(lines) if key in lines[number]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        answer: dict = {}
        if self.path == "/graphql":
            asked = json.loads(content)
            answer = {"data": self.server.answer(asked["query"], asked.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(self.path.split("/")[-2], json.loads(content).get("files") or {})
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_PUT = do_GET = do_POST

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server():
    server = Server()
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture
def pieces(tmp_path, monkeypatch):
    """Logs spans of steps offline, one after the other, each from a checkpoint; gives the run and what was told."""
    for name in [name for name in os.environ if name.startswith("WANDB")]:
        monkeypatch.delenv(name)

    def attempt(*spans: tuple[int, int]) -> Path:
        for first, last in spans:
            train(RunDirectory(tmp_path), config(tmp_path, "offline"), first, last)
            finished(tmp_path)
        return tmp_path

    return attempt


def finished(run: Path) -> None:
    """Waits until W&B's own process has written all, and for the next second, after which it names a folder."""
    deadline = time.monotonic() + 60
    for folder in run.glob("wandb/*offline-run-*"):
        while not (
            any(folder.glob("*.wandb")) and "exit" in {record.WhichOneof("record_type") for record in records(folder)}
        ):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    time.sleep(1)


def sync(server: Server, *folders: Path) -> None:
    program = Path(sys.executable).with_name("wandb")
    environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "a" * 40, "HOME": str(folders[0])}
    command = [program, "sync", "--yes", *folders]
    done = subprocess.run(command, env=environment, cwd=folders[0], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0 and "Finished syncing" in done.stderr, done.stderr


def identity(run: Path) -> str:
    return (run / "wandb_id.txt").read_text().strip()


def test_what_one_is_told_to_upload_has_every_step_once(pieces, server, capsys):
    run = pieces((0, 7), (5, 9))
    told = capsys.readouterr().err.split("wandb sync ")[-1].split("\n")[0]
    (last,) = run.glob("wandb/offline-run-*")
    assert told == str(last)
    sync(server, last)
    assert server.steps(identity(run), "train/total") == [*range(1, 10)]
    assert server.steps(identity(run), "timing/seconds_per_step") == [*range(1, 10)]
    assert server.steps(identity(run), "evaluation/FG-NMI") == [9]
    lines = server.histories[identity(run)].values()
    for line in rows(run / "metrics.csv"):
        (sent,) = (own for own in lines if str(own["step"]) == line["step"] and "train/total" in own)
        assert all(
            sent[f"train/{name}"] == pytest.approx(float(value)) for name, value in line.items() if name != "step"
        )
    assert len(list(run.glob("wandb/superseded-offline-run-*"))) == 1


@pytest.mark.slow
def test_a_piece_that_was_uploaded_before_is_completed_by_the_next(pieces, server):
    run = pieces((0, 4))
    sync(server, *run.glob("wandb/offline-run-*"))
    assert server.steps(identity(run), "train/total") == [1, 2, 3, 4]
    pieces((2, 3), (1, 8))
    sync(server, *run.glob("wandb/offline-run-*"))
    assert server.steps(identity(run), "train/total") == [*range(1, 9)]


@pytest.mark.slow
def test_pieces_that_begin_where_the_last_ended_would_write_over_each_other(pieces, server, monkeypatch):
    """Why they do not: the pinned version's `wandb sync` numbers the lines of each piece from 0."""
    monkeypatch.setattr(WandbRun, "_catch_up", lambda *_: None)
    run = pieces((0, 5), (5, 8))
    folders = sorted(run.glob("wandb/offline-run-*"))
    assert [[line["step"] for line in history(folder) if "train/total" in line] for folder in folders] == [
        [1, 2, 3, 4, 5],
        [6, 7, 8],
    ]
    sync(server, *folders)
    assert server.steps(identity(run), "train/total") != [*range(1, 9)]


def test_pictures_and_parts_of_before_are_told_again_and_a_cut_row_is_not(pieces):
    run = pieces((0, 3))
    with (run / "timing.csv").open("a") as file:
        file.write("3,0.")
    shutil.copy(run / "pictures/parts_3.png", run / "pictures/parts_5.png")  # of a step that will be made again
    pieces((3, 4))
    (last,) = run.glob("wandb/offline-run-*")
    told = Counter(key.partition("/")[0] for line in history(last) for key in line if key.split(".")[-1] != "sha256")
    assert told["train"] == 4 * 7
    pictured = [line["step"] for line in history(last) if any(key.startswith("pictures/parts") for key in line)]
    assert pictured == [3, 4]
    assert [line["step"] for line in history(last) if "timing/seconds_per_step" in line] == [1, 2, 3, 4]


def test_an_evaluation_s_figures_pictures_and_table_are_in_every_later_piece(pieces):
    """Evaluated after step 4, gone on with, and gone on with once more."""
    run = pieces((0, 4))
    settings = config(run, "offline")
    checkpoint = Checkpoint(run / "checkpoints/model_4.pth", {}, step=4, config=OmegaConf.to_container(settings))
    own = 255 - PICTURE
    shown = {"pictures/evaluation_parts": own, "evaluation/pictures": [{"name": "own", "picture": own}]}
    evaluate.log_to_run(run, settings, checkpoint, {"warp_agreement": 61.5}, shown, run / "report.html")
    finished(run)
    pieces((4, 6), (6, 7))
    folders = sorted(run.glob("wandb/*offline-run-*"), key=lambda folder: folder.name.removeprefix("superseded-"))
    assert len(folders) == 4
    in_tables = []
    for folder in folders[1:]:
        name = "evaluation/warp_agreement"
        assert [(line["step"], line[name]) for line in history(folder) if name in line] == [(4, 61.5)]
        np.testing.assert_array_equal(Image.open(medium(folder, "pictures/evaluation_parts")[4]), own)
        tables = {step: json.loads(path.read_text()) for step, path in medium(folder, "evaluation/pictures").items()}
        assert [row[0] for row in tables[4]["data"]] == ["own"]
        # A table's pictures lie in an artifact of W&B's own.
        artifacts = [one.artifact for one in records(folder) if one.WhichOneof("record_type") == "artifact"]
        files = [entry for artifact in artifacts for entry in artifact.manifest.contents if entry.path.endswith(".png")]
        in_tables.append({entry.digest for entry in files})
    assert in_tables[0] == in_tables[1] == in_tables[2] and len(in_tables[0]) == 2, "the training's, and its own"
    assert sorted(tables) == [4, 6, 7] and [row[0] for row in tables[6]["data"]] == ["a", "b"]


def medium(folder: Path, name: str) -> dict[int, Path]:
    """The file of the last picture or table of a name that was told of each step."""
    found = {}
    for line in history(folder):
        told = line.get(name, line.get(f"{name}.path"))
        if told is not None:
            found[line["step"]] = folder / "files" / (told["path"] if isinstance(told, dict) else told)
    return found
