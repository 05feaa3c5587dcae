"""Order: what a step trains on."""

from hypothesis import assume, given
from hypothesis import strategies as st

from datasets.loader import StepSampler
from tests.properties import seeds, tried


@tried(60)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 60), st.lists(st.integers(0, 60), max_size=4), seeds)
def test_every_epoch_is_a_permutation_and_every_resume_goes_on_with_it(num_samples, batch_size, steps, stops, seed):
    assume(batch_size <= num_samples)
    batches = list(StepSampler(num_samples, batch_size, seed, 0, steps))
    assert len(batches) == steps == len(StepSampler(num_samples, batch_size, seed, 0, steps))
    assert [(step, place) for batch in batches for _, step, place in batch] == [
        (step, place) for step in range(steps) for place in range(batch_size)
    ]
    per_epoch = num_samples // batch_size
    for first in range(0, steps, per_epoch):
        shown = [index for batch in batches[first : first + per_epoch] for index, _, _ in batch]
        assert len(set(shown)) == len(shown) and set(shown) <= set(range(num_samples))

    starts = [0, *sorted(min(stop, steps) for stop in stops), steps]
    pieces = [list(StepSampler(num_samples, batch_size, seed, *ends)) for ends in zip(starts, starts[1:], strict=False)]
    assert [batch for piece in pieces for batch in piece] == batches
