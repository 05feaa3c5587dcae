"""What happens to files: each function gives one that does it to a folder, or to a file."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.mistakes.harness import Damage


def replace_file(pattern: str, content: bytes | str | Damage) -> Damage:
    """Gives the first file of a pattern another content."""

    def damage(root: Path) -> None:
        path = sorted(root.glob(pattern))[0]
        if callable(content):
            content(path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return damage


def everywhere(pattern: str, change: Damage) -> Damage:
    return lambda root: [change(path) for path in sorted(root.glob(pattern))]


def write(file: str, content: str | bytes) -> Damage:
    return lambda root: (root / file).write_bytes(content if isinstance(content, bytes) else content.encode())


def line(file: str, number: int, new: str | None) -> Damage:
    """Replaces a line (from 1) of a list, or takes it out."""

    def damage(root: Path) -> None:
        lines = (root / file).read_text().splitlines()
        lines[number - 1 : number] = [] if new is None else new.splitlines()
        (root / file).write_text("\n".join(lines) + "\n")

    return damage


def cut(share: float) -> Damage:
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def flip_bit(path: Path) -> None:
    """In the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def missing(path: Path) -> None:
    path.unlink()


def pixels(values: Callable[[int, int], np.ndarray], mode: str | None = None, **options) -> Damage:
    """Puts a picture of the same size in the place of a file: ``values`` of height and width."""

    def write(path: Path) -> None:
        with Image.open(path) as old:
            width, height = old.size
        picture = Image.fromarray(values(height, width))
        (picture if mode is None else picture.convert(mode)).save(path, **options)

    return write


def flat(value: float, dtype: str = "uint8", channels: tuple[int, ...] = ()) -> Callable[[int, int], np.ndarray]:
    return lambda height, width: np.full((height, width, *channels), value, dtype)


def save_picture(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def png(width: int, height: int, bits: int, colours: int, rows: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file that says what it likes of itself.

    Args:
        colours: 0 is grey, 2 is RGB.
        rows: their bytes, a 0 before each.
        chunks: kind and content of more of them, before the pixels.
    """
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    written = (
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in ((b"IHDR", header), *chunks, (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def maps(label: int, spare: str | None = None) -> Damage:
    """In ``maps`` beside a folder's own pictures, a label map of each, all of one label; none of ``spare``."""

    def write(root: Path) -> None:
        for path in sorted((root / "images").iterdir()):
            if path.stem != spare:
                with Image.open(path) as picture:
                    shape = picture.size[::-1]
                save_picture(root.parent / f"maps/{path.name}.png", np.full(shape, label))

    return write
