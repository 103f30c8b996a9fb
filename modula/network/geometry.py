"""The geometry that a module declares for its weights."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch

import torch
from torch import Tensor, nn

from modula.manifolds.base import Manifold
from modula.manifolds.euclidean import Euclidean
from modula.norms.base import Blocks, Norm, Scaled
from modula.norms.checks import check_fields
from modula.norms.metrics.base import First, Metric, Then, Under
from modula.norms.spectral import Spectral


@dataclass(frozen=True)
class Geometry:
    """The norm, manifold, metric and role of one weight.

    norm      its length; the derived step is steepest in it.  norm.under(metric) and
              metric.then(norm) are taken apart into norm and metric
    manifold  the set it never leaves
    role      what the weight does: "hidden", "embedding", "head", "tied", "conv", "bias", "gain"
    metric    coordinates that the norm is measured in, estimated while training

    Geometry is declared on the module that owns the weight, as
    `module.geometry = {"weight": Geometry(...)}`: an attribute of a Parameter is lost by deepcopy,
    by `load_state_dict(assign=True)` and by sharding.
    """

    norm: Norm
    manifold: Manifold = Euclidean()
    role: str = "hidden"
    metric: Metric | None = None

    def __post_init__(self) -> None:
        declared: Norm | Under | Then = self.norm
        if isinstance(declared, Under | Then):
            metric = First(declared.metric) if isinstance(declared, Then) else declared.metric
            object.__setattr__(self, "norm", declared.norm)
            object.__setattr__(self, "metric", metric)
        check_fields(self)

    def sample(self, like: Tensor) -> Tensor:
        """A random weight of norm one, moved to the nearest point of the manifold.

        It has the shape, dtype and device of `like`, and is drawn from torch's global generator.
        """
        work = torch.promote_types(like.dtype, torch.float32)
        draw = torch.randn(like.shape, dtype=work, device=like.device)
        return self.manifold.project(unit_direction(self.norm, draw)).to(like.dtype)


def geometries(net: nn.Module) -> dict[str, Geometry]:
    """Every declared geometry, under the full name of its weight."""
    return {
        f"{prefix}.{name}".lstrip("."): geometry
        for prefix, module in net.named_modules()
        for name, geometry in getattr(module, "geometry", {}).items()
    }


@singledispatch
def unit_direction(norm: Norm, draw: Tensor) -> Tensor:
    """norm.duality_map(draw) in law, for a standard normal draw; cheaper where the law is known."""
    return norm.duality_map(draw)


@unit_direction.register
def _(norm: Spectral, draw: Tensor) -> Tensor:
    return norm.unit_radius(draw.shape) * semi_orthogonal(draw)


@unit_direction.register
def _(norm: Scaled, draw: Tensor) -> Tensor:
    return unit_direction(norm.norm, draw) / norm.factor


@unit_direction.register
def _(norm: Blocks, draw: Tensor) -> Tensor:
    return norm.from_blocks(unit_direction(norm.norm, norm.to_blocks(draw)), draw.shape)


def semi_orthogonal(draw: Tensor) -> Tensor:
    """Orthonormal columns (rows, if wide), uniform for a standard normal draw: (..., out, in).

    The Q of the QR decomposition whose R has a positive diagonal: the law of the polar factor, at
    a tenth of its cost.     Source: Mezzadri 2007, arXiv:math-ph/0609050.
    """
    wide = draw.shape[-2] < draw.shape[-1]
    q, r = torch.linalg.qr(draw.mT if wide else draw)
    q = q * torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2).to(q.dtype)
    return q.mT if wide else q
