"""Evaluations of a small drawn split, and what a page is made of."""

from pathlib import Path

from evaluation.labellers.base import Labeller
from evaluation.options import Sets
from evaluation.pages.report import Column, Evaluated
from evaluation.pages.seen import Seen
from evaluation.run import evaluate, spread
from tests.composition import composed
from tests.quadrants import PARTS, Quadrants, evaluation_options
from utils.checkpoints import Checkpoint


def checkpoint_of(run: Path) -> Checkpoint:
    """One that was never written, but names its run."""
    return Checkpoint(file=run / "checkpoints/model_10.pth", model={}, step=10, config={})


def seen_by_page(
    labeller: Labeller,
    test: Quadrants,
    fit: Quadrants | None = None,
    protocols: tuple[str, ...] = PARTS,
    num_shown: int = 200,
    num_parts: int = 4,
    run: Path = Path("runs/a run"),
    overrides: tuple[str, ...] = (),
    **changes,
) -> Evaluated:
    """A labeller, as one of a checkpoint, evaluated with a page's eyes on it."""
    seen = Seen(labeller, spread(num_shown, len(test)))
    result = evaluate(labeller, Sets(test, fit), protocols, evaluation_options(**changes), "cpu", seen)
    config = composed(f"checkpoint={run}", *overrides, name="evaluate")
    return Evaluated(config, [Column("this model", None, result)], seen, len(test), checkpoint_of(run), num_parts)
