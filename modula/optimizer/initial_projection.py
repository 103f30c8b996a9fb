"""Projection of weights that are off their manifold when an optimizer is built."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from modula.manifolds.numerics import in_working_dtype
from modula.optimizer.param_groups import DeclaredWeight

logger = logging.getLogger(__name__)

OFF_MANIFOLD = 1e-3  # a relative residual above this is a weight that was not initialised on it


class InitialProjection(NamedTuple):
    """A weight that is off its manifold, the point nearest to it, and what to log of that."""

    weight: Tensor
    point: Tensor
    message: str


@torch.no_grad()
def initial_projections(declared: DeclaredWeight) -> list[InitialProjection]:
    """The projection of the weight to its manifold; [] where its own rounding keeps it off.

    Raises ValueError where that fails, or where the weight is at a point that no step leaves.
    """
    name, weight, declaration = declared
    manifold = declaration.setting.manifold
    for scaler in declaration.scalers:
        scaler.check_point(weight)
    distance = float(manifold.residual(weight).max()) if weight.numel() else 0.0
    if not distance > OFF_MANIFOLD:
        manifold.check_point(weight)
        return []
    (working,) = in_working_dtype(weight)
    point = manifold.project(working)
    manifold.check_point(point)
    # Half precision is further off by rounding alone: a run that goes on must not be moved by it.
    rounding = torch.finfo(weight.dtype).eps / 2
    moved = torch.linalg.vector_norm(point - working)
    if not moved > rounding * torch.linalg.vector_norm(working):
        return []
    message = f"{name} was {distance:.3g} off {manifold}: projected"
    return [InitialProjection(weight, point.to(weight.dtype), message)]


@torch.no_grad()
def project_(projections: Sequence[InitialProjection]) -> None:
    """Move weights to their points, with a logged line for each."""
    for weight, point, message in projections:
        weight.copy_(point)
        logger.warning("%s", message)
