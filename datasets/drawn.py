"""Data sets that are drawn on this machine where they are first asked for."""

import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError

STAMP = "drawing.json"


def ensure(root: Path, drawing: Mapping[str, Any], draw: Callable[[Path], None]) -> None:
    """Draw a set into ``root`` unless just this one lies there already.

    Args:
        drawing: all that the set depends on, as JSON has it.
        draw: writes the set into a new folder.

    Raises:
        UserError: ``root`` holds something that this program did not draw, or cannot be written.
    """
    found = _stamp(root)
    if found == drawing:
        return
    if root.exists() and any(root.iterdir()) and found is None:
        raise UserError(f"{root} holds files that were not drawn here: name another dataset_root=, or move them away.")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        # Drawn beside its place and moved there whole: a drawing that was cut off is never taken for a data set.
        with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}.") as folder:
            drawn = Path(folder) / root.name
            drawn.mkdir()
            draw(drawn)
            (drawn / STAMP).write_text(json.dumps(drawing))
            if found is not None and _stamp(root) == found:
                root.rename(Path(folder) / "before")
            try:
                drawn.rename(root)
            except OSError:
                if _stamp(root) != drawing:  # else another program has drawn the same set meanwhile
                    raise
    except OSError as error:
        raise UserError(f"Cannot draw into {root}: {error.strerror}. Name another dataset_root=.") from None


def _stamp(root: Path) -> dict | None:
    """What the set in ``root`` was drawn from; None where nothing readable says so."""
    try:
        return json.loads((root / STAMP).read_text())
    except (OSError, ValueError):
        return None
