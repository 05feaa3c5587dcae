"""Imported before PyTorch is: how its threads wait.

Those of OpenMP spin while they wait for each other, for minutes if need be, and whatever else the machine is to do
waits for them: two runs on the same cores then take several times as long, not twice (docs/performance.md).
"""

import os

# Turns, after which a thread sleeps. The OpenMP library of PyTorch's Linux packages reads it when it is loaded.
SPINS = "700"
OPENMP = ("OMP_", "GOMP_", "KMP_")

if not any(name.startswith(OPENMP) for name in os.environ):
    os.environ["GOMP_SPINCOUNT"] = SPINS
