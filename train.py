"""Train a segmenter: ``python train.py dataset_name=CUB [key=value ...]``; every key is in conf/train.yaml.

    python train.py dataset_name=CUB dataset_root=data num_parts=4
    python train.py dataset_name=folder dataset_root=my_birds experiment=laptop
    python train.py -m num_parts=4,8 seed=1,2,3 dataset_name=CUB
    python train.py resume=runs/my_run

In turn: the published recipe; minutes on a CPU, with a small network; six runs and their table; a run goes on.
"""

import conf.start  # noqa: F401

# isort: split
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

from lightning.fabric import seed_everything
from omegaconf import DictConfig, OmegaConf

import datasets
from conf import app
from conf.modules import module
from conf.schema import anchored
from conf.trained import require_own_lists
from datasets.base import Source
from datasets.batch import TrainBatch
from datasets.cache import cached
from datasets.lists import lists_of
from datasets.loader import require_batch, train_batches
from datasets.sample import Remarks
from evaluation.options import Sets
from evaluation.pages import model_card
from evaluation.progress import Progress
from models import methods
from utils.devices import searches, set_determinism
from utils.errors import UserError
from utils.finite import NotFinite, record
from utils.logging import RunLogger, Silence
from utils.memory import shortage
from utils.ranks import Ranks, launch
from utils.run_directory import RunDirectory
from utils.signals import Signals
from utils.training import Training


def train(config: DictConfig) -> None:
    """One run, from pictures on disk to a checkpoint and its metrics, in a directory of its own."""
    config = anchored(config)  # the run may go on, and be evaluated, from another working directory
    set_determinism(config.deterministic, searches(config))
    with launch(config) as ranks:
        train_on(ranks, config)


def inputs(config: DictConfig) -> tuple[Source, Sets, dict[str, str]]:
    """What a run reads: its training set, both splits as its evaluation reads them, and the lists of their pictures.

    Whatever can be missing is asked for here, before the first step; of a sweep, for all jobs before the first one.

    Raises:
        UserError: data, masks, lists or a file of weights are not there, or are not those of the run that goes on.
    """
    training_set = datasets.build(config, "train", "training")
    methods.require(config, training_set.has_masks, training_set.num_classes)
    require_batch(training_set, config.batch_size)
    sets = Sets.of(config, methods.method_class(config).test_masks)
    lists = lists_of(training_set, sets.test)
    require_own_lists(config, lists)
    return training_set, sets, lists


def train_on(ranks: Ranks, config: DictConfig) -> None:
    """What each process of a run does, one for each device; the first of them also logs, saves and evaluates."""
    fabric = ranks.fabric
    seed_everything(config.seed, verbose=False)

    training_set, sets, lists = inputs(config)
    method = methods.build(config, training_set.has_masks, fabric.device, training_set.num_classes)
    training = Training(ranks, config, method)
    batches = partial(
        train_batches,
        cached(training_set, config.dataset.cache, config.dataset.cache_dir),
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        on_error=config.dataset.on_error,
    )

    def coming(step: int, count: int) -> Iterator[TrainBatch]:
        """Whole batches of so many steps from one on, on the device."""
        found = batches(first_step=step, num_steps=step + count, num_workers=config.loader.num_workers)
        return (batch.to(fabric.device) for batch in found)

    for key, value in {**method.measure(partial(coming, 0)), "dataset.lists": lists}.items():
        OmegaConf.update(config, key, value, merge=False)
    own_batches = batches(
        first_step=training.step,
        num_steps=config.num_steps,
        num_workers=config.loader.num_workers,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
    )
    # Figures and pictures of the test set: they choose nothing.
    labeller = module("labeller", method.labeller).of_predictor(method.predictor)
    progress = Progress(config, labeller, sets, method.protocols, fabric.device, lambda: next(coming(0, 1)))
    run = RunDirectory.of(config) if ranks.is_first else None
    due, remarks = training.due, Remarks()
    lacking = None  # memory, if it does not suffice

    with (
        run or nullcontext(),
        model_card.kept(run),
        Signals() as signals,
        RunLogger(run, config, training.step) if run else Silence() as log,
    ):
        for note in (*training_set.notes, *ranks.notes, *training.notes):
            log.say(note)
        training.foretell(run, log)
        if run and training.step and due(config.evaluation.every) and not log.has_evaluation(training.step):
            progress.evaluate(training.step, log, signals)  # the run was interrupted in the middle of it
        training.heed(signals, run, log)
        try:
            for batch in ranks.in_step(own_batches):
                log.skipped(batch.skipped)
                remarks.add(batch.remarks)
                for line in remarks.lines(new_kinds=True):
                    log.say(line)
                training.forget(method.before_step(training.step, partial(coming, training.step)))

                # Views of the crops, on the device; one update with the method's losses of them.
                views = training.views(batch)
                done = training.learn(views, log)

                log.advance(training.step)
                if due(config.logging.every):
                    log.log(training.step, training.scalars(done))
                training.foretell(run, log)
                if run and config.logging.image_every and (training.step == 1 or due(config.logging.image_every)):
                    progress.show(batch, training.step, log)
                if due(config.checkpointing.every) or due(config.evaluation.every):
                    training.save(run, log)
                if run and due(config.evaluation.every):
                    progress.evaluate(training.step, log, signals)
                training.heed(signals, run, log)
            for line in remarks.lines():
                log.say(line)
        except NotFinite as error:
            if run is None:
                raise
            (batch,) = batches(first_step=error.step, num_steps=error.step + 1, num_workers=0)
            raise record(run.path, error, config.seed, zip(batch.names, batch.paths, strict=True)) from error
        except UserError:
            training.save(run, log)  # what was reached before the picture that cannot be read
            raise
        except Exception as error:
            if (lacking := shortage(error, fabric.device)) is None:
                raise
        if lacking:
            views = done = None  # what the step has made; the error, with its frames, is forgotten too
            raise training.halt(lacking, run, log)

    if run:
        print(f"Run directory: {run.path}")


if __name__ == "__main__":
    app.run("train", train, inputs=inputs)
