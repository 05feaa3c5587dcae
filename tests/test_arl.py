"""ARL: which features are compared, and the clusters that k-means finds in them."""

import pytest
import torch
import torch.nn.functional as F

from conf.modules import module
from datasets.batch import EvalBatch
from evaluation.progress import Progress
from models import methods
from models.methods import arl
from tests.composition import composed
from tests.test_pixel_methods import batch, views
from utils.errors import UserError

SMALL = (
    *("method=arl", "dataset_name=textures", "segmenter.colour=rgb", "segmenter.sobel=false"),
    *("image_size=32", "batch_size=2", "num_parts=3"),
    *("segmenter.widths=[64]", "method.feature_size=6", "method.projection_size=4", "method.half_window=0"),
)


def built(*overrides: str) -> arl.Method:
    return methods.build(composed(*SMALL, *overrides), False, torch.device("cpu"))


def test_a_place_is_compared_with_itself_in_the_other_ordering_and_places_of_other_images():
    method = built("method.num_places=5").eval()
    seen = views(method)
    seen.pair.mask = torch.ones_like(seen.pair.mask)
    with torch.no_grad():
        found = method(seen)["contrastive"].item()
        outputs = [method.predictor(seen.pair.image, ordering) for ordering in seen.orderings]
        first, second = (project(out) for project, out in zip(method.projections, outputs, strict=True))
    places = (seen.places[..., 0] * 32 * 32).long()
    rows = [
        torch.stack([F.normalize(maps[n].flatten(1)[:, place], dim=0) for n in range(2) for place in places[n]])
        for maps in (first, second)
    ]
    losses = []
    for anchor in range(10):
        others = [place for place in range(10) if place // 5 != anchor // 5]
        scores = torch.stack([rows[0][anchor] @ rows[1][place] for place in [anchor, *others]]) / 0.1
        losses.append(scores.exp().mean().log() - scores[0])
    assert found == pytest.approx(torch.stack(losses).mean().item(), abs=1e-4)


def test_network_and_both_projections_learn_and_the_projections_are_saved_beside_it():
    method = built("segmenter.stride=2")
    method(views(method))["contrastive"].backward()
    assert all(parameter.grad is not None for parameter in method.parameters())
    assert {name.partition(".")[0] for name in method.trained_beside()} == {"projections"}
    groups = method.parameter_groups(composed(*SMALL).optimizer)
    assert len({id(p) for group in groups for p in group["params"]}) == len([*method.parameters()])


def test_k_is_that_of_the_clusters_and_the_features_are_the_networks():
    method = built()
    assert method.predictor.num_parts == 3 and method.predictor(torch.rand(1, 3, 32, 32)).shape[1] == 6
    config, state = composed(*SMALL, "num_parts=4"), method.predictor.state_dict()
    assert arl.Method.predictor_of(config, state).num_parts == 4
    with pytest.raises(UserError, match="it has 6 channels, which is not method.feature_size=8"):
        arl.Method.predictor_of(composed(*SMALL, "method.feature_size=8"), state)


def crops(infrared: bool = False) -> EvalBatch:
    own = batch(infrared=infrared)
    return EvalBatch(own.image, own.foreground, [], infrared=own.infrared)


@pytest.mark.parametrize("infrared", [False, True])
def test_pixels_go_to_the_nearest_mean_of_the_features_of_length_one(infrared):
    method = built(f"segmenter.infrared={str(infrared).lower()}")
    labeller = module("labeller", method.labeller).of_predictor(method.predictor)
    shown = crops(infrared)
    with torch.no_grad():
        labeller.fit([shown])
        scores = labeller.scores_of(shown)
        inputs = method.predictor.preprocess(shown.images / 255, None if not infrared else shown.infrared / 255)
        features = F.normalize(method.predictor.eval()(inputs), dim=1)
    assert scores.shape == (2, 3, 32, 32) and labeller.num_parts == 3
    distances = (features[:, None] - labeller.means[:, :, None, None]).square().sum(2)
    assert torch.allclose(scores, -distances, atol=1e-4)
    assert scores.argmax(1).unique().tolist() == [0, 1, 2]


def test_the_untrained_baseline_has_the_features_that_training_starts_with():
    config = composed(*SMALL)
    labeller = module("baseline", "untrained").build(None, config, 3, torch.device("cpu"))
    assert labeller.title == "untrained" and labeller.needs_fit
    for name, own in built().predictor.state_dict().items():
        assert torch.equal(labeller.predictor.state_dict()[name], own)


def test_nothing_is_shown_of_training_crops_before_k_means_is_fitted():
    progress = Progress.__new__(Progress)
    progress.labeller = module("labeller", "feature_clusters").of_predictor(built().predictor)
    progress.show(batch(), 1, None)  # it would fail if anything was scored


def test_a_batch_of_one_is_refused():
    config = composed(*SMALL)
    config.batch_size = 1
    with pytest.raises(UserError, match="batch_size=1: method=arl compares images with each other"):
        methods.build(config, False, torch.device("cpu"))
