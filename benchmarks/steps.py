"""What a step costs in several ways: ``python benchmarks/steps.py key=value,value [key=value ...]``.

    python benchmarks/steps.py method=contrastive_reconstruction,scops
    python benchmarks/steps.py precision=bf16 cuda_graph=false,true compile=false,true

Keys are those of train.py; those with several values make the ways, as in its sweeps. Ratios are to the first way,
whose size and number of pictures all get. Pictures are noise and networks untrained, as in ``benchmarks/step.py``. The
steps of all ways are timed in turn, so that whatever else the machine does meets them all. The time of the first steps,
in which kernels are compiled, recorded and searched for, and peak memory are of a process of its own for each way; what
one has compiled the next one finds in PyTorch's cache. What a log would say of a way, such as that its steps are not
recorded, stands below the table. With ``output_dir=DIR`` the numbers are kept in ``DIR/measured.json``.
"""

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a file, Python looks beside it only

import conf.threads  # noqa: F401

# isort: split
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException
from rich.box import SIMPLE
from rich.table import Table

from benchmarks.peak import measured
from benchmarks.step import Trainer, keep, measure, wait
from conf.app import composed, message
from utils.console import stdout
from utils.devices import searches, set_determinism
from utils.errors import UserError

FIRST_STEPS = {"cpu": 2, "cuda": 5}  # with momenta, and on a GPU a recorded one
ROUNDS = {"cpu": 2, "cuda": 4}


def ways_of(arguments: Sequence[str]) -> dict[str, DictConfig]:
    """A config for each combination of the keys' values, named by those that have several.

    Raises:
        UserError, HydraException, OmegaConfBaseException: a mistake in them.
    """
    choices = [
        [(f"{override.get_key_element()}={value}", True) for value in override.sweep_string_iterator()]
        if override.is_sweep_override()
        else [(override.input_line, False)]
        for override in OverridesParser.create().parse_overrides([*arguments])
    ]
    ways = {}
    for job in product(*choices):
        name = ", ".join(override for override, chosen in job if chosen) or "step"
        ways[name] = composed("train", [override for override, _ in job])
    first, *others = ways.values()
    for config in others:
        config.image_size, config.batch_size = first.image_size, first.batch_size
    return ways


def main(arguments: list[str]) -> None:
    """The command: ends with status 2 and one message after a mistake."""
    try:
        compare(ways_of(arguments))
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {message(error)}", file=sys.stderr)
        sys.exit(2)


def compare(ways: Mapping[str, DictConfig]) -> None:
    """Measures and prints.

    Raises:
        UserError: a way is none on this machine.
    """
    # First: on Linux a process starts with the peak of the one that started it.
    begun = {name: measured(first_steps, config) for name, config in ways.items()}
    trainers = {name: Trainer(config) for name, config in ways.items()}
    first = next(iter(trainers.values()))
    device = first.fabric.device
    seconds = measure({name: _step(trainer) for name, trainer in trainers.items()}, device, ROUNDS[device.type])
    starts, memory = ({name: found[place] for name, found in begun.items()} for place in (0, 1))
    title = f"batch {first.config.batch_size} at {first.config.image_size} px, precision {first.config.precision}"
    stdout().print(table(seconds, starts, memory, title))
    said = [f"{name}: {line}" for name, trainer in trainers.items() for line in trainer.log.lines]
    print(*said, sep="\n")
    if first.config.output_dir:
        found = {"seconds": seconds, "first_steps": starts, "memory": memory, "said": said}
        keep(Path(first.config.output_dir), found)


def first_steps(config: DictConfig) -> float:
    """Seconds of the first steps."""
    trainer = Trainer(config)
    device = trainer.fabric.device
    wait(device)
    begun = time.perf_counter()
    for _ in range(FIRST_STEPS[device.type]):
        trainer.step()
    wait(device)
    return time.perf_counter() - begun


def _step(trainer: Trainer) -> Callable[[], None]:
    def step() -> None:
        set_determinism(trainer.config.deterministic, searches(trainer.config))  # another way has left its own
        trainer.step()

    return step


def table(
    seconds: Mapping[str, Sequence[float]], starts: Mapping[str, float], memory: Mapping[str, float], title: str
) -> Table:
    """A row for each way: seconds of a step in each round, of the first steps, MiB; ratios to the first way."""
    found = Table(title=title, box=SIMPLE, title_justify="left")
    for column in ("", "ms, median", "least", "most", "ratio", "first steps, s", "MiB", "ratio"):
        found.add_column(column, justify="right" if column else "left")
    first, base = (next(iter(figures.values())) for figures in (seconds, memory))
    for name, values in seconds.items():
        milliseconds = (f"{1000 * value:.1f}" for value in (statistics.median(values), min(values), max(values)))
        ratio = statistics.median(own / other for own, other in zip(values, first, strict=True))
        memories = f"{memory[name]:,.0f}", f"{memory[name] / base:.3f}"
        found.add_row(name, *milliseconds, f"{ratio:.3f}", f"{starts[name]:.1f}", *memories)
    return found


if __name__ == "__main__":
    main(sys.argv[1:])
