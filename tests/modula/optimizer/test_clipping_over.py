"""Generalised clipping in other norms over the weights of a network, against formulas as loops."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import Average, Behind, Clip, NoMomentum
from modula.norms import L1, L2, RMS, Frobenius, Max, Norm

SIZES = pytest.mark.parametrize("size", [0.01, 10.0], ids=["below rho", "above it"])


def net_of(matrices: Norm, vectors: Norm) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double()
    return modula.declare(net, {"*.weight": matrices, "*.bias": vectors})


def with_gradients(net: nn.Module, size: float) -> list[tuple[Tensor, Tensor]]:
    """(weight before the step, gradient) of each weight."""
    generator = torch.Generator().manual_seed(1)
    for weight in net.parameters():
        weight.grad = size * torch.randn(weight.shape, generator=generator, dtype=weight.dtype)
    return [(w.detach().clone(), w.grad.clone()) for w in net.parameters()]


def clipping(net: nn.Module, over: Norm, rho: float = 1.0) -> None:
    modula.SteepestDescent(net, 0.1, momentum=NoMomentum(), potential=Clip(rho, over)).step()


@SIZES
def test_over_l2_of_euclidean_norms_it_is_torchs_clipping_by_the_global_norm(size: float) -> None:
    ours, theirs = (net_of(Frobenius(), L2()) for _ in range(2))
    with_gradients(ours, size)
    with_gradients(theirs, size)
    clipping(ours, L2())
    nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
    torch.optim.SGD(theirs.parameters(), 0.1).step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert_close(mine, other, rtol=1e-6, atol=1e-9)


@SIZES
@pytest.mark.parametrize("over", [Max(), L2(), L1(), RMS()], ids=str)
def test_it_is_the_formula_weight_by_weight(over: Norm, size: float) -> None:
    """Signs and RMS-normalised vectors, whose duality maps are exact."""
    net = net_of(Max(2), RMS())
    before = with_gradients(net, size)
    directions = [g.sign() if g.ndim > 1 else g / g.square().mean().sqrt() for _, g in before]
    gains = [float((g * d).sum()) for (_, g), d in zip(before, directions, strict=True)]
    n = len(gains)
    dual, shares = {
        "Max": (sum(gains), [1.0] * n),
        "L1": (max(gains), [float(gain == max(gains)) for gain in gains]),
        "L2": (norm := sum(gain**2 for gain in gains) ** 0.5, [gain / norm for gain in gains]),
        "RMS": (norm * n**0.5, [gain / norm * n**0.5 for gain in gains]),
    }[type(over).__name__]
    clipping(net, over, rho=2.0)
    for weight, (w, _), d, share in zip(net.parameters(), before, directions, shares, strict=True):
        assert_close(weight.detach(), w - 0.1 * min(2.0, dual) * share * d)


def test_a_step_is_as_long_as_rho_in_the_norm_of_the_network() -> None:
    net = net_of(Max(2), RMS())
    before = with_gradients(net, 10.0)
    clipping(net, L2(), rho=0.5)
    lengths = [
        float((Max(2) if w.ndim > 1 else RMS())(weight.detach() - w))
        for weight, (w, _) in zip(net.parameters(), before, strict=True)
    ]
    assert sum(length**2 for length in lengths) ** 0.5 == pytest.approx(0.1 * 0.5)


def test_an_average_of_directions_is_shared_out_and_kept_whole() -> None:
    net = net_of(Max(2), RMS())
    average = Behind(Average(0.9))
    optimizer = modula.SteepestDescent(net, 0.1, momentum=average, potential=Clip(2.0, L2()))
    velocities = [torch.zeros_like(weight) for weight in net.parameters()]
    for size in (0.01, 10.0, 0.1):
        before = with_gradients(net, size)
        directions = [g.sign() if g.ndim > 1 else g / g.square().mean().sqrt() for _, g in before]
        velocities = [0.9 * v + 0.1 * d for v, d in zip(velocities, directions, strict=True)]
        gains = [float((g * v).sum()) for (_, g), v in zip(before, velocities, strict=True)]
        norm = sum(gain**2 for gain in gains) ** 0.5
        optimizer.step()
        for weight, (w, _), v, gain in zip(
            net.parameters(), before, velocities, gains, strict=True
        ):
            assert_close(weight.detach(), w - 0.1 * min(2.0, norm) * gain / norm * v)


def test_weights_without_a_gradient_have_no_share() -> None:
    net = net_of(Max(2), RMS())
    before = with_gradients(net, 1.0)
    for weight in list(net.parameters())[1:]:
        weight.grad = None
    clipping(net, L2(), rho=0.5)
    first, *others = zip(net.parameters(), before, strict=True)
    assert_close(first[0].detach(), first[1][0] - 0.05 * first[1][1].sign())
    assert all(torch.equal(weight.detach(), w) for weight, (w, _) in others)


def test_what_is_no_norm_of_one_number_a_weight_is_refused() -> None:
    with pytest.raises(ValueError, match="one number a weight"):
        Clip(1.0, Max(2))
    with pytest.raises(ValueError, match="Clip needs a"):
        Clip(1.0, "L2")


def test_the_modular_norm_goes_unsaid_as_in_states_saved_before_there_was_a_choice() -> None:
    assert repr(Clip(2.0)) == "Clip(rho=2.0)"
    assert repr(Clip(2.0, L2())) == "Clip(rho=2.0, over=L2())"
    assert repr(Clip(2.0, RMS())) == "Clip(rho=2.0, over=RMS())"
