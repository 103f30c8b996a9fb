"""Where weights shrink, against the formulas and against torch's own L2 penalty."""

import pytest
import torch
from stepping import Stepper, draw
from torch.testing import assert_close

from modula.duality import (
    Average,
    Behind,
    BehindMetric,
    Cautious,
    Coupled,
    Decay,
    Declaration,
    Decoupled,
    HeavyBall,
    Independent,
    NoMomentum,
    Setting,
    Sharp,
    program_of,
)
from modula.norms import L2, Diagonal, Memory, RMSToRMS

PLAIN = Setting(L2(2), potential=Sharp(), momentum=NoMomentum())
LR = 0.1


def stepped(decay: float | Decay | None, setting: Setting = PLAIN, steps: int = 1) -> torch.Tensor:
    declaration = Declaration(setting, budget=2.0, weight_decay=decay)
    found = Stepper(declaration, draw(4, 3), LR)
    for seed in range(1, steps + 1):
        found.step(draw(4, 3, seed=seed))
    return found.weight


def test_a_number_is_decoupled_decay() -> None:
    weight, gradient = draw(4, 3), draw(4, 3, seed=1)
    expected = (1 - LR * 2 * 0.3) * weight - LR * 2 * gradient
    assert_close(stepped(0.3), expected)
    assert_close(stepped(Decoupled(0.3)), expected)


def test_coupled_decay_is_an_l2_penalty_seen_by_momentum_and_metric() -> None:
    weight, mean, square = draw(4, 3), torch.zeros(4, 3).double(), torch.zeros(4, 3).double()
    for seed in (1, 2, 3):
        gradient = draw(4, 3, seed=seed) + 0.3 * weight
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        weight = weight - LR * 2 * mean / (square.sqrt() + 1e-8)
    metric = Diagonal(Memory(0.99, unbiased=False))
    setting = Setting(L2(2), metric=metric, potential=Sharp(), momentum=Average(0.9))
    assert_close(stepped(Coupled(0.3), setting, steps=3), weight)


def test_decay_behind_a_metric_goes_through_the_momentum_behind_it() -> None:
    weight, velocity = draw(4, 3), torch.zeros(4, 3).double()
    square = torch.ones(4, 3).double()
    for seed in (1, 2, 3):
        gradient = draw(4, 3, seed=seed)
        square = 0.99 * square + 0.01 * gradient**2
        velocity = 0.9 * velocity + gradient / (square + 1e-3) + 0.3 * weight
        weight = weight - LR * 2 * velocity
    metric = Diagonal(Memory(0.99, unbiased=False, first=1.0), floor=1e-3, power=1.0)
    setting = Setting(L2(2), metric=metric, potential=Sharp(), momentum=Behind(HeavyBall(0.9)))
    assert_close(stepped(BehindMetric(0.3), setting, steps=3), weight)


def test_decay_behind_a_metric_alone_is_decoupled_whatever_the_norms_scale() -> None:
    setting = Setting(RMSToRMS(), momentum=NoMomentum())
    assert_close(stepped(BehindMetric(0.3), setting), stepped(Decoupled(0.3), setting))


def test_cautious_decay_shrinks_only_where_the_step_does() -> None:
    weight, gradient = draw(4, 3), draw(4, 3, seed=1)
    agrees = weight * gradient > 0  # the step w - lr g goes towards zero there
    assert agrees.any() and not agrees.all()
    factor = torch.where(agrees, 1 - LR * 2 * 0.3, 1.0)
    assert_close(stepped(Cautious(0.3)), factor * weight - LR * 2 * gradient)


def test_independent_decay_follows_the_schedule_and_not_the_size_of_lr() -> None:
    weight, gradient = draw(4, 3), draw(4, 3, seed=1)
    moved = weight - LR * 2 * gradient
    assert_close(stepped(Independent(0.3, peak=LR)), moved - 0.3 * weight)
    assert_close(stepped(Independent(0.3, peak=2 * LR)), moved - 0.15 * weight)
    assert_close(stepped(Independent(0.3, peak=LR, fan_in=6)), moved - 0.6 * weight)


@pytest.mark.parametrize("kind", [Decoupled, Coupled, BehindMetric, Cautious])
def test_the_rate_is_live_and_zero_does_nothing(kind: type[Decay]) -> None:
    program = program_of(Declaration(PLAIN, weight_decay=kind(0.3)), (4, 3))
    assert program.live["weight_decay"] == 0.3
    assert_close(stepped(kind(0.0)), stepped(None))


def test_what_decays_refuse() -> None:
    for bad in (lambda: Decoupled(-0.1), lambda: Cautious(float("inf"))):
        with pytest.raises(ValueError, match="zero or positive"):
            bad()
    with pytest.raises(ValueError, match="zero or positive"):
        Declaration(PLAIN, weight_decay=-0.1)
    for peak, fan_in in ((0.0, None), (1.0, 0)):
        with pytest.raises(ValueError, match="positive peak and fan_in"):
            Independent(0.1, peak, fan_in)
