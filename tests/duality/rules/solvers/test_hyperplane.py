"""Tangents that are a hyperplane: jumps and a vector, worked out by hand."""

import pytest
import torch
from directions import direction
from torch.testing import assert_close

from modula.duality.rules.solvers.hyperplane import steepest_in_hyperplane
from modula.manifolds import Sphere
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.norms import Max, Spectral

JUMP = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
DIAGONAL = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))


def test_spectral_sphere_at_a_jump() -> None:
    found = direction(Spectral(), SpectralSphere(2.0), DIAGONAL, JUMP)
    expected = torch.tensor([[0.0, 0.624695], [0.0, 0.780869]], dtype=torch.float64)
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((JUMP * found).sum()) == pytest.approx(41**0.5, abs=1e-6)


def test_frobenius_sphere_at_a_jump() -> None:
    found = direction(Spectral(), Sphere(5**0.5, ndim=2), DIAGONAL, JUMP)
    expected = torch.tensor([[-0.329252, 0.752577], [0.376288, 0.658505]], dtype=torch.float64)
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert float((JUMP * found).sum()) == pytest.approx(28.25**0.5, abs=1e-6)


def test_a_vector_under_the_max_norm_on_the_sphere_by_hand() -> None:
    # W = e1: the tangents have no first entry, so the others take the sign of the gradient.
    weight = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    normal_part = torch.tensor([[5.0, -2.0, 0.1]], dtype=torch.float64)
    gradient = Sphere().to_tangent(weight, normal_part)
    found, least = steepest_in_hyperplane(Max(), weight.expand_as(gradient), gradient)
    assert_close(found, torch.tensor([[0.0, -1.0, 1.0]], dtype=torch.float64))
    assert_close(least, torch.tensor([2.1], dtype=torch.float64))
