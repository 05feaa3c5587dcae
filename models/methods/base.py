"""What every method is to the programs: how it trains, what of it is kept, and how what it has learnt is evaluated.

A module of a method defines four names: ``Options``, ``LossWeights`` and ``Augmentation``, dataclasses of the config
nodes ``method``, ``loss_weights`` and ``augmentation``, and ``Method``.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from omegaconf import DictConfig
from torch import Tensor, nn

from datasets.batch import TrainBatch
from datasets.sample import Purpose
from models import segmenters
from models.initialisation import new_segmenter
from models.norms import of_views
from models.predictor import require_finite, restore
from utils.checkpoints import Checkpoint
from utils.errors import UserError
from utils.seeding import Randomness


class Method(nn.Module):
    """Networks and losses of one way to learn. Whatever of it is trained is saved, restored and watched.

    Attributes:
        predictor: what a checkpoint's ``model_state_dict`` holds and a labeller scores with; has ``num_parts`` and
            ``has_background``.
        labeller: the module of ``evaluation/labellers`` that scores pictures with the predictor.
        protocols: modules of ``evaluation/protocols`` that it is evaluated by, in the table's order, where the data set
            is annotated so.
        has_background: the predictor's first channel is the background, which it learns itself.
        needs_masks: it trains on foreground masks: a data set without them is refused.
        needs_labels: it trains on the pictures' classes: a data set without them is refused, and the key
            ``method.num_classes`` says how many there are.
        watched: names of scalars that :meth:`forward` gives beside the losses: they are logged and not trained.
        test_masks: which masks an evaluation reads. ``"training"`` is for methods that give those of the evaluation.
    """

    labeller: ClassVar[str] = "segmenter"
    protocols: ClassVar[tuple[str, ...]] = ("part_maps", "keypoints")
    has_background: ClassVar[bool] = False
    needs_masks: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    watched: ClassVar[tuple[str, ...]] = ()
    test_masks: ClassVar[Purpose] = "evaluation"

    predictor: nn.Module

    @classmethod
    def min_batch_size(cls, options: DictConfig) -> tuple[int, str]:
        """The fewest images of a step, and the key and value that ask for so many; ``options`` is ``method``."""
        return 1, ""

    @classmethod
    def not_deterministic(cls, options: DictConfig) -> str | None:
        """The gradient, in words, for which CUDA has no deterministic algorithm, and what to set instead; or None."""
        return None

    @classmethod
    def not_recorded(cls, options: DictConfig) -> str | None:
        """Why one step cannot be recorded and replayed for the others (see ``utils.graph``), in words; or None.

        It can where steps differ in the numbers of tensors alone: those of :meth:`views`, which do not depend on what
        is trained, and those of what is trained.
        """
        return None

    @classmethod
    def networks(cls, options: DictConfig) -> tuple[str, ...]:
        """The nodes of the config whose networks, with their pretrained weights, play a role in its training."""
        return ("segmenter",)

    @classmethod
    def from_config(cls, config: DictConfig) -> Self:
        """From the whole config, with pretrained weights and new ones that are functions of the seed.

        Raises:
            UserError: weights cannot be had.
        """
        raise NotImplementedError

    @classmethod
    def new_predictor(cls, config: DictConfig, num_parts: int) -> nn.Module:
        """The predictor as its training starts from the seed, with the pretrained weights that the config names.

        Raises:
            UserError: weights cannot be had.
        """
        return new_segmenter(config, num_parts, cls.has_background)

    @classmethod
    def predictor_of(cls, config: DictConfig, state: Mapping[str, Tensor]) -> nn.Module:
        """A predictor that the weights of a checkpoint fit, not yet filled with them.

        Raises:
            UserError: they are of another network.
        """
        return segmenters.from_state(config.segmenter, state, cls.has_background)

    def require_memory(self, image_size: int, device: torch.device) -> None:
        """Raises UserError where something of known size does not fit on the device that it is to be trained on."""

    def measure(self, batches: Callable[[int], Iterable[TrainBatch]]) -> dict[str, Any]:
        """What the constants of its networks are to be for the run's own data: what each child's ``measure`` gives.

        Args:
            batches: the first so many of the run, whole, whichever rank asks, on the method's device.

        Returns:
            The keys of the config that keep it, and their values; none where the config had them.
        """
        measuring = [child for child in self.children() if hasattr(child, "measure")]
        return {key: value for child in measuring for key, value in child.measure(batches).items()}

    def before_step(self, step: int, batches: Callable[[int], Iterable[TrainBatch]]) -> list[nn.Parameter]:
        """What changes without a gradient, such as clusters that are found anew every so many steps.

        It depends on the step and on what :meth:`load` restores alone, so that a run that goes on has the same.

        Args:
            step: updates done.
            batches: those of the next so many steps, whole, whichever rank asks, on the method's device.

        Returns:
            Parameters that begin anew: the optimiser forgets their momenta.
        """
        return []

    def views(self, batch: TrainBatch, random: Randomness) -> Any:
        """What :meth:`forward` sees of a batch, on the batch's device, without gradient."""
        raise NotImplementedError

    def forward(self, views: Any) -> dict[str, Tensor]:
        """The unweighted losses, scalars; their names are the fields of ``LossWeights``. And what is ``watched``.

        Where several devices share a batch, their mean over the devices is to be the loss of the whole batch, and so
        are their gradients; ``utils.ranks`` helps.
        """
        raise NotImplementedError

    def parameter_groups(self, optimizer: DictConfig) -> list[dict[str, Any]]:
        """What the optimiser trains; ``utils.optimizer.build_optimizer`` says what a group has.

        What is trained beside the predictor learns as its head does, ``head_multiplier`` times as fast.

        Args:
            optimizer: the node ``optimizer``.
        """
        groups = self.predictor.parameter_groups(optimizer.head_multiplier)
        of_predictor = set(map(id, self.predictor.parameters()))
        beside = [own for own in self.parameters() if own.requires_grad and id(own) not in of_predictor]
        return [*groups, {"params": beside, "multiplier": optimizer.head_multiplier}] if beside else groups

    def trained_beside(self) -> dict[str, Tensor]:
        """What a resumed run needs besides the predictor, by name.

        That is the state of every child with a trained parameter, and the method's own trained parameters and its
        persistent buffers. To be extended where something changes that is neither, such as a teacher's weights.
        """
        kept = {name for name, parameter in self.named_parameters(recurse=False) if parameter.requires_grad}
        kept |= {name for name, _ in self.named_buffers(recurse=False)}
        for name, child in self.named_children():
            if child is not self.predictor and any(parameter.requires_grad for parameter in child.parameters()):
                kept.add(name)
        return {name: tensor for name, tensor in self.state_dict().items() if name.partition(".")[0] in kept}

    def load_beside(self, state: Mapping[str, Tensor], file: Path | str) -> None:
        """Load what :meth:`trained_beside` gave.

        Args:
            file: the checkpoint, for the message.

        Raises:
            UserError: a tensor is missing, too many, of another shape or not finite.
        """
        wanted = {name: tensor.shape for name, tensor in self.trained_beside().items()}
        found = {name: tensor.shape for name, tensor in state.items()}
        if wrong := sorted(name for name in wanted | found if wanted.get(name) != found.get(name)):
            raise UserError(
                f"The checkpoint {file} does not fit the method: of what is trained beside the network, {wrong[0]} has "
                f"the shape {_shape(found, wrong[0])} there and {_shape(wanted, wrong[0])} here."
            )
        require_finite(state, file)
        self.load_state_dict(state, strict=False)

    def load(self, checkpoint: Checkpoint) -> None:
        """What a run goes on from: the predictor, and what is trained beside it.

        Raises:
            UserError: it does not fit, or is not finite.
        """
        restore(self.predictor, checkpoint.model, checkpoint.file)
        self.load_beside(checkpoint.beside, checkpoint.file)

    def full_size_logits(self, inputs: Tensor) -> Tensor:
        """Scores (N, K [+ 1], H, W) of preprocessed images, upsampled with the corners' centres aligned (release)."""
        (logits,) = self.logits_of_views(inputs)
        return logits

    def logits_of_views(self, *views: Tensor) -> list[Tensor]:
        """:meth:`full_size_logits` of each view; batch norm sees one at a time, as in the release."""
        low = of_views(self.predictor, views).float()
        logits = F.interpolate(low, views[0].shape[-2:], mode="bilinear", align_corners=True)
        return [*logits.chunk(len(views))]


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str) -> str:
    return str(tuple(shapes[name])) if name in shapes else "none"
