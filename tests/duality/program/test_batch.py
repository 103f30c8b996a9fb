"""Batches: weights that share a program advance together, as the program says of one."""

import pytest
import torch

from modula.duality import (
    Average,
    Batch,
    Cautious,
    Decay,
    Declaration,
    Decoupled,
    HeavyBall,
    Independent,
    NoMomentum,
    Program,
    QueryStore,
    Setting,
    Sharp,
    ShortStep,
    batches,
    line,
    program_of,
)
from modula.kernels.spectral.polar import polar
from modula.manifolds import Oblique, Sphere, Stiefel
from modula.norms import L2, RMS, Diagonal, Frobenius, Max, Nuclear, RMSToRMS, Rows

SHAPE = (6, 4)
DECLARATIONS = {
    "muon": Declaration(Setting(RMSToRMS(), momentum=Average(0.9, nesterov=True))),
    "decayed": Declaration(Setting(RMSToRMS(), momentum=Average()), weight_decay=0.1, budget=0.3),
    "sign": Declaration(Setting(Max(2), momentum=Average())),
    "lion": Declaration(Setting(Max(2), momentum=QueryStore())),
    "sgd": Declaration(Setting(Frobenius(), momentum=HeavyBall(), potential=Sharp())),
    "nesterov": Declaration(Setting(Frobenius(), momentum=HeavyBall(0.9, True), potential=Sharp())),
    "sharp muon": Declaration(Setting(RMSToRMS(), potential=Sharp())),
    "adam": Declaration(
        Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Average(0.9)),
        weight_decay=0.1,
    ),
    "heads": Declaration(Setting(RMSToRMS().on("(h d) i -> h d i", h=2))),
    "scaled": Declaration(Setting(2.0 * RMSToRMS())),
    "rows": Declaration(Setting(Rows(RMS()), momentum=Average())),
    "exact": Declaration(Setting(Nuclear())),
    "sphere": Declaration(Setting(L2(2), Sphere(ndim=2), momentum=Average())),
    "oblique": Declaration(Setting(Rows(RMS()), Oblique("rows"))),
    "stiefel": Declaration(Setting(RMSToRMS(), Stiefel(), momentum=Average())),
}


def start(declaration: Declaration, count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]
    return [declaration.setting.manifold.project(draw) for draw in draws]


@pytest.mark.parametrize("name", DECLARATIONS)
def test_a_batch_runs_what_the_program_says(name: str) -> None:
    declaration = DECLARATIONS[name]
    program = program_of(declaration, SHAPE)
    weights = start(declaration, 3)
    expected = [dict.fromkeys(program.state) for _ in weights]
    for each in expected:
        each.update(
            {k: torch.zeros(() if k == "step" else SHAPE, dtype=torch.float64) for k in each}
        )
    plain = [weight.clone() for weight in weights]
    batch = Batch([program] * 3, weights)
    lr = torch.tensor(0.1, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        gradients = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in weights]
        batch.propose(gradients, {})
        batch.update(lr, {})
        for i, gradient in enumerate(gradients):
            after = program.run(weight=plain[i], gradient=gradient, lr=lr, **expected[i])
            plain[i] = after["weight"]
            expected[i] = {k: after[k] for k in expected[i]}
    for i, weight in enumerate(weights):
        # Near-square Stiefel weights go through roots near zero, which magnify rounding.
        torch.testing.assert_close(weight, plain[i], rtol=1e-8, atol=1e-8)


def test_weights_without_a_gradient_stay_and_the_others_move_alike() -> None:
    program = program_of(DECLARATIONS["muon"], SHAPE)
    alone, left, right = start(DECLARATIONS["muon"], 1)[0], *start(DECLARATIONS["muon"], 2)
    left.copy_(alone)
    before = right.clone()
    gradient = torch.randn(SHAPE, dtype=torch.float64)
    single, pair = Batch([program], [alone]), Batch([program] * 2, [left, right])
    for batch, gradients in ((single, [gradient]), (pair, [gradient, None])):
        batch.propose(gradients, {})
        batch.update(torch.tensor(0.1, dtype=torch.float64), {})
    torch.testing.assert_close(left, alone)
    torch.testing.assert_close(right, before, rtol=0, atol=0)
    torch.testing.assert_close(pair.state["momentum"].views[1], torch.zeros_like(right))


def test_same_shape_and_program_share_a_batch_whatever_their_budget() -> None:
    declarations = [Declaration(Setting(RMSToRMS()), budget=b) for b in (1.0, 0.5)]
    weights = [torch.zeros(4, 4), torch.zeros(4, 4), torch.zeros(8, 4)]
    programs = [
        program_of(d, w.shape)
        for d, w in zip([*declarations, declarations[0]], weights, strict=True)
    ]
    assert [positions for _, positions in batches(programs, weights)] == [[0, 1], [2]]


def test_momenta_of_a_batch_are_one_buffer() -> None:
    program = program_of(Declaration(Setting(RMSToRMS(), momentum=Average())), (4, 3))
    batch = Batch([program] * 5, [torch.zeros(4, 3) for _ in range(5)])
    first, *rest = batch.state["momentum"].views
    assert all(r.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() for r in rest)


@pytest.mark.parametrize("momentum", [NoMomentum(), Average(0.9), HeavyBall(0.9)], ids=str)
def test_dual_norm_of_a_batch_is_the_norms_own(momentum: object) -> None:
    declaration = Declaration(Setting(Rows(RMS()), momentum=momentum), budget=0.3)  # type: ignore[arg-type]
    weights = start(declaration, 2)
    batch = Batch([program_of(declaration, SHAPE)] * 2, weights)
    gradients = [torch.randn(SHAPE, dtype=torch.float64) for _ in weights]
    batch.propose(gradients, {})
    queries = gradients if isinstance(momentum, NoMomentum) else batch.state["momentum"].views
    expected = 0.3 * sum(Rows(RMS()).dual(query) for query in queries)
    torch.testing.assert_close(batch.dual_norms().sum(), expected, rtol=1e-12, atol=0)


def test_options_without_marks_are_the_same_in_a_batch_and_alone() -> None:
    """`scale` is an option like any other."""
    lines = (line("direction", polar, "gradient", scale=2.0),)
    program = Program(lines, ())
    gradient = torch.randn(*SHAPE, dtype=torch.float64)
    batch = Batch([program], [torch.zeros(*SHAPE, dtype=torch.float64)])
    batch.propose([gradient], {})
    ((_, _, direction),) = batch.proposed()
    torch.testing.assert_close(direction, program.run(gradient=gradient)["direction"])
    torch.testing.assert_close(direction, 2 * polar(gradient))


@pytest.mark.parametrize("decay", [Decoupled(0.3), Cautious(0.3), Independent(0.3, peak=0.1)])
def test_frank_wolfe_gaps_count_what_decays_and_only_that(decay: Decay) -> None:
    """budget <q, D> + what the decay takes away at lr = 1, by the formula of each decay."""
    declaration = Declaration(
        Setting(Max(2), potential=ShortStep()), budget=0.5, weight_decay=decay
    )
    weights = start(declaration, 2)
    batch = Batch([program_of(declaration, SHAPE)] * 2, weights)
    gradients = [torch.randn(*SHAPE, dtype=torch.float64) for _ in weights]
    batch.propose(gradients, {"weight_decay": 0.2})
    found = batch.frank_wolfe_gaps({"weight_decay": 0.2})
    for w, g, (_, _, direction), gap in zip(
        weights, gradients, batch.proposed(), found, strict=True
    ):
        decayed = {Independent: w / 0.1, Cautious: torch.where(w * direction > 0, w, 0.0) / 2}
        taken = 0.2 * (g * decayed.get(type(decay), w / 2)).sum()
        torch.testing.assert_close(gap, 0.5 * Max(2).dual(g) + taken, rtol=1e-9, atol=0)


def test_a_weight_that_does_not_step_has_no_gap() -> None:
    declaration = Declaration(Setting(RMSToRMS()), weight_decay=0.1)
    batch = Batch([program_of(declaration, SHAPE)] * 2, start(declaration, 2))
    batch.propose([None, None], {})
    assert batch.frank_wolfe_gaps({}).shape == (0,)
