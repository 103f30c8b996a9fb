"""A drawn weight and gradient, and the direction that is derived for them."""

import torch
from torch import Tensor

from modula.duality import Setting, derive
from modula.manifolds import Manifold
from modula.norms import Norm


def direction(norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor) -> Tensor:
    """D, by the plain twins."""
    derived = derive(Setting(norm, manifold), weight.shape[-2:])
    return derived.first_direction(weight, gradient)


def draw(
    manifold: Manifold, shape: tuple[int, ...], seed: int, decades: int = 0
) -> tuple[Tensor, Tensor]:
    """A weight and a gradient whose columns span so many decades."""
    generator = torch.Generator().manual_seed(seed)
    weight, gradient = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    columns = torch.logspace(0, -decades, shape[-1], dtype=torch.float64)
    # Not `project`, which would leave the spectral sphere's largest singular value repeated.
    return manifold.retract(weight, torch.zeros_like(weight)), gradient * columns
