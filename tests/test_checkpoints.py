import pickle

import pytest
import torch

from utils import checkpoints
from utils.errors import UserError


def payload(iteration: int = 0) -> dict:
    return {"iter": iteration, "model_state_dict": {"weight": torch.arange(1000.0)}, "optimizer_state_dict": {}}


def save(folder, *iterations: int, keep: int | None = None) -> None:
    for iteration in iterations:
        checkpoints.save(folder / checkpoints.file_name(iteration), payload(iteration), keep=keep)


def test_what_is_saved_is_read_back(tmp_path):
    written = payload(3) | {"format": checkpoints.FORMAT, "config": {"a": [1, None]}, "versions": {"torch": "2"}}
    read = checkpoints.read(checkpoints.save(tmp_path / "new" / "model_3.pth", written))
    torch.testing.assert_close(read.pop("model_state_dict"), written.pop("model_state_dict"))
    assert read == written


def test_latest_is_the_one_with_the_most_updates(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    save(tmp_path / "checkpoints", 900, 1000)
    (tmp_path / "checkpoints" / "model_best.pth").touch()
    (tmp_path / "checkpoints" / ".model_2000.pth.part").touch()
    assert checkpoints.latest(tmp_path) == tmp_path / "checkpoints" / "model_1000.pth"


def test_a_run_directory_a_folder_of_checkpoints_and_a_file_are_all_understood(tmp_path):
    save(tmp_path / "checkpoints", 5)
    file = tmp_path / "checkpoints" / "model_5.pth"
    assert checkpoints.resolve(tmp_path) == checkpoints.resolve(file.parent) == checkpoints.resolve(file) == file
    assert checkpoints.read(tmp_path)["iter"] == 5


def test_only_the_newest_are_kept_when_asked(tmp_path):
    save(tmp_path, 1, 2, 10)
    save(tmp_path, 11, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_10.pth", "model_11.pth"]


def test_an_interrupted_write_leaves_the_older_file_whole(tmp_path, monkeypatch):
    save(tmp_path, 1)

    def interrupted(_payload, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model_1.pth"]
    assert checkpoints.read(tmp_path)["iter"] == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file/model_1.pth"):
        checkpoints.save(tmp_path / "file" / "model_1.pth", payload())


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused_by_name(tmp_path, kept):
    save(tmp_path, 1)
    path = tmp_path / "model_1.pth"
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(UserError, match="model_1.pth.*truncated"):
        checkpoints.read(path)


def test_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / "foreign.pth"
    for content in (b"plain text", b"\x89PNG\r\n\x1a\n0000", pickle.dumps({"model_state_dict": 1}, protocol=2)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="foreign.pth"):
            checkpoints.read(path)
    for content in ({"state_dict": {}}, [1, 2], torch.zeros(3)):
        torch.save(content, path)
        with pytest.raises(UserError, match="foreign.pth.*model_state_dict"):
            checkpoints.read(path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_reading_runs_no_code_of_the_file(tmp_path):
    path = tmp_path / "model_1.pth"
    torch.save({"model_state_dict": Malicious(tmp_path / "written")}, path)
    with pytest.raises(UserError):
        checkpoints.read(path)
    assert not (tmp_path / "written").exists()


def test_nothing_there_is_told_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="No checkpoint at .*nowhere"):
        checkpoints.read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="No checkpoint in .*checkpoints"):
        checkpoints.read(tmp_path)
