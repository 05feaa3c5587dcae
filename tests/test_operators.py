"""A training step launches few kernels: on a fast GPU it would wait for them, not for arithmetic."""

import pytest

from tests.operators import of_a_step

MOST = 1200


@pytest.mark.slow
def test_a_step_of_the_default_recipe_dispatches_no_more_operators_than_it_has_to():
    counts = of_a_step()
    places = {place: sum(count for (found, _), count in counts.items() if found == place) for place, _ in counts}
    assert {"views", "networks", "losses", "backward"} <= places.keys()
    assert counts.total() <= MOST, places
    assert places["views"] + places["losses"] <= 270, places
