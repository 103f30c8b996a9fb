"""Sharp on a manifold: as long as the tangent part of the gradient, in the dual norm."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import modula
from modula.duality import NoMomentum, Setting, Sharp, derive
from modula.manifolds import (
    Euclidean,
    Manifold,
    Oblique,
    SpectralBall,
    Sphere,
    Stiefel,
    Transposed,
    UnitConditionNumber,
)
from modula.norms import L2, Max, Norm, RMSToRMS

LR = 0.1


@pytest.mark.parametrize("manifold", [Sphere(ndim=2), Oblique(), Stiefel()], ids=str)
def test_under_a_frobenius_norm_it_is_riemannian_gradient_descent(manifold: Manifold) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 6, bias=False, dtype=torch.float64)
    net.weight.data = manifold.sample((6, 4), dtype=torch.float64)
    modula.declare(net, {"weight": modula.Geometry(L2(ndim=2), manifold)})
    optimizer = modula.SteepestDescent(net, LR, momentum=NoMomentum(), potential=Sharp())
    for _ in range(3):
        w, net.weight.grad = net.weight.detach().clone(), torch.randn(6, 4, dtype=torch.float64)
        optimizer.step()
        expected = manifold.project(w - LR * manifold.to_tangent(w, net.weight.grad))
        assert_close(net.weight.detach(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("norm", [RMSToRMS(), 2.0 * Max(2), L2(ndim=2)], ids=str)
@pytest.mark.parametrize(
    "manifold",
    [Euclidean(), Stiefel(), Transposed(Stiefel()), UnitConditionNumber(), SpectralBall()],
    ids=str,
)
def test_it_follows_the_unit_direction_at_the_length_of_what_that_gains(
    norm: Norm, manifold: Manifold
) -> None:
    shape = (4, 7) if isinstance(manifold, Transposed) else (7, 4)
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    weight = manifold.project(weight)
    unit = derive(Setting(norm, manifold), shape).first_direction(weight, gradient)
    sharp = derive(Setting(norm, manifold, potential=Sharp()), shape)
    assert_close(sharp.first_direction(weight, gradient), (gradient * unit).sum() * unit)
    assert_close(sharp.first_direction(weight, 3 * gradient), 3 * (gradient * unit).sum() * unit)
    assert sharp.after == derive(Setting(norm, manifold), shape).after
