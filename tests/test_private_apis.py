"""Names that libraries do not promise to keep and the code relies on: an upgrade without one of them fails here."""

import multiprocessing.queues
import platform

import lightning
import pytest
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_found_inf_stops_a_fused_optimiser(kind):
    weight = torch.nn.Parameter(torch.ones(3))
    weight.grad = torch.ones(3)
    optimizer = kind([weight], lr=0.1, fused=True)
    for found, moves in ((1.0, False), (0.0, True)):
        optimizer.found_inf = torch.tensor(found)
        optimizer.step()
        assert bool((weight != 1).all()) == moves, (
            f"PyTorch {torch.__version__} reads optimizer.found_inf otherwise in its fused {kind.__name__}: "
            "utils/finite.py keeps weights from what is not finite by it"
        )


def test_tensors_are_copied_and_counted_by_lists():
    counts, copies = [torch.tensor(1), torch.tensor(5)], [torch.tensor(0), torch.tensor(0)]
    torch._foreach_add_(counts, 2)
    torch._foreach_copy_(copies, counts)
    assert [int(count) for count in copies] == [3, 7], (
        f"PyTorch {torch.__version__} has other _foreach_add_ and _foreach_copy_: models/norms.py counts batches and "
        "utils/training.py sets statistics aside by them"
    )


def test_a_loader_s_iterator_can_be_told_to_end_its_workers():
    others = set(multiprocessing.active_children())
    iterator = iter(DataLoader([0, 1], num_workers=1))
    (worker,) = set(multiprocessing.active_children()) - others
    assert callable(getattr(iterator, "_shutdown_workers", None)), (
        f"PyTorch {torch.__version__} has no _shutdown_workers on the iterator of a DataLoader: utils/workers.py ends "
        "its workers by it"
    )
    iterator._shutdown_workers()
    assert not worker.is_alive()


def test_a_queue_tells_what_its_feeding_thread_cannot_hand_over():
    told = []

    class Queue(multiprocessing.queues.Queue):
        _on_queue_feeder_error = staticmethod(lambda error, item: told.append((error, item)))

    queue, item = Queue(ctx=multiprocessing.get_context()), lambda: None  # no function without a name can be sent
    queue.put(item)
    queue.close()
    queue.join_thread()
    assert [given for _, given in told] == [item], (
        f"Python {platform.python_version()} does not call Queue._on_queue_feeder_error(error, item): utils/workers.py "
        "would wait without end for a batch that cannot be handed over"
    )


def test_fabric_keeps_the_processes_that_it_has_started_in_a_list():
    launcher = Fabric(accelerator="cpu", devices=2, strategy="ddp").strategy.launcher
    assert getattr(launcher, "procs", None) == [], (
        f"Lightning {lightning.__version__} has no list fabric.strategy.launcher.procs: utils/ranks.py ends what "
        "Fabric has started by it"
    )
