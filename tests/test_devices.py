"""How much memory can be had: what Linux says of the machine, and of the container."""

from pathlib import Path

import pytest
import torch

from utils import devices
from utils.devices import memory_available

CPU, GIB = torch.device("cpu"), 2**30


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A machine with 8 GiB free."""
    monkeypatch.setattr(devices, "ROOT", tmp_path)
    write(tmp_path / "proc/meminfo", f"MemTotal: 99 kB\nMemFree: 1 kB\nMemAvailable:   {8 * 2**20} kB\n")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def group(folder: Path, limit: str, used: int, version: int, droppable: int = 0) -> None:
    most, current, pages = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", f"inactive_file 5\ntotal_inactive_file {droppable}"),
        2: ("memory.max", "memory.current", f"inactive_file {droppable}"),
    }[version]
    write(folder / most, f"{limit}\n")
    write(folder / current, f"{used}\n")
    write(folder / "memory.stat", f"cache 1\n{pages}\n")


def test_without_a_limit_it_is_the_machines(root):
    assert memory_available(CPU) == 8 * GIB
    write(root / "proc/self/cgroup", "4:memory:/\n0::/\n")
    group(root / "sys/fs/cgroup/memory", str(2**63 - 4096), GIB, 1)
    assert memory_available(CPU) == 8 * GIB


@pytest.mark.parametrize(
    ("version", "own", "folder"),
    [
        (2, "0::/\n", ""),
        (2, "0::/a/b\n", "a/b"),
        (2, "0::/a/b\n", "a"),  # the limit of a group around it
        (1, "9:cpu:/x\n4:memory:/a/b\n0::/\n", "memory/a/b"),
        (
            1,
            "4:cpu,memory:/docker/123\n",
            "memory",
        ),  # a path of the machine: a container sees its own group
    ],
)
def test_a_container_leaves_what_is_below_its_limit_and_files_that_can_be_dropped(root, version, own, folder):
    write(root / "proc/self/cgroup", own)
    if version == 2 and folder != "":
        group(root / "sys/fs/cgroup/a/b", "max", 0, 2)
    group(root / "sys/fs/cgroup" / folder, str(3 * GIB), 2 * GIB, version, droppable=GIB // 2)
    assert memory_available(CPU) == GIB + GIB // 2
    group(root / "sys/fs/cgroup" / folder, str(GIB), 2 * GIB, version)
    assert memory_available(CPU) == 0
    group(root / "sys/fs/cgroup" / folder, str(99 * GIB), 2 * GIB, version)
    assert memory_available(CPU) == 8 * GIB


def test_a_machine_that_does_not_say_is_not_asked(root):
    (root / "proc/meminfo").unlink()
    assert memory_available(CPU) is None
