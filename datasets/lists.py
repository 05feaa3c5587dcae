"""What identifies a data set: the names of its pictures, wherever these lie."""

import hashlib
import os

from datasets.base import Source


def lists_of(*sources: Source) -> dict[str, str]:
    """By split how many names its list has, and a digest of them in their order: ``12 names, 5d41402abc4b2a76``."""
    return {source.split: _told([source.sample_name(index) for index in range(len(source))]) for source in sources}


def _told(names: list[str]) -> str:
    digest = hashlib.blake2b(b"\0".join(map(os.fsencode, names)), digest_size=8).hexdigest()
    return f"{len(names)} names, {digest}"
