"""The laws of norms and manifolds, tried on small random tensors: what a user's own must keep."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature

import torch
from torch import Tensor

from modula.errors import UserError
from modula.manifolds.base import Manifold
from modula.manifolds.region import Region
from modula.norms.base import Norm
from modula.norms.from_dual import FromDual

DRAWS = 20
TOLERANCE = 1e-6
SMALL = 1e-6  # a step so short that what is of second order disappears
SHARE = 0.01  # of such a step may be missed: by curvature, and by slack at a boundary


@dataclass(frozen=True)
class Broken:
    """A law that does not hold, and the simplest tensors, by name, on which it was seen to fail."""

    law: str
    by: float
    example: dict[str, Tensor]

    def __str__(self) -> str:
        shape = "x".join(map(str, next(iter(self.example.values())).shape))
        tensors = (f"{name} = {_digits(x)}" for name, x in self.example.items())
        return f"{self.law} is missed by {self.by:.2g}, for example on {shape} {', '.join(tensors)}"


def _digits(x: Tensor) -> str:
    if x.ndim > 1:
        return f"[{', '.join(map(_digits, x))}]"
    return f"[{', '.join(f'{number:.3g}' for number in x.tolist())}]"


def sizes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes of the kind of `shape`, small ones first: where counter-examples are looked for."""
    small = {tuple(min(extent, limit) for extent in shape) for limit in (1, 2, 3, 4)}
    return sorted(small | {tuple(min(extent, 8) for extent in shape)})


Law = Callable[[Tensor, Tensor], Tensor]


def broken_laws(laws: dict[str, Law], shape: tuple[int, ...], seed: int = 0) -> Iterator[Broken]:
    """The first failure of each law: a law maps two random tensors to how far it is missed.

    Small shapes are tried before large ones, and `shape` itself if no smaller one will do.  One on
    which the law cannot be tried, as it has no point of the manifold, is passed over.

    Raises UserError if the user's own code fails on all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, law in laws.items():
        failure = _first_failure(name, law, shape, generator)
        if failure is not None:
            yield failure


def _first_failure(
    name: str, law: Law, shape: tuple[int, ...], generator: torch.Generator
) -> Broken | None:
    small, refused = sizes(shape), list[Exception]()
    for size in (*small, shape):
        if size not in small and len(refused) < len(small):
            break  # a smaller one would do
        draws = torch.randn(DRAWS, 2, *size, generator=generator, dtype=torch.float64)
        try:
            found = _failure(name, law, draws)
        except Exception as error:  # the user's own code, which need not know every shape
            refused.append(error)
            continue
        if found is not None:
            return _simplest(name, law, draws) or found
    if len(refused) > len(small):
        _say_why(name, shape, refused[-1])
    return None


def _failure(name: str, law: Law, draws: Tensor) -> Broken | None:
    for x, y in draws:
        if not (x.any() and y.any()):
            continue  # laws for zero make it themselves
        missed = float(law(x, y).max())
        if not missed <= TOLERANCE:
            return Broken(name, missed, _named(law, x, y))
    return None


def _simplest(name: str, law: Law, draws: Tensor) -> Broken | None:
    """Small whole numbers fail as a rule where others do, and are easier to follow by hand."""
    whole = torch.cat([(k * draws).round() for k in (1, 2, 4)]) + 0.0  # which makes -0 a 0
    order = whole.abs().flatten(1).sum(1).argsort(stable=True)
    try:
        return _failure(name, law, whole[order])
    except Exception:
        return None


def _say_why(name: str, shape: tuple[int, ...], error: Exception) -> None:
    """Raise UserError, unless it was a refusal: deriving an update for this shape meets it too."""
    if not isinstance(error, ValueError):
        raise UserError(
            f"{name} cannot be tried on {'x'.join(map(str, shape))}: "
            f"{type(error).__name__}: {' '.join(str(error).split())}"
        ) from error


def _named(law: Law, *tensors: Tensor) -> dict[str, Tensor]:
    """The tensors under the names that the law has for them, without the one it does not use."""
    named = zip(signature(law).parameters, tensors, strict=True)
    return {name: x for name, x in named if name != "_"}


def norm_laws(norm: Norm) -> dict[str, Law]:
    """What makes a norm one, and its dual and duality map belong to it."""
    if isinstance(norm, FromDual):
        return dual_laws(norm)

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum()

    return {
        "norm(x) > 0 for x != 0": lambda x, _: (norm(x) <= 0).double(),
        "norm(-2 x) == 2 norm(x)": lambda x, _: (norm(-2 * x) / (2 * norm(x)) - 1).abs(),
        "norm(x + y) <= norm(x) + norm(y)": lambda x, y: (
            norm(x + y) / (norm(x) + norm(y)) - 1
        ).clamp(min=0),
        "norm(duality_map(g)) == 1": lambda g, _: (norm(norm.duality_map(g)) - 1).abs(),
        "<g, duality_map(g)> == dual(g)": lambda g, _: (
            inner(g, norm.duality_map(g)) / norm.dual(g) - 1
        ).abs(),
        "<g, t> <= dual(g) norm(t)": lambda g, t: (
            inner(g, t) / (norm.dual(g) * norm(t)) - 1
        ).clamp(min=0),
        "duality_map(0) == 0": lambda g, _: norm.duality_map(0 * g).abs(),
    }


def dual_laws(norm: FromDual) -> dict[str, Law]:
    """The same of the dual norm that the user gave: the norm's own value would be a long search."""

    def f(g: Tensor) -> Tensor:
        return torch.as_tensor(norm.f(g), dtype=g.dtype)

    return {
        "f(g) > 0 for g != 0": lambda g, _: (f(g) <= 0).double(),
        "f(-2 g) == 2 f(g)": lambda g, _: (f(-2 * g) / (2 * f(g)) - 1).abs(),
        "f(g + h) <= f(g) + f(h)": lambda g, h: (f(g + h) / (f(g) + f(h)) - 1).clamp(min=0),
        "<g, duality_map(g)> == f(g)": lambda g, _: (
            (g * norm.duality_map(g)).sum() / f(g) - 1
        ).abs(),
        "<h, duality_map(g)> <= f(h)": lambda g, h: (
            (h * norm.duality_map(g)).sum() / f(h) - 1
        ).clamp(min=0),
        "duality_map(0) == 0": lambda g, _: norm.duality_map(0 * g).abs(),
    }


def manifold_laws(manifold: Manifold) -> dict[str, Law]:
    """What makes projection, tangent space and retraction belong to one manifold."""

    def tangent(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        manifold.check_shape(tuple(x.shape))
        # Not `project`: a spectral sphere's largest singular value is to stay simple.
        point = manifold.retract(x, torch.zeros_like(x))
        return point, v, manifold.to_tangent(point, v)

    def idempotent(x: Tensor, v: Tensor) -> Tensor:
        point, _, t = tangent(x, v)
        return (manifold.to_tangent(point, t) - t).abs()

    def orthogonal(x: Tensor, v: Tensor) -> Tensor:
        _, v, t = tangent(x, v)
        return ((v - t) * t).sum().abs()

    def adjoint(x: Tensor, v: Tensor) -> Tensor:
        point, v, _ = tangent(x, v)
        constraint = manifold.tangent_constraint(point)
        value = constraint.of(v)
        y = value.flip(-1) + 1
        return ((value * y).sum() - (v * constraint.adjoint(y)).sum()).abs()

    def apart(x: Tensor, v: Tensor) -> Tensor:
        point, _, t = tangent(x, v)
        along = ((v - t) * manifold.to_tangent(point, v.flip(-1))).sum()
        return along.clamp(min=0) if isinstance(manifold, Region) else along.abs()

    def lands(x: Tensor, v: Tensor) -> Tensor:
        point, _, t = tangent(x, v)
        return manifold.residual(manifold.retract(point, 0.1 * t))

    def beyond(error: Tensor) -> Tensor:
        return (error.abs().max() - SHARE).clamp(min=0)

    def first_order(x: Tensor, v: Tensor) -> Tensor:
        point, _, t = tangent(x, v)
        step = SMALL * t / v.norm()
        return beyond((manifold.retract(point, step) - point - step) / SMALL)

    def complete(x: Tensor, v: Tensor) -> Tensor:
        point, v, _ = tangent(x, v)
        there = manifold.retract(point, SMALL * v / v.norm())  # if it takes more than tangents
        moved, off = (there - point) / SMALL, manifold.residual(there).max()
        missed = beyond(moved - manifold.to_tangent(point, moved))
        return torch.where(off <= SMALL**2, missed, 0.0)

    return {
        "residual(project(x)) == 0": lambda x, _: manifold.residual(manifold.project(x)),
        "<L v, y> == <v, L* y> for the tangent constraint L": adjoint,
        "to_tangent is a projection": idempotent,
        "to_tangent is orthogonal": orthogonal,
        "to_tangent keeps what leads along the manifold": complete,
        "to_tangent removes nothing along a tangent": apart,
        "residual(retract(x, v)) == 0": lands,
        "retract(x, v) == x + v + O(v^2)": first_order,
    }
