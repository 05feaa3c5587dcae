"""Two whole training steps against those of the release."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from models import PerceptualNetwork, Segmenter
from models.methods.contrastive_reconstruction import ContrastiveReconstruction
from tests.golden_checkpoint import golden_state
from tests.shared import GOLDEN
from utils.optimizer import build_optimizer, set_learning_rate

OPTIMIZER = SimpleNamespace(
    name="sgd", lr=1e-5, head_multiplier=10.0, momentum=0.9, weight_decay=5e-4, poly_power=0.9, poly_steps=100000
)
METHOD = SimpleNamespace(temperature=0.19, negatives="all_images", positives="uniform", equivariance="release")
WEIGHTS = {"feature": 5, "contrastive": 2300, "visual": 30, "equivariance": 5700}


def test_two_steps_give_the_losses_gradients_and_weights_of_the_release() -> None:
    golden = dict(np.load(GOLDEN / "train_step.npz"))
    segmenter = Segmenter(num_parts=4)
    segmenter.load_state_dict(golden_state(head=False))
    method = ContrastiveReconstruction(segmenter, perceptual=torch.nn.Identity(), config=METHOD, seed=0).train()
    optimizer = build_optimizer(method.parameter_groups(OPTIMIZER.lr, OPTIMIZER.head_multiplier), OPTIMIZER)
    later_of_the_others = torch.tensor([2, 2, 1])[:, None].expand(3, 4)

    for step in range(2):
        case = {name[6:]: golden[name] for name in golden if name.startswith(f"step{step}_")}

        def tensor(name: str, case: dict = case) -> Tensor:
            return torch.from_numpy(case[name]).float()

        rate = set_learning_rate(optimizer, OPTIMIZER, step)
        losses = method.losses(
            view=tensor("view"),
            view_to_warp=tensor("view_to_warp"),
            features=[tensor("features_0"), tensor("features_1")],
            lab=tensor("lab"),
            foreground=tensor("foreground"),
            grid=tensor("grid"),
            positives=later_of_the_others,
        )
        total = sum(WEIGHTS[name] * loss for name, loss in losses.items())
        optimizer.zero_grad()
        total.backward()
        norm = torch.nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()

        for name, loss in (losses | {"total": total}).items():
            assert loss.item() == pytest.approx(float(case[name]), rel=1e-4), f"{name}, step {step}"
        assert norm.item() == pytest.approx(float(case["gradient_norm"]), rel=1e-3)
        assert rate == pytest.approx(float(case["learning_rate"]), rel=1e-6)

    state = segmenter.state_dict()
    afterwards = [name for name in golden if name.startswith("after_")]
    assert len(afterwards) == 6
    for name in afterwards:
        expected = torch.from_numpy(golden[name])
        found = state[name.removeprefix("after_")].flatten()[: len(expected)]
        assert (found - expected).norm() <= 1e-5 * expected.norm(), name
