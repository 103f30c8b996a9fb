"""Scalers against golden values, plain loops and both sides of a graft computed by hand."""

from math import sqrt

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from stepping import Stepper, draw
from torch import Tensor
from torch.testing import assert_close

from modula.duality import (
    Average,
    Declaration,
    EntryMoments,
    Graft,
    Hyperball,
    LimitRMS,
    MatchRMS,
    NoMomentum,
    RowMoments,
    Scaler,
    Setting,
    Sharp,
    Unbiased,
    program_of,
)
from modula.kernels.spectral.polar import exact_polar
from modula.manifolds import Sphere
from modula.norms import L2, Diagonal, Kronecker, Memory, Spectral, Sum

PLAIN = Setting(L2(2), potential=Sharp(), momentum=NoMomentum())
POLAR = Setting(Spectral(), momentum=NoMomentum())
ADAM = Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Unbiased(0.9))
SHAMPOO = Setting(
    L2(2),
    metric=Kronecker(fit=Sum(), damping=0.0, every=1, square=False),
    potential=Sharp(),
    momentum=Unbiased(0.9),
)


def stepper(setting: Setting, *scalers: Scaler, weight: Tensor | None = None) -> Stepper:
    at = torch.zeros(4, 3, dtype=torch.float64) if weight is None else weight
    return Stepper(Declaration(setting, scalers=scalers), at)


def rms(x: Tensor) -> Tensor:
    return x.square().mean().sqrt()


def test_normuons_golden_first_step() -> None:
    square = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    tall = torch.tensor([[3.0, 4.0], [0.0, 5.0], [1.0, 0.0]], dtype=torch.float64)
    polar = exact_polar(square)  # its rows are equal already
    found = stepper(PLAIN, RowMoments(0.95), weight=torch.zeros_like(square))
    assert_close(found.step(polar), polar)
    found = stepper(PLAIN, RowMoments(0.95), weight=torch.zeros_like(tall))
    step = found.step(exact_polar(tall))
    expected = [[0.712795, 0.398234], [-0.338831, 0.742873], [0.799165, -0.167337]]
    assert_close(step, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(step.norm(dim=1), torch.full((3,), sqrt(2 / 3), dtype=torch.float64))


@pytest.mark.parametrize(
    ("scaler", "dims"), [(RowMoments(0.9), (1,)), (EntryMoments(0.9), ())], ids=str
)
def test_evened_directions_are_the_plain_loop(scaler: Scaler, dims: tuple[int, ...]) -> None:
    found, moment = stepper(PLAIN, scaler), 0.0
    for seed in range(5):
        gradient = draw(4, 3, seed=seed)
        square = gradient**2
        moment = 0.9 * moment + 0.1 * (square.mean(dims, keepdim=True) if dims else square)
        even = gradient / moment**0.5
        assert_close(found.step(gradient), even * gradient.norm() / even.norm())


def test_a_silent_row_stays_and_wakes_up() -> None:
    found, gradient = stepper(POLAR, RowMoments()), draw(4, 3)
    gradient[1] = 0.0
    for _ in range(3):
        step = found.step(gradient)
        assert (step[1].abs() < 1e-12).all() and step.isfinite().all()
    assert found.step(draw(4, 3, seed=1)).isfinite().all()


@given(st.floats(-30, 30), st.floats(0.01, 10))
def test_matched_directions_have_the_rms_and_limited_ones_no_more(scale: float, to: float) -> None:
    gradient = 10**scale * draw(4, 3)
    matched = stepper(PLAIN, MatchRMS(to)).step(gradient)
    assert_close(matched, to * gradient / rms(gradient))
    limited = stepper(PLAIN, LimitRMS(to)).step(gradient)
    assert_close(limited, gradient * min(1.0, float(to / rms(gradient))))


def test_a_limit_counts_the_norms_own_scale() -> None:
    gradient = draw(4, 3)
    half = Setting(2.0 * Spectral(), momentum=NoMomentum())
    free, limit = stepper(half).step(gradient), 0.1
    assert rms(free) > limit
    assert_close(rms(stepper(half, LimitRMS(limit)).step(gradient)), torch.tensor(0.1).double())


@pytest.mark.parametrize(
    "scaler",
    [MatchRMS(), LimitRMS(), RowMoments(), EntryMoments(), Hyperball(), Graft(ADAM)],
    ids=str,
)
def test_zero_gives_zero(scaler: Scaler) -> None:
    weight = draw(4, 3)
    found = stepper(PLAIN, scaler, weight=weight)
    for _ in range(2):
        assert_close(found.step(torch.zeros_like(weight)), torch.zeros_like(weight))


def test_a_hyperball_keeps_the_length_and_turns_by_lr() -> None:
    weight, gradient = draw(4, 3), draw(4, 3, seed=1)
    found = Stepper(Declaration(PLAIN, scalers=(Hyperball(),)), weight, lr=0.1)
    found.step(gradient)
    length = weight.norm()
    moved = weight - 0.1 * length * gradient / gradient.norm()
    assert_close(found.weight, moved * length / moved.norm())


def test_grafting_is_one_direction_at_the_others_length() -> None:
    grafted = stepper(SHAMPOO, Graft(ADAM))
    shampoo, adam = stepper(SHAMPOO), stepper(ADAM)
    for seed in range(6):
        gradient = draw(4, 3, seed=seed)
        direction, other = shampoo.step(gradient), adam.step(gradient)
        assert_close(grafted.step(gradient), direction * other.norm() / direction.norm())


def test_a_graft_shares_what_both_sides_have_and_keeps_apart_what_differs() -> None:
    same = stepper(SHAMPOO, Graft(ADAM)).program
    assert [line.result for line in same.lines].count("momentum") == 1
    assert "graft_momentum" not in same.state
    other = Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Unbiased(0.5))
    apart = stepper(SHAMPOO, Graft(other)).program
    assert {"momentum", "graft_momentum"} <= {*apart.state}
    assert apart.live == {
        **{"momentum": 0.9, "beta": 0.95},
        **{"graft_momentum": 0.5, "graft_beta": 0.999, "graft_eps": 1e-8},
    }
    twice = Setting(L2(2), metric=Diagonal(Memory(0.5)), potential=Sharp(), momentum=Unbiased(0.9))
    assert "graft_square" in stepper(ADAM, Graft(twice)).program.state


def test_grafts_of_unit_directions_keep_the_norms_scale() -> None:
    setting, gradient = Setting(2.0 * Spectral(), momentum=NoMomentum()), draw(4, 3)
    expected = gradient * stepper(setting).step(gradient).norm() / gradient.norm()
    assert_close(stepper(PLAIN, Graft(setting)).step(gradient), expected)


def test_what_scalers_refuse() -> None:
    with pytest.raises(ValueError, match="one scaler of a kind"):
        Declaration(PLAIN, scalers=(MatchRMS(), MatchRMS(0.1)))
    for bad in (lambda: MatchRMS(0.0), lambda: LimitRMS(-1.0), lambda: RowMoments(1.0)):
        with pytest.raises(ValueError, match=r"needs a|must be in \[0, 1\)"):
            bad()
    with pytest.raises(ValueError, match="weight with rows"):
        program_of(Declaration(PLAIN, scalers=(RowMoments(),)), (3,))
    sphere = Setting(L2(2), Sphere(), momentum=Average(0.9))
    for scaler in (RowMoments(), EntryMoments(), Hyperball()):
        with pytest.raises(ValueError, match="Sphere"):
            program_of(Declaration(sphere, scalers=(scaler,)), (4, 3))
