"""Where the golden cases and the real photographs lie, if they do."""

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"
SHARED = Path(__file__).resolve().parents[2] / "shared"
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="needs the real photographs in ../shared")
