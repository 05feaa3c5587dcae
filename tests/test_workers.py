"""A process that reads pictures and is ended by the system is told in one message, whoever waits for it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from datasets.loader import train_batches
from evaluation.whole_pictures import label_maps
from tests.quadrants import ColourLabeller, evaluated
from utils import workers
from utils.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MESSAGE = "was ended from outside, often for want of memory .*lower loader.num_workers"


class KillsItsReader:
    name, keypoint_names, part_names, has_masks = "killer", ["a"], None, True
    train_crop = test_crop = None

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("program", ["training", "evaluation", "prediction"])
def test_a_reading_process_that_the_system_ends_is_told_in_one_message(program):
    dataset, sizes = KillsItsReader(), {"image_size": 32, "batch_size": 2, "num_workers": 1}
    with pytest.raises(UserError, match=MESSAGE):
        if program == "training":
            list(train_batches(dataset, seed=5, first_step=0, num_steps=1, **sizes))
        elif program == "evaluation":
            evaluated(ColourLabeller(), dataset, **sizes)
        else:
            list(label_maps(ColourLabeller(), dataset, device="cpu", **sizes))


def python(code: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), "dataset_name=synthetic"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


def test_a_worker_that_is_ended_does_not_interrupt_what_the_program_does_meanwhile():
    done = python("""
        import os, signal, time
        from conf import app
        from utils import workers

        class Numbers:
            def __len__(self):
                return 9

            def __getitem__(self, index):
                if index == 3:
                    time.sleep(1)
                    os.kill(os.getpid(), signal.SIGKILL)
                return index

        def task(config):
            for number in workers.loader(Numbers(), num_workers=1, batch_size=None):
                time.sleep(3 if number == 2 else 0)
                print("done with", number)

        app.run("train", task)
    """)
    assert done.returncode == 2, done.stderr
    assert done.stdout.endswith("done with 2\n")
    assert done.stderr.startswith("error: A process that reads pictures was ended from outside")
    assert "Traceback" not in done.stderr


def test_a_prediction_whose_reader_is_ended_ends_with_status_2(tmp_path):
    done = python(f"""
        import os, signal, sys
        import predict
        from datasets.synthetic import Synthetic
        from models.segmenters.deeplab import Segmenter
        from tests.composition import composed
        from utils import checkpoints
        from omegaconf import OmegaConf
        from conf import app
        from conf.schema import PredictConfig

        Synthetic.__getitem__ = lambda self, index: os.kill(os.getpid(), signal.SIGKILL)
        config = composed("method=foreground", "dataset_name=synthetic")
        payload = {{"iter": 1, "model_state_dict": Segmenter(1).state_dict(), "config": OmegaConf.to_container(config)}}
        checkpoints.save("{tmp_path}/model_1.pth", payload)
        sys.argv += ["checkpoint={tmp_path}/model_1.pth", "dataset_root={tmp_path}", "image_size=32"]
        sys.argv += ["dataset.drawing.num_train=2", "dataset.drawing.num_test=2", "loader.num_workers=1"]
        app.run("predict", predict.predict, PredictConfig)
    """)
    assert done.returncode == 2, done.stderr
    assert "A process that reads pictures was ended from outside" in done.stderr and "Traceback" not in done.stderr


class Waiting:
    """Gives the number of the process that reads; the second item takes as long as asked."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        if index == 1:
            time.sleep(self.seconds)
        return os.getpid()


def test_signals_to_end_from_elsewhere_leave_readers_alone_and_two_end_them():
    numbers = iter(workers.loader(Waiting(0.5), num_workers=1, batch_size=None))
    reader = next(numbers)
    for number in (signal.SIGINT, signal.SIGTERM):
        subprocess.run(["kill", f"-{number.value}", str(reader)], check=True)
    assert list(numbers) == [reader, reader]

    numbers = iter(workers.loader(Waiting(600), num_workers=1, batch_size=None))
    reader = next(numbers)
    for _ in range(2):
        os.kill(reader, signal.SIGTERM)
        time.sleep(0.5)
    with pytest.raises(UserError, match=MESSAGE):
        next(numbers)


class Faulty:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> int:
        if index == 2:
            raise self.error
        return index


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("batch_size", [None, 2])
def test_a_mistake_of_the_users_arrives_as_it_was_raised_and_a_fault_of_the_code_with_its_traceback(
    num_workers, batch_size
):
    options = {"num_workers": num_workers, "batch_size": batch_size}
    with pytest.raises(UserError) as mistake:
        list(workers.loader(Faulty(UserError("Cannot read a.jpg")), **options))
    assert str(mistake.value) == "Cannot read a.jpg"
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(workers.loader(Faulty(RuntimeError("shapes differ")), **options))


def test_batches_are_what_collate_makes_of_items_in_order():
    dataset = list(range(5))
    assert list(workers.loader(dataset, sum, num_workers=2, batch_size=2)) == [1, 5, 4]
    assert list(workers.loader(dataset, num_workers=0, batch_size=None)) == dataset


class CannotBeHandedOver:
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int):
        return lambda: index


def test_a_batch_that_cannot_be_handed_over_is_not_waited_for(capfd):
    with pytest.raises(UserError, match=MESSAGE):
        list(workers.loader(CannotBeHandedOver(), num_workers=1, batch_size=None))
    assert "cannot hand them over" in capfd.readouterr().err
