"""What has no gradient in a step does not move by Unit(), part by part of the norm."""

from collections.abc import Callable

import pytest
import torch
from directions import draw as draw_on
from stepping import Stepper, draw
from torch import Tensor
from torch.testing import assert_close

from modula.duality import (
    Average,
    Between,
    Clip,
    Declaration,
    HeavyBall,
    Hyperball,
    MatchRMS,
    Momentum,
    QueryStore,
    RowMoments,
    Setting,
    Sharp,
    Unbiased,
    program_of,
)
from modula.manifolds import Manifold, Oblique, SpectralSphere, Sphere, Stiefel, UnitConditionNumber
from modula.norms import (
    L1,
    L2,
    RMS,
    Columns,
    Diagonal,
    First,
    Kronecker,
    Max,
    Norm,
    RMSToRMS,
    Rows,
    Spectral,
)

SHAPE = (6, 4)
AVERAGES = [Average(0.9), Average(0.9, nesterov=True), HeavyBall(0.9), QueryStore(), Unbiased(0.9)]


def rows(x: Tensor) -> Tensor:
    return x.index_fill(0, torch.tensor([1, 4]), 0.0)


def columns(x: Tensor) -> Tensor:
    return x.index_fill(1, torch.tensor([2]), 0.0)


def entries(x: Tensor) -> Tensor:
    return x * (draw(*SHAPE, seed=9) > 0)


def second_head(x: Tensor) -> Tensor:
    return torch.cat((x[:3], 0 * x[3:]))


PARTS: list[tuple[Norm, Callable[[Tensor], Tensor]]] = [
    (Rows(RMS()), rows),
    (2 * Rows(L1()), rows),
    (Rows(Max()), entries),
    (Columns(RMS()), columns),
    (Max(2), entries),
    (0.5 * Max(2), entries),
    (RMSToRMS().on("(h d) i -> h d i", h=2), second_head),
    (Rows(L2()).on("(h d) i -> h d i", h=2), rows),
]


def spoken(setting: Setting) -> Stepper:
    """A weight after three steps with all of its gradient."""
    stepper = Stepper(Declaration(setting), draw(*SHAPE, seed=5))
    for seed in range(3):
        stepper.step(draw(*SHAPE, seed=seed))
    return stepper


@pytest.mark.parametrize("momentum", AVERAGES, ids=str)
@pytest.mark.parametrize(("norm", "silenced"), PARTS, ids=[str(norm) for norm, _ in PARTS])
def test_silent_parts_stay_and_the_others_move_as_ever(
    norm: Norm, silenced: Callable[[Tensor], Tensor], momentum: Momentum
) -> None:
    stepper = spoken(Setting(norm, momentum=momentum))
    gradient = silenced(draw(*SHAPE, seed=3))
    average = stepper.batch.state["momentum"].views[0].clone()
    moved = stepper.step(gradient)
    assert not moved[gradient == 0].any()
    assert norm(moved) == pytest.approx(1.0, rel=0.06)  # a polynomial, for spectral norms
    decayed = stepper.batch.state["momentum"].views[0]
    assert (decayed[gradient == 0].abs() < average[gradient == 0].abs()).all()
    # The direction is the norm's own for what is left of the query.
    query = spoken(Setting(norm, momentum=momentum))
    whole = query.step(gradient + 1e-300 * (gradient == 0))
    assert_close(moved[gradient != 0], whole[gradient != 0])


@pytest.mark.parametrize(
    "setting",
    [
        Setting(Spectral(), momentum=Average(0.9, nesterov=True)),
        Setting(RMSToRMS(), potential=Clip(1.0), momentum=Average()),
        Setting(L1(2), momentum=QueryStore()),
        Setting(Spectral(), metric=First(Kronecker(every=1)), momentum=Between(Average())),
        Setting(Rows(RMS()), metric=First(Diagonal()), momentum=Average()),
        Setting(Spectral(), metric=Kronecker(every=1), momentum=Average()),
        Setting(Max(2), metric=Diagonal(), momentum=HeavyBall()),
    ],
    ids=str,
)
def test_a_whole_weight_without_gradient_stays(setting: Setting) -> None:
    stepper = spoken(setting)
    for _ in range(3):
        assert not stepper.step(torch.zeros(SHAPE, dtype=torch.float64)).any()
    assert stepper.step(draw(*SHAPE, seed=7)).any()


@pytest.mark.parametrize("scaler", [MatchRMS(), Hyperball()], ids=str)
def test_no_scaler_makes_a_long_step_of_a_silent_one(scaler: MatchRMS | Hyperball) -> None:
    adam = Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Unbiased(0.9))
    stepper = Stepper(Declaration(adam, scalers=(scaler,)), draw(*SHAPE, seed=5))
    stepper.step(draw(*SHAPE))
    assert not stepper.step(torch.zeros(SHAPE, dtype=torch.float64)).any()


def test_rows_of_equal_size_leave_out_silent_ones() -> None:
    setting = Setting(Rows(RMS()), momentum=Average())
    stepper = Stepper(Declaration(setting, scalers=(RowMoments(),)), draw(*SHAPE, seed=5))
    stepper.step(draw(*SHAPE))
    assert not stepper.step(rows(draw(*SHAPE, seed=1)))[[1, 4]].any()


def test_sharp_follows_the_average_whose_length_it_has() -> None:
    stepper = spoken(Setting(L2(2), potential=Sharp(), momentum=Average(0.5)))
    first, second = (stepper.step(torch.zeros(SHAPE, dtype=torch.float64)) for _ in range(2))
    assert_close(second, 0.5 * first)


@pytest.mark.parametrize(
    ("norm", "manifold"),
    [
        (Spectral(), Stiefel()),
        (RMSToRMS(), UnitConditionNumber()),
        (Spectral(), SpectralSphere(2.0)),
        (L2(2), Sphere(ndim=2)),
        (L1(2), Sphere(ndim=2)),
        (Rows(L2()), Oblique("rows")),
        (Columns(L2()), Oblique("columns")),
    ],
    ids=str,
)
def test_a_weight_on_its_manifold_stays_to_the_bit(norm: Norm, manifold: Manifold) -> None:
    weight, gradient = (x.float() for x in draw_on(manifold, SHAPE, 1))
    stepper = Stepper(Declaration(Setting(norm, manifold, momentum=Average())), weight, 0.1)
    stepper.step(gradient)
    before = stepper.weight.clone()
    for _ in range(20):
        stepper.step(torch.zeros(SHAPE))
    assert torch.equal(stepper.weight, before)
    assert stepper.step(gradient).any()


def test_silent_rows_on_their_spheres_stay_to_the_bit() -> None:
    weight, gradient = (x.float() for x in draw_on(Oblique("rows"), SHAPE, 1))
    setting = Setting(Rows(L2()), Oblique("rows"), momentum=Average())
    stepper = Stepper(Declaration(setting), weight, 0.1)
    stepper.step(gradient)
    before = stepper.weight.clone()
    for seed in range(20):
        stepper.step(rows(draw(*SHAPE, seed=seed)).float())
    assert torch.equal(stepper.weight[[1, 4]], before[[1, 4]])
    assert not torch.equal(stepper.weight[0], before[0])


def test_a_step_of_length_zero_leaves_a_weight_to_the_bit() -> None:
    weight, gradient = (x.float() for x in draw_on(Stiefel(), SHAPE, 1))
    stepper = Stepper(Declaration(Setting(Spectral(), Stiefel())), weight, 0.0)
    for _ in range(20):
        assert not stepper.step(gradient).any()


def test_decay_goes_on_without_a_gradient() -> None:
    declaration = Declaration(Setting(Spectral(), momentum=Average()), weight_decay=0.5)
    stepper = Stepper(declaration, draw(*SHAPE, seed=5), 0.1)
    stepper.step(draw(*SHAPE))
    before = stepper.weight.clone()
    stepper.step(torch.zeros(SHAPE, dtype=torch.float64))
    assert_close(stepper.weight, 0.95 * before)


def test_the_direction_is_dual_to_what_is_left_of_the_query() -> None:
    """So the dual norm of the network and certificates agree with the step."""
    norm = Rows(RMS())
    setting = Setting(norm, momentum=Average(0.9))
    program = program_of(Declaration(setting), SHAPE)
    assert program.query == "active"
    assert str(program.proposal[1]) == "active = active[rows](momentum, gradient)"
    stepper, gradient = spoken(setting), rows(draw(*SHAPE, seed=3))
    momentum = 0.9 * stepper.batch.state["momentum"].views[0] + 0.1 * gradient
    stepper.batch.propose([gradient], stepper.program.live)
    assert_close(stepper.batch.dual_norms(), norm.dual(rows(momentum))[None])
