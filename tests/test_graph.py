"""A recorded step is the step itself, with the numbers of the moment: on the CPU by a stand-in for CUDA graphs."""

import csv
import os
import signal
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from evaluation.progress import Progress
from models import methods
from models.methods import contrastive_reconstruction
from tests import tape
from tests.composition import composed
from tests.test_train import resume, run
from utils import checkpoints, graph, training
from utils.errors import Stopped, UserError
from utils.graph import STEPS_BEFORE, cannot_record

STEPS = STEPS_BEFORE + 3
FEW = ("evaluation.every=0", "checkpointing.every=100", "logging.image_every=0", "evaluation.pictures=0")
PLAIN = (f"num_steps={STEPS}", "optimizer.poly_steps=100", *FEW)
RECORDED = ("cuda_graph=true", *PLAIN)
SMALL = ("segmenter=hourglass", "segmenter.widths=[4,8]", "perceptual=efficientnet_lite0")
# Of each method that can be recorded what makes it small, or another optimiser.
RECORDABLE = {
    "contrastive_reconstruction, sgd": ("optimizer=sgd",),
    "contrastive_reconstruction, adamw": ("optimizer=adamw",),
    "contrastive_reconstruction, bf16": ("optimizer=sgd", "precision=bf16"),
    "contrastive_reconstruction, positives of the same image": ("method.positives=same_image",),
    "scops": ("method=scops",),
    "uld": ("method=uld", "segmenter.widths=[4,8]"),
    "region_grouping": ("method=region_grouping", "image_size=64"),
    "foreground": ("method=foreground",),
}
# Of each method that cannot be recorded the reason.
OTHERS = {
    "ac": "each has orderings of its own",
    "arl": "each has orderings of its own",
    "iic": "two heads take turns",
    "doersch": "each has places of its own",
    "isola": "each has places of its own",
    "deepcluster": "its labels come from a network that is replaced before each pass",
}


@pytest.fixture
def recordings(monkeypatch) -> list:
    """Records with the stand-in; the pieces of work that were recorded."""
    recorded = []
    monkeypatch.setattr(graph, "record", lambda work: recorded.append(work) or tape.record(work))
    monkeypatch.setattr(training, "cannot_record", lambda *_: None)
    monkeypatch.setattr(Progress, "evaluate", lambda *_: None)  # what comes after the last step takes longer than it
    return recorded


def numbers(path: Path) -> list[dict[str, str]]:
    with (path / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def same_end(ours: Path, expected: Path) -> bool:
    """Whether two runs end with the same checkpoint, to the bit, and had the same losses and norms all along."""
    one, other = (checkpoints.find(path) for path in (ours, expected))
    moments = zip(one.optimizer["state"].values(), other.optimizer["state"].values(), strict=True)
    return (
        numbers(ours) == numbers(expected)
        and all(torch.equal(one.model[name], other.model[name]) for name in one.model | other.model)
        and all(torch.equal(one.beside[name], other.beside[name]) for name in one.beside | other.beside)
        and all(torch.equal(found[name], wanted[name]) for found, wanted in moments for name in found | wanted)
    )


@pytest.mark.parametrize(
    "keys",
    [
        pytest.param(keys, id=name, marks=[] if place == 0 else pytest.mark.slow)
        for place, (name, keys) in enumerate(RECORDABLE.items())
    ],
)
def test_replayed_steps_are_those_of_a_run_that_does_them_one_by_one(tmp_path, recordings, keys):
    plain, ours = run(tmp_path, "plain", *keys, *PLAIN), run(tmp_path, "ours", *keys, *RECORDED)
    assert len(recordings) == 1 and "cuda_graph" not in (ours / "train.log").read_text()
    assert same_end(ours, plain)
    assert len({row["total"] for row in numbers(ours)}) == STEPS


@pytest.mark.slow
def test_a_stand_in_that_keeps_a_number_of_the_host_is_found_out(tmp_path, recordings, monkeypatch):
    """Were rates, steps or views of the recording kept, the replay would have them: here a loss does."""
    forward, calls = contrastive_reconstruction.Method.forward, []

    def counted(self, views):
        calls.append(None)
        losses = forward(self, views)
        return losses | {"visual": losses["visual"] * len(calls)}

    monkeypatch.setattr(contrastive_reconstruction.Method, "forward", counted)
    plain = run(tmp_path, "plain", *SMALL, *PLAIN)
    calls.clear()
    assert not same_end(run(tmp_path, "ours", *SMALL, *RECORDED), plain)


@pytest.mark.slow
def test_a_run_that_goes_on_records_anew_and_ends_as_one_that_was_not_interrupted(tmp_path, recordings):
    plain = run(tmp_path, "plain", *SMALL, *PLAIN, f"num_steps={2 * STEPS}", "optimizer=adamw")
    ours = run(tmp_path, "ours", "optimizer=adamw", *SMALL, *RECORDED)
    state = torch.load(ours / f"checkpoints/model_{STEPS}.pth", weights_only=True)["optimizer_state_dict"]
    assert {(type(group["lr"]), group["capturable"]) for group in state["param_groups"]} == {(float, False)}
    resume(ours, f"num_steps={2 * STEPS}")
    assert len(recordings) == 2 and same_end(ours, plain)


def test_a_replayed_step_that_is_not_finite_is_named_and_moves_nothing(tmp_path, recordings, monkeypatch):
    broken, before = STEPS - 2, []

    def poison(self, batch, random):
        views = make_views(self, batch, random)
        if batch.step == broken:
            before.append(next(self.predictor.parameters()).clone())
        return replace(views, lab=views.lab * torch.nan) if batch.step == broken else views

    method = []
    build, make_views = methods.build, contrastive_reconstruction.Method.views
    monkeypatch.setattr(methods, "build", lambda *given: method.append(build(*given)) or method[0])
    monkeypatch.setattr(contrastive_reconstruction.Method, "views", poison)
    with pytest.raises(UserError, match=f"not finite at step {broken} .visual, total"):
        run(tmp_path, "run", *SMALL, *RECORDED, "logging.every=100")
    assert torch.equal(next(method[0].predictor.parameters()), before[0])


@pytest.mark.slow
def test_a_signal_between_replayed_steps_saves_what_they_reached(tmp_path, recordings, monkeypatch):
    make_views = contrastive_reconstruction.Method.views

    def asked_to_end(self, batch, random):
        if batch.step == STEPS - 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return make_views(self, batch, random)

    plain = run(tmp_path, "plain", *SMALL, *PLAIN, f"num_steps={STEPS - 1}")
    monkeypatch.setattr(contrastive_reconstruction.Method, "views", asked_to_end)
    with pytest.raises(Stopped, match=f"saved after {STEPS - 1} steps"):
        run(tmp_path, "ours", *SMALL, *RECORDED)
    assert len(recordings) == 1 and same_end(tmp_path / "ours", plain)


def told(path: Path) -> list[str]:
    return [line for line in (path / "train.log").read_text().splitlines() if "cuda_graph" in line]


def test_a_step_that_cannot_be_recorded_is_told_and_goes_on_as_before(tmp_path, recordings, monkeypatch):
    forward = contrastive_reconstruction.Method.forward

    def waiting(self, views):
        losses = forward(self, views)
        return losses if losses["visual"].item() > 0 else {}

    plain = run(tmp_path, "plain", *SMALL, *PLAIN)
    monkeypatch.setattr(contrastive_reconstruction.Method, "forward", waiting)
    ours = run(tmp_path, "ours", *SMALL, *RECORDED)
    (line,) = told(ours)
    assert "steps go one by one from here on" in line and "not permitted when stream is capturing" in line
    assert len(recordings) == 1 and same_end(ours, plain)


def test_what_cannot_be_recorded_is_told_and_not_that_the_recording_failed(monkeypatch):
    @contextmanager
    def recording(*_, **__):
        try:
            yield
        finally:
            raise RuntimeError("operation failed due to a previous error during capture")

    def work():
        raise ValueError("it waits for the device")

    monkeypatch.setattr(torch.cuda, "graph", recording)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "stream", nullcontext)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    with pytest.raises(ValueError, match="it waits for the device"):
        graph.record(work)


@pytest.mark.slow
def test_memory_that_does_not_suffice_to_record_is_told_and_steps_go_on_without(tmp_path, monkeypatch, recordings):
    def lacking(work):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    plain = run(tmp_path, "plain", *SMALL, *PLAIN)
    monkeypatch.setattr(graph, "record", lacking)
    ours = run(tmp_path, "ours", *SMALL, *RECORDED)
    (line,) = told(ours)
    assert "memory does not suffice" in line and "2.00 GiB more asked for" in line
    assert same_end(ours, plain)


@pytest.mark.slow
def test_views_of_another_form_end_the_replays_not_the_run(tmp_path, recordings, monkeypatch):
    make_views = contrastive_reconstruction.Method.views

    def rounded(self, batch, random):
        views = make_views(self, batch, random)
        return replace(views, lab=views.lab.bfloat16()) if batch.step == STEPS - 2 else views

    monkeypatch.setattr(contrastive_reconstruction.Method, "views", rounded)
    plain, ours = run(tmp_path, "plain", *SMALL, *PLAIN), run(tmp_path, "ours", *SMALL, *RECORDED)
    (line,) = told(ours)
    assert "what it sees is not always of one form" in line
    assert same_end(ours, plain)


@pytest.mark.parametrize(("method", "reason"), OTHERS.items())
def test_methods_whose_steps_differ_in_more_than_numbers_say_so(method, reason):
    config = composed("dataset_name=potsdam", f"method={method}")
    assert methods.method_class(config).not_recorded(config.method) == reason


def test_every_method_is_recorded_or_says_why_not():
    folder = Path(methods.__file__).parent
    named = {path.stem for path in (folder.parents[1] / "conf/method").glob("*.yaml")}
    assert named == OTHERS.keys() | {name.partition(",")[0] for name in RECORDABLE}


@pytest.mark.parametrize(
    ("device", "keys", "reason"),
    [
        ("cpu", (), "only those of a GPU can be recorded, and device is cpu"),
        ("cuda", ("devices=2",), "several devices wait for each other"),
        ("cuda", ("precision=16",), "gradient scaler"),
        ("cuda", ("strategy=ddp",), "strategy=ddp"),
        ("cuda", (), None),
    ],
)
def test_a_run_that_is_not_recorded_says_why(device, keys, reason):
    found = cannot_record(torch.device(device), composed("dataset_name=synthetic", *keys))
    assert found is None if reason is None else reason in found


def test_on_a_cpu_the_log_says_that_steps_go_one_by_one(tmp_path):
    path = run(tmp_path, "run", *FEW, "num_steps=1", "cuda_graph=true")
    (line,) = told(path)
    assert line.endswith("one by one all the same, since only those of a GPU can be recorded, and device is cpu.")


@pytest.mark.cuda
def test_a_gpu_replays_what_it_does_step_by_step_to_the_bit(tmp_path):
    keys = "device=cuda", "deterministic=true", "optimizer=sgd"
    plain, ours = run(tmp_path, "plain", *keys, *PLAIN), run(tmp_path, "ours", *keys, *RECORDED)
    assert not told(ours) and same_end(ours, plain)


@pytest.mark.cuda
def test_a_gpu_in_half_precision_replays_the_same_losses_but_for_rounding(tmp_path):
    keys = "device=cuda", "precision=bf16", "optimizer=sgd", "num_steps=50", "logging.every=1"
    plain, ours = run(tmp_path, "plain", *PLAIN, *keys), run(tmp_path, "ours", *RECORDED, *keys)
    assert not told(ours)
    found, expected = numbers(ours), numbers(plain)
    assert len(found) == 50
    for one, other in zip(found, expected, strict=True):
        assert float(one["total"]) == pytest.approx(float(other["total"]), rel=0.05)


@pytest.mark.cuda
def test_a_gpu_that_cannot_record_a_step_says_what_it_met_and_goes_on(tmp_path, monkeypatch):
    forward = contrastive_reconstruction.Method.forward

    def waiting(self, views):
        losses = forward(self, views)
        return losses if losses["visual"].item() > 0 else {}

    keys = "device=cuda", "deterministic=true", "optimizer=sgd"
    plain = run(tmp_path, "plain", *keys, *PLAIN)
    monkeypatch.setattr(contrastive_reconstruction.Method, "forward", waiting)
    ours = run(tmp_path, "ours", *keys, *RECORDED)
    (line,) = told(ours)
    assert "captur" in line and "previous error" not in line
    assert same_end(ours, plain)
