"""A single batch with gradients far too long does not drive the length that is found from them."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.optimizer.outliers import MOST, limited, usual_size, without_outlier


def after(*numbers: float) -> Tensor:
    usual = None
    for number in numbers:
        usual = usual_size(torch.tensor(number, dtype=torch.float64), usual)
    assert usual is not None
    return usual


@pytest.mark.parametrize(
    ("numbers", "mean"),
    [
        ((3.0,), 3.0),
        ((2.0, 8.0), 4.0),  # the geometric mean, to the weights' 0.99
        ((0.0, 5.0, 0.0), 5.0),  # no gradient says nothing
        ((1.0,) * 99 + (1e4,), 1.16),
        ((1e-30,) * 100, 1e-30),
    ],
)
def test_the_usual_size(numbers: tuple[float, ...], mean: float) -> None:
    usual = after(*numbers)
    assert float(usual[0].exp()) == pytest.approx(mean, rel=0.01)
    assert int(usual[1]) == sum(number > 0 for number in numbers)


def test_a_number_is_limited_to_some_times_the_usual() -> None:
    ten = torch.tensor(10.0, dtype=torch.float64)
    assert limited(ten, None) == 10
    assert limited(ten, after(0.0)) == 10
    assert limited(ten, after(5.0)) == 10
    assert_close(limited(ten, after(1.0)), torch.tensor(MOST, dtype=torch.float64))


def test_all_gradients_are_shortened_alike_and_no_argument_is_changed() -> None:
    one, other = torch.full((2,), 30.0), torch.full((2, 2), 40.0)
    shortened, usual = without_outlier({1: one, 2: other}, after(1.0))
    length = (2 * 30.0**2 + 4 * 40.0**2) ** 0.5
    assert_close(shortened[1], one * MOST / length)
    assert_close(shortened[2], other * MOST / length)
    assert one[0] == 30
    assert usual is not None and int(usual[1]) == 2
    same, _ = without_outlier({1: one}, after(30.0))
    assert same[1] is one


def test_without_gradients_nothing_is_remembered() -> None:
    assert without_outlier({}, None) == ({}, None)


def test_a_length_beyond_float64_says_nothing() -> None:
    huge = torch.full((4,), 1e200, dtype=torch.float64)
    for usual in (None, after(1.0)):
        same, now = without_outlier({1: huge}, usual)
        assert same[1] is huge
        assert now is not None and now.isfinite().all()


def run(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        x = torch.randn(32, 8)
        loss = (net(x) - x[:, :4].tanh()).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        ((1e4 if step == 60 else 1.0) * loss).backward()
        optimizer.step()
    return losses


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def test_automatic_comes_back_after_one_outlier() -> None:
    net = network()
    losses = run(net, modula.recipes.automatic(net), range(90))
    assert max(losses[61:]) < 2 * max(losses[50:60])


def test_a_resumed_run_remembers_what_is_usual() -> None:
    net, other = network(), network()
    optimizer = modula.recipes.automatic(net)
    run(net, optimizer, range(55))
    saved = io.BytesIO()
    torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, saved)
    saved.seek(0)
    found = torch.load(saved, weights_only=True)
    other.load_state_dict(found["net"])
    resumed = modula.recipes.automatic(other)
    resumed.load_state_dict(found["optimizer"])
    assert run(net, optimizer, range(55, 70)) == run(other, resumed, range(55, 70))
