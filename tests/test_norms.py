"""One pass over several views: what each has of it is what a pass of its own would give."""

import pytest
import torch
from torch import nn

from models.norms import BatchNorm, count_batches, of_views


class Network(nn.Sequential):
    """Two convolutions with norms; counts its passes."""

    def __init__(self, norm: type[nn.Module]) -> None:
        torch.manual_seed(0)
        super().__init__(nn.Conv2d(3, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 2, 1), norm(2))
        self.passes = 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        count_batches(self)
        return super().forward(inputs)


def passed(norm: type[nn.Module], views: torch.Tensor) -> tuple[Network, list[torch.Tensor]]:
    network = Network(norm)
    outputs = [*of_views(network, views).chunk(len(views))]
    sum((place + 1) * output.square().sum() for place, output in enumerate(outputs)).backward()
    return network, outputs


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_view_has_the_statistics_and_gradients_of_a_pass_of_its_own(layout):
    torch.manual_seed(1)
    views = [(view + place).contiguous(memory_format=layout) for place, view in enumerate(torch.randn(3, 4, 3, 8, 8))]
    ours, outputs = passed(BatchNorm, views)
    theirs, expected = passed(nn.BatchNorm2d, views)
    assert (ours.passes, theirs.passes) == (1, 3)
    for found, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    for name, wanted in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], wanted)
    assert ours[1].num_batches_tracked == 3
    for found, wanted in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(found.grad, wanted.grad, rtol=1e-4, atol=1e-4)
    # And it matters: views normalised together are others.
    together = Network(nn.BatchNorm2d)(torch.cat(views)).chunk(3)
    assert not torch.allclose(together[0], expected[0], atol=0.1)


def test_a_norm_that_is_not_ours_sees_its_views_in_passes_of_their_own():
    network = Network(BatchNorm)
    network[4] = nn.BatchNorm2d(2)
    of_views(network, [*torch.randn(2, 4, 3, 8, 8)])
    assert network.passes == 2 and network[1].num_batches_tracked == network[4].num_batches_tracked == 2


def test_after_a_pass_over_several_views_a_batch_is_one_again():
    network, one = Network(BatchNorm), Network(nn.BatchNorm2d)
    views = torch.randn(2, 4, 3, 8, 8)
    with pytest.raises(RuntimeError):
        of_views(network, [*views[:, :, :2]])
    before = int(network[1].num_batches_tracked)
    torch.testing.assert_close(network(views[0]), one(views[0]))
    assert network[1].num_batches_tracked == before + 1
    network.eval()(views[0])
    assert network[1].num_batches_tracked == before + 1
