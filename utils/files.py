"""Files that are whole or not there, and survive a power cut."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Returns once a file's content, or the names in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives the name to write a file under; it becomes ``path`` once all of it is on disk, what failed is deleted."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        flush_to_disk(part)
        os.replace(part, path)
        flush_to_disk(path.parent)  # a renamed file survives a power cut once its folder is on disk too
    finally:
        part.unlink(missing_ok=True)
