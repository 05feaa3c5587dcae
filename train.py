"""Train a part segmenter: ``python train.py dataset_name=CUB [key=value ...]``; every key is in conf/train.yaml."""

from lightning.fabric import seed_everything
from omegaconf import DictConfig, OmegaConf

import datasets
from datasets.loader import train_batches
from datasets.views import make_views
from evaluation.held_out import HeldOut
from evaluation.labellers import CheckpointLabeller
from evaluation.report import part_picture, print_table
from evaluation.run import examples
from models import build_method
from utils import app, checkpoints
from utils.devices import build_fabric
from utils.logging import RunLogger
from utils.optimizer import build_optimizer, restore_optimizer, set_learning_rate
from utils.run_directory import RunDirectory, versions


def train(config: DictConfig) -> None:
    """One run, from pictures on disk to a checkpoint and its metrics, in a directory of its own."""
    fabric = build_fabric(config.device, config.precision)
    seed_everything(config.seed, verbose=False)

    # Everything that can be missing is asked for before the first step.
    training_set = datasets.build(config.dataset_name, config.dataset, config.dataset_root, "train", "training")
    held_out = HeldOut.of(config)
    method = build_method(config)
    optimizer = build_optimizer(
        method.parameter_groups(config.optimizer.lr, config.optimizer.head_multiplier), config.optimizer
    )

    first_step = 0
    if config.resume is None:
        run = RunDirectory.create(config)
    else:
        checkpoint = checkpoints.read(config.resume)
        method.segmenter.load_state_dict(checkpoint["model_state_dict"])
        restore_optimizer(optimizer, checkpoint["optimizer_state_dict"])
        first_step = checkpoint["iter"]
        run = RunDirectory.resume(config)

    labeller = CheckpointLabeller(method.segmenter)
    method, optimizer = fabric.setup(method, optimizer)
    method.train()
    batches = train_batches(
        training_set,
        image_size=config.image_size,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=first_step,
        num_steps=config.num_steps,
        num_workers=config.loader.num_workers,
    )

    with RunLogger(run, config, first_step) as logger:
        for note in training_set.notes:
            logger.say(note)

        for step, batch in enumerate(batches, start=first_step):
            # Two jitters of each crop, one of them to be warped.
            views = make_views(batch.to(fabric.device), config.augmentation, config.seed)

            # Two forward passes of the segmenter, features without gradient, four losses.
            losses = method(views)
            total = sum(config.loss_weights[name] * loss for name, loss in losses.items())

            # One update.
            rate = set_learning_rate(optimizer, config.optimizer, step)
            optimizer.zero_grad()
            fabric.backward(total)
            norm = fabric.clip_gradients(method, optimizer, max_norm=config.optimizer.clip_norm)
            optimizer.step()

            done = step + 1  # updates
            last = done == config.num_steps
            logger.advance(done)
            if last or done % config.logging.every == 0:
                logger.log(
                    done,
                    {name: loss.detach() for name, loss in losses.items()}
                    | {"total": total.detach(), "learning_rate": rate, "gradient_norm": norm},
                )
            if config.logging.image_every and done % config.logging.image_every == 0:
                logger.log_pictures(done, {"training_parts": part_picture(examples(labeller, batch))})

            if last or done % config.checkpointing.every == 0:
                path = run.checkpoints / checkpoints.file_name(done)
                payload = {
                    "iter": done,
                    "model_state_dict": labeller.segmenter.state_dict(),
                    "optimizer_state_dict": optimizer.state_dict(),
                    "format": checkpoints.FORMAT,
                    "config": OmegaConf.to_container(config),
                    "versions": versions(),
                }
                checkpoints.save(path, payload, keep=config.checkpointing.keep)

            # No checkpoint is chosen by these numbers: they are of the test set.
            if last or (config.evaluation.every and done % config.evaluation.every == 0):
                result = held_out.evaluate(labeller, fabric.device)
                logger.log_evaluation(done, result.metrics)
                logger.log_pictures(done, {"held_out_parts": part_picture(result.pictures)})
                print_table({f"after {done} steps": result.metrics})

    print(f"Run directory: {run.path}")


if __name__ == "__main__":
    app.run("train", train)
