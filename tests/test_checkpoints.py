import os
import pickle

import pytest
import torch

from utils import checkpoints
from utils.errors import UserError


def payload(iteration: int = 0) -> dict:
    return {"iter": iteration, "model_state_dict": {"weight": torch.arange(1000.0)}, "optimizer_state_dict": {}}


def save(folder, *iterations: int, keep: int | None = None) -> None:
    for iteration in iterations:
        checkpoints.save(folder / f"model_{iteration}.pth", payload(iteration), keep=keep)


def test_what_is_saved_is_read_back(tmp_path):
    whole = {"iter": 3, "model_state_dict": {"weight": torch.arange(1000.0)}, "optimizer_state_dict": {"state": {}}}
    whole |= {"method_state_dict": {"basis": torch.ones(2, 3)}, "precision_state_dict": {"scale": 2.0}}
    whole |= {"format": checkpoints.FORMAT, "config": {"a": [1, None]}, "versions": {"torch": "2"}}
    read = checkpoints.find(checkpoints.save(tmp_path / "new" / "model_3.pth", whole))
    assert (read.file, read.step, read.is_bare) == (tmp_path / "new" / "model_3.pth", 3, False)
    assert read.model.keys() == {"weight"} and torch.equal(read.model["weight"], torch.arange(1000.0))
    assert read.beside.keys() == {"basis"} and torch.equal(read.beside["basis"], torch.ones(2, 3))
    assert (read.optimizer, read.precision, read.config) == ({"state": {}}, {"scale": 2.0}, {"a": [1, None]})
    assert torch.load(read.file, weights_only=True)["versions"] == {"torch": "2"}


def test_what_a_published_checkpoint_leaves_out_is_empty(tmp_path):
    read = checkpoints.find(checkpoints.save(tmp_path / "model_3.pth", payload(3)))
    assert (read.step, read.beside, read.precision, read.config, read.is_bare) == (3, {}, {}, {}, False)


def test_a_bare_state_dict_is_read_and_known_as_one(tmp_path):
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "weights.pth")
    read = checkpoints.find(tmp_path / "weights.pth")
    assert read.is_bare and read.step is None and read.model["weight"].tolist() == [0, 1, 2]


def test_latest_is_the_one_with_the_most_updates(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    save(tmp_path / "checkpoints", 900, 1000)
    (tmp_path / "checkpoints" / "model_best.pth").touch()
    (tmp_path / "checkpoints" / ".model_2000.pth.part").touch()
    assert checkpoints.latest(tmp_path) == tmp_path / "checkpoints" / "model_1000.pth"


def test_a_run_directory_a_folder_of_checkpoints_and_a_file_are_all_understood(tmp_path):
    save(tmp_path / "checkpoints", 5)
    file = tmp_path / "checkpoints" / "model_5.pth"
    for path in (tmp_path, file.parent, file):
        found = checkpoints.find(path)
        assert (found.file, found.step) == (file, 5)


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
    assert checkpoints.find(tmp_path).step == 1


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
    with pytest.raises(UserError, match="model_1.pth.*(truncated|empty)"):
        checkpoints.find(path)


def test_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / "foreign.pth"
    for content in (b"plain text", b"\x89PNG\r\n\x1a\n0000", pickle.dumps({"model_state_dict": 1}, protocol=2)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="foreign.pth"):
            checkpoints.find(path)
    for content, reason in (
        ({"state_dict": {}}, "model_state_dict"),
        ([1, 2], "a list of 2, and tensors are looked for in mappings"),
        (torch.zeros(3), "model_state_dict"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=f"foreign.pth.*{reason}"):
            checkpoints.find(path)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_reading_runs_no_code_of_the_file(tmp_path):
    path = tmp_path / "model_1.pth"
    torch.save({"model_state_dict": Malicious(tmp_path / "written")}, path)
    with pytest.raises(UserError):
        checkpoints.find(path)
    assert not (tmp_path / "written").exists()


def test_nothing_there_is_told_with_where_it_was_looked_for(tmp_path):
    with pytest.raises(UserError, match="No checkpoint at .*nowhere"):
        checkpoints.find(tmp_path / "nowhere")
    with pytest.raises(UserError, match="No checkpoint in .*checkpoints"):
        checkpoints.find(tmp_path)


def flip_a_bit(path):
    """In the middle of the file, where the numbers of the one tensor are."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "bit-flipped": flip_a_bit,
    "empty": lambda path: os.truncate(path, 0),
    "foreign": lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n0000"),
    "another layout": lambda path: torch.save({"state_dict": {}}, path),
    "a pickle that would run code": lambda path: torch.save({"model_state_dict": Malicious(path / "x")}, path),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_instead_of_a_damaged_newest_checkpoint_the_one_before_it_is_used_and_a_warning_names_both(
    tmp_path, capsys, damage
):
    save(tmp_path / "checkpoints", 1, 2, 3)
    newest, before = (tmp_path / f"checkpoints/model_{step}.pth" for step in (3, 2))
    DAMAGES[damage](newest)
    with pytest.raises(UserError, match=str(newest)):  # asked for by name, nothing else will do
        checkpoints.find(newest)
    found = checkpoints.find(tmp_path)
    assert (found.file, found.step) == (before, 2)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {newest}") and told.endswith(f"Going on with {before}.\n")


def test_where_every_checkpoint_is_damaged_training_does_not_start_over(tmp_path):
    save(tmp_path / "checkpoints", 1, 2)
    for step in (1, 2):
        DAMAGES["empty"](tmp_path / f"checkpoints/model_{step}.pth")
    with pytest.raises(UserError, match="model_2.pth cannot be read.*No earlier checkpoint"):
        checkpoints.find(tmp_path)


@pytest.mark.parametrize("written", range(1, checkpoints.FORMAT + 1))
def test_this_format_and_those_before_it_are_read(tmp_path, written):
    checkpoints.save(tmp_path / "model_1.pth", payload(1) | {"format": written})
    assert checkpoints.find(tmp_path).step == 1


@pytest.mark.parametrize("written", [checkpoints.FORMAT + 1, 0, "one", None])
def test_another_format_is_refused_by_name_and_no_older_checkpoint_stands_in_for_it(tmp_path, written):
    save(tmp_path / "checkpoints", 1)
    path = checkpoints.save(tmp_path / "checkpoints/model_2.pth", payload(2) | {"format": written})
    with pytest.raises(UserError, match=f"model_2.pth has the format {written!r}.*reads up to {checkpoints.FORMAT}"):
        checkpoints.find(tmp_path)
    checkpoints.save(path, payload(2))  # as published: without a format
    assert checkpoints.find(tmp_path).step == 2


def test_milestones_stay_when_older_checkpoints_are_deleted(tmp_path):
    for step in range(5, 45, 5):
        checkpoints.save(tmp_path / f"model_{step}.pth", payload(step), keep=2, milestone_every=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"model_{step}.pth" for step in (20, 35, 40)]


def test_damaged_checkpoints_of_later_steps_do_not_push_out_whole_ones(tmp_path):
    save(tmp_path, 2, 4)
    DAMAGES["truncated"](tmp_path / "model_4.pth")
    save(tmp_path, 3, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_3.pth", "model_4.pth"]
    assert checkpoints.find(tmp_path).step == 3


def test_what_an_interrupted_write_left_is_deleted_by_the_next(tmp_path):
    (tmp_path / ".model_7.pth.part").write_bytes(b"half")
    save(tmp_path, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["model_9.pth"]


def test_on_a_full_disk_the_message_says_so_and_earlier_checkpoints_stay(small_disk):
    save(small_disk, 1)
    large = payload(2) | {"more": torch.zeros(3 * 2**18)}
    with pytest.raises(UserError, match="Cannot write the checkpoint .*model_2.pth: No space left on device"):
        checkpoints.save(small_disk / "model_2.pth", large)
    assert [path.name for path in small_disk.iterdir()] == ["model_1.pth"]
    assert checkpoints.find(small_disk).step == 1


def test_a_folder_that_vanished_with_all_around_it_is_not_made_anew(tmp_path):
    with pytest.raises(UserError, match="Cannot write the checkpoint .*No such file or directory"):
        save(tmp_path / "run" / "checkpoints", 1)
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_is_on_the_disk_itself_before_it_gets_its_name(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/proc/self/fd/{file}")) or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or rename(*names))
    save(tmp_path, 1)
    assert done == [str(tmp_path / ".model_1.pth.part"), "renamed", str(tmp_path)]


def test_a_run_that_has_saved_none_yet_begins_and_a_file_without_what_training_needs_is_refused(tmp_path):
    torch.save({"model_state_dict": {"weight": torch.zeros(1)}}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match="cannot go on from .*weights.pth: it has no iter or no optimizer_state_dict"):
        checkpoints.find_to_resume(tmp_path / "weights.pth", every=1)
    (tmp_path / "new").mkdir()
    assert checkpoints.find_to_resume(tmp_path / "new", every=1) is None


@pytest.mark.parametrize("table", ["metrics.csv", "evaluation.csv"])
def test_where_the_checkpoints_of_a_run_are_gone_training_does_not_start_over(tmp_path, table):
    (tmp_path / "metrics.csv").write_text("step,total\n9,1.0\n10,1.0\n")  # killed while the first was written
    assert checkpoints.find_to_resume(tmp_path, every=10) is None
    (tmp_path / table).write_text("step,total\n10,1.0\n11,1.0\n")
    with pytest.raises(UserError, match=f"has no checkpoint, but its {table} has come to step 11.*Put them back"):
        checkpoints.find_to_resume(tmp_path, every=10)
