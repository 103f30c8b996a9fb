"""Directions under a metric against fixed points, golden values and the definition."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, STRUCTURED, Runner, draw, program
from modula.duality import (
    Average,
    Batch,
    NoMomentum,
    Program,
    Sharp,
    certify,
)
from modula.duality.metrics.coordinates import coordinates
from modula.duality.setting.potential import Within
from modula.kernels.spectral.polar import exact_polar
from modula.manifolds import Euclidean, Manifold, Sphere, Stiefel
from modula.norms import (
    L2,
    Dense,
    Diagonal,
    DiagonalMode,
    Eigenbasis,
    Flat,
    InCoordinates,
    Kronecker,
    Max,
    Memory,
    Metric,
    Norm,
    Scalar,
    Spectral,
    Sum,
    TraceScaled,
)
from modula.norms.metrics.base import First

EXACT = {"damping": 0.0, "every": 1, "balance": False, "square": False}


def run(metric: Metric, gradients: list[Tensor], **how: Any) -> tuple[Tensor, Runner]:
    runner = Runner(metric, tuple(gradients[0].shape), **how)
    return runner.steps(gradients), runner


def test_kl_shampoos_golden_sequence() -> None:
    metric = Kronecker(memory=Memory(0.9, unbiased=False, first=0.1), **EXACT)
    first, second = (torch.tensor(g, dtype=DTYPE) for g in ([[1, 2], [3, 4]], [[1, 0], [-1, 2]]))
    runner = Runner(metric, (2, 2))
    expected = torch.tensor([[-1.658115, 1.348543], [0.962639, -0.271405]], dtype=DTYPE)
    assert_close(runner.step(first), expected, rtol=0, atol=1e-6)
    factor = torch.tensor([[2.59, 5.5], [5.5, 12.59]], dtype=DTYPE)
    assert_close(runner.state("factor_0"), factor, rtol=0, atol=1e-9)
    expected = torch.tensor([[1.179367, -0.743381], [-0.771310, 0.624222]], dtype=DTYPE)
    assert_close(runner.step(second), expected, rtol=0, atol=1e-6)


def kl_fixed_point(samples: Tensor, modes: tuple[Any, ...]) -> Runner:
    """The same samples again and again, as one weight whose first dim is flat."""
    metric = Kronecker((Flat(), *modes), memory=Memory(0.5, unbiased=False), **EXACT)
    return run(metric, [samples] * 80)[1]


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4), (3, 4, 5)], ids=str)
def test_at_the_kl_fixed_point_the_whitened_gradient_is_white(shape: tuple[int, ...]) -> None:
    samples = draw(60, *shape)
    runner = kl_fixed_point(samples, (Dense(),) * len(shape))
    white = runner.step(samples)
    assert_close((white**2).sum() / 60, torch.tensor(float(white[0].numel()), dtype=DTYPE))
    for i, size in enumerate(shape):
        rows = white.movedim(i + 1, 0).flatten(1)
        moment = rows @ rows.mT * (size / white.numel())
        assert_close(moment, torch.eye(size, dtype=DTYPE), rtol=0, atol=1e-8)


def test_rows_and_columns_alone_are_the_kl_optimal_rank_one_moment() -> None:
    samples = draw(50, 3, 4)
    runner = kl_fixed_point(samples, (DiagonalMode(), DiagonalMode()))
    rows, columns, mean = runner.state("factor_1"), runner.state("factor_2"), (samples**2).mean(0)
    assert_close(rows, (mean / columns).mean(1))
    assert_close(columns, (mean / rows[:, None]).mean(0))


def test_a_diagonal_metric_with_momentum_free_steps_is_adam_of_one_sample() -> None:
    gradient = draw(3, 4)
    direction, _ = run(Diagonal(Memory(0.99), floor=0.0), [gradient])
    assert_close(direction, gradient.sign())


def test_batch_size_counts_alike_on_both_ways_through_a_diagonal() -> None:
    gradients = [draw(3, 4, seed=seed) for seed in range(3)]
    metric = Diagonal(Memory(0.9), floor=1e-2, power=1.0, batch=16)
    square = sum(0.9 ** (2 - i) * g**2 for i, g in enumerate(gradients)) * 0.1 / (1 - 0.9**3)
    expected = gradients[-1] / (16 * square + 1e-2)
    for norm in (L2(2), 1.0 * L2(2)):
        direction, _ = run(metric, gradients, norm=norm, potential=Sharp(), momentum=NoMomentum())
        assert_close(direction, expected)


def test_a_scalar_metric_gives_root_mean_square_one() -> None:
    direction, _ = run(Scalar(Memory(0.9)), [1e-8 * draw(6, 4)])
    assert_close((direction**2).mean(), torch.ones((), dtype=DTYPE))


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)], ids=str)
def test_without_memory_shampoo_is_muon(shape: tuple[int, int]) -> None:
    """Exponents -1/4 on both sides; -1/2 on the short side, which is mean-normalised; O1 to O3."""
    gradient, now = draw(*shape), Memory(0.0)
    polar = exact_polar(gradient)
    two_sided = run(Kronecker(fit=Sum(), memory=now, **EXACT), [gradient])[0]
    assert_close(two_sided, polar, rtol=1e-3, atol=1e-3)
    short = (Dense(), Flat()) if shape[0] <= shape[1] else (Flat(), Dense())
    one_sided = run(Kronecker(short, memory=now, **EXACT), [gradient])[0]
    assert_close(one_sided, max(shape) ** 0.5 * polar, rtol=1e-6, atol=1e-6)


def test_two_sided_square_roots_without_memory_invert_the_spectrum() -> None:
    """O4: this must not be called Muon; KL's factors avoid it because each whitens the other's."""
    gradient = draw(4, 4)
    u, s, vh = torch.linalg.svd(gradient)
    inverted = (u / s) @ vh
    metric = Kronecker(fit=TraceScaled(), memory=Memory(0.0), **EXACT)
    direction = run(metric, [gradient])[0]
    assert_close(direction, inverted * gradient.norm(), rtol=1e-6, atol=1e-6)


def test_a_constant_square_gradient_under_kl_becomes_its_polar_factor() -> None:
    gradient = draw(4, 4)
    metric = Kronecker(memory=Memory(0.8, unbiased=False), **EXACT)
    direction = run(metric, [gradient] * 150)[0]
    assert_close(direction, 2.0 * exact_polar(gradient), rtol=1e-6, atol=1e-6)


def test_without_the_gauge_sizes_drift_and_with_it_the_direction_is_the_same() -> None:
    gradients = [draw(4, 16, seed=i) for i in range(300)]
    free = {**EXACT, "memory": Memory(0.95, unbiased=False)}
    held = {**free, "balance": True}
    (loose, drifted), (tight, kept) = (run(Kronecker(**o), gradients) for o in (free, held))
    assert_close(loose, tight, rtol=1e-8, atol=1e-8)

    def ratio(runner: Runner) -> Tensor:
        sizes = [runner.state(f"factor_{i}").diagonal().mean() for i in (0, 1)]
        return (sizes[0] / sizes[1]).log().abs()

    assert ratio(kept) < 1e-9
    assert ratio(drifted) > 0.5


def test_blocks_are_weights_of_their_own() -> None:
    metric = Kronecker(damping=1e-3, every=1)
    gradients = [draw(8, 4, seed=i) for i in range(4)]
    together = run(metric, gradients)[0]
    alone = [run(metric, [g[half] for g in gradients])[0] for half in (slice(4), slice(4, 8))]
    assert_close(together, torch.cat(alone))


def test_a_batch_of_weights_moves_as_each_alone() -> None:
    metric, shape = Kronecker(every=1), (4, 6)
    what = program(metric, shape)
    weights = [torch.zeros(shape, dtype=DTYPE) for _ in range(2)]
    batch = Batch([what] * 2, weights)
    streams = [[draw(*shape, seed=10 * k + i) for i in range(3)] for k in range(2)]
    for i in range(3):
        batch.propose([streams[0][i], streams[1][i] if i else None], {})
        batch.update(torch.ones((), dtype=DTYPE), {})
    for weight, stream in zip(weights, (streams[0], streams[1][1:]), strict=True):
        runner = Runner(metric, shape)
        for gradient in stream:
            runner.step(gradient)
        assert_close(weight, runner.weight)


def test_roots_are_renewed_by_turns_and_the_plain_program_agrees() -> None:
    shape, metric = (3, 3), Kronecker(every=4)
    what = program(metric, shape)
    runner = Runner(metric, shape)
    tensors = {name: runner.state(name).clone() for name in what.state}
    tensors["weight"] = torch.zeros(shape, dtype=DTYPE)
    for i in range(6):
        gradient = draw(*shape, seed=i)
        before = runner.state("root_0").clone()
        runner.step(gradient)
        stood = torch.allclose(before, runner.state("root_0"), rtol=0.3)  # but for the gauge
        assert stood is (i in (2, 4, 5))  # steps 1, 2, 4, and every fourth
        tensors |= {"gradient": gradient, "lr": torch.ones((), dtype=DTYPE)}
        tensors = what.run(**tensors)
        assert_close(tensors["weight"], runner.weight)


def first(what: Program, name: str, shape: tuple[int, ...]) -> Tensor:
    slot = what.slot(name)
    size = () if name == "step" else shape if slot.shape is None else tuple(slot.shape)
    value = torch.zeros(size, dtype=DTYPE)
    slot.fill_(value)
    return value


NORMS = [L2(2), Spectral(), Max(2)]


@pytest.mark.parametrize(
    "metric", [Diagonal(), Kronecker(every=1), Scalar(), Eigenbasis(), *STRUCTURED], ids=str
)
@pytest.mark.parametrize("norm", NORMS, ids=str)
@pytest.mark.parametrize("manifold", [Euclidean(), Sphere(ndim=2), Stiefel()], ids=str)
def test_under_any_metric_the_direction_is_certified(
    metric: Metric, norm: Norm, manifold: Manifold
) -> None:
    """T-descent: the sandwich is the duality map of the norm measured in those coordinates."""
    shape = (5, 3)
    what = program(metric, shape, norm, manifold=manifold)
    tensors = {name: first(what, name, shape) for name in what.state}
    for i in range(3):
        weight = manifold.project(draw(*shape, seed=9))
        gradient = draw(*shape, seed=i)
        given = {"weight": weight, "gradient": gradient, "lr": torch.ones((), dtype=DTYPE)}
        tensors = what.run(**{**tensors, **given})
    found = coordinates(metric, shape, False)
    measured = InCoordinates(norm, found.known([tensors[name] for name in found.reads]))
    certificate = certify(measured, manifold, weight, gradient, tensors["direction"])
    exact = not isinstance(norm, Spectral) and isinstance(manifold, Euclidean)
    tolerance = 1e-7 if exact else 0.12
    assert certificate.norm <= 1 + tolerance
    assert certificate.tangency <= 1e-6
    assert -1e-9 <= certificate.gap <= tolerance


def chained(metric: Metric, norm: Norm, gradients: list[Tensor]) -> Tensor:
    return Runner(First(metric), tuple(gradients[0].shape), norm=norm).steps(gradients)


def jacobian_asymmetry(direction_of: Any, g: Tensor) -> float:
    jacobian = torch.autograd.functional.jacobian(direction_of, g).reshape(g.numel(), g.numel())
    return float((jacobian - jacobian.mT).abs().max())


def test_the_sandwich_is_the_gradient_of_a_potential_and_the_chain_is_not() -> None:
    """T-integrable, for a fixed metric."""
    metric = Kronecker(every=1)
    _, runner = run(metric, [draw(2, 3, seed=i) for i in range(3)])
    roots = [runner.state(f"root_{i}") for i in (0, 1)]
    half = [torch.linalg.eigh(x) for x in roots]
    a, b = ((v * e.sqrt()) @ v.mT for e, v in half)

    def polar(x: Tensor) -> Tensor:
        u, _, vh = torch.linalg.svd(x, full_matrices=False)
        return u @ vh

    g = draw(2, 3, seed=5)
    assert jacobian_asymmetry(lambda x: a @ polar(a @ x @ b) @ b, g) < 1e-10
    assert jacobian_asymmetry(lambda x: polar(roots[0] @ x @ roots[1]), g) > 1e-3


def test_a_chain_is_the_norm_of_the_preconditioned_gradient_and_says_so() -> None:
    gradients = [draw(4, 3, seed=i) for i in range(3)]
    metric = Kronecker(every=1)
    preconditioned = run(metric, gradients)[0]
    assert_close(chained(metric, L2(2), gradients), preconditioned / preconditioned.norm())
    assert "no descent guarantee" in str(First(metric))


def test_a_chain_may_ascend() -> None:
    """T-chain: an elementwise metric, then the polar factor; found by searching."""
    lowest = 0.0
    for seed in range(300):
        g = draw(2, 2, seed=seed)
        scale = (3 * draw(2, 2, seed=seed + 1000)).exp()
        lowest = min(lowest, float((g * exact_polar(g / scale)).sum() / g.norm()))
    assert lowest < -0.05


@pytest.mark.parametrize("batch", [1.0, 4.0])
def test_within_a_ball_sophia_is_the_constrained_minimum(batch: float) -> None:
    """O17: argmin <m, d> + d^T h d / 2 over max |d| <= 1, against random feasible points."""
    gradients = [draw(3, 4, seed=i) for i in range(3)]
    memory = Memory(0.9, unbiased=False, first=0.05 / batch)
    metric = Diagonal(memory, floor=0.0, power=1.0, batch=batch)
    direction, runner = run(metric, gradients, potential=Within(Max(2)))
    h, g = batch * runner.state("square"), gradients[-1]

    def value(d: Tensor) -> Tensor:
        return (-g * d + h * d * d / 2).sum()

    assert_close(direction.abs().max(), torch.ones((), dtype=DTYPE))
    assert direction.abs().min() < 1.0
    for seed in range(200):
        other = direction + 0.3 * draw(3, 4, seed=seed)
        assert value(direction) <= value(other.clamp(-1, 1)) + 1e-12


@pytest.mark.parametrize(
    "metric", [Kronecker(), Kronecker(fit=Sum()), Scalar(), *STRUCTURED], ids=str
)
def test_long_silence_and_a_silent_start_do_no_harm(metric: Metric) -> None:
    """O30, O31: factors freeze, nothing is NaN, and the next gradient is not amplified."""
    shape = (4, 3)
    runner = Runner(metric, shape)
    silent = torch.zeros(shape, dtype=DTYPE)
    assert torch.equal(runner.step(silent), silent)
    usual = [runner.step(draw(*shape, seed=i)).norm() for i in range(40)]
    for _ in range(400):
        assert torch.equal(runner.step(silent), silent)
    assert runner.step(draw(*shape, seed=50)).norm() < 3 * max(usual)


@pytest.mark.parametrize(
    ("metric", "low", "high"),
    [(Diagonal(), 0.98, 1.02), (Kronecker(every=1), 0.9, 1.0), (Eigenbasis(), 0.9, 1.0)],
    ids=str,
)
def test_whitened_independent_gradients_have_the_size_one(
    metric: Metric, low: float, high: float
) -> None:
    """O38: an RMS of 1, less by what a gradient is in its own metric; sqrt(0.1 / 1.9) averaged."""
    rows, columns = draw(8, 8, seed=1), draw(12, 12, seed=2)
    found = []
    for momentum in (NoMomentum(), Average(0.9)):
        runner, squares = Runner(metric, (8, 12), momentum=momentum), []
        for seed in range(250):
            direction = runner.step(rows @ draw(8, 12, seed=seed) @ columns)
            squares.append(direction.square().mean())
        found.append(torch.stack(squares[100:]).mean().sqrt())
    assert low < found[0] < high
    assert found[1] == pytest.approx((0.1 / 1.9) ** 0.5, abs=0.02)  # 0.229


def test_the_kl_fit_needs_enough_samples() -> None:
    """O11: two dense factors of 2 x 10 exist from 5.2 samples on."""

    def condition(count: int) -> float:
        samples = draw(count, 2, 10, seed=1)
        factor = kl_fixed_point(samples, (Dense(), Dense())).state("factor_2")
        return float(torch.linalg.cond(factor))

    conditions = [condition(count) for count in (4, 6, 40)]
    assert conditions[0] > 1e4 > conditions[2]
    assert conditions[1] > conditions[2]


def test_kl_is_the_smallest_of_the_kronecker_estimates() -> None:
    """O9: in KL divergence from the samples, scaled as each is meant."""
    samples = draw(12, 3, 5) @ draw(5, 5, seed=1)
    moment = samples.flatten(1).mT @ samples.flatten(1) / 12

    def divergence(s: Tensor) -> float:
        return float(torch.logdet(s) + torch.linalg.solve(s, moment).trace()) / 2

    rows = torch.einsum("bij,bkj->ik", samples, samples) / 12
    columns = torch.einsum("bij,bik->jk", samples, samples) / 12
    runner = kl_fixed_point(samples, (Dense(), Dense()))
    ours = torch.kron(runner.state("factor_1"), runner.state("factor_2"))
    others = [
        torch.kron(rows, columns) / rows.trace(),
        torch.kron(rows / 5, torch.eye(5, dtype=DTYPE)),
        torch.kron(rows / 5, columns / 3),
    ]
    assert all(divergence(ours) < divergence(other) for other in others)
