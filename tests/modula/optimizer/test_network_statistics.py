"""Statistics of the network are taken once a step, of the passes that they are of."""

import copy
import logging

import pytest
import torch
from gradients import fill_gradients
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.optimizer.network_statistics import NetworkStatistics


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False))


def send_back(net: nn.Module, x: Tensor, scale: float = 1.0) -> None:
    (scale * net(x).square().mean()).backward()


@pytest.mark.parametrize(
    ("statistic", "scaled"),
    [
        ("input_moment", False),
        ("sampled_input_moment", False),
        ("output_moment", True),
        ("sampled_gradient", True),
    ],
)
def test_what_goes_into_a_layer_does_not_depend_on_the_scale_of_the_loss(
    statistic: str, scaled: bool
) -> None:
    assert NetworkStatistics(network(), {"0.weight": [statistic]}).is_scaled == scaled


def test_they_are_taken_once() -> None:
    net, x = network(), torch.randn(4, 6)
    statistics = NetworkStatistics(net, {"0.weight": ["input_moment"], "2.weight": []})
    send_back(net, x)
    taken = statistics.take()
    assert {name: [*each] for name, each in taken.items()} == {"0.weight": ["input_moment"]}
    assert_close(taken["0.weight"]["input_moment"], x.T @ x / 4)
    assert statistics.take() == {}


def test_only_what_is_expected_is_measured() -> None:
    net = network()
    statistics = NetworkStatistics(net, {"0.weight": ["input_moment", "output_moment"]})
    statistics.expect({"0.weight": ["output_moment"]})
    send_back(net, torch.randn(4, 6))
    assert [*statistics.take()["0.weight"]] == ["output_moment"]


def test_gradients_at_sampled_labels_add_up_and_leave_those_of_the_loss_alone() -> None:
    net, parts = network(), torch.randn(2, 4, 6)
    send_back(net, parts.flatten(0, 1))
    before = [weight.grad.clone() for weight in net.parameters()]
    statistics = NetworkStatistics(net, {"2.weight": ["sampled_gradient"]})
    for part in parts:
        with statistics.sampled():
            send_back(net, part, scale=8.0)
    for weight, gradient in zip(net.parameters(), before, strict=True):
        assert torch.equal(weight.grad, gradient)
    taken = statistics.take(loss_scale=16.0)
    assert_close(taken, {"2.weight": {"sampled_gradient": before[1]}})


def test_an_overflow_at_sampled_labels_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    net = network()
    statistics = NetworkStatistics(net, {"2.weight": ["sampled_gradient"]})
    with statistics.sampled():
        send_back(net, torch.randn(4, 6), scale=1e30)
    with caplog.at_level(logging.WARNING):
        assert statistics.take() == {"2.weight": {}}
    assert "too large to be squared: the metric leaves them out" in caplog.text


@pytest.mark.parametrize("passes", [0, 1])
def test_a_single_microbatch_is_refused(passes: int) -> None:
    net = network()
    statistics = NetworkStatistics(net, {"0.weight": ["microbatch_gradients"]})
    for weight in net.parameters():
        weight.grad = torch.zeros_like(weight)
    for _ in range(passes):
        send_back(net, torch.randn(4, 6))
    with pytest.raises(ValueError, match=rf"0\.weight .* this step had {passes} for it"):
        statistics.take()


def test_no_step_inside_a_context() -> None:
    net = network()
    statistics = NetworkStatistics(net, {})
    statistics.refuse_step()
    with statistics.perturbed({"0.weight": torch.ones(8, 6)}), statistics.sampled():
        with pytest.raises(RuntimeError, match=r"inside optimizer\.sampled\(\)"):
            statistics.refuse_step()
    statistics.refuse_step()


def test_a_copy_asks_for_its_network() -> None:
    net = network()
    optimizer = modula.recipes.kfac(net)
    assert optimizer.asks_for("sampled_output_moment")
    twin_net, twin = copy.deepcopy((net, optimizer))
    assert not twin.asks_for("sampled_output_moment")
    fill_gradients(twin_net, 0)
    with pytest.raises(RuntimeError, match=r"is a copy .*: call optimizer\.watch\(model\)"):
        twin.step()
    twin.watch(twin_net)
    assert twin.asks_for("sampled_output_moment")
    fill_gradients(twin_net, 0)
    twin.step()


def test_a_copy_whose_metrics_read_gradients_alone_needs_no_network() -> None:
    net = network()
    twin_net, twin = copy.deepcopy((net, modula.recipes.adamw(net)))
    fill_gradients(twin_net, 0)
    twin.step()
    assert not torch.equal(twin_net[0].weight, net[0].weight)
