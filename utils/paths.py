"""Paths as people give them."""

import os

from utils.errors import UserError


def read_path(text: str, key: str) -> str:
    """A path as it is meant: ``~`` at its beginning is the user's own folder.

    Args:
        key: that it is the value of, for the message.

    Raises:
        UserError: it is empty, as a shell leaves it of a variable that is not set.
    """
    if not text.strip():
        raise UserError(f"{key} is empty: give {key}=PATH, or leave it out. (So is a shell variable that is not set.)")
    return os.path.expanduser(text)
