"""The laws that `modula verify` tries: what is no norm, or no code for batches, is found out."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from modula.laws import BY_ITSELF, UNCHANGED, Broken, broken_laws, manifold_laws, norm_laws
from modula.manifolds import SPD, Implicit, Manifold, Sphere, TangentConstraint
from modula.norms import Frobenius, FromDual, Norm
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
    assert said(FromDual(f)) == [f"f(g) > 0 for g != 0 is missed by 1, for example on {example}"]


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


def test_what_is_no_number_is_refused_where_it_is_derived() -> None:
    assert said(FromDual(lambda g: g.norm(dim=-1))) == []


def test_a_law_is_tried_on_the_shape_itself_where_no_small_one_will_do() -> None:
    ones = torch.ones(9, dtype=torch.float64)

    def own(g: torch.Tensor) -> torch.Tensor:
        return (g @ ones).abs().sum() + g.norm()

    def squared(g: torch.Tensor) -> torch.Tensor:
        return own(g).square()

    (broken,) = broken_laws({"f": lambda x, _: 0 * squared(x) + 1}, (10, 9))
    assert broken.example["x"].shape == (10, 9)
    assert "f(-2 g) == 2 f(g)" in map(law_of, broken_laws(norm_laws(FromDual(squared)), (10, 9)))
    assert not list(broken_laws(norm_laws(FromDual(own)), (10, 9)))


def law_of(broken: Broken) -> str:
    return broken.law


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_no_norm_of_ours_breaks_a_law(norm: Norm) -> None:
    assert list(broken_laws(norm_laws(norm), (3, 2), corners=True)) == []


@pytest.mark.parametrize("manifold", [*MANIFOLDS, SPD()], ids=str)
def test_no_manifold_of_ours_breaks_a_law(manifold: Manifold) -> None:
    assert list(broken_laws(manifold_laws(manifold), (3, 2))) == []
    if not isinstance(manifold, Implicit):  # it takes its time
        assert list(broken_laws(manifold_laws(manifold), (3, 3))) == []
