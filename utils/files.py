"""Files that are to survive a power cut."""

import os
from pathlib import Path


def flush_to_disk(path: Path) -> None:
    """Returns once a file's content, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
