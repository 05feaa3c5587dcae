"""What pictures and lists are called on people's disks: read for what is meant, or counted and named."""

import shutil
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from datasets import files
from datasets.files import MissingFile, UnreadableFile, read_picture
from datasets.folder import Folder, Options
from datasets.names import spellings
from datasets.pictures import Pictures
from tests.trees import draw_own_tree
from utils.errors import UserError

HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
HELD_OUT = ["creature_001.jpg", "creature_002.jpg"]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return draw_own_tree(tmp_path_factory.mktemp("drawn") / "mine", count=4, size=32)


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
        for small in ("@eaDir/creature_001.jpg", "__MACOSX/images"):
            (root / place / small).mkdir(parents=True)
            shutil.copy(root / "images/creature_001.jpg", root / place / small / "SYNOPHOTO_THUMB_M.jpg")
    assert (names(folder(root)), folder(root).notes) == expected
    assert Pictures(root / "images", root / "masks", box_padding=0.05).notes == []
    assert names(Pictures(f"{root}/images/**/*.jpg", None, box_padding=None)) == sorted(
        path.name for path in (root / "images").glob("creature*.jpg")
    )


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
        "images//{}",
        "/images/./{}",
        "../Images/{}",
        "/{}",
        "./{}",
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


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_accents_are_the_same_however_they_are_written(root, on_disk):
    """macOS writes them as signs of their own (NFD), others do not."""
    name, other = (normalize(form, "Vogel_Ä") for form in (on_disk, {"NFC": "NFD", "NFD": "NFC"}[on_disk]))
    assert name != other
    (root / "images/creature_001.jpg").rename(root / f"images/{name}.jpg")
    for place in ("masks", "parts"):
        (root / f"{place}/creature_001.png").rename(root / f"{place}/{other}.png")
    (root / "test.txt").write_text(f"{other}.jpg\ncreature_002\n")
    (root / "keypoints.csv").write_text(f"name,keypoint,x,y\n{other}.jpg,eye,3,4\n")
    dataset = folder(root, "test")
    assert set(names(dataset)) == {f"{name}.jpg", "creature_002.jpg"} and len(folder(root)) == 2
    sample = dataset[names(dataset).index(f"{name}.jpg")]
    assert sample.foreground.any() and sample.part_map.any() and sample.keypoints.tolist() == [[3, 4, 1]]
    assert len(dataset.notes) == 1
    pictures = Pictures(root / "images", root / "masks", box_padding=None)
    assert all(pictures[index].foreground.any() for index in range(4))


def test_capitals_do_not_matter_where_one_picture_can_be_meant(root):
    (root / "test.txt").write_text("IMAGES/Creature_001.JPG\nCREATURE_002\n")
    (root / "masks/creature_001.png").rename(root / "masks/Creature_001.PNG")
    dataset = folder(root, "test")
    assert names(dataset) == HELD_OUT and dataset[0].foreground.any()
    shutil.copy(root / "images/creature_001.jpg", root / "images/CREATURE_001.jpg")
    (root / "test.txt").write_text("creature_001\nCREATURE_001\n")
    assert names(folder(root, "test")) == ["CREATURE_001.jpg", "creature_001.jpg"]


def test_headers_and_comments_are_no_pictures(root):
    (root / "test.txt").write_text("Filename\n# held out\ncreature_001\n#creature_003\n\ncreature_002.jpg\n")
    assert names(folder(root, "test")) == HELD_OUT
    for name in ("#1.jpg", "image.jpg"):
        shutil.copy(root / "images/creature_003.jpg", root / f"images/{name}")
    (root / "test.txt").write_text("image\n#1\nname\n")
    assert names(folder(root, "test")) == ["#1.jpg", "image.jpg", "name"]  # what stands there is missing


@pytest.mark.parametrize(
    "lines",
    [
        ('"creature_001.jpg"', "'creature_002.jpg'"),
        ('"creature_001.jpg","a bird"', '"images/creature_002.jpg","a, b"'),
        ("filename,label", "creature_001.jpg,3", "creature_002.jpg,4"),
        (",File", "0,creature_001.jpg", "3,creature_002"),
        ("label;Image", "creature_003.jpg;creature_001.jpg", "creature_003;creature_002"),
        ("creature_001\t1", "creature_002.jpg\t2"),
        ("creature_001.jpg 0", "images/creature_002.jpg 1"),
        ("# of an export", "creature_001.jpg,,", "creature_002.jpg,,", "._creature_003.jpg,,", '"Thumbs.db",'),
    ],
)
def test_a_list_as_tables_are_exported_is_read_for_its_names(root, lines):
    (root / "test.txt").write_text("\n".join(lines) + "\n")
    assert names(folder(root, "test")) == HELD_OUT


def test_names_with_commas_and_blanks_are_names(root):
    for number, name in ((1, "a, b"), (2, "creature_003 2"), (4, "0,c")):
        for place, ending in (("images", "jpg"), ("masks", "png"), ("parts", "png")):
            (root / f"{place}/creature_00{number}.{ending}").rename(root / f"{place}/{name}.{ending}")
    (root / "test.txt").write_text('a, b.jpg\n"creature_003 2.jpg"\n0,c\n')
    assert names(folder(root, "test")) == ["0,c.jpg", "a, b.jpg", "creature_003 2.jpg"]
    (root / "test.txt").write_text("a, b\ncreature_003 9.jpg\ncreature_003,9.jpg\n")  # the second is missing
    assert names(folder(root, "test")) == ["a, b.jpg", "creature_003.jpg", "creature_003 9.jpg"]


def test_the_header_of_a_table_may_have_capitals_and_blanks_and_its_cells_too(root):
    sample = folder(root, "test")[0]
    rows = (root / "keypoints.csv").read_text().splitlines()
    body = [" , ".join(row.split(",")) for row in rows[1:]]
    (root / "keypoints.csv").write_text("\n".join([' Name, "Keypoint" ,X , y,VISIBLE', *body, ",,,,"]) + "\n")
    (root / "objects.csv").write_text(
        "NAME;Class;X;Y;Width;Height\n" + "\n".join(f"creature_00{i}; b ;1,5;2;9;9" for i in range(1, 5))
    )
    found = folder(root, "test")
    assert found.keypoint_names == folder(root).keypoint_names and found[0].label == 1
    np.testing.assert_array_equal(found[0].keypoints, sample.keypoints)
    np.testing.assert_array_equal(found[0].box, [1.5, 2, 9.5, 10])


def test_links_to_nothing_are_no_pictures_and_listed_they_are_missing(root):
    (root / "images/away.jpg").symlink_to(root / "unplugged/away.jpg")
    (root / "masks/away.png").symlink_to(root / "unplugged/away.png")
    (root / "images/near.jpg").symlink_to(root / "images/creature_003.jpg")
    shutil.copy(root / "masks/creature_003.png", root / "masks/near.png")
    line = f"{root / 'images'}: 1 files are left out: away.jpg (links to nothing)."
    dataset = folder(root)
    assert names(dataset) == ["creature_003.jpg", "creature_004.jpg", "near.jpg"] and line in dataset.notes
    assert Pictures(root / "images", None, box_padding=None).notes == [line]
    (root / "train.txt").write_text("away.jpg\nnear\n")
    with pytest.raises(MissingFile, match="2 of 4 files are missing: .*images/away.jpg, .*masks/away.png"):
        files.require_files(folder(root))
    (root / "images/creature_004.jpg").unlink()
    (root / "images/creature_004.jpg").symlink_to(root / "nowhere")
    (root / "train.txt").write_text("creature_003\ncreature_004\n")
    dataset = folder(root)
    with pytest.raises(MissingFile, match="images/creature_004"):
        files.require_files(dataset)


def test_a_pattern_leaves_out_what_a_folder_does(root, monkeypatch):
    monkeypatch.setitem(files.LACKING, "HEIF", "the package pillow-heif")
    (root / "images/a.heic").write_bytes(HEIC)
    (root / "images/notes.txt").write_text("")
    (root / "images/away.jpg").symlink_to(root / "unplugged/away.jpg")
    (root / "images/folder.jpg").mkdir()
    told = "a.heic (HEIF needs the package pillow-heif); away.jpg (links to nothing); notes.txt (no pictures)."
    for images in (root / "images", root / "images/*"):
        pictures = Pictures(images, None, box_padding=None)
        assert len(pictures) == 4 and pictures.notes[0].endswith(f"3 files are left out: {told}")
    assert len(Pictures(root / "images/*_00[12].jpg", None, box_padding=None)) == 2
    with pytest.raises(UserError, match="holds no picture.*a.heic .HEIF needs the package pillow-heif"):
        Pictures(root / "images/*.heic", None, box_padding=None)
    with pytest.raises(UserError, match=r"no picture is called so.*\[ab\]"):
        Pictures(root / "images/{a,b}.jpg", None, box_padding=None)


def test_folders_within_are_told_from_the_one_in_front(root):
    (root / "images/images").mkdir()
    (root / "images/b").mkdir()
    shutil.copy(root / "images/creature_003.jpg", root / "images/images/creature_001.jpg")
    shutil.copy(root / "images/creature_003.jpg", root / "images/b/creature_001.jpg")
    (root / "test.txt").write_text("images/creature_001.jpg\nimages/b/creature_001.jpg\n")
    assert names(folder(root, "test")) == ["b/creature_001.jpg", "images/creature_001.jpg"]
    assert spellings("a\\images\\b", "images") == ["a\\images\\b", "a/images/b", "b"]


def test_a_picture_that_a_list_names_in_vain_is_looked_for_without_what_is_in_front(root):
    (root / "test.txt").write_text("creature_001\nimages\\gone.jpg\n")
    dataset = folder(root, "test")
    assert dataset.files(1)[0] == root / "images/gone.jpg"


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


def test_a_name_that_no_disk_can_hold_is_missing(root):
    (root / "test.txt").write_text("creature_001\n" + "x" * 300)
    with pytest.raises(MissingFile, match="3 of 6 files are missing: .*images/xxx"):
        files.require_files(folder(root, "test"))
