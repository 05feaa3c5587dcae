"""Train a segmenter: ``python train.py dataset_name=CUB [key=value ...]``; every key is in conf/train.yaml."""

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial

from lightning.fabric import seed_everything
from omegaconf import DictConfig, OmegaConf

import datasets
from datasets.batch import TrainBatch
from datasets.cache import cached
from datasets.loader import train_batches
from datasets.views import make_views
from evaluation.collapse import CollapseWatch
from evaluation.held_out import HeldOut
from evaluation.report import part_picture, print_table
from evaluation.run import examples
from models import build_method, own_loss_weights, restore_segmenter
from utils import app, checkpoints
from utils.devices import compile_networks, memory_format, of_any_shape, set_determinism, try_algorithms
from utils.errors import Stopped, UserError
from utils.finite import FiniteUpdates, NotFinite, record, require_finite_weights
from utils.logging import RunLogger, Silence
from utils.optimizer import build_optimizer, restore_optimizer, set_learning_rate
from utils.ranks import Ranks, launch
from utils.run_directory import RunDirectory, to_resume, versions
from utils.signals import TO_STOP, Signals


def train(config: DictConfig) -> None:
    """One run, from pictures on disk to a checkpoint and its metrics, in a directory of its own."""
    set_determinism(config)
    try_algorithms(config)
    with launch(config) as ranks:
        train_on(ranks, config)


def train_on(ranks: Ranks, config: DictConfig) -> None:
    """What each process of a run does, one for each device; the first of them also logs, saves and evaluates."""
    fabric = ranks.fabric
    seed_everything(config.seed, verbose=False)

    # Whatever can be missing is asked for before the first step.
    training_set = datasets.build(config.dataset_name, config.dataset, config.dataset_root, "train", "training")
    held_out = HeldOut.of(config)
    method = build_method(config).to(memory_format=memory_format(config))
    config.loss_weights = own_loss_weights(config.loss_weights, method.loss_names)
    optimizer = build_optimizer(
        method.parameter_groups(config.optimizer.lr, config.optimizer.head_multiplier),
        config.optimizer,
        fused=config.precision != "16",
    )

    done = 0  # updates
    if config.resume is not None and (found := checkpoints.read_to_resume(config.resume)):
        file, checkpoint = found
        restore_segmenter(method.segmenter, checkpoint["model_state_dict"], file)
        if state := checkpoint.get("precision_state_dict"):
            fabric.strategy.precision.load_state_dict(state)
        done = checkpoint["iter"]
        if done > config.num_steps:
            raise UserError(f"The run has done {done} steps already: give num_steps={done} or more.")
    saved = done

    segmenter = method.segmenter
    labeller = held_out.labeller(segmenter)
    if config.compile:
        compile_networks(method)
    method, optimizer = ranks.setup(method, optimizer)
    if done:
        restore_optimizer(optimizer.optimizer, checkpoint["optimizer_state_dict"], file)
    method.train()
    updates = FiniteUpdates(optimizer.optimizer, segmenter)
    collapse = CollapseWatch(config.logging.collapse_share, config.logging.collapse_checks)
    batches = partial(
        train_batches,
        cached(training_set, config.dataset.cache, config.dataset.cache_dir),
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        on_error=config.dataset.on_error,
    )
    own_batches = batches(
        first_step=done,
        num_steps=config.num_steps,
        num_workers=config.loader.num_workers,
        rank=fabric.global_rank,
        num_ranks=fabric.world_size,
    )
    run = RunDirectory.of(config) if ranks.is_first else None
    directory = run.path if run else "RUN"
    made_by = versions()

    with (
        run or nullcontext(),
        Signals() as signals,
        RunLogger(run, config, done) if run else Silence() as logger,
    ):

        def due(every: int) -> bool:
            return done == config.num_steps or (every > 0 and done % every == 0)

        def save(keep: int | None = config.checkpointing.keep) -> None:
            nonlocal saved
            updates.require_finite()
            if not ranks.is_first or saved == done:
                return
            require_finite_weights(segmenter, done)
            logger.flush()
            payload = {
                "iter": done,
                "model_state_dict": segmenter.state_dict(),
                "optimizer_state_dict": optimizer.state_dict(),
                "precision_state_dict": fabric.strategy.precision.state_dict(),
                "format": checkpoints.FORMAT,
                "config": OmegaConf.to_container(config),
                "versions": made_by,
            }
            file = run.checkpoints / checkpoints.file_name(done)
            checkpoints.save(file, payload, keep, config.checkpointing.milestone_every)
            saved = done

        def evaluate() -> None:
            # On the test set: these numbers choose nothing.
            with of_any_shape():
                result = signals.until_stopped(lambda: held_out.evaluate(labeller, fabric.device))
            if result is None:
                return  # the resumed run makes up for it
            logger.log_evaluation(done, result.metrics)
            if result.pictures:
                logger.log_pictures(done, {f"held_out_{held_out.task}": part_picture(result.pictures, held_out.task)})
            for note in result.notes:
                logger.say(note)
            if result.metrics:
                print_table({f"after {done} steps": result.metrics})

        def show(batch: TrainBatch) -> None:
            with of_any_shape():
                found = examples(labeller, batch)
            logger.log_pictures(done, {f"training_{held_out.task}": part_picture(found, held_out.task)})
            if held_out.task == "parts" and (warning := collapse.check(found)):
                logger.warn("collapsed solution", warning)

        def unless_broken() -> Iterator[TrainBatch]:
            try:
                yield from ranks.in_step(own_batches)
            except UserError:
                save()  # what was reached before the picture that cannot be read
                raise

        def heed_signals() -> None:
            if asked := ranks.first_of(signals.asked()):
                save()
                if asked in TO_STOP:
                    raise Stopped(asked, f"saved after {done} steps. To go on: python train.py {to_resume(directory)}")

        for note in (*training_set.notes, *ranks.notes):
            logger.say(note)
        if done and due(config.evaluation.every) and run and not logger.has_evaluation(done):
            evaluate()  # the run was interrupted in the middle of it
        heed_signals()

        skipped = 0
        try:
            for batch in unless_broken():
                for message in batch.skipped:
                    skipped += 1
                    logger.say(f"Skipped picture {skipped}: {message}")

                # Two jitters of each crop, one of them to be warped.
                views = make_views(batch.to(fabric.device), config.augmentation, config.seed)

                # Of the paper's method: two forward passes, features without gradient, four losses.
                losses = method(views)
                total = sum(config.loss_weights[name] * loss for name, loss in losses.items())

                # One update.
                rate = set_learning_rate(optimizer, config.optimizer, done)
                optimizer.zero_grad()
                fabric.backward(total)
                norm = fabric.clip_gradients(
                    method, optimizer, max_norm=config.optimizer.clip_norm, error_if_nonfinite=False
                )
                updates.watch(done, losses, total, norm)
                optimizer.step()
                done += 1

                logger.advance(done)
                if due(config.logging.every):
                    scalars = ranks.mean(losses | {"total": total})
                    updates.require_finite()
                    logger.log(done, scalars | {"learning_rate": rate, "gradient_norm": norm})
                if ranks.is_first and config.logging.image_every and due(config.logging.image_every):
                    show(batch)
                if due(config.checkpointing.every) or due(config.evaluation.every):
                    save()
                if ranks.is_first and due(config.evaluation.every):
                    evaluate()
                heed_signals()
        except NotFinite as error:
            done = error.step
            save(keep=None)  # should these weights be spoilt already, there are those of an earlier step
            if not ranks.is_first:
                raise
            (batch,) = batches(first_step=done, num_steps=done + 1, num_workers=0)
            raise record(run.path, error, config.seed, zip(batch.names, batch.paths, strict=True)) from error

    if run:
        print(f"Run directory: {run.path}")


if __name__ == "__main__":
    app.run("train", train)
