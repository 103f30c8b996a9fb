"""Any norm on a manifold given by one equation of the user's: solved like a sphere, exactly."""

import pytest
import torch
from torch import Tensor

from modula.duality import Setting, certify, derive
from modula.duality.setting.derive import rule_name
from modula.manifolds import Implicit, Sphere
from modula.norms import L1, Columns, FromDual, Max, Norm, Nuclear, Spectral


def of_length_one(w: Tensor) -> Tensor:
    return w.square().sum() - 1


def superellipse(w: Tensor) -> Tensor:
    return w.pow(4).sum() - 1


def orthonormal(w: Tensor) -> Tensor:
    return w.T @ w - torch.eye(w.shape[1], dtype=w.dtype)


def between(g: Tensor) -> Tensor:
    return g.abs().sum() + torch.linalg.svdvals(g).sum()


NORMS = [L1(2), Max(2), Spectral(), Nuclear(), Columns(Max()), FromDual(between)]


@pytest.mark.parametrize("constraint", [of_length_one, superellipse])
@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_its_direction_is_optimal(norm: Norm, constraint: type) -> None:
    manifold, shape = Implicit(constraint), (9, 5)
    weight, gradient = torch.randn(
        2, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    weight = manifold.project(weight)
    direction = derive(Setting(norm, manifold), shape).first_direction(weight, gradient)
    proof = certify(norm, manifold, weight, gradient, direction)
    assert proof.norm <= 1 + 1e-9 and proof.tangency < 1e-9
    assert abs(proof.gap) < 1e-5


def test_it_is_the_direction_on_the_sphere_that_it_describes() -> None:
    weight, gradient = torch.randn(
        2, 4, 6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    weight = Sphere(ndim=2).project(weight)
    found = [
        derive(Setting(Spectral(), manifold), (6, 3)).first_direction(weight, gradient)
        for manifold in (Implicit(of_length_one), Sphere(ndim=2))
    ]
    torch.testing.assert_close(*found, atol=1e-9, rtol=0)


def test_many_equations_are_left_to_the_general_solver() -> None:
    rules = [
        rule_name(Setting(Max(2), Implicit(constraint)), (9, 5))
        for constraint in (of_length_one, orthonormal)
    ]
    assert rules == ["hyperplane_root", "general_solver"]
