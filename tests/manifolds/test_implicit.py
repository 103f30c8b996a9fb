"""Implicit against the manifolds whose functions it is given."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds.base import Manifold
from modula.manifolds.implicit import Implicit
from modula.manifolds.jacobian import Jacobian
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.unit_condition_number import UnitConditionNumber


def random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def orthonormal(w: Tensor) -> Tensor:
    return w.T @ w - torch.eye(w.shape[1], dtype=w.dtype)


def of_length_two(w: Tensor) -> Tensor:
    return w.square().sum() - 4


def of_unit_condition(w: Tensor) -> Tensor:
    gram = w.T @ w
    return gram - gram.trace() / w.shape[1] * torch.eye(w.shape[1], dtype=w.dtype)


TWINS = [
    (Implicit(orthonormal), Stiefel()),
    (Implicit(of_length_two, ndim=1), Sphere(2.0)),
    (Implicit(of_length_two), Sphere(2.0, ndim=2)),
]
twins = pytest.mark.parametrize(("implicit", "exact"), TWINS, ids=str)


@twins
@pytest.mark.parametrize("shape", [(6, 3), (4, 4), (2, 3, 7, 2)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_same_points(
    implicit: Manifold, exact: Manifold, shape: tuple[int, ...], scale: float
) -> None:
    x = scale * random(*shape)
    assert_close(implicit.project(x), exact.project(x))
    point, v = exact.project(x), random(*shape, seed=1)
    assert_close(implicit.retract(point, v), exact.retract(point, v))
    assert_close(implicit.residual(point), exact.residual(point), atol=1e-12, rtol=0)


@twins
@pytest.mark.parametrize("shape", [(6, 3), (4, 4), (2, 3, 7, 2)])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_the_same_tangent_space(
    implicit: Manifold, exact: Manifold, shape: tuple[int, ...], scale: float
) -> None:
    point, v = exact.project(random(*shape)), random(*shape, seed=1)
    assert_close(implicit.to_tangent(point, scale * v) / scale, exact.to_tangent(point, v))


def test_the_same_tangent_space_where_the_equations_are_unequal() -> None:
    """Here conjugate gradients need as many products as the Jacobian has singular values."""
    w, v = UnitConditionNumber().project(random(6, 3)), random(6, 3, seed=1)
    exact = UnitConditionNumber().to_tangent(w, v)
    assert_close(Implicit(of_unit_condition).to_tangent(w, v), exact)


def test_one_equation_is_told_from_many() -> None:
    here = torch.ones(6, 3, dtype=torch.float64)
    assert Implicit(of_length_two).is_hypersurface((6, 3))
    assert not Implicit(orthonormal).is_hypersurface((6, 3))
    assert Implicit(orthonormal).is_hypersurface((2, 6, 1))  # a batch of single columns
    assert not Implicit(lambda w: here @ w.T - 1).is_hypersurface((6, 3))  # knows one dtype


def test_shortest_step_is_the_pseudo_inverse() -> None:
    a, b = random(4, 7) * torch.logspace(0, -3, 4, dtype=torch.float64)[:, None], random(2, 4)
    jacobian = Jacobian(lambda w: w @ a.T, random(2, 7))
    assert_close(jacobian.shortest_step(b), b @ torch.linalg.pinv(a).T)
    twice = torch.cat([a, a])  # deficient, and asked for what it cannot give
    jacobian, target = Jacobian(lambda w: w @ twice.T, random(2, 7)), random(2, 8)
    assert_close(jacobian.shortest_step(target), target @ torch.linalg.pinv(twice).T)


def test_a_manifold_nobody_has_named() -> None:
    """Vectors on a torus around the z axis: tangents checked by the two circles."""

    def torus(w: Tensor) -> Tensor:
        return (torch.hypot(w[0], w[1]) - 2).square() + w[2].square() - 1

    a, b = torch.tensor(0.7, dtype=torch.float64), torch.tensor(2.1, dtype=torch.float64)
    ring = torch.stack([a.cos(), a.sin(), torch.zeros_like(a)])
    up = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    point, normal = (2 + b.cos()) * ring + b.sin() * up, b.cos() * ring + b.sin() * up
    v = random(3)
    implicit = Implicit(torus, ndim=1)
    assert_close(implicit.to_tangent(point, v), v - normal * (normal @ v))
    assert_close(implicit.project(point + 0.01 * normal), point)


def test_it_works_where_gradients_are_off() -> None:
    x = random(5, 2)
    with torch.no_grad():
        assert_close(Implicit(orthonormal).project(x), Stiefel().project(x))
    assert not Implicit(orthonormal).project(x).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("constraint", "x"),
    [
        (of_length_two, torch.zeros(3, 2)),  # the gradient of a square vanishes at zero
        (orthonormal, torch.ones(3, 2)),  # a missing column stays missing
        (lambda w: (w.square().sum() - 1).square(), torch.ones(3, 2)),  # a double root
        (lambda w: w[0, 0] * torch.tensor([1.0, 1.0]) - torch.tensor([0, 1]), torch.ones(3, 2)),
    ],
)
def test_a_rank_deficient_jacobian_is_told(
    constraint: object, x: Tensor, dtype: torch.dtype
) -> None:
    with pytest.raises(ValueError, match="Jacobian of Implicit.* is rank-deficient at 1 of 1"):
        Implicit(constraint).project(x.to(dtype))  # type: ignore[arg-type]


@pytest.mark.parametrize("x", [torch.ones(3, 2), torch.full((3, 2), float("nan"))])
def test_a_constraint_that_cannot_be_met_is_told(x: Tensor) -> None:
    with pytest.raises(ValueError, match=r"no point within 100 Gauss-Newton steps"):
        Implicit(lambda w: w.square().sum() + 1).project(x)


@pytest.mark.parametrize("d", [2, 3, 1000])
def test_no_point_is_refused_by_accident(d: int) -> None:
    """Spheres and hyperplanes have no bad points but 0, whichever way a probe may look."""
    x = random(2000, d).float()
    assert (Implicit(of_length_two, ndim=1).residual(x) >= 0).all()
    assert_close(Implicit(of_length_two, ndim=1).project(x), Sphere(2.0).project(x))
    a = random(d, seed=1).float()
    landed = Implicit(lambda w: a @ w - 1, ndim=1).project(x)
    assert_close(landed @ a, torch.ones(2000), atol=1e-3, rtol=0)


def test_a_subspace_holds_zero() -> None:
    zero = torch.zeros(2, 3)
    assert torch.equal(Implicit(lambda w: w.sum(), ndim=1).project(zero), zero)


def test_bad_arguments_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match="ndim >= 1"):
        Implicit(orthonormal, ndim=0)
    with pytest.raises(ValueError, match="at least 2 dims"):
        Implicit(orthonormal).project(torch.ones(3))


def test_names() -> None:
    assert str(Implicit(orthonormal)) == "Implicit(orthonormal)"
    assert str(Implicit(of_length_two, ndim=1)) == "Implicit(of_length_two, ndim=1)"


def test_what_is_no_function_is_no_constraint() -> None:
    not_callable: Any = 3
    with pytest.raises(ValueError, match="Implicit needs a function that is zero on the manifold"):
        Implicit(not_callable)
