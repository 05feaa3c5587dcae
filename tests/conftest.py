"""Fixtures of several tests."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a GPU are skipped where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture
def root(drawn, tmp_path) -> Path:
    """A copy, which a test may change, of ``drawn``: the folder of pictures that its module has drawn once."""
    return shutil.copytree(drawn, tmp_path / "mine")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """An empty disk of 2 MiB; skips where this process may not mount one."""
    place = tmp_path / "small disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small disk here")
    yield place
    subprocess.run(["umount", place], check=True)
