import pytest

from conf.modules import PACKAGES, module, names, nearest
from utils.errors import UserError


@pytest.mark.parametrize("kind", PACKAGES)
def test_every_module_of_a_kind_can_be_had_by_its_name(kind):
    package, wanted = PACKAGES[kind]
    assert names(kind)
    for name in names(kind):
        found = module(kind, name)
        assert found.__name__ == f"{package}.{name}" and all(hasattr(found, attribute) for attribute in wanted)


@pytest.mark.parametrize(
    ("kind", "name", "nearest_one"),
    [
        ("method", "contrastive", "contrastive_reconstruction"),
        ("dataset", "CUB", "cub"),
        ("baseline", "kmeans_colors", "kmeans_colours"),
        ("protocol", "keypoint", "keypoints"),
        # Modules of the package, but nothing of the kind.
        ("dataset", "crops", None),
        ("baseline", "foreground", None),
        ("method", "base", None),
        ("segmenter", "../deeplab", "deeplab"),
        ("segmenter", "", None),
    ],
)
def test_a_name_that_is_no_module_is_refused_with_the_nearest_and_all_names(kind, name, nearest_one):
    with pytest.raises(UserError) as refused:
        module(kind, name)
    message = str(refused.value)
    assert message.startswith(f"There is no {kind} '{name}'. ") and ", ".join(names(kind)) in message
    assert nearest_one is None or f"Did you mean '{nearest_one}'?" in message


def test_the_nearest_name_is_one_of_its_last_part_or_the_most_similar_one_in_its_group():
    keys = ["optimizer.lr", "logging.every", "evaluation.every", "num_parts"]
    assert nearest("lr", keys) == " Did you mean 'optimizer.lr'?"
    assert nearest("every", keys) == " Did you mean 'logging.every' or 'evaluation.every'?"
    assert nearest("logging.parts", keys) == " Did you mean 'logging.every'?"
    assert nearest("num_part", keys) == " Did you mean 'num_parts'?"
    assert nearest("anything", []) == ""
    assert nearest("b.jpg", ["first/a.jpg", "second/b.jpg"], separator="/") == " Did you mean 'second/b.jpg'?"
