"""All that a GPU can show of this project, one part after the other:

    python -m benchmarks.gpu output_dir=DIR
    python -m benchmarks.gpu output_dir=DIR limit=900 dataset_root=/data parts=[step_bf16,evaluation]
    python -m benchmarks.gpu output_dir=DIR device=cpu image_size=64 batch_size=2 num_steps=20

output_dir     a new folder; results.md and results.json are written anew after each part, NAME.log has what it printed
limit          480: seconds, for all of it; what a part leaves over is for those behind it
parts          all: step_bf16, step_32 (seconds and memory of a step), ways_bf16, ways_32 (the step recorded as a CUDA
               graph, and by searched algorithms), evaluation (of CUB under dataset_root, beside the notebook's way and
               decoding alone), precision (bfloat16 beside float32 on the drawn set, three seeds), tests (those that
               need a GPU), nccl (training on one device as on several), compiled_bf16 (the step compiled, and
               recorded)
device         cuda
num_steps      500: of each run of precision

All other keys are those of train.py, for every part but the tests. W&B need not be installed.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import conf.threads  # noqa: F401

# isort: split
import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table
from yaml import YAMLError

from benchmarks import steps
from conf.modules import nearest
from utils.errors import UserError
from utils.files import require_writable, written_whole
from utils.logging import Table as Csv
from utils.run_directory import ROOT

OWN = {"output_dir": None, "limit": 480, "parts": [], "device": "cuda", "num_steps": 500}
SEEDS = (1, 2, 3)
PRECISIONS = ("32", "bf16")
# Ways to do the same step: keys, and their part's share of the time.
WAYS = {
    "ways_bf16": (0.1, "precision=bf16", "cuda_graph=false,true"),
    "ways_32": (0.15, "precision=32", "cuda_graph=false,true", "cudnn_search=never,always"),
    "compiled_bf16": (0.2, "precision=bf16", "compile=true", "cuda_graph=false,true"),
}
FIGURES = ("FG-NMI", "FG-ARI", "keypoint_error_all")


@dataclass
class Part:
    """Programs of the project, one after the other.

    Attributes:
        share: of the time that all have.
        programs: what Python is given, by the name of the folder (in ``output_dir``) that it writes to.
        shown: a table of what lies in the folders by now; None where there is nothing.
    """

    title: str
    share: float
    programs: dict[str, list[str]]
    shown: Callable[[Mapping[str, Path]], Table | None]
    outcome: str = "not begun"
    seconds: float = 0
    folders: dict[str, Path] = field(default_factory=dict)


def parts_of(device: str, num_steps: int, keys: Sequence[str]) -> dict[str, Part]:
    """All of them, by name."""
    common = [f"device={device}", *keys]
    drawn = ["dataset_name=synthetic", "logging.wandb=disabled", *common]
    runs = {
        f"precision_{precision}_seed_{seed}": ["train.py", f"precision={precision}", f"seed={seed}", *drawn]
        for seed in SEEDS
        for precision in PRECISIONS
    }
    ways = {
        name: Part(f"A step, {', '.join(own)}", share, {name: ["benchmarks/steps.py", *own, *common]}, table_of_ways)
        for name, (share, *own) in WAYS.items()
    }
    one_rank = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1", "train.py", "strategy=ddp"]
    return {
        **{
            f"step_{precision}": Part(
                f"A step, precision {precision}",
                0.15,
                {f"step_{precision}": ["benchmarks/step.py", f"precision={precision}", *common]},
                table_of_step,
            )
            for precision in reversed(PRECISIONS)
        },
        "ways_bf16": ways["ways_bf16"],
        "ways_32": ways["ways_32"],
        "evaluation": Part(
            "An evaluation of CUB, and the notebook's way",
            0.15,
            {"evaluation": ["benchmarks/evaluate.py", "dataset_name=CUB", *common]},
            table_of_evaluation,
        ),
        "precision": Part(
            f"bfloat16 beside float32: {num_steps} steps on the drawn set",
            0.4,
            {name: [*own, f"num_steps={num_steps}"] for name, own in runs.items()},
            table_of_precisions,
        ),
        "tests": Part("The tests that need a GPU", 0.1, {"tests": ["-m", "pytest", "-m", "cuda"]}, table_of_tests),
        "nccl": Part(
            "One device as one of several", 0.05, {"nccl": [*one_rank, *drawn, "num_steps=4"]}, table_of_losses
        ),
        "compiled_bf16": ways["compiled_bf16"],
    }


def main(arguments: Sequence[str]) -> int:
    """Runs the parts; 1 if one of them failed."""
    if {"-h", "--help"} & set(arguments):
        print(__doc__)
        return 0
    options, keys = options_of(arguments)
    output, parts = Path(options["output_dir"]), parts_of(options["device"], options["num_steps"], keys)
    if isinstance(options["parts"], str):
        options["parts"] = [options["parts"]]
    for name in options["parts"]:
        if name not in parts:
            raise UserError(f"parts: there is no '{name}'.{nearest(name, parts)} There are {', '.join(parts)}.")
    if output.exists() and any(output.iterdir()):
        raise UserError(f"output_dir {output} is not an empty directory: give another one.")
    require_writable(output)
    output.mkdir(parents=True, exist_ok=True)
    machine = machine_of(options["device"])
    chosen = {name: part for name, part in parts.items() if name in (options["parts"] or parts)}
    end = time.monotonic() + options["limit"]
    write(output, machine, chosen)
    for place, (name, part) in enumerate(chosen.items()):
        left = sum(other.share for other in [*chosen.values()][place:])
        print(f"{name}: {part.title}", flush=True)
        run(part, output, (end - time.monotonic()) * part.share / left)
        print(f"{name}: {part.outcome} ({part.seconds:.0f} s)", flush=True)
        write(output, machine, chosen)
    print((output / "results.md").read_text())
    return int(any(part.outcome != "done" for part in chosen.values()))


def options_of(arguments: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """This program's own keys with their values, and the arguments of training."""
    own = [argument for argument in arguments if argument.partition("=")[0] in OWN]
    try:
        options = OWN | OmegaConf.to_container(OmegaConf.from_dotlist(own))
    except (OmegaConfBaseException, YAMLError) as error:
        raise UserError(f"cannot read {' '.join(own)}: {str(error).splitlines()[0]}.") from error
    if not options["output_dir"]:
        raise UserError("output_dir=DIR is missing: a new folder for what is measured.")
    for name in ("limit", "num_steps"):
        if not isinstance(options[name], int) or options[name] <= 0:
            raise UserError(f"{name} must be a whole number above 0, not {options[name]}.")
    if options["device"] == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no GPU on this machine: device=cpu tries the same programs, with small sizes.")
    return options, [argument for argument in arguments if argument not in own]


def run(part: Part, output: Path, seconds: float) -> None:
    """Runs the programs of a part, until its time is up."""
    begun = time.monotonic()
    part.outcome = "done"
    for name, program in part.programs.items():
        folder, left = output / name, seconds - (time.monotonic() - begun)
        writes = [] if program[:2] == ["-m", "pytest"] else [f"output_dir={folder.absolute()}"]
        status = ended(program + writes, output / f"{name}.log", left)
        part.folders[name] = folder
        if status is None:
            part.outcome = f"ran past its {seconds:.0f} s at {name}"
            break
        if status:
            part.outcome = f"failed at {name} (exit status {status}): see {name}.log"
    part.seconds = time.monotonic() - begun


def ended(program: Sequence[str], log: Path, seconds: float) -> int | None:
    """The exit status of a program, with all that it starts; None if it was ended since its time was up."""
    with log.open("w") as file:
        options = {"cwd": ROOT, "stdout": file, "stderr": subprocess.STDOUT, "start_new_session": True}
        with subprocess.Popen([sys.executable, *program], **options) as process:
            try:
                return process.wait(max(seconds, 0))
            except BaseException as error:
                os.killpg(process.pid, signal.SIGKILL)
                if isinstance(error, subprocess.TimeoutExpired):
                    return None
                raise


def machine_of(device: str) -> dict[str, Any]:
    """What it was measured on."""
    found = {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "device": device,
    }
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_mib": properties.total_memory // 2**20}
        found |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    return found


def write(output: Path, machine: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    """results.json, with all that is known by now, and results.md."""
    results = {"machine": machine, "parts": {}}
    page = ["# Measured", "", ", ".join(f"{name} {value}" for name, value in machine.items()), ""]
    for name, part in parts.items():
        files = {folder: own for folder, path in part.folders.items() if (own := numbers_in(path))}
        results["parts"][name] = {"outcome": part.outcome, "seconds": round(part.seconds, 1), "numbers": files}
        table = part.shown(part.folders) if part.folders else None
        page += [f"## {part.title}", "", f"{part.outcome}, {part.seconds:.0f} s", ""]
        page += [*markdown(table), ""] if table else []
    for name, text in (("results.json", json.dumps(results, indent=1)), ("results.md", "\n".join(page))):
        with written_whole(output / name) as file:
            file.write_text(text)


def numbers_in(folder: Path) -> dict[str, Any]:
    """What a program left: of a benchmark its measurements, of a run its last evaluation and losses."""
    found = {}
    for file in ("measured.json", "evaluation.csv", "metrics.csv"):
        path = folder / file
        if path.suffix == ".json" and path.is_file():
            found |= json.loads(path.read_text())
        elif path.is_file() and (rows := Csv(path, sys.maxsize).rows()):
            found[path.stem] = {name: float(value) for name, value in rows[-1].items() if value}
    return found


def table_of_step(folders: Mapping[str, Path]) -> Table | None:
    """Milliseconds of each row, its share of the step, and the peak memory of those that have one."""
    (folder,) = folders.values()
    if not (found := numbers_in(folder)):
        return None
    table = Table("", "ms, median (least-most)", "of the step", "peak memory, MiB")
    whole = statistics.median(found["seconds"]["step"])
    for name, seconds in found["seconds"].items():
        middle, low, high = (1000 * own for own in (statistics.median(seconds), min(seconds), max(seconds)))
        memory = found["memory"].get(name)
        shares = f"{middle / 1000 / whole:.3f}", f"{memory:,.0f}" if memory is not None else ""
        table.add_row(name, f"{middle:.1f} ({low:.1f}-{high:.1f})", *shares)
    table.caption = f"{1 / whole:.1f} steps a second: 60,000 in {60_000 * whole / 60:.0f} minutes"
    return table


def table_of_ways(folders: Mapping[str, Path]) -> Table | None:
    """As ``benchmarks/steps.py`` prints it."""
    (folder,) = folders.values()
    found = numbers_in(folder)
    if not found:
        return None
    table = steps.table(found["seconds"], found["first_steps"], found["memory"], "")
    table.caption = " ".join(found["said"])
    return table


def table_of_evaluation(folders: Mapping[str, Path]) -> Table | None:
    """Pictures a second of both ways, of decoding alone and without a network; what the main process has for each."""
    (folder,) = folders.values()
    if not (found := numbers_in(folder)):
        return None
    table = Table("", "seconds, median (least-most)", "pictures a second", "main process, ms a picture")
    for name, seconds in found["seconds"].items():
        middle, busy = statistics.median(seconds), statistics.median(found["processor"][name])
        spread = f"{middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f})"
        table.add_row(name, spread, f"{found['pictures'] / middle:.1f}", f"{1000 * busy / found['pictures']:.2f}")
    table.caption = (
        f"{found['of_decoding']:.2f} of the pictures a second that decoding alone gives (goal: 0.8); largest "
        f"difference of a figure, percent: {found['largest_difference']:.4f}"
    )
    return table


def table_of_precisions(folders: Mapping[str, Path]) -> Table | None:
    """Figures of each seed in both precisions, of the runs that ended."""
    found = {name: own["evaluation"] for name, path in folders.items() if "evaluation" in (own := numbers_in(path))}
    if not found:
        return None
    table = Table("", *(f"seed {seed}" for seed in SEEDS))
    for figure in FIGURES:
        for precision in PRECISIONS:
            own = [found.get(f"precision_{precision}_seed_{seed}", {}).get(figure) for seed in SEEDS]
            table.add_row(f"{figure}, {precision}", *("-" if value is None else f"{value:.1f}" for value in own))
    return table


def table_of_tests(folders: Mapping[str, Path]) -> Table | None:
    """The last line that pytest printed."""
    (folder,) = folders.values()
    lines = folder.with_suffix(".log").read_text().splitlines() if folder.with_suffix(".log").is_file() else []
    return Table(lines[-1]) if lines else None


def table_of_losses(folders: Mapping[str, Path]) -> Table | None:
    """Of the last step."""
    (folder,) = folders.values()
    losses = numbers_in(folder).get("metrics")
    if not losses:
        return None
    table = Table(*losses)
    table.add_row(*(f"{value:.4g}" for value in losses.values()))
    return table


def markdown(table: Table) -> list[str]:
    """The lines of a pipe table, and its caption under it."""
    caption, table.caption, table.box = table.caption, None, MARKDOWN
    console = Console(width=1000, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [line.strip() for line in capture.get().splitlines() if line.strip()] + (["", caption] if caption else [])


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
