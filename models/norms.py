"""Several views of a batch in one pass of a network, whose batch norms see one view at a time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class BatchNorm(nn.BatchNorm2d):
    """PyTorch's, for batches of several views: in train mode each is normalised as in a pass of its own.

    Batches are not counted here, which would be an operator for each norm: see :func:`count_batches`.

    Attributes:
        views: in a batch, of equal size and one after the other.
    """

    views = 1

    def forward(self, inputs: Tensor) -> Tensor:
        views = inputs.chunk(self.views) if self.training and self.views > 1 else [inputs]
        outputs = [self._normalised(view) for view in views]
        return torch.cat(outputs) if len(outputs) > 1 else outputs[0]

    def _normalised(self, view: Tensor) -> Tensor:
        statistics, affine = (self.running_mean, self.running_var), (self.weight, self.bias)
        return F.batch_norm(view, *statistics, *affine, self.training, self.momentum, self.eps)


def count_batches(network: nn.Module) -> None:
    """Counts for each :class:`BatchNorm` in train mode the views that it is about to see; all in one operator."""
    norms = [norm for norm in network.modules() if isinstance(norm, BatchNorm) and norm.training]
    if norms:
        torch._foreach_add_([norm.num_batches_tracked for norm in norms], norms[0].views)


def of_views(network: nn.Module, views: Sequence[Tensor]) -> Tensor:
    """What a network gives for several views (N, C, H, W), one after the other along the first axis.

    But for rounding it is what a pass for each would give. It is one pass unless the network has batch norms that are
    not ours, such as those of timm's networks, or those that work across devices.
    """
    norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
    if not all(isinstance(norm, BatchNorm) for norm in norms):
        return torch.cat([network(view) for view in views])
    try:
        for norm in norms:
            norm.views = len(views)
        return network(torch.cat([*views]))
    finally:
        for norm in norms:
            norm.views = 1
