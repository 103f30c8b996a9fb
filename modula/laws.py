"""Laws of norms and manifolds, tested on small random tensors: for norms and manifolds of users."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import signature
from itertools import product
from math import prod
from typing import NoReturn

import torch
from torch import Tensor

from modula.errors import UserError
from modula.manifolds.base import Manifold
from modula.manifolds.region import Region
from modula.norms.base import Norm
from modula.norms.from_dual import FromDual

DRAWS, CORNERS = 8, 20  # pairs of tensors; a norm may break in few places
AT_SHAPE, LARGE = 2, 1 << 15  # pairs at the asked shape; one, where it has more entries than LARGE
BY_ITSELF = "a batch of two gives what each gives by itself"
UNCHANGED = "the arguments after a call == the arguments before it"
DRAWS_OF = {BY_ITSELF: 2, UNCHANGED: 2}  # laws of the code: one pair breaks them, or none
TOLERANCE = 1e-6
SMALL = 1e-6  # a step so short that what is of second order disappears
SHARE = 0.01  # of such a step may be missed: by curvature, and by slack at a boundary
FEW = 4  # entries: of so many there are 81 tensors of -1, 0 and 1, which are all tried
SHOWN = 64  # entries of a counter-example; a larger one nobody follows by hand


@dataclass(frozen=True)
class Sides:
    """The two sides of a law on one pair of tensors, and by how much it is missed, entry by entry.

    left, right, missed  tensors of one shape
    """

    left: Tensor
    right: Tensor
    missed: Tensor

    def worst(self) -> tuple[float, float, float]:
        """Left, right and missed of the entry where the law is missed most."""
        place = int(self.missed.argmax())
        left, right, missed = (float(x.flatten()[place]) + 0.0 for x in vars(self).values())
        return left, right, missed


@dataclass(frozen=True)
class Broken:
    """A law that fails, with the simplest tensors found on which it does, by name.

    left, right  the sides of the law, where a side is a tensor the entry that is missed most
    by           how far they are apart, relative to the larger one or to the size of the tensors
    """

    law: str
    by: float
    left: float
    right: float
    example: dict[str, Tensor]

    def __str__(self) -> str:
        one = next(iter(self.example.values()))
        shape = "x".join(map(str, one.shape))
        tensors = ", ".join(f"{name} = {_digits(x)}" for name, x in self.example.items())
        if one.numel() > SHOWN:
            tensors = f"{' and '.join(self.example)} drawn at random"
        return (
            f"{self.law} is missed by {self.by:.2g}, {self.left:.7g} on the left and "
            f"{self.right:.7g} on the right, for example on {shape} {tensors}"
        )


def _digits(x: Tensor) -> str:
    if x.ndim > 1:
        return f"[{', '.join(map(_digits, x))}]"
    return f"[{', '.join(f'{number:.3g}' for number in x.tolist())}]"


def sizes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Shapes like `shape`, the smallest first, on which a search for counter-examples runs."""
    small = {tuple(min(extent, limit) for extent in shape) for limit in (1, 2, 3, 4)}
    return sorted(small | {tuple(min(extent, 8) for extent in shape)})


def draws_at(shape: tuple[int, ...]) -> int:
    """How many pairs of tensors a law meets at the asked shape, if that is not a small one."""
    return AT_SHAPE if prod(shape) <= LARGE else 1


Law = Callable[[Tensor, Tensor], Sides]


def broken_laws(
    laws: dict[str, Law], shape: tuple[int, ...], seed: int = 0, *, corners: bool = False
) -> Iterator[Broken]:
    """The first failure of each law; a law maps two random tensors to its two sides.

    Small shapes are tried before large ones, and at last `shape` itself, on `draws_at(shape)` pairs
    of tensors.  A small one on which the law cannot be tried, as it has no point of the manifold,
    is passed over.

    corners  also try tensors of -1, 0 and 1: there norms vanish that are none, and others have
             kinks; a manifold may have no nearest point there

    Raises UserError if the user's own code fails on `shape`, or the manifold has no point of it.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, law in laws.items():
        failure = _first_failure(name, law, shape, generator, corners)
        if failure is not None:
            yield failure


def _first_failure(
    name: str, law: Law, shape: tuple[int, ...], generator: torch.Generator, corners: bool
) -> Broken | None:
    small, tried = sizes(shape), False
    for size in small if shape in small else (*small, shape):
        thorough = size in small or not tried  # where no small one will do, this one has to
        count = min(DRAWS_OF.get(name, DRAWS), DRAWS if thorough else draws_at(shape))
        draws = torch.randn(count, 2, *size, generator=generator, dtype=torch.float64)
        if corners and thorough:
            draws = torch.cat((draws, _corners(size, generator)))
        try:
            found = _failure(name, law, draws)
        except Exception as error:  # the user's own code, which need not know every shape
            if size == shape:
                _say_why(name, shape, error)
            continue
        tried = True
        if found is not None:
            return (_simplest(name, law, draws) if prod(size) <= SHOWN else None) or found
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
        left, right, missed = law(x, y).worst()
        if not missed <= TOLERANCE:
            return Broken(name, missed, left, right, _named(law, x, y))
    return None


def _simplest(name: str, law: Law, draws: Tensor) -> Broken | None:
    """Small whole numbers fail as a rule where others do, and are easier to follow by hand."""
    whole = torch.cat([(k * draws).round() for k in (1, 2, 4)]) + 0.0  # which makes -0 a 0
    order = whole.abs().flatten(1).sum(1).argsort(stable=True)
    try:
        return _failure(name, law, whole[order])
    except Exception:
        return None


def _say_why(name: str, shape: tuple[int, ...], error: Exception) -> NoReturn:
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    raise UserError(
        f"{name} cannot be tried on {'x'.join(map(str, shape))}: {kind}"
        f"{' '.join(str(error).split())}"
    ) from error


def _named(law: Law, *tensors: Tensor) -> dict[str, Tensor]:
    """The tensors under the names that the law has for them, without the one it does not use."""
    named = zip(signature(law).parameters, tensors, strict=True)
    return {name: x for name, x in named if name != "_"}


def _equal(left: Tensor, right: Tensor, size: Tensor | float = 1.0) -> Sides:
    """left == right, missed by the distance in units of `size`."""
    left, right = torch.broadcast_tensors(left, right)
    return Sides(left, right, (left - right).abs() / size)


def _zero(x: Tensor) -> Sides:
    return _equal(x, torch.zeros_like(x))


def _apart(left: Tensor, right: Tensor) -> Sides:
    """left == right for two numbers, missed relative to the larger one."""
    larger = torch.maximum(left.abs(), right.abs())
    return Sides(left, right, torch.where(left == right, 0.0, (left - right).abs() / larger))


def _below(left: Tensor, right: Tensor) -> Sides:
    """left <= right for two numbers, missed relative to the larger one."""
    sides = _apart(left, right)
    return Sides(left, right, torch.where(left <= right, 0.0, sides.missed))


def _positive(x: Tensor) -> Sides:
    return Sides(x, torch.zeros_like(x), (x <= 0).double())


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum()


def _joined(parts: Iterable[Sides]) -> Sides:
    """The entries of several laws, side by side."""
    each = [(part.left, part.right, part.missed) for part in parts]
    return Sides(*(torch.cat([x.flatten() for x in side]) for side in zip(*each, strict=True)))


def _changed(*calls: tuple[Callable[..., Tensor], tuple[Tensor, ...]]) -> Sides:
    """Missed by 1 where a call writes to one of its arguments."""
    found = list[Sides]()
    for call, arguments in calls:
        copies = [x.clone() for x in arguments]
        call(*copies)
        found += [Sides(a, b, (a != b).double()) for a, b in zip(copies, arguments, strict=True)]
    return _joined(found)


def _batched(call: Callable[..., Tensor], *arguments: tuple[Tensor, Tensor]) -> Sides:
    """What a batch of two gives, and what each gives by itself; if those differ in shape, which."""
    loop = torch.stack([call(*each) for each in zip(*arguments, strict=True)])
    batch = call(*map(torch.stack, arguments))
    if batch.shape == loop.shape:
        return _equal(batch, loop)
    return Sides(torch.tensor(batch.numel()), torch.tensor(loop.numel()), torch.ones(()))


def norm_laws(norm: Norm) -> dict[str, Law]:
    """Laws of a norm, and of its dual norm and duality map with it."""
    if isinstance(norm, FromDual):
        return dual_laws(norm)
    measures = (norm, norm.dual, norm.duality_map)
    return {
        "norm(x) > 0 for x != 0": lambda x, _: _positive(norm(x)),
        "norm(-2 x) == 2 norm(x)": lambda x, _: _apart(norm(-2 * x), 2 * norm(x)),
        "norm(x + y) <= norm(x) + norm(y)": lambda x, y: _below(norm(x + y), norm(x) + norm(y)),
        "norm(duality_map(g)) == 1": lambda g, _: _equal(norm(norm.duality_map(g)), torch.ones(())),
        "<g, duality_map(g)> == dual(g)": lambda g, _: _apart(
            _inner(g, norm.duality_map(g)), norm.dual(g)
        ),
        "<g, t> <= dual(g) norm(t)": lambda g, t: _below(_inner(g, t), norm.dual(g) * norm(t)),
        "duality_map(0) == 0": lambda g, _: _zero(norm.duality_map(0 * g)),
        BY_ITSELF: lambda x, y: _joined(_batched(each, (x, y)) for each in measures),
        UNCHANGED: lambda x, _: _changed(*((each, (x,)) for each in measures)),
    }


def dual_laws(norm: FromDual) -> dict[str, Law]:
    """The same laws for a norm given by its dual, whose own value is found by a search."""

    def f(g: Tensor) -> Tensor:
        value = torch.as_tensor(norm.f(g), dtype=g.dtype)
        return value if value.ndim == 0 else norm.dual(g)  # which says what is wrong with it

    return {
        "f(g) > 0 for g != 0": lambda g, _: _positive(f(g)),
        "f(-2 g) == 2 f(g)": lambda g, _: _apart(f(-2 * g), 2 * f(g)),
        "f(g + h) <= f(g) + f(h)": lambda g, h: _below(f(g + h), f(g) + f(h)),
        "<g, duality_map(g)> == f(g)": lambda g, _: _apart(_inner(g, norm.duality_map(g)), f(g)),
        "<h, duality_map(g)> <= f(h)": lambda g, h: _below(_inner(h, norm.duality_map(g)), f(h)),
        "duality_map(0) == 0": lambda g, _: _zero(norm.duality_map(0 * g)),
        UNCHANGED: lambda g, _: _changed((f, (g,))),
    }


def manifold_laws(manifold: Manifold) -> dict[str, Law]:
    """Laws that tie a manifold's projection, tangent spaces and retraction together."""

    def tangent(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        manifold.check_shape(tuple(x.shape))
        # Not `project`: a spectral sphere's largest singular value is to stay simple.
        point = manifold.retract(x, torch.zeros_like(x))
        return point, v, manifold.to_tangent(point, v)

    def idempotent(x: Tensor, v: Tensor) -> Sides:
        point, _, t = tangent(x, v)
        return _equal(manifold.to_tangent(point, t), t)

    def orthogonal(x: Tensor, v: Tensor) -> Sides:
        _, v, t = tangent(x, v)
        return _zero(_inner(v - t, t))

    def adjoint(x: Tensor, v: Tensor) -> Sides:
        point, v, _ = tangent(x, v)
        constraint = manifold.tangent_constraint(point)
        value = constraint.of(v)
        y = value.flip(-1) + 1
        return _equal(_inner(value, y), _inner(v, constraint.adjoint(y)))

    def apart(x: Tensor, v: Tensor) -> Sides:
        point, _, t = tangent(x, v)
        along = _inner(v - t, manifold.to_tangent(point, v.flip(-1)))
        sides = _zero(along)
        if isinstance(manifold, Region):
            return Sides(along, sides.right, along.clamp(min=0))
        return sides

    def lands(x: Tensor, v: Tensor) -> Sides:
        point, _, t = tangent(x, v)
        return _zero(manifold.residual(manifold.retract(point, 0.1 * t)))

    def nearly(left: Tensor, right: Tensor) -> Sides:
        return Sides(left, right, ((left - right).abs() - SHARE).clamp(min=0))

    def first_order(x: Tensor, v: Tensor) -> Sides:
        point, _, t = tangent(x, v)
        found = list[Sides]()
        for length in (SMALL, SMALL / 100):  # near its edge a manifold may need the shorter one
            step = length * t / v.norm()
            moved = (manifold.retract(point, step) - point) / length
            found.append(nearly(moved, step / length))
        return min(found, key=lambda sides: float(sides.missed.max()))

    def complete(x: Tensor, v: Tensor) -> Sides:
        point, v, _ = tangent(x, v)
        there = manifold.retract(point, SMALL * v / v.norm())  # if it takes more than tangents
        moved, off = (there - point) / SMALL, manifold.residual(there).max()
        sides = nearly(manifold.to_tangent(point, moved), moved)
        return Sides(sides.left, moved, torch.where(off <= SMALL**2, sides.missed, 0.0))

    def stays(x: Tensor, v: Tensor) -> Sides:
        point, _, _ = tangent(x, v)
        return _equal(manifold.project(point), point, point.norm())

    def by_itself(x: Tensor, v: Tensor) -> Sides:
        (point, v, t), (other, w, u) = tangent(x, v), tangent(v, x)
        pairs = [_batched(manifold.to_tangent, (point, other), (v, w))]
        pairs += [_batched(manifold.retract, (point, other), (0.1 * t, 0.1 * u))]
        return _joined([*pairs, _batched(manifold.project, (x, v))])

    def unchanged(x: Tensor, v: Tensor) -> Sides:
        point, v, t = tangent(x, v)
        moves = [(manifold.to_tangent, (point, v)), (manifold.retract, (point, 0.1 * t))]
        return _changed(*moves, (manifold.project, (x,)), (manifold.residual, (x,)))

    sign = "<=" if isinstance(manifold, Region) else "=="
    return {
        "residual(project(x)) == 0": lambda x, _: _zero(manifold.residual(manifold.project(x))),
        "project(x) == x on the manifold": stays,
        "<L v, y> == <v, L* y> for the tangent constraint L": adjoint,
        "to_tangent(x, t) == t for t = to_tangent(x, v)": idempotent,
        "<v - t, t> == 0 for t = to_tangent(x, v)": orthogonal,
        "to_tangent(x, u) == u for u along the manifold": complete,
        f"<v - to_tangent(x, v), u> {sign} 0 for a tangent u": apart,
        "residual(retract(x, v)) == 0": lands,
        "retract(x, v) == x + v + O(v^2)": first_order,
        BY_ITSELF: by_itself,
        UNCHANGED: unchanged,
    }
