"""Files that are whole or not there, and survive a power cut; and what is there in the place of others' files."""

import codecs
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from utils.errors import UserError


def flush_to_disk(path: Path) -> None:
    """Returns once a file's content, or the names in a folder, are on the disk itself."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folders
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # it flushes only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name to write a file under; it becomes ``path`` once all of it is on disk, what failed is deleted.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        flush_to_disk(part)
        os.replace(part, path)
        flush_to_disk(path.parent)  # a renamed file survives a power cut once its folder is on disk too
    except OSError as error:
        if str(error.filename) == str(part):
            error.filename = str(path)  # which whoever reads of it knows
        raise
    finally:
        part.unlink(missing_ok=True)


def require_writable(folder: Path) -> None:
    """Make sure that a folder of results can be made, or written to if it is there; leaves nothing behind.

    Raises:
        UserError: it cannot.
    """
    try:
        if folder.is_dir():
            TemporaryFile(dir=folder).close()
        else:
            folder.mkdir(parents=True)
            folder.rmdir()
    except OSError as error:
        raise UserError(f"Cannot write output_dir {folder}: {error.strerror}. Give another one.") from error


def digest_of(path: Path) -> str:
    """SHA-256 of a file's content, as ``sha256sum`` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stand_in(path: Path) -> str | None:
    """What a failed or unfinished download has left in the place of a file; None if it is nothing that is known.

    Returns:
        A clause that begins with "it is", for a message.
    """
    if os.path.isdir(path):
        return "it is a directory"
    try:
        with path.open("rb") as file:
            head = file.read(1024).removeprefix(codecs.BOM_UTF8).lstrip()
    except OSError:
        return None
    if not path.stat().st_size:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, which stands for the file: `git lfs pull` fetches that"
    if re.match(rb"<[a-z!?]", head, re.IGNORECASE) and b"<svg" not in head:
        return "it is a web page (HTML or XML), which the download gave in the place of the file"
    if head.startswith((b"{", b"[")) and path.suffix.lower() != ".json":
        with suppress(ValueError):
            json.loads(path.read_bytes())
            line = head.decode(errors="replace").splitlines()[0]
            return f"it is JSON, as a server answers in the place of a file, and begins with '{line[:60]}'"
    return None
