"""What pictures and lists are called on people's disks: read for what is meant, or counted and named."""

import shutil

import numpy as np
import pytest
from PIL import Image

from datasets import files
from datasets.example import draw_folder
from datasets.files import MissingFile, UnreadableFile, read_picture, spellings
from datasets.folder import Folder, Options
from datasets.pictures import Pictures
from utils.errors import UserError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
HELD_OUT = ["creature_001.jpg", "creature_002.jpg"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "mine"
    draw_folder(root, count=4, size=32)
    (root / "test.txt").write_text("creature_001\ncreature_002\n")
    return root


@pytest.fixture
def root(drawn, tmp_path):
    return shutil.copytree(drawn, tmp_path / "mine")


def folder(root, split="train") -> Folder:
    return Folder(root, split, "gt", Options(test_share=0.2, box_padding=0.05, box_jitter=0.05, flip_probability=0.5))


def names(dataset) -> list[str]:
    return [dataset.sample_name(index) for index in range(len(dataset))]


@pytest.mark.parametrize("ending", ["avif", "AVIF", "jfif", "jpe", "JPG", "pbm", "pnm", "heic", "HEIF"])
def test_a_picture_is_read_under_every_ending(root, ending):
    if ending.lower() == "avif" and "AVIF" in files.LACKING:
        pytest.skip("this Pillow has no AVIF")
    if ending.lower() in ("heic", "heif"):
        pytest.importorskip("pillow_heif")
    path, shade = root / f"images/creature_003.{ending}", 0 if ending == "pbm" else 90
    (root / "images/creature_003.jpg").unlink()
    Image.new("1" if ending == "pbm" else "RGB", (40, 24), 0 if ending == "pbm" else (90, 90, 90)).save(path)
    for mask in ("masks", "parts"):
        Image.fromarray(np.eye(24, 40, dtype=np.uint8)).save(root / f"{mask}/creature_003.png")
    dataset = folder(root)
    sample = dataset[names(dataset).index(path.name)]
    assert sample.image.shape == (24, 40, 3) and np.abs(sample.image.astype(int) - shade).max() <= 3
    assert Pictures(root / "images", None, box_padding=None).sample_name(2) == path.name


def test_a_mask_with_the_losses_of_avif_is_cut_at_its_middle(root):
    if "AVIF" in files.LACKING:
        pytest.skip("this Pillow has no AVIF")
    mask = np.asarray(Image.open(root / "masks/creature_003.png")) > 0
    Image.fromarray(mask * np.uint8(255)).save(root / "masks/creature_003.avif", quality=60)
    (root / "masks/creature_003.png").unlink()
    dataset = folder(root)
    found = dataset[names(dataset).index("creature_003.jpg")].foreground
    assert np.abs(found.astype(int) - mask).mean() < 0.02


def test_what_systems_leave_among_pictures_is_nothing(root):
    expected = names(folder(root)), folder(root).notes
    for place in ("images", "masks", "parts"):
        for name in ("._creature_001.jpg", ".DS_Store", "Thumbs.db", "desktop.ini"):
            (root / place / name).write_bytes(b"\0\5\x16\7")
        (root / place / ".ipynb_checkpoints").mkdir()
        shutil.copy(root / "images/creature_001.jpg", root / place / ".ipynb_checkpoints/creature_001-checkpoint.jpg")
    assert (names(folder(root)), folder(root).notes) == expected
    assert Pictures(root / "images", root / "masks", box_padding=0.05).notes == []


def test_what_cannot_be_read_is_counted_and_named_in_one_line(root, monkeypatch):
    monkeypatch.setitem(files.LACKING, "HEIF", "the package pillow-heif (python -m pip install pillow-heif)")
    for name in ("a.heic", "b.HEIC", "film.mp4", "notes.txt", "photo", "z.psd"):
        (root / "images" / name).write_bytes(HEIC)
    line = (
        f"{root / 'images'}: 6 files are left out: a.heic, b.HEIC (HEIF needs the package pillow-heif (python -m pip "
        "install pillow-heif)); film.mp4, notes.txt, photo and 1 more (no pictures)."
    )
    dataset = folder(root)
    assert len(dataset) == 2 and line in dataset.notes
    assert Pictures(root / "images", None, box_padding=None).notes == [line]
    for path in (root / "images").glob("*.jpg"):
        path.unlink()
    with pytest.raises(UserError, match="holds no picture.*a.heic, b.HEIC .*pillow-heif"):
        folder(root)
    with pytest.raises(UserError, match="holds no picture.*a.heic, b.HEIC .*pillow-heif"):
        Pictures(root / "images", None, box_padding=None)


def test_a_picture_that_is_listed_or_misnamed_says_what_it_needs(root, monkeypatch):
    monkeypatch.setitem(files.LACKING, "HEIF", "the package pillow-heif")
    for name in ("a.heic", "b.jpg"):
        (root / "images" / name).write_bytes(HEIC)
        with pytest.raises(UnreadableFile, match=f"Cannot read .*{name}: HEIF needs the package pillow-heif"):
            read_picture(root / "images" / name)
    (root / "test.txt").write_text("a.heic\n")
    dataset = folder(root, "test")
    assert names(dataset) == ["a.heic"]
    with pytest.raises(UnreadableFile, match="pillow-heif"):
        dataset[0]


@pytest.mark.parametrize(
    "written",
    [
        "images/{}",
        "./images/{}",
        "mine/images/{}",
        "/home/me/mine/images/{}",
        "images\\{}",
        "C:\\Users\\me\\mine\\images\\{}",
        "{}",
    ],
)
@pytest.mark.parametrize(("start", "end"), [("", "\n"), ("\ufeff", "\r\n")])
@pytest.mark.parametrize("ending", [".jpg", ".JPG", ""])
def test_a_list_is_read_as_it_is_meant(root, written, start, end, ending):
    lines = [written.format(f"creature_00{number}{ending}") for number in (1, 2)] + ["Thumbs.db", "._creature_003.jpg"]
    (root / "test.txt").write_bytes((start + end.join(lines) + end).encode())
    rows = (root / "keypoints.csv").read_text().splitlines()
    rows = [row.replace("creature_", written.format("creature_"), 1) for row in rows]
    (root / "keypoints.csv").write_bytes((start + end.join(rows) + end).encode())
    dataset = folder(root, "test")
    assert names(dataset) == HELD_OUT and dataset[0].keypoints[:, 2].any()
    assert not [note for note in dataset.notes if "keypoints" in note]


def test_folders_within_are_told_from_the_one_in_front(root):
    (root / "images/images").mkdir()
    (root / "images/b").mkdir()
    shutil.copy(root / "images/creature_003.jpg", root / "images/images/creature_001.jpg")
    shutil.copy(root / "images/creature_003.jpg", root / "images/b/creature_001.jpg")
    (root / "test.txt").write_text("images/creature_001.jpg\nimages/b/creature_001.jpg\n")
    assert names(folder(root, "test")) == ["b/creature_001.jpg", "images/creature_001.jpg"]
    assert spellings("a\\images\\b", "images") == ["a\\images\\b", "a/images/b", "b"]


def test_a_picture_that_a_list_names_in_vain_is_looked_for_without_what_is_in_front(root):
    (root / "test.txt").write_text("images\\gone.jpg\n")
    dataset = folder(root, "test")
    assert dataset.files(0)[0] == root / "images/gone.jpg"


def test_a_picture_to_predict_without_its_mask_is_met_when_it_is_read_where_such_are_skipped(root):
    (root / "masks/creature_002.png").unlink()
    with pytest.raises(MissingFile, match="1 of 4 pictures have no mask"):
        Pictures(root / "images", root / "masks", box_padding=0.05)
    pictures = Pictures(root / "images", root / "masks", box_padding=0.05, on_error="skip")
    assert pictures[0].foreground.any()
    with pytest.raises(MissingFile, match="Missing .*masks/creature_002.png"):
        pictures[1]


def test_pictures_of_one_stem_are_told_with_both_names(root):
    for number in (1, 3):
        shutil.copy(root / f"images/creature_00{number}.jpg", root / f"images/creature_00{number}.JPEG")
    first = root / "images/creature_001"
    with pytest.raises(
        UserError, match=rf"{first}\.JPEG and {first}\.jpg differ in their ending only \(as are 1 more\)"
    ):
        folder(root)
