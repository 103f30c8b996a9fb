"""The laws that `modula verify` tries: what is no norm, or no code for batches, is found out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modula.errors import UserError
from modula.laws import (
    BY_ITSELF,
    LARGE,
    UNCHANGED,
    Broken,
    Sides,
    broken_laws,
    draws_at,
    manifold_laws,
    norm_laws,
)
from modula.manifolds import (
    SPD,
    Implicit,
    Manifold,
    Oblique,
    Sphere,
    Stiefel,
    TangentConstraint,
    Transposed,
)
from modula.norms import L2, Frobenius, FromDual, Max, Norm, Spectral
from modula.verify import MANIFOLDS, NORMS


def said(norm: Norm) -> list[str]:
    return [str(broken) for broken in broken_laws(norm_laws(norm), (6, 4), corners=True)]


@pytest.mark.parametrize(
    ("f", "example"),
    [
        (lambda g: g.sum().abs(), "2x2 g = [[0, 1], [-1, 0]]"),
        (lambda g: g[0].norm(), "2x2 g = [[0, 0], [1, 0]]"),
        (lambda g: (g - g.mT).norm() if g.shape[0] == g.shape[1] else g.norm(), "1x1 g = [[-1]]"),
        (lambda g: 0 * g.sum(), "1x1 g = [[-1]]"),
    ],
    ids=["sum", "first row", "skew part", "zero"],
)
def test_what_is_zero_for_some_gradients_is_no_norm(
    f: Callable[[Tensor], Tensor], example: str
) -> None:
    """All else that makes a norm it may well have: it is the only law to be named."""
    sides = "0 on the left and 0 on the right"
    (sentence,) = said(FromDual(f))
    assert sentence == f"f(g) > 0 for g != 0 is missed by 1, {sides}, for example on {example}"


@pytest.mark.parametrize(
    "f",
    [
        lambda g: g.abs().amax(),
        lambda g: g.abs().sum() + g.norm(),
        lambda g: torch.linalg.svdvals(g)[0],
        lambda g: g.norm(dim=1).sum(),
    ],
    ids=["largest", "sum and length", "spectral", "rows"],
)
def test_a_norm_with_kinks_is_one(f: Callable[[Tensor], Tensor]) -> None:
    assert said(FromDual(f)) == []


class Own(Norm):
    """A Frobenius norm as a user may write it, with one slip."""

    ndim = 2

    def __init__(self, slip: str) -> None:
        self.slip = slip

    def __call__(self, x: Tensor) -> Tensor:
        if self.slip == "in place":
            x.sub_(x.mean())
        return x.norm() if self.slip == "batch" else Frobenius()(x)

    def dual(self, g: Tensor) -> Tensor:
        return Frobenius().dual(g)

    def duality_map(self, g: Tensor) -> Tensor:
        return g / self.dual(g) if self.slip == "zero" else Frobenius().duality_map(g)


@pytest.mark.parametrize(
    ("slip", "laws"),
    [
        ("none", []),
        ("batch", [BY_ITSELF]),
        ("zero", ["duality_map(0) == 0", BY_ITSELF]),
        ("in place", [UNCHANGED]),
    ],
)
def test_a_slip_of_the_code_is_told(slip: str, laws: list[str]) -> None:
    found = [broken.law for broken in broken_laws(norm_laws(Own(slip)), (6, 4), corners=True)]
    assert found[-len(laws) :] == laws


class OwnSphere(Manifold):
    """A sphere as a user may write it: all of the batch is one point."""

    ndim = 2

    def __init__(self, batch: bool) -> None:
        self.batch = batch

    def __repr__(self) -> str:
        return "OwnSphere()"

    def residual(self, x: Tensor) -> Tensor:
        return Sphere(ndim=2).residual(x)

    def project(self, x: Tensor) -> Tensor:
        return Sphere(ndim=2).project(x) if self.batch else x / x.norm()

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        return Sphere(ndim=2).tangent_constraint(x)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        return Sphere(ndim=2).sample(shape, dtype=dtype)


@pytest.mark.parametrize("batch", [True, False])
def test_a_manifold_that_takes_a_batch_for_one_point_is_told(batch: bool) -> None:
    found = [broken.law for broken in broken_laws(manifold_laws(OwnSphere(batch)), (6, 4))]
    assert found == ([] if batch else [BY_ITSELF])


def test_what_is_no_number_is_refused() -> None:
    with pytest.raises(UserError, match=r"cannot be tried on 6x4: .* f is to give one number"):
        said(FromDual(lambda g: g.norm(dim=-1)))


def test_a_law_is_tried_on_the_shape_itself_where_no_small_one_will_do() -> None:
    ones = torch.ones(9, dtype=torch.float64)

    def own(g: torch.Tensor) -> torch.Tensor:
        return (g @ ones).abs().sum() + g.norm()

    def squared(g: torch.Tensor) -> torch.Tensor:
        return own(g).square()

    def law(x: Tensor, _: Tensor) -> Sides:
        return Sides(squared(x), 0 * squared(x), squared(x))

    (broken,) = broken_laws({"f": law}, (10, 9))
    assert broken.example["x"].shape == (10, 9)
    assert "f(-2 g) == 2 f(g)" in map(law_of, broken_laws(norm_laws(FromDual(squared)), (10, 9)))
    assert not list(broken_laws(norm_laws(FromDual(own)), (10, 9)))


def off(x: Tensor, wrong: bool) -> Tensor:
    """x, a tenth too long where the shape has more than 8 rows."""
    return 1.1 * x if wrong and x.shape[-2] > 8 else x


class Large(Norm):
    """A maximum norm of one's own that is wrong above 8 rows, in one of its parts."""

    ndim = 2

    def __init__(self, part: str) -> None:
        self.part = part

    def __call__(self, x: Tensor) -> Tensor:
        return Max(2)(off(x, self.part == "value"))

    def dual(self, g: Tensor) -> Tensor:
        return Max(2).dual(off(g, self.part == "dual"))

    def duality_map(self, g: Tensor) -> Tensor:
        return off(Max(2).duality_map(g), self.part == "map")


@pytest.mark.parametrize(
    ("part", "law", "ratio"),
    [
        ("none", "", 1.0),
        ("value", "norm(duality_map(g)) == 1", 1.1),
        ("dual", "<g, duality_map(g)> == dual(g)", 1 / 1.1),
        ("map", "norm(duality_map(g)) == 1", 1.1),
    ],
)
def test_a_norm_that_is_wrong_above_eight_rows_is_found(part: str, law: str, ratio: float) -> None:
    found = {each.law: each for each in broken_laws(norm_laws(Large(part)), (16, 12))}
    assert not list(broken_laws(norm_laws(Large(part)), (8, 12)))
    if not law:
        assert not found
        return
    broken = found[law]
    assert broken.example["g"].shape == (16, 12)
    assert broken.left / broken.right == pytest.approx(ratio)
    sides = f"{broken.left:.7g} on the left and {broken.right:.7g} on the right"
    assert str(broken) == (
        f"{law} is missed by {broken.by:.2g}, {sides}, for example on 16x12 g drawn at random"
    )


class LargeStiefel(Stiefel):
    """Stiefel, wrong above 8 rows, in one of its parts."""

    part = ""

    def project(self, x: Tensor) -> Tensor:
        return off(super().project(x), self.part == "project")

    def to_tangent(self, x: Tensor, v: Tensor) -> Tensor:
        return off(super().to_tangent(x, v), self.part == "to_tangent")

    def retract(self, x: Tensor, v: Tensor) -> Tensor:
        moved = super().retract(x, v)
        return off(moved, self.part == "retract" and bool(v.any()))

    def residual(self, x: Tensor) -> Tensor:
        return super().residual(x) + (x.shape[-2] > 8 and self.part == "residual")

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        right = super().tangent_constraint(x)
        return TangentConstraint(
            right.of, lambda y: off(right.adjoint(y), self.part == "tangent_constraint")
        )


@pytest.mark.parametrize(
    ("part", "law", "left", "right"),
    [
        ("project", "residual(project(x)) == 0", 0.21 * 12**0.5, 0),
        ("to_tangent", "to_tangent(x, t) == t for t = to_tangent(x, v)", None, None),
        ("retract", "residual(retract(x, v)) == 0", 0.21 * 12**0.5, 0),
        ("residual", "residual(project(x)) == 0", 1, 0),
        ("tangent_constraint", "<L v, y> == <v, L* y> for the tangent constraint L", None, None),
    ],
)
def test_a_manifold_that_is_wrong_above_eight_rows_is_found(
    part: str, law: str, left: float | None, right: float | None
) -> None:
    """A point that is 1.1 times too long has W^T W = 1.21 I."""
    manifold = LargeStiefel()
    object.__setattr__(manifold, "part", part)
    assert not list(broken_laws(manifold_laws(manifold), (8, 8)))
    found = {each.law: each for each in broken_laws(manifold_laws(manifold), (16, 12))}
    assert found[law].example["x"].shape == (16, 12)
    if left is not None:
        assert found[law].left == pytest.approx(left) and found[law].right == right
    else:
        assert found[law].left / found[law].right == pytest.approx(
            1.1 if part == "to_tangent" else 1 / 1.1
        )


def test_code_that_fails_at_the_asked_shape_alone_is_told() -> None:
    def f(g: Tensor) -> Tensor:
        if g.shape[-2] > 8:
            raise KeyError("no such row")
        return g.norm()

    words = "f(g) > 0 for g != 0 cannot be tried on 16x12: KeyError: 'no such row'"
    with pytest.raises(UserError) as error:
        said_at(FromDual(f), (16, 12))
    assert str(error.value) == words
    assert said_at(FromDual(f), (8, 12)) == []


def said_at(norm: Norm, shape: tuple[int, int]) -> list[str]:
    return [str(broken) for broken in broken_laws(norm_laws(norm), shape)]


@pytest.mark.parametrize(
    ("shape", "draws"), [((16, 12), 2), ((64, 32), 2), ((1, LARGE), 2), ((512, 512), 1)]
)
def test_a_large_shape_is_tried_on_one_draw(shape: tuple[int, int], draws: int) -> None:
    seen: list[torch.Size] = []

    def law(x: Tensor, _: Tensor) -> Sides:
        seen.append(x.shape)
        return Sides(x, x, 0 * x)

    assert not list(broken_laws({"a law": law}, shape))
    assert draws_at(shape) == seen.count(torch.Size(shape)) == draws


@pytest.mark.parametrize("norm", [Spectral(), L2(2), Max(2)], ids=str)
@pytest.mark.parametrize("manifold", [Stiefel(), Oblique("rows"), Sphere(ndim=2)], ids=str)
def test_what_is_right_is_right_at_the_asked_shape(norm: Norm, manifold: Manifold) -> None:
    assert not list(broken_laws(norm_laws(norm), (33, 12), corners=True))
    assert not list(broken_laws(manifold_laws(manifold), (33, 12)))


def law_of(broken: Broken) -> str:
    return broken.law


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_no_norm_of_ours_breaks_a_law(norm: Norm) -> None:
    assert list(broken_laws(norm_laws(norm), (3, 2), corners=True)) == []


@pytest.mark.parametrize("manifold", [*MANIFOLDS, SPD()], ids=str)
def test_no_manifold_of_ours_breaks_a_law(manifold: Manifold) -> None:
    shapes = [(3, 3), *([(2, 3)] if isinstance(manifold, Transposed) else [(3, 2)])]
    if isinstance(manifold, SPD):
        shapes = [(3, 3)]
    if isinstance(manifold, Implicit):  # it takes its time
        shapes = [(3, 2)]
    for shape in shapes:
        assert list(broken_laws(manifold_laws(manifold), shape)) == []
