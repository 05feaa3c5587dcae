"""A checkpoint to share, of what predicts alone: ``python -m utils.slim RUN [FILE.pth]``.

    python -m utils.slim runs/my_run
    python -m utils.slim runs/my_run birds.pth
    python -m utils.slim runs/my_run/checkpoints/model_5000.pth birds_5000.pth

``RUN`` is a run directory, of which the newest checkpoint is meant, or a ``.pth`` file; without ``FILE.pth`` the new
one lies beside it, as ``model_ITER_slim.pth``. Left out is what only training needs: the optimiser's state, and what a
method trains beside its network. ``evaluate.py`` and ``predict.py`` read it as any other. The run's model card goes
with it, as ``FILE.md``, of an earlier checkpoint with the steps and figures of that one.
"""

import conf.start  # noqa: F401

# isort: split
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from evaluation.pages import model_card
from utils import checkpoints
from utils.errors import UserError
from utils.files import written_whole
from utils.paths import read_path
from utils.run_directory import CARD


def slim(source: Path | str, output: Path | str | None = None) -> Path:
    """Write what evaluation and prediction need of a checkpoint, and print both sizes.

    Args:
        source: a run directory or a file.
        output: the new file; None: beside the one that is read.

    Raises:
        UserError: there is no checkpoint, the new file or its card is there already, or it cannot be written.
    """
    checkpoint = checkpoints.find(source)
    output = checkpoint.file.with_name(f"{checkpoint.file.stem}_slim.pth") if output is None else Path(output)
    card, card_file = card_of(checkpoint), output.with_suffix(".md")
    if present := [str(file) for file in (output, *([card_file] if card else [])) if file.exists()]:
        raise UserError(f"There already: {', '.join(present)}. Give another name, or take it away.")
    # A tensor that is a part of a larger one would be saved with all of it.
    payload = {
        "iter": checkpoint.step,
        "model_state_dict": {name: tensor.clone() for name, tensor in checkpoint.model.items()},
        "format": checkpoints.FORMAT,
        "config": checkpoint.config,
        "versions": checkpoint.versions,
        checkpoints.SLIM: True,
    }
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(output) as part, part.open("wb") as file:
            torch.save({key: value for key, value in payload.items() if value not in (None, {})}, file)
        if card:
            card_file.write_text(card, encoding="utf-8")
    except (OSError, RuntimeError) as error:  # PyTorch's own hides why it could not be written
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError):
            raise
        raise UserError(f"Cannot write {output}: {reason.strerror or reason}.") from error
    before, after = (path.stat().st_size / 2**20 for path in (checkpoint.file, output))
    print(f"{checkpoint.file}: {before:.1f} MiB\n{output}: {after:.1f} MiB")
    return output


def card_of(checkpoint: checkpoints.Checkpoint) -> str | None:
    """The model card of a run's checkpoint, or the one that lies beside a file that was made to be shared."""
    if checkpoint.is_slim:
        beside = checkpoint.file.with_suffix(".md")
        return beside.read_text(encoding="utf-8") if beside.is_file() else None
    if checkpoint.run is None or not (checkpoint.run / CARD).is_file():
        return None
    return model_card.rendered(checkpoint.run, checkpoint)


def main(arguments: Sequence[str]) -> None:
    """The command: ends with status 2 and one message after a mistake."""
    try:
        if not 1 <= len(arguments) <= 2 or any(argument.startswith("-") for argument in arguments):
            raise UserError("give a run or checkpoint, and a name if you like: python -m utils.slim RUN [FILE.pth]")
        slim(*(read_path(argument, key) for key, argument in zip(("RUN", "FILE"), arguments, strict=False)))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
