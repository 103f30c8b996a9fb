"""Settings for every test."""

import torch
from hypothesis import settings

# No deadline: on a busy machine it fails honest tests and, worse, seems to catch seeded faults.
# Derandomised: a red run is red again when somebody looks.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

# Two test workers with two OpenMP threads each, on two cores, are hundreds of times slower.
torch.set_num_threads(1)
