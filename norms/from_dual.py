"""A norm that is given by its dual: one formula, and autograd finds the update."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modula.norms.base import Norm
from modula.norms.lbfgs import minimise
from modula.norms.numerics import add_dims, ratio, split_scale


@dataclass(frozen=True, repr=False)
class FromDual(Norm):
    """The norm whose dual norm is the function f of one weight: g (d1, ..., d_ndim) -> number.

        ||g||_* = f(g),   duality map = gradient of f,   ||x|| = max over g of <x, g> / f(g)

    f is any norm written in torch, without .item() and `if` on its values; where its gradient is
    not unique, autograd must choose one that is a mean of gradients nearby (torch's abs, amax,
    vector_norm and svdvals do).  Steepest descent needs the duality map only, which is exact.

    The value is searched for by L-BFGS, as the largest  sqrt(2 <x, g> - f(g)^2):  a lower bound
    always, right to rounding (1e-12, in float32 1e-6) where f is smooth away from 0.  Where f has
    kinks the search can stop early: by 1e-5 for small nuclear norms, by 2 % for sums of row
    lengths, by 20 % for an l1 norm of a hundred entries; at 64 x 32 by 7, 5 and 32 %.  It carries
    no gradient.

    >>> half_sign = FromDual(lambda g: g.abs().sum() + torch.linalg.vector_norm(g), ndim=1)
    >>> half_sign.duality_map(torch.tensor([3.0, -4.0]))
    tensor([ 1.6000, -1.8000])

    Source: Rockafellar 1970, "Convex Analysis", section 15 (polar gauges).
    """

    f: Callable[[Tensor], Tensor]
    ndim: int = 2
    iterations: int = 300

    def __post_init__(self) -> None:
        if not callable(self.f):
            raise ValueError(
                f"FromDual needs the dual norm as a function of one weight, got {self.f!r}: write "
                f"for example FromDual(lambda g: g.abs().sum())"
            )
        super().__post_init__()
        if self.ndim < 0 or self.iterations < 1:
            raise ValueError(
                f"FromDual measures 0 trailing dims or more, and searches for its value in 1 "
                f"iteration or more; got ndim={self.ndim}, iterations={self.iterations}"
            )

    def __repr__(self) -> str:
        name = getattr(self.f, "__name__", repr(self.f))
        return f"FromDual({name})" if self.ndim == 2 else f"FromDual({name}, {self.ndim})"

    def __call__(self, x: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(x.detach()), self.ndim)
        if not unit.numel():
            return top.to(x.dtype)
        weights = unit.reshape(top.numel(), -1)
        shape = unit.shape[unit.ndim - self.ndim :]

        def energy(points: Tensor) -> tuple[Tensor, Tensor]:
            values, slopes = self._differentiated(points.reshape(-1, *shape))
            inner = (points * weights).sum(-1)
            slope = values.unsqueeze(-1) * slopes.reshape(points.shape) - weights
            return values.square() / 2 - inner, slope

        length = self._differentiated(unit)[0].reshape(-1)
        start = weights * ratio(weights.square().sum(-1), length.square()).unsqueeze(-1)
        best = minimise(energy, start, self.iterations)
        lengths = self._differentiated(best.reshape(unit.shape))[0].reshape(-1)
        value = ratio((best * weights).sum(-1), lengths).reshape(top.shape)
        return (top * value).to(x.dtype)

    def dual(self, g: Tensor) -> Tensor:
        unit, top = split_scale(self.prepare(g), self.ndim)
        return (top * self._differentiated(unit)[0]).to(g.dtype)

    def duality_map(self, g: Tensor) -> Tensor:
        unit, _ = split_scale(self.prepare(g), self.ndim)
        return self._differentiated(unit)[1].to(g.dtype)

    def _differentiated(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f and its gradient, for each weight of the batch; both are 0 where f is 0."""
        batch = x.shape[: x.ndim - self.ndim]
        if not x.numel():
            return x.new_zeros(batch), x
        listed = x.reshape(-1, *x.shape[len(batch) :])
        both = torch.func.grad_and_value(self.f)
        try:
            # For one weight, half of the time would go into making a batch of it.
            slopes, values = torch.func.vmap(both)(listed) if len(listed) > 1 else both(listed[0])
        except RuntimeError as error:
            raise ValueError(
                f"{self} could not be differentiated on {tuple(listed.shape[1:])}: f is to give "
                f"one number, by torch operations without .item() and `if` on its values; torch "
                f"says: {str(error).splitlines()[0]}"
            ) from error
        zero = add_dims(values == 0, self.ndim)
        slopes = torch.where(zero, torch.zeros_like(slopes), slopes)
        return values.reshape(batch), slopes.reshape(x.shape)


def is_searched(norm: Norm) -> bool:
    """Whether the value of a norm is a lower bound, as that of a FromDual is, here or inside it."""
    if isinstance(norm, FromDual):
        return True
    inside = vars(norm).values()  # the fields of a dataclass
    return any(isinstance(each, Norm) and is_searched(each) for each in inside)
