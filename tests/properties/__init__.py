"""What theory promises for every input, tried on drawn ones (hypothesis).

Inputs are the same in each run. Tolerances are bounds on rounding, or on what a small constant of the code adds; where
none is given the statement holds to the bit.
"""

from hypothesis import settings
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)


def tried(examples: int) -> settings:
    """How many inputs a property is tried on."""
    return settings(max_examples=examples, deadline=None, derandomize=True, print_blob=True)
