"""Declarations: what they refuse, and the program that one comes to, part by part."""

import pytest

from modula.duality import (
    Average,
    Behind,
    Coupled,
    Declaration,
    Decoupled,
    Graft,
    HeavyBall,
    MatchRMS,
    Role,
    Setting,
    Sharp,
    Unbiased,
    program_of,
)
from modula.duality.declaration.declaration import rule_of
from modula.manifolds import Isospectral, Sphere
from modula.manifolds.rotations import Rotations
from modula.norms import L2, Diagonal, RMSToRMS

SHAPE = (6, 4)


def results(declaration: Declaration) -> list[str]:
    return [each.result for each in program_of(declaration, SHAPE).lines]


def test_decay_and_step_stand_in_their_roles() -> None:
    program = program_of(Declaration(Setting(RMSToRMS()), weight_decay=0.1, budget=0.5), SHAPE)
    decay, step = program.update
    assert (decay.role, step.role) == (Role.DECAY, Role.STEP)
    assert decay.values() == {"rate": 0.1, "scale": 0.5}
    assert step.values()["scale"] == pytest.approx(0.5 * (6 / 4) ** 0.5)


def test_coupled_decay_comes_before_everything_and_is_no_line_of_decay() -> None:
    program = program_of(
        Declaration(Setting(L2(2), momentum=Average()), weight_decay=Coupled(0.1)), SHAPE
    )
    assert program.lines[0].result == "decayed_gradient"
    assert [each.role for each in program.update] == [Role.STEP]


def test_on_a_manifold_the_way_back_comes_last_and_may_look_at_the_point_before() -> None:
    assert results(Declaration(Setting(L2(2), Sphere(ndim=2))))[-2:] == ["weight", "weight"]


def test_a_momentum_behind_keeps_a_velocity_of_its_own() -> None:
    program = program_of(
        Declaration(Setting(L2(2), potential=Sharp(), momentum=Behind(HeavyBall(0.9)))), SHAPE
    )
    assert program.state == ("velocity",) and program.direction == "velocity"


def test_what_two_settings_share_is_kept_once() -> None:
    adam = Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Unbiased())
    both = program_of(Declaration(adam, scalers=(Graft(adam),)), SHAPE)
    assert sorted(both.state) == ["momentum", "square", "step"]


def test_rotating_weights_are_derived_in_coordinates() -> None:
    setting = Setting(RMSToRMS(), Isospectral(rotations=Rotations(block=2)))
    assert rule_of(setting, SHAPE).endswith(", rotating")
    assert {"chart", "order", "base", "step"} <= {*program_of(Declaration(setting), SHAPE).state}


def test_two_scalers_of_a_kind_and_bad_rates_are_refused() -> None:
    with pytest.raises(ValueError, match="one scaler of a kind"):
        Declaration(Setting(RMSToRMS()), scalers=(MatchRMS(0.2), MatchRMS(0.3)))
    with pytest.raises(ValueError, match="weight_decay must be zero or positive"):
        Declaration(Setting(RMSToRMS()), weight_decay=-0.1)
    assert not Declaration(Setting(RMSToRMS())).has_metric
    assert Declaration(Setting(L2(2), metric=Diagonal(), potential=Sharp())).has_metric
    assert Decoupled(0.0).rate == 0
