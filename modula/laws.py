"""Laws of norms and manifolds, tested on small random tensors: for norms and manifolds of users."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from inspect import signature
from itertools import product
from math import prod

import torch
from torch import Tensor

from modula.errors import UserError
from modula.manifolds.base import Manifold
from modula.manifolds.region import Region
from modula.norms.base import Norm
from modula.norms.from_dual import FromDual

DRAWS, CORNERS = 8, 20  # pairs of tensors; a norm may break in few places
BY_ITSELF, UNCHANGED = "each weight of a batch counts by itself", "no argument is changed"
DRAWS_OF = {BY_ITSELF: 2, UNCHANGED: 2}  # laws of the code: one pair breaks them, or none
TOLERANCE = 1e-6
SMALL = 1e-6  # a step so short that what is of second order disappears
SHARE = 0.01  # of such a step may be missed: by curvature, and by slack at a boundary
FEW = 4  # entries: of so many there are 81 tensors of -1, 0 and 1, which are all tried


@dataclass(frozen=True)
class Broken:
    """A law that fails, with the simplest tensors found on which it does, by name."""

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
    """Shapes like `shape`, the smallest first, on which a search for counter-examples runs."""
    small = {tuple(min(extent, limit) for extent in shape) for limit in (1, 2, 3, 4)}
    return sorted(small | {tuple(min(extent, 8) for extent in shape)})


Law = Callable[[Tensor, Tensor], Tensor]


def broken_laws(
    laws: dict[str, Law], shape: tuple[int, ...], seed: int = 0, *, corners: bool = False
) -> Iterator[Broken]:
    """The first failure of each law; a law maps two random tensors to its error.

    Small shapes are tried before large ones, and `shape` itself if no smaller one will do.  One on
    which the law cannot be tried, as it has no point of the manifold, is passed over.

    corners  also try tensors of -1, 0 and 1: there norms vanish that are none, and others have
             kinks; a manifold may have no nearest point there

    Raises UserError if the user's own code fails on all of them.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, law in laws.items():
        failure = _first_failure(name, law, shape, generator, corners)
        if failure is not None:
            yield failure


def _first_failure(
    name: str, law: Law, shape: tuple[int, ...], generator: torch.Generator, corners: bool
) -> Broken | None:
    small, refused = sizes(shape), list[Exception]()
    for size in (*small, shape):
        if size not in small and len(refused) < len(small):
            break  # a smaller one would do
        draws = torch.randn(DRAWS, 2, *size, generator=generator, dtype=torch.float64)
        draws = draws[: DRAWS_OF.get(name)]
        if corners:
            draws = torch.cat((draws, _corners(size, generator)))
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


def _corners(size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Pairs of tensors of -1, 0 and 1; of a small size every one, the sparsest first."""
    draws = torch.randint(-1, 2, (CORNERS, 2, *size), generator=generator).double()
    if prod(size) > FEW:
        return draws
    every = torch.tensor(list(product((0.0, 1.0, -1.0), repeat=prod(size))), dtype=torch.float64)
    every = every[every.abs().sum(1).argsort(stable=True)].reshape(-1, *size)
    others = every[torch.randperm(len(every), generator=generator)]
    return torch.stack((every, others), 1)


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


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """How far two numbers are from each other, relative to the larger one."""
    return torch.where(a == b, 0.0, (a - b).abs() / torch.maximum(a.abs(), b.abs()))


def _above(a: Tensor, b: Tensor) -> Tensor:
    """By how much a passes b, relative to the larger one."""
    return torch.where(a <= b, 0.0, _apart(a, b))


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def _changed(*calls: tuple[Callable[..., Tensor], tuple[Tensor, ...]]) -> Tensor:
    """1 if a call writes to one of its arguments."""
    missed = torch.zeros((), dtype=torch.float64)
    for call, arguments in calls:
        copies = [x.clone() for x in arguments]
        call(*copies)
        same = all(map(torch.equal, copies, arguments))
        missed = missed.maximum(torch.tensor(float(not same)))
    return missed


def _batched(call: Callable[..., Tensor], *arguments: tuple[Tensor, Tensor]) -> Tensor:
    """How far what a batch of two gives is from what each gives by itself."""
    loop = torch.stack([call(*each) for each in zip(*arguments, strict=True)])
    batch = call(*map(torch.stack, arguments))
    return torch.ones(()) if batch.shape != loop.shape else (batch - loop).abs()


def norm_laws(norm: Norm) -> dict[str, Law]:
    """Laws of a norm, and of its dual norm and duality map with it."""
    if isinstance(norm, FromDual):
        return dual_laws(norm)
    measures = (norm, norm.dual, norm.duality_map)
    return {
        "norm(x) > 0 for x != 0": lambda x, _: (norm(x) <= 0).double(),
        "norm(-2 x) == 2 norm(x)": lambda x, _: _apart(norm(-2 * x), 2 * norm(x)),
        "norm(x + y) <= norm(x) + norm(y)": lambda x, y: _above(norm(x + y), norm(x) + norm(y)),
        "norm(duality_map(g)) == 1": lambda g, _: (norm(norm.duality_map(g)) - 1).abs(),
        "<g, duality_map(g)> == dual(g)": lambda g, _: _apart(
            _inner(g, norm.duality_map(g)), norm.dual(g)
        ),
        "<g, t> <= dual(g) norm(t)": lambda g, t: _above(_inner(g, t), norm.dual(g) * norm(t)),
        "duality_map(0) == 0": lambda g, _: norm.duality_map(0 * g).abs(),
        BY_ITSELF: lambda x, y: torch.cat([_batched(each, (x, y)).flatten() for each in measures]),
        UNCHANGED: lambda x, _: _changed(*((each, (x,)) for each in measures)),
    }


def dual_laws(norm: FromDual) -> dict[str, Law]:
    """The same laws for a norm given by its dual, whose own value is found by a search."""

    def f(g: Tensor) -> Tensor:
        value = torch.as_tensor(norm.f(g), dtype=g.dtype)
        return value if value.ndim == 0 else norm.dual(g)  # which says what is wrong with it

    return {
        "f(g) > 0 for g != 0": lambda g, _: (f(g) <= 0).double(),
        "f(-2 g) == 2 f(g)": lambda g, _: _apart(f(-2 * g), 2 * f(g)),
        "f(g + h) <= f(g) + f(h)": lambda g, h: _above(f(g + h), f(g) + f(h)),
        "<g, duality_map(g)> == f(g)": lambda g, _: _apart(_inner(g, norm.duality_map(g)), f(g)),
        "<h, duality_map(g)> <= f(h)": lambda g, h: _above(_inner(h, norm.duality_map(g)), f(h)),
        "duality_map(0) == 0": lambda g, _: norm.duality_map(0 * g).abs(),
        UNCHANGED: lambda g, _: _changed((f, (g,))),
    }


def manifold_laws(manifold: Manifold) -> dict[str, Law]:
    """Laws that tie a manifold's projection, tangent spaces and retraction together."""

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
        missed = list[Tensor]()
        for length in (SMALL, SMALL / 100):  # near its edge a manifold may need the shorter one
            step = length * t / v.norm()
            missed.append(beyond((manifold.retract(point, step) - point - step) / length))
        return min(missed)

    def complete(x: Tensor, v: Tensor) -> Tensor:
        point, v, _ = tangent(x, v)
        there = manifold.retract(point, SMALL * v / v.norm())  # if it takes more than tangents
        moved, off = (there - point) / SMALL, manifold.residual(there).max()
        missed = beyond(moved - manifold.to_tangent(point, moved))
        return torch.where(off <= SMALL**2, missed, 0.0)

    def stays(x: Tensor, v: Tensor) -> Tensor:
        point, _, _ = tangent(x, v)
        return (manifold.project(point) - point).abs() / point.norm()

    def by_itself(x: Tensor, v: Tensor) -> Tensor:
        (point, v, t), (other, w, u) = tangent(x, v), tangent(v, x)
        pairs = [_batched(manifold.to_tangent, (point, other), (v, w))]
        pairs += [_batched(manifold.retract, (point, other), (0.1 * t, 0.1 * u))]
        pairs += [_batched(manifold.project, (x, v))]
        return torch.cat([each.flatten() for each in pairs])

    def unchanged(x: Tensor, v: Tensor) -> Tensor:
        point, v, t = tangent(x, v)
        moves = [(manifold.to_tangent, (point, v)), (manifold.retract, (point, 0.1 * t))]
        return _changed(*moves, (manifold.project, (x,)), (manifold.residual, (x,)))

    return {
        "residual(project(x)) == 0": lambda x, _: manifold.residual(manifold.project(x)),
        "project(x) == x on the manifold": stays,
        "<L v, y> == <v, L* y> for the tangent constraint L": adjoint,
        "to_tangent is a projection": idempotent,
        "to_tangent is orthogonal": orthogonal,
        "to_tangent keeps what leads along the manifold": complete,
        "to_tangent removes nothing along a tangent": apart,
        "residual(retract(x, v)) == 0": lands,
        "retract(x, v) == x + v + O(v^2)": first_order,
        BY_ITSELF: by_itself,
        UNCHANGED: unchanged,
    }
