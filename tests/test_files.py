"""What lies in the place of a foreign file: whichever reader meets it, the message says which file and what it is."""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from datasets import deepfashion, pascal_part, potsdam
from datasets.files import MissingFile, UnreadableFile, read_labels, read_picture
from datasets.rows import read_rows, read_text
from tests.mistakes.stand_ins import STAND_INS

READERS = {
    "picture": ("a.jpg", read_picture),
    "label map": ("a.png", read_labels),
    "list": ("a.txt", lambda path: read_rows(path, "index name", int, str)),
    "JSON": ("a.json", deepfashion._read_list),
    "annotation": ("a.mat", lambda path: pascal_part._read_objects(path, "car", path.stat().st_mtime_ns)),
    "tile": ("b.mat", lambda path: potsdam._read_tile(path, "img", (2, 2))),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", STAND_INS)
def test_what_a_download_left_is_named_for_what_it_is(tmp_path, reader, kind):
    name, read = READERS[reader]
    content, words = STAND_INS[kind]
    if (reader, kind) in (("list", "empty"), ("JSON", "answer of a server")):
        return  # a list without lines is one, and JSON is JSON
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnreadableFile, match=f"{re.escape(str(tmp_path / name))}.*{words}") as told:
        read(tmp_path / name)
    assert "\n" not in str(told.value) and "etch" in str(told.value) or "cut it again" in str(told.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_not_there_is_missing(tmp_path, reader):
    name, read = READERS[reader]
    if reader == "annotation":
        read = partial(pascal_part._read_objects, category="car", _changed=0)
    with pytest.raises(MissingFile, match=f"Missing {re.escape(str(tmp_path / name))}"):
        read(tmp_path / name)


def write_tile(path: Path) -> None:
    savemat(path, {"img": np.random.default_rng(0).integers(0, 256, (40, 40), np.uint8)}, do_compression=True)


WHOLE = {
    "picture": lambda path: Image.fromarray(np.full((40, 40, 3), 9, np.uint8)).save(path),
    "label map": lambda path: Image.fromarray(np.eye(40, dtype=np.uint8)).save(path),
    "JSON": lambda path: path.write_text(json.dumps({"images": [{"file_name": "a"}]})),
    "tile": write_tile,
}


@pytest.mark.parametrize("reader", WHOLE)
def test_a_file_cut_off_anywhere_is_named_whatever_its_library_raises(tmp_path, reader):
    name, read = READERS[reader]
    path = tmp_path / name
    WHOLE[reader](path)
    whole = path.read_bytes()
    for part in range(10):
        path.write_bytes(whole[: len(whole) * part // 12])
        with pytest.raises(UnreadableFile, match=re.escape(str(path))):
            read(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_list_is_read_with_a_mark_at_its_start_and_the_line_ends_of_windows(tmp_path, encoding, end):
    (tmp_path / "a.txt").write_bytes(f"1 Flügel{end}2 Kopf{end}".encode(encoding))
    assert read_rows(tmp_path / "a.txt", "index name", int, str) == [(1, "Flügel"), (2, "Kopf")]


def test_a_list_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes("1 Flügel\n".encode("latin-1"))
    with pytest.raises(UnreadableFile, match="a.txt is not in UTF-8 .*byte 4.*save it so"):
        read_text(tmp_path / "a.txt")
