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
    for path in (tmp_path, file.parent, file):
        found, content = checkpoints.find(path)
        assert (found, content["iter"]) == (file, 5)


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
    file, content = checkpoints.find(tmp_path)
    assert (file, content["iter"]) == (before, 2)
    told = capsys.readouterr().err
    assert told.startswith(f"warning: {newest}") and told.endswith(f"Going on with {before}.\n")


def test_where_every_checkpoint_is_damaged_training_does_not_start_over(tmp_path):
    save(tmp_path / "checkpoints", 1, 2)
    for step in (1, 2):
        DAMAGES["empty"](tmp_path / f"checkpoints/model_{step}.pth")
    with pytest.raises(UserError, match="model_2.pth cannot be read.*No earlier checkpoint"):
        checkpoints.read_to_resume(tmp_path)
    (tmp_path / "new").mkdir()
    assert checkpoints.read_to_resume(tmp_path / "new") is None


@pytest.mark.parametrize("written", [checkpoints.FORMAT + 1, 0, "one", None])
def test_another_format_is_refused_by_name_and_no_older_checkpoint_stands_in_for_it(tmp_path, written):
    save(tmp_path / "checkpoints", 1)
    path = checkpoints.save(tmp_path / "checkpoints/model_2.pth", payload(2) | {"format": written})
    with pytest.raises(UserError, match=f"model_2.pth has the format {written!r}.*reads up to {checkpoints.FORMAT}"):
        checkpoints.read(tmp_path)
    checkpoints.save(path, payload(2))  # as published: without a format
    assert checkpoints.read(tmp_path)["iter"] == 2


def test_milestones_stay_when_older_checkpoints_are_deleted(tmp_path):
    for step in range(5, 45, 5):
        checkpoints.save(tmp_path / checkpoints.file_name(step), payload(step), keep=2, milestone_every=20)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"model_{step}.pth" for step in (20, 35, 40)]


def test_damaged_checkpoints_of_later_steps_do_not_push_out_whole_ones(tmp_path):
    save(tmp_path, 2, 4)
    DAMAGES["truncated"](tmp_path / "model_4.pth")
    save(tmp_path, 3, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_3.pth", "model_4.pth"]
    assert checkpoints.read(tmp_path)["iter"] == 3


def test_what_an_interrupted_write_left_is_deleted_by_the_next(tmp_path):
    (tmp_path / ".model_7.pth.part").write_bytes(b"half")
    save(tmp_path, 9)
    assert [path.name for path in tmp_path.iterdir()] == ["model_9.pth"]


def test_a_write_that_the_disk_garbled_is_noticed_and_the_older_file_stays(tmp_path, monkeypatch):
    save(tmp_path, 1)
    whole = (tmp_path / "model_1.pth").read_bytes()

    def garbled(content, file, save=torch.save):
        save(content, file)
        place = file.tell() // 2
        file.seek(place)
        byte = whole[place]
        file.write(bytes([byte ^ 1]))

    monkeypatch.setattr(torch, "save", garbled)
    with pytest.raises(UserError, match="Cannot write the checkpoint .*model_1.pth: .*damaged"):
        save(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["model_1.pth"]
    assert (tmp_path / "model_1.pth").read_bytes() == whole


def test_on_a_full_disk_the_message_says_so_and_earlier_checkpoints_stay(small_disk):
    save(small_disk, 1)
    large = payload(2) | {"more": torch.zeros(3 * 2**18)}
    with pytest.raises(UserError, match="Cannot write the checkpoint .*model_2.pth: No space left on device"):
        checkpoints.save(small_disk / "model_2.pth", large)
    assert [path.name for path in small_disk.iterdir()] == ["model_1.pth"]
    assert checkpoints.read(small_disk)["iter"] == 1


def test_a_folder_that_vanished_with_all_around_it_is_not_made_anew(tmp_path):
    with pytest.raises(UserError, match="Cannot write the checkpoint .*No such file or directory"):
        save(tmp_path / "run" / "checkpoints", 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("table", ["metrics.csv", "evaluation.csv"])
def test_where_the_checkpoints_of_a_run_are_gone_training_does_not_start_over(tmp_path, table):
    (tmp_path / "config.yaml").write_text("checkpointing: {every: 10}\n")
    (tmp_path / "metrics.csv").write_text("step,total\n9,1.0\n10,1.0\n")  # killed while the first was written
    assert checkpoints.read_to_resume(tmp_path) is None
    (tmp_path / table).write_text("step,total\n10,1.0\n11,1.0\n")
    with pytest.raises(UserError, match=f"has no checkpoint, but its {table} has come to step 11.*Put them back"):
        checkpoints.read_to_resume(tmp_path)


def test_a_checkpoint_is_on_the_disk_itself_before_it_gets_its_name(tmp_path, monkeypatch):
    done, sync, rename = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.readlink(f"/proc/self/fd/{file}")) or sync(file))
    monkeypatch.setattr(os, "replace", lambda *names: done.append("renamed") or rename(*names))
    save(tmp_path, 1)
    assert done == [str(tmp_path / ".model_1.pth.part"), "renamed", str(tmp_path)]
