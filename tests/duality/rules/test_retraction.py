"""After a step a weight comes back by its manifold's own retraction, from the point it left."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import NoMomentum
from modula.manifolds import SPD, Isospectral, Manifold, SpectralSphere, Transposed
from modula.norms import L2, Max, Norm, RMSToRMS

LR, DECAY = 0.1, 0.5
FROBENIUS = L2(ndim=2)
EVERY_OWN = [Isospectral(), SpectralSphere(2.0), Transposed(SpectralSphere(2.0))]


def gradients(shape: tuple[int, ...], steps: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, *shape, dtype=torch.float64, generator=generator)


def network(
    manifold: Manifold, shape: tuple[int, int], copies: int = 1, norm: Norm = FROBENIUS
) -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Linear(*shape[::-1], bias=False, dtype=torch.float64) for _ in range(copies))
    net = nn.Sequential(*layers)
    geometry = modula.Geometry(norm, manifold)
    modula.declare(net, {f"{i}.weight": geometry for i in range(copies)})
    return net


@pytest.mark.parametrize("decay", [0.0, DECAY])
@pytest.mark.parametrize("manifold", EVERY_OWN, ids=str)
@pytest.mark.filterwarnings("ignore")
def test_every_step_ends_where_the_retraction_says(manifold: Manifold, decay: float) -> None:
    shape = (5, 4)
    net = network(manifold, shape, copies=2)
    momentum = NoMomentum()
    optimizer = modula.SteepestDescent(net, LR, momentum=momentum, weight_decay=decay)
    expected = [layer.weight.detach().clone() for layer in net]
    for pair in gradients((2, *shape), 4):
        for layer, gradient in zip(net, pair, strict=True):
            layer.weight.grad = gradient.clone()
        optimizer.step()
        for i, (w, gradient) in enumerate(zip(expected, pair, strict=True)):
            tangent = -manifold.to_tangent(w, -gradient)
            step = -LR * decay * w - LR * tangent / tangent.norm()
            expected[i] = manifold.retract(w, step)
    for layer, w in zip(net, expected, strict=True):
        assert_close(layer.weight.detach(), w, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(6, 6), (7, 4), (4, 7), (5, 1)], ids=str)
@pytest.mark.parametrize("norm", [FROBENIUS, RMSToRMS(), Max(2)], ids=str)
def test_a_weight_without_a_declared_spectrum_keeps_its_own(
    norm: Norm, shape: tuple[int, int]
) -> None:
    net = network(Isospectral(), shape, norm=norm)
    before = torch.linalg.svdvals(net[0].weight.detach())
    optimizer = modula.SteepestDescent(net, LR)
    start = net[0].weight.detach().clone()
    for gradient in gradients(shape, 30):
        net[0].weight.grad = gradient.clone()
        optimizer.step()
    assert norm(net[0].weight.detach() - start) > LR / 2
    assert_close(torch.linalg.svdvals(net[0].weight.detach()), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("norm", [FROBENIUS, RMSToRMS()], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_eigenvalues_that_want_to_be_negative_stay_near_zero(norm: Norm) -> None:
    """SPD's own retraction throws them by lr^2 / (2 lambda), which is thousands of steps."""
    net = network(SPD(), (6, 6), norm=norm)
    w, (target,) = net[0].weight, gradients((6, 6), 1)
    target = (target + target.mT) / 2
    values, basis = torch.linalg.eigh(target)
    nearest = (basis * values.clamp(min=0)) @ basis.mT
    optimizer = modula.SteepestDescent(net, LR, momentum=NoMomentum())
    for _ in range(100):
        w.grad = w.detach() - target
        optimizer.step()
        assert torch.linalg.eigvalsh(w.detach())[0] > 0
    assert (w.detach() - nearest).norm() < 6 * LR


@pytest.mark.parametrize("lr", [0.02, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9)], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_unit_condition_numbers_stay_however_long_the_steps(
    shape: tuple[int, int], lr: float
) -> None:
    torch.manual_seed(0)
    net = nn.Linear(*shape[::-1], bias=False)
    optimizer = modula.recipes.unit_condition(net, lr)
    for gradient in gradients(shape, 60):
        net.weight.grad = gradient.float()
        optimizer.step()
        s = torch.linalg.svdvals(net.weight.detach())
        assert s[0] / s[-1] <= 1 + 1e-5


def test_the_spectral_sphere_does_not_gather_singular_values_at_its_radius() -> None:
    """As projecting would, which cuts every value above: the sphere has no tangent space there."""
    net = network(SpectralSphere(2.0), (6, 4), norm=RMSToRMS())
    optimizer = modula.SteepestDescent(net, LR)
    for gradient in gradients((6, 4), 60):
        net[0].weight.grad = gradient.clone()
        optimizer.step()
    first, second, *_ = torch.linalg.svdvals(net[0].weight.detach()).tolist()
    assert first == pytest.approx(2.0, abs=1e-12)
    assert second < 2.0 - 1e-3
