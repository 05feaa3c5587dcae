"""The benchmark of the training step: what it compares does the same work, and every row of its tables is there."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import step, steps
from tests.composition import composed
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
SMALL = ("image_size=48", "batch_size=2", "device=cpu")
LOSSES = ("feature loss", "contrastive loss", "visual loss", "equivariance loss", "all four losses")


def losses_and_gradients(trainer: step.Trainer) -> dict[str, tuple[float, list[torch.Tensor]]]:
    trained = [one for name, one in trainer.method.predictor.named_parameters() if name.startswith(("conv1", "layer5"))]
    found = trainer.method(trainer.views)
    return {name: (loss.item(), torch.autograd.grad(loss, trained, retain_graph=True)) for name, loss in found.items()}


@pytest.mark.parametrize("equivariance", ["release", "paper"])
def test_the_losses_of_the_reference_step_are_ours(equivariance):
    config = composed(*SMALL, f"method.equivariance={equivariance}")
    ours, reference = (losses_and_gradients(step.Trainer(config, reference)) for reference in (False, True))
    assert list(ours) == list(reference) == ["feature", "contrastive", "visual", "equivariance"]
    for name, (value, gradients) in reference.items():
        assert value == pytest.approx(ours[name][0], rel=1e-4), name
        assert any(gradient.norm() > 0 for gradient in gradients), name
        for mine, expected in zip(ours[name][1], gradients, strict=True):
            assert (mine - expected).norm() <= 1e-3 * expected.norm() + 1e-6, name


@pytest.fixture
def times(monkeypatch):
    """The seconds of a small benchmark by row, without its processes for memory."""

    def run(*overrides: str, rounds: int = 1) -> dict[str, list[float]]:
        tables = []
        monkeypatch.setattr(step, "ROUNDS", {"cpu": rounds})
        monkeypatch.setattr(step, "peak_memory", lambda *_: 1.0)
        monkeypatch.setattr(step, "print_times", lambda seconds, *_: tables.append(seconds))
        step.step(composed(*SMALL, *overrides))
        return tables[0]

    return run


def test_every_row_has_a_time_whatever_weights_there_are(times):
    found = times("segmenter.weights=missing.pth", "perceptual.weights=missing.pth")
    together = (step.STEP, "step, K = 16", "step, bf16")
    assert list(found) == [step.NETWORKS, step.DATA, *LOSSES, *together, step.REFERENCE]
    assert all(len(seconds) == 1 and seconds[0] > 0 for seconds in found.values())


def test_bfloat16_is_measured_once_and_the_reference_stays_in_float32(times, monkeypatch):
    seen = {}

    class Watched(step.Reference):
        def losses(self, **given):
            seen["logits"] = self.predictor(given["view"]).dtype
            return super().losses(**given)

    monkeypatch.setattr(step, "Reference", Watched)
    assert "step, bf16" not in times("precision=bf16", rounds=0)
    assert seen == {"logits": torch.float32}


def test_a_method_without_these_losses_is_refused():
    with pytest.raises(UserError, match="method=foreground: .* Leave method= out"):
        step.step(composed(*SMALL, "method=foreground"))


@pytest.mark.slow
def test_the_program_prints_both_tables():
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks/step.py", *SMALL],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    times, memory = done.stdout.split("Peak memory")
    rows = (step.NETWORKS, step.DATA, *LOSSES, step.STEP, "step, bf16", step.REFERENCE)
    assert all(row in times for row in rows) and "steps a second" in times
    assert all(row in memory for row in (step.NETWORKS, step.STEP, step.REFERENCE))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("precision=16,32",), "precision=16 needs a CUDA device"),
        (("resume=/not/there",), "/not/there"),
        (("precison=32,bf16",), "Did you mean 'precision'"),
    ],
)
def test_a_way_that_is_none_here_is_one_message(capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(steps, "measured", lambda function, *given: (function(*given), 1.0))  # in this process
    with pytest.raises(SystemExit) as ended:
        steps.main([*SMALL, *arguments])
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_ways_have_their_keys_for_names_and_say_what_is_not_recorded(capsys, monkeypatch):
    monkeypatch.setattr(steps, "measured", lambda function, *given: (function(*given), 1.0))
    steps.main([*SMALL, "cuda_graph=false,true", "segmenter=hourglass", "segmenter.widths=[4,8]"])
    told = capsys.readouterr().out
    assert "cuda_graph=False " in told and "cuda_graph=True: cuda_graph=true: steps go one by one all the same" in told
