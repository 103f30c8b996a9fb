r"""Second moments with a few large eigenvalues and one for all the rest: a spike and a flat part.

    S = U diag(l) U^T + mu (I - U U^T)            U: (..., d, rank), U^T U = I

l and mu are kept as one tensor `values`, (..., rank + 1), mu the last.  For a given U they are the
Gaussian-KL projection of a moment M at l_k = u_k^T M u_k, (d - rank) mu = trace(M) - sum l; the
best U spans M's leading eigenvectors, and follows them by orthogonal iteration on `image`, an
average of M U.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi, prod
from typing import Any, ClassVar

import torch
from torch import Tensor

from modula.kernels.moments.root import SMALLEST, unit_scale
from modula.kernels.moments.samples import entries
from modula.kernels.moments.second_moment import average_moment, unfold
from modula.kernels.moments.structure import Structure
from modula.kernels.op import Cost, Op, Shape, elementwise_cost


@dataclass(frozen=True, repr=False)
class SpikedMatrix(Structure):
    """`rank` eigenvalues, and one for all others of `size`: stored as `values`, (..., rank + 1)."""

    size: int
    rank: int
    ndim: ClassVar[int] = 1

    def __repr__(self) -> str:
        return f"{self.rank} spikes"

    def shape(self, size: int) -> tuple[int, ...]:
        return (self.rank + 1,)

    def width(self, size: int) -> int:
        return 2 * self.rank + 1

    def mean(self, x: Tensor) -> Tensor:
        return (x[..., :-1].sum(-1) + (self.size - self.rank) * x[..., -1]) / self.size

    def add_identity_(self, x: Tensor, size: Tensor) -> Tensor:
        return x.add_(size[..., None])

    def values(self, spikes: Tensor, trace: Tensor) -> Tensor:
        """The spikes, and what is left of the trace for each of the other directions."""
        flat = (trace - spikes.sum(-1)).clamp(min=0) / (self.size - self.rank)
        return torch.cat([spikes, flat[..., None]], -1)


def cosines(like: Tensor) -> Tensor:
    """Orthonormal columns (..., d, rank) to which all rows contribute."""
    d, rank = like.shape[-2:]
    rows = torch.arange(d, dtype=like.dtype, device=like.device)[:, None] + 0.5
    waves = torch.arange(rank, dtype=like.dtype, device=like.device)
    found = (pi / d * rows * waves).cos() * (2 / d) ** 0.5
    return torch.where(waves == 0, found / 2**0.5, found)


def begun_plain(basis: Tensor, x: Tensor, seen: Tensor, *, size: float = 1.0) -> Tensor:
    """At the first sample, `size` times orthonormal cosines: a start that depends on no data."""
    is_first = (seen == 1) & entries(x != 0, seen).any(-1)
    return torch.where(is_first[..., None, None], size * cosines(basis), basis)


def average_image_plain(
    image: Tensor,
    x: Tensor,
    basis: Tensor,
    seen: Tensor,
    *,
    dim: int,
    ndim: int,
    share: float,
    beta: float,
    kind: SpikedMatrix,
) -> Tensor:
    """The average of share mat_i(x) mat_i(x)^T U, a sample further, weighed without bias."""
    rows = unfold(x, dim, ndim)
    new = share * (rows @ (rows.mT @ basis))
    return average_moment(image, new, seen, beta=beta, unbiased=True)


def next_subspace_plain(image: Tensor, basis: Tensor, values: Tensor, x: Tensor) -> Tensor:
    """qr(M U), the largest spikes first: one step of orthogonal iteration.

    The basis stays where there is no sample x, or M U is zero or not finite.
    """
    usable = image.isfinite().all((-2, -1)) & (image != 0).any((-2, -1))
    usable = (usable & entries(x != 0, usable).any(-1))[..., None, None]
    # QR keeps the span of leading columns: the largest spikes are turned least.
    order = values[..., :-1].argsort(dim=-1, stable=True, descending=True)
    columns = image.gather(-1, order.unsqueeze(-2).expand_as(image))
    found = torch.linalg.qr(torch.where(usable, columns, basis))[0]
    return torch.where(usable & found.isfinite().all((-2, -1), keepdim=True), found, basis)


def carried_image_plain(image: Tensor, basis: Tensor, new: Tensor, values: Tensor) -> Tensor:
    """M U' for the new basis U', where M is mu I outside of U: M U R + mu (U' - U R), R = U^T U'"""
    turn = basis.mT @ new
    return image @ turn + values[..., -1:, None] * (new - basis @ turn)


def carried_values_plain(
    values: Tensor, basis: Tensor, new: Tensor, *, kind: SpikedMatrix
) -> Tensor:
    """Spikes and flat part of the same S in the new basis: u'^T S u', and what is left."""
    inside = (basis.mT @ new).square()
    spikes = (values[..., None, :-1] @ inside).squeeze(-2)
    spikes = spikes + values[..., -1:] * (1 - inside.sum(-2)).clamp(min=0)
    return kind.values(spikes, kind.size * kind.mean(values))


def average_values_plain(
    values: Tensor,
    x: Tensor,
    basis: Tensor,
    seen: Tensor,
    *,
    dim: int,
    ndim: int,
    share: float,
    beta: float,
    unbiased: bool,
    kind: SpikedMatrix,
) -> Tensor:
    """The average of u_k^T M u_k and of the rest, for M = share mat_i(x) mat_i(x)^T."""
    rows = unfold(x, dim, ndim)
    spikes = share * (basis.mT @ rows).square().sum(-1)
    new = kind.values(spikes, share * rows.square().sum((-2, -1)))
    return average_moment(values, new, seen, beta=beta, unbiased=unbiased)


def inverse_root_plain(
    values: Tensor,
    previous: Tensor,
    *,
    power: float,
    damping: float,
    trace_power: float = 0.0,
    kind: SpikedMatrix,
) -> Tensor:
    """(S / trace(S)^trace_power + damping mean)^-power, kept like S."""
    size = kind.mean(values)
    usable = (size.isfinite() & (size > 0)).unsqueeze(-1) & values.isfinite()
    unit = torch.where(usable, values / size.unsqueeze(-1), 1.0)
    floor = SMALLEST * torch.finfo(values.dtype).eps
    roots = (unit + max(damping, floor)) ** -power
    return torch.where(usable, roots * unit_scale(size, kind.size, power, trace_power), previous)


def _products(products: int) -> Callable[..., Cost]:
    """Cost of so many products of a weight, of this shape, with a basis."""

    def cost(shape: Shape, itemsize: int = 4, *, kind: SpikedMatrix, **options: Any) -> Cost:
        flops = 2.0 * products * prod(shape) * kind.rank
        return Cost(flops, itemsize * products * prod(shape))

    return cost


def _qr_cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    # A QR decomposition with its Q takes nominally 4 d rank^2, and so do the products after it.
    return Cost(8.0 * prod(shape) * shape[-1], 6.0 * itemsize * prod(shape))


begun = Op("begun", begun_plain, elementwise_cost(0, 1))
average_image = Op("average_image", average_image_plain, _products(2))
average_values = Op("average_values", average_values_plain, _products(1))
next_subspace = Op("next_subspace", next_subspace_plain, _qr_cost)
carried_image = Op("carried_image", carried_image_plain, elementwise_cost(0, 3))
carried_values = Op("carried_values", carried_values_plain, elementwise_cost(0, 2))
inverse_root = Op("inverse_root", inverse_root_plain, elementwise_cost(2, 3))
