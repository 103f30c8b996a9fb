"""Statistics of layers: moments of their inputs and output gradients, for metrics.

A metric names the statistics that it reads; a `Collector` measures them while the network trains.
"""

from modula.statistics.accumulators import (
    GRADIENT_TIMES_NOISE,
    INPUTS,
    MICROBATCH_GRADIENTS,
    OUTPUTS,
)
from modula.statistics.across_processes import share_
from modula.statistics.collector import Collector, Statistics
from modula.statistics.fisher import (
    cross_entropy_gauss_newton_backward,
    gradients_kept,
    mse_gauss_newton_backward,
    sampled_labels,
)
from modula.statistics.perturbed import perturbed
from modula.statistics.sparse import dense

__all__ = [
    "GRADIENT_TIMES_NOISE",
    "INPUTS",
    "MICROBATCH_GRADIENTS",
    "OUTPUTS",
    "Collector",
    "Statistics",
    "dense",
    "share_",
    "cross_entropy_gauss_newton_backward",
    "gradients_kept",
    "mse_gauss_newton_backward",
    "perturbed",
    "sampled_labels",
]
