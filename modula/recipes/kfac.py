"""KFAC and its kin: metrics of a layer's inputs and output gradients (KFAC, EKFAC, FOOF).

Each holds for hidden matrices and convolutions that are layers of their own, see
`modula.statistics`; AdamW takes all other weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from modula.duality import Momentum, Setting
from modula.network.geometry import Geometry
from modula.norms.base import Blocks
from modula.norms.metrics.base import Memory
from modula.norms.metrics.inverse_free import SINGD
from modula.norms.metrics.layer import (
    Absolute,
    Balanced,
    Damping,
    LayerEigenvalues,
    LayerMoments,
    Relative,
)
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.common import (
    average_of,
    matrices_and_others,
    preconditioned_setting,
    taken_for_groups,
)
from modula.recipes.options import checked

LayerMetric = LayerMoments | LayerEigenvalues | SINGD


def in_layers(
    model: nn.Module,
    lr: float,
    metric: LayerMetric,
    setting_of: Callable[[Geometry, Tensor, LayerMetric], Setting],
    options: dict[str, Any],
) -> SteepestDescent:
    """Hidden matrices by `setting_of`, the metric as the weight is stored; others by AdamW."""
    own = taken_for_groups(options)

    def setting(geometry: Geometry, weight: Tensor) -> Setting:
        stored = replace(metric, inputs_first=True) if _inputs_first(geometry) else metric
        return setting_of(geometry, weight, stored)

    groups = matrices_and_others(model, lr, setting, **own)
    return SteepestDescent(model, lr, groups=groups, **options)


def _inputs_first(geometry: Geometry) -> bool:
    """Whether the declared view says that the weight is stored (in, out)."""
    norm = geometry.norm
    return isinstance(norm, Blocks) and norm.pattern.startswith("i o ->")


def along_gradient(
    momentum: float | Momentum,
) -> Callable[[Geometry, Tensor, LayerMetric], Setting]:
    """S^-p m, with m an average of the gradients unless it is said of what."""
    average = average_of(momentum)
    return lambda geometry, weight, metric: preconditioned_setting(
        geometry, weight, metric, average
    )


def _names(names: tuple[str, str], sampled: bool) -> dict[str, Any]:
    inputs, outputs = (f"sampled_{name}" if sampled else name for name in names)
    return {"inputs": inputs, "outputs": outputs}


@checked(matrices_and_others)
def kfac(
    model: nn.Module,
    lr: float = 0.01,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    damping: Damping = Balanced(1e-3),
    every: int = 10,
    sampled: bool = True,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """KFAC on hidden matrices, AdamW on all other weights.

        A: average of E[x x^T],   B: average of E[e e^T]        y = W x, e: dL/dy of one term
        w <- (1 - lr weight_decay) w - lr (B + lam_B)^-1 m (A + lam_A)^-1

    sampled  A and B from passes at labels drawn from the network, the Fisher: make one now and
             then inside `optimizer.sampled()`, as `modula train` does every 10 steps; until then
             the metric is the identity.  False takes the training loss, the empirical Fisher.
    damping  Balanced shares it out between A and B, Relative and Absolute do not; Exact adds to
             B x A itself, by its eigenvectors

    Source: Martens and Grosse 2015, arXiv:1503.05671; Eschenhagen et al. 2023, arXiv:2311.00636.
    """
    metric = LayerMoments(
        **_names(("input_moment", "output_moment"), sampled),
        memory=Memory(beta),
        damping=damping,
        every=every,
        max_dim=max_dim,
    )
    return in_layers(model, lr, metric, along_gradient(momentum), options)


@checked(matrices_and_others)
def ekfac(
    model: nn.Module,
    lr: float = 0.01,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    damping: Damping = Absolute(1e-3),
    every: int = 10,
    sampled: bool = True,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """EKFAC on hidden matrices, AdamW on all other weights: KFAC's bases, better eigenvalues.

        D_ij: average of E[(Q_B^T e)_i^2 (Q_A^T x)_j^2],   Q_A, Q_B: eigenvectors of A and B
        w <- (1 - lr weight_decay) w - lr Q_B ((Q_B^T m Q_A) / (D + lam)) Q_A^T

    It keeps every row x and e of the passes that feed it until the step.  sampled: as in `kfac`.

    Source: George et al. 2018, arXiv:1806.03884.
    """
    metric = LayerEigenvalues(
        **_names(("layer_inputs", "output_gradients"), sampled),
        memory=Memory(beta),
        damping=damping,
        every=every,
        max_dim=max_dim,
    )
    return in_layers(model, lr, metric, along_gradient(momentum), options)


@checked(matrices_and_others)
def foof(
    model: nn.Module,
    lr: float = 0.2,
    *,
    momentum: float = 0.9,
    beta: float = 0.95,
    damping: Damping = Relative(0.1),
    every: int = 100,
    sample_every: int = 10,
    instant: bool = False,
    max_dim: int = 2048,
    **options: Any,
) -> SteepestDescent:
    """FOOF, gradient descent on neurons, on hidden matrices; AdamW on all other weights.

        A: average of E[x x^T] over batches before this one
        w <- (1 - lr weight_decay) w - lr m (A + lam)^-1

    The published code sums over the batch where this averages: its lr and damping are larger.

    sample_every  steps between two looks at the inputs, which cost a product as a forward pass does
    instant       whether A has seen the batch of the step itself

    Source: Benzing 2022, arXiv:2201.12250.
    """
    metric = LayerMoments(
        outputs="",
        memory=Memory(beta),
        damping=damping,
        every=every,
        sample_every=sample_every,
        instant=instant,
        max_dim=max_dim,
    )
    return in_layers(model, lr, metric, along_gradient(momentum), options)
