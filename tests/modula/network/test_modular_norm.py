"""A network's product manifold and modular norm against its optimizer, and against certificates."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import Setting, certify, derive
from modula.manifolds import Oblique, SpectralBall, Sphere, Stiefel
from modula.network.algebra import budgets_of
from modula.norms import L2, Max, RMSToRMS, Rows

LR = 0.1


def network() -> modula.Module:
    torch.manual_seed(0)
    hidden = modula.Linear(6, 6, manifold=Stiefel())
    net = (
        modula.Linear(3, 6, norm=Max(2), manifold=SpectralBall(0.7))
        @ modula.ReLU()
        @ (0.5 * modula.Identity() + 0.5 * hidden)
        @ modula.Linear(6, 4, norm=Rows(L2()), manifold=Oblique())
    )
    return net.double()


def filled(net: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Weights on their manifolds and gradients, by name."""
    weights = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    weights = modula.product_manifold(net).project(weights)
    net.load_state_dict(weights)
    for weight in net.parameters():
        weight.grad = torch.randn_like(weight)
    return weights, {n: w.grad for n, w in net.named_parameters() if w.grad is not None}


def steepest(net: nn.Module, weights: dict[str, Tensor], g: dict[str, Tensor]) -> dict[str, Tensor]:
    """argmax <g, D> over ||D|| <= 1 in the modular norm, D tangent to the product."""
    product, norm, found = modula.product_manifold(net), modula.modular_norm(net), {}
    for name, _, factor in norm.parts:
        setting = Setting(norm.norms[name], product.manifolds[name])
        derived = derive(setting, weights[name].shape)
        found[name] = derived.first_direction(weights[name], g[name])
        assert factor == pytest.approx(1 / budgets_of(net)[name])
    return found


def test_a_step_of_the_optimizer_is_a_step_of_the_product_manifold_in_the_modular_norm() -> None:
    net = network()
    weights, gradients = filled(net)
    product, norm = modula.product_manifold(net), modula.modular_norm(net)
    d = steepest(net, weights, gradients)
    expected = product.retract(weights, {name: -LR * x for name, x in d.items()})
    optimizer = modula.SteepestDescent(net, LR, momentum=modula.duality.NoMomentum())
    optimizer.step()
    for name, weight in net.named_parameters():
        # The compiled retraction of Stiefel is a polynomial: equal to its accuracy.
        assert_close(weight.detach(), expected[name], rtol=0, atol=1e-9)
    moved = dict(net.named_parameters())
    assert product.residual({n: w.detach() for n, w in moved.items()}) < 1e-9
    assert float(norm(d)) == pytest.approx(1.0, abs=1e-6)


def test_the_step_is_the_steepest_of_the_whole_network() -> None:
    """<g, D> adds up; no tangent of modular norm one gains more than the certified bounds allow."""
    net = network()
    weights, gradients = filled(net)
    product, norm = modula.product_manifold(net), modula.modular_norm(net)
    d = steepest(net, weights, gradients)
    gained, bound = 0.0, 0.0
    for name, manifold in product.parts:
        proof = certify(norm.norms[name], manifold, weights[name], gradients[name], d[name])
        gain = float((gradients[name] * d[name]).sum())
        gained, bound = gained + gain, bound + gain / (1 - proof.gap)
    assert 0.97 * bound < gained <= bound + 1e-9
    for _ in range(50):
        other = product.to_tangent(weights, {n: -torch.randn_like(w) for n, w in weights.items()})
        size = float(norm(other))
        gain = -sum(float((gradients[n] * other[n]).sum()) for n in other) / size
        assert gain <= bound


def test_the_norm_of_a_model_without_masses_is_the_largest_norm_of_a_weight() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    modula.declare(model, {"0.weight": modula.Geometry(L2(2), Sphere(ndim=2))})
    assert (
        str(modula.product_manifold(model)) == "{0.weight: Sphere(ndim=2), 1.weight: Euclidean()}"
    )
    weights = {"0.weight": torch.eye(4), "1.weight": 5 * torch.eye(4)}
    assert_close(modula.modular_norm(model)(weights), torch.tensor(5.0))


def test_a_weight_of_mass_zero_has_no_step_of_finite_norm() -> None:
    net = modula.Linear(2, 3) @ modula.Linear(3, 2)
    net.parts[0].weigh_(0.0)  # type: ignore[operator]
    with pytest.raises(ValueError, match=r"0\.weight has mass 0"):
        modula.modular_norm(net)
    net.parts[0].weight.requires_grad_(False)  # type: ignore[union-attr]
    assert modula.modular_norm(net).norms == {"1.weight": RMSToRMS()}
