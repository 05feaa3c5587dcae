"""A program of the project with the toys beside the real modules: ``python tests/toys/program.py train.py KEY=VALUE``.

All that is done is to lengthen the packages' paths: as if the toys' files lay in their folders.
"""

import runpy
import sys
from importlib import import_module
from pathlib import Path

TOYS = Path(__file__).resolve().parent
ROOT = TOYS.parents[1]
FOLDERS = {
    "models.methods": "methods",
    "datasets": "datasets",
    "evaluation.labellers": "labellers",
    "evaluation.protocols": "protocols",
}


def add() -> None:
    """Put the toys on their packages' paths."""
    for package, folder in FOLDERS.items():
        import_module(package).__path__.append(str(TOYS / folder))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    add()
    _, program, *arguments = sys.argv
    sys.argv = [program, "--config-dir", str(TOYS / "conf"), *arguments]
    runpy.run_path(str(ROOT / program), run_name="__main__")
