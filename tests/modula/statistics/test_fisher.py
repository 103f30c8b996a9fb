"""Fisher and Gauss-Newton passes against Jacobians and Hessians; what KFAC and FOOF promise."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.functional import hessian, jacobian
from torch.func import functional_call

from modula.statistics import (
    Collector,
    cross_entropy_gauss_newton_backward,
    gradients_kept,
    mse_gauss_newton_backward,
    sampled_labels,
)

MOMENTS = {"input_moment", "output_moment"}
close = torch.testing.assert_close
LOSSES: dict[str, tuple[Callable, Callable]] = {
    "cross_entropy": (cross_entropy_gauss_newton_backward, lambda y: F.cross_entropy(y, _zero(y))),
    "mse": (mse_gauss_newton_backward, lambda y: F.mse_loss(y, torch.zeros_like(y))),
}


def _zero(y: Tensor) -> Tensor:
    return torch.zeros((), dtype=torch.long)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def network(*sizes: int, activation: type[nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for fan_in, fan_out in zip(sizes, sizes[1:], strict=False):
        layers += [nn.Linear(fan_in, fan_out, bias=False), activation()]
    return nn.Sequential(*layers[:-1]).double()


def gauss_newton(model: nn.Module, name: str, x: Tensor, loss: Callable) -> Tensor:
    """Mean over examples of J^T H J, for the weight's entries in rows: from the definition."""
    weights = dict(model.named_parameters())
    total = 0
    for row in x:

        def output(weight: Tensor, row: Tensor = row) -> Tensor:
            return functional_call(model, {**weights, name: weight}, (row,))

        flat = jacobian(output, weights[name].detach()).flatten(1)
        total = total + flat.mT @ hessian(loss, model(row).detach()) @ flat
    return total.detach() / len(x)


def kfac(model: nn.Module, x: Tensor, backward: Callable[[Tensor], int]) -> dict[str, Tensor]:
    names = [name for name, _ in model.named_parameters()]
    collector = Collector(model, {name: MOMENTS for name in names})
    backward(model(x))
    taken = collector.take()
    collector.remove()
    return {
        name: torch.kron(taken[name]["output_moment"], taken[name]["input_moment"])
        for name in names
    }


@pytest.mark.parametrize(("backward", "loss"), LOSSES.values(), ids=LOSSES.keys())
def test_kfac_of_a_single_datum_is_the_gauss_newton_block(
    backward: Callable, loss: Callable
) -> None:
    model, x = network(4, 5, 3), random(1, 4)
    for name, found in kfac(model, x, backward).items():
        close(found, gauss_newton(model, name, x, loss))


def test_kfac_of_a_deep_linear_network_is_the_gauss_newton_block() -> None:
    model, x = network(4, 5, 2, 3, activation=nn.Identity), random(7, 4)
    for name, found in kfac(model, x, mse_gauss_newton_backward).items():
        close(found, gauss_newton(model, name, x, LOSSES["mse"][1]))


def test_kfac_is_an_approximation_elsewhere() -> None:
    """Otherwise the tests above would say nothing."""
    model, x = network(4, 5, 3), random(7, 4)
    found = kfac(model, x, mse_gauss_newton_backward)["0.weight"]
    assert not torch.allclose(found, gauss_newton(model, "0.weight", x, LOSSES["mse"][1]))


@pytest.mark.parametrize(("backward", "loss"), LOSSES.values(), ids=LOSSES.keys())
def test_the_last_output_moment_is_the_mean_hessian(backward: Callable, loss: Callable) -> None:
    layer, x = nn.Linear(4, 3).double(), random(6, 4)
    expected = sum(hessian(loss, layer(row).detach()) for row in x) / 6
    collector = Collector(layer, {"weight": {"output_moment"}})
    assert backward(layer(x)) == 18
    close(collector.take()["weight"]["output_moment"], expected.detach())
    for part in x.chunk(3):
        backward(layer(part), share=1 / 3)
    close(collector.take()["weight"]["output_moment"], expected.detach())


def test_classes_stand_second_as_in_cross_entropy() -> None:
    """(N, classes, positions) is the same as its positions as rows."""
    layer, x = nn.Linear(4, 3).double(), random(2, 5, 4)
    collector = Collector(layer, {"weight": {"output_moment"}})
    cross_entropy_gauss_newton_backward(layer(x).mT)
    found = collector.take()["weight"]["output_moment"]
    cross_entropy_gauss_newton_backward(layer(x.flatten(0, 1)))
    close(found, collector.take()["weight"]["output_moment"])


def test_sampled_labels_give_the_gauss_newton_on_average() -> None:
    """The mean over every label, weighted by its probability, is exact: here over many draws."""
    layer, x = nn.Linear(2, 3).double(), random(1, 2).expand(40_000, 2)
    collector = Collector(layer, {"weight": {"output_moment"}})
    logits = layer(x)
    cross_entropy_gauss_newton_backward(logits)
    exact = collector.take()["weight"]["output_moment"]
    labels = sampled_labels(logits, torch.Generator().manual_seed(0))
    F.cross_entropy(logits, labels).backward()
    close(collector.take()["weight"]["output_moment"], exact, rtol=0, atol=0.01)


@pytest.mark.parametrize("shape", [(3,), (5, 3), (5, 3, 2), (5, 3, 2, 4)], ids=str)
def test_sampled_labels_fit_cross_entropy(shape: tuple[int, ...]) -> None:
    sure = torch.randint(0, 3, shape[:1] * (len(shape) > 1) + shape[2:])
    dim = 1 if len(shape) > 1 else 0
    logits = 100.0 * F.one_hot(sure, 3).movedim(-1, dim).float()
    assert logits.shape == shape
    labels = sampled_labels(logits.requires_grad_())
    assert torch.equal(labels, sure)
    F.cross_entropy(logits, labels).backward()


def test_sampled_labels_repeat_with_their_generator() -> None:
    logits = random(50, 4)
    first, second = (sampled_labels(logits, torch.Generator().manual_seed(seed)) for seed in (0, 0))
    assert torch.equal(first, second)
    assert not torch.equal(first, sampled_labels(logits, torch.Generator().manual_seed(1)))


def test_extra_passes_leave_gradients_as_they_were() -> None:
    model, x = network(4, 5, 3), random(6, 4)
    model[0].weight.grad = kept = random(5, 4)
    before = kept.clone()
    with pytest.raises(KeyError), gradients_kept(model):
        mse_gauss_newton_backward(model(x))
        assert model[2].weight.grad is not None
        raise KeyError
    assert model[0].weight.grad is kept and torch.equal(kept, before)
    assert model[2].weight.grad is None


def test_foof_and_kfac_solve_linear_regression_in_one_step() -> None:
    """W - B^-1 G A^-1 is the least-squares solution; for half the squared error, B = I: FOOF."""
    layer, x, target = nn.Linear(4, 3, bias=False).double(), random(9, 4), random(9, 3)
    solution = torch.linalg.lstsq(x, target).solution.mT
    collector = Collector(layer, {"weight": MOMENTS})
    y = layer(x)
    with collector.paused():
        F.mse_loss(y, target).backward(retain_graph=True)
    with gradients_kept(layer):
        mse_gauss_newton_backward(y)
    found, gradient = collector.take()["weight"], layer.weight.grad
    natural = torch.linalg.solve(found["output_moment"], gradient)
    step = torch.linalg.solve(found["input_moment"], natural, left=False)
    close(layer.weight.detach() - step, solution)

    layer.zero_grad()
    (0.5 * (layer(x) - target).pow(2).sum(-1)).mean().backward()
    moment = collector.take()["weight"]["input_moment"]
    step = torch.linalg.solve(moment, layer.weight.grad, left=False)
    close(layer.weight.detach() - step, solution)
