"""Metrics and rules of another package train weights as those of modula do."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import Declaration, Setting, Sharp
from modula.duality.setting.derive import rule_name
from modula.norms import L2, Max

METRIC = '''
"""S = the average of |g|, entry by entry."""

from dataclasses import dataclass

from modula.duality import Slot, line
from modula.duality.metrics.coordinates import Applied, Coordinates, coordinates
from modula.kernels.op import Op, elementwise_cost
from modula.norms import Metric
from modula.norms.maps.linear import Elementwise


@dataclass(frozen=True, repr=False)
class MeanSize(Metric):
    beta: float = 0.5
    power: float = 1.0


@dataclass(frozen=True)
class Power:
    power: float

    def __call__(self, size):
        return Elementwise(size**self.power)

    def cost(self, shape, itemsize=4):
        return elementwise_cost(1, 3)(shape, itemsize)


def _average(size, sample, *, beta):
    return beta * size + (1 - beta) * sample.abs()


average_size = Op("average_size", _average, elementwise_cost(3, 3))


@coordinates.register
def _(metric: MeanSize, shape, whole):
    power = metric.power * (1.0 if whole else 0.5)
    return Coordinates(
        before=(line("size", average_size, "size", "sample", beta=metric.beta),),
        core=(Applied(Power(power), ("size",)),),
        slots=(("size", Slot(fill=1.0)),),
    )
'''

RULE = '''
"""Half of the steepest direction, so that one sees whose rule it was."""

from dataclasses import dataclass

from modula.duality import Derived, derives, line
from modula.kernels.op import Op, elementwise_cost
from modula.manifolds import Euclidean
from modula.norms import Max


@dataclass(frozen=True, repr=False)
class Largest(Max):
    """The largest entry, under another name."""


half_sign = Op("half_sign", lambda x: x.sign() / 2, elementwise_cost(2, 2))


@derives(Largest, Euclidean)
def halved_signs(setting, shape):
    return Derived((line("direction", half_sign, "query"),))
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of this text from outside of modula."""
    monkeypatch.syspath_prepend(tmp_path)

    def imported(name: str, text: str) -> Any:
        (tmp_path / f"{name}.py").write_text(text)
        return import_module(name)

    return imported


def stepped(setting: Setting, gradient: Tensor) -> Tensor:
    """How far a weight of zeros has moved, downwards, after one step at lr = 1."""
    net = nn.ParameterDict({"weight": torch.zeros_like(gradient)})
    groups = [modula.Group({"weight": Declaration(setting)})]
    optimizer = modula.SteepestDescent(net, 1.0, groups=groups)
    net["weight"].grad = gradient.clone()
    optimizer.step()
    return -net["weight"].detach()


GRADIENT = torch.tensor([[3.0, -1.0], [0.5, -2.0]])


def test_a_metric_of_another_package_trains(package: Any) -> None:
    """After one step S = (1 + |g|) / 2, and the step is S^-1 g."""
    metric = package("outside_metric", METRIC).MeanSize()
    step = stepped(Setting(L2(2), metric=metric, potential=Sharp()), GRADIENT)
    assert_close(step, GRADIENT / ((1 + GRADIENT.abs()) / 2))


def test_a_norm_stands_under_a_metric_of_another_package(package: Any) -> None:
    """C^-1 sign(C^-T g) with C = S^(1/2), one entry at a time."""
    metric = package("outside_metric_under_norm", METRIC).MeanSize()
    step = stepped(Setting(Max(2), metric=metric), GRADIENT)
    assert_close(step, GRADIENT.sign() / ((1 + GRADIENT.abs()) / 2) ** 0.5)


def test_a_rule_of_another_package_is_used(package: Any) -> None:
    """Its norm derives from Max, whose rule is passed over for the nearer one."""
    setting = Setting(package("outside_rule", RULE).Largest(2))
    assert rule_name(setting, (2, 2)) == "halved_signs"
    assert_close(stepped(setting, GRADIENT), GRADIENT.sign() / 2)


def test_a_metric_that_nothing_estimates_is_refused(package: Any) -> None:
    unregistered = METRIC[: METRIC.index("@coordinates.register")]
    metric = package("outside_metric_without_coordinates", unregistered).MeanSize()
    with pytest.raises(TypeError, match="nothing estimates it: register it"):
        stepped(Setting(L2(2), metric=metric, potential=Sharp()), GRADIENT)
