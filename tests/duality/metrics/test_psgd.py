"""PSGD: its fixed points, one step against a plain loop and the published package, and tracking."""

from itertools import product
from typing import Any

import pytest
import pytorch_optimizer.optimizer.psgd as theirs
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, STRUCTURED, Runner, draw, kronecker_samples, program
from modula.duality import Batch, Setting, Sharp, certify
from modula.duality.known_as import known_as
from modula.duality.metrics.coordinates import coordinates, describe
from modula.manifolds import Euclidean
from modula.norms import (
    EQ,
    L2,
    PRO,
    PSGD,
    SINGD,
    Dense,
    DiagonalMode,
    Flat,
    InCoordinates,
    InverseFree,
    Kronecker,
    Memory,
    Metric,
    Mode,
    Spectral,
)

PURE: dict[str, Any] = {"damping": 0.0, "square": False, "rate": 0.3, "last_rate": 0.3}
SOLVERS = [PRO(), EQ()]


def at_rest(samples: Tensor, modes: tuple[Mode, ...], solver: Any = SOLVERS[0]) -> Tensor:
    """The direction along all samples, of a metric that saw them all in every step."""
    runner = Runner(PSGD((Flat(), *modes), solver, **PURE), tuple(samples.shape))
    return runner.steps([samples] * (500 if isinstance(solver, EQ) else 250))


def kl_direction(samples: Tensor, modes: tuple[Mode, ...]) -> Tensor:
    exact = {"damping": 0.0, "every": 1, "square": False}
    metric = Kronecker((Flat(), *modes), memory=Memory(0.5, unbiased=False), **exact)
    return Runner(metric, tuple(samples.shape)).steps([samples] * 80)


@pytest.mark.parametrize(
    "modes",
    [
        (Dense(), Dense()),
        (Dense(), DiagonalMode()),
        (DiagonalMode(), DiagonalMode()),
        (Flat(), Dense()),
        (Dense(), Dense(), Dense()),
    ],
    ids=str,
)
def test_pro_comes_to_rest_at_the_kl_projection(modes: tuple[Mode, ...]) -> None:
    """O6, direction and scale."""
    samples = draw(60, 3, 5, 4)[..., 0] if len(modes) == 2 else draw(60, 3, 4, 2)
    samples = samples * draw(samples.shape[-1], seed=1).exp()
    assert_close(at_rest(samples, modes), kl_direction(samples, modes), rtol=1e-7, atol=1e-7)


def test_eq_agrees_with_kl_on_kronecker_moments_only() -> None:
    """O8."""
    modes = (Dense(), Dense())
    exact = kronecker_samples(draw(3, 3), draw(4, 4, seed=1))
    assert_close(at_rest(exact, modes, EQ()), kl_direction(exact, modes), rtol=1e-6, atol=1e-6)
    other = draw(60, 3, 4) * draw(3, 4, seed=2).exp()
    ours, kl = at_rest(other, modes, EQ()), kl_direction(other, modes)
    assert (ours - kl).norm() > 1e-3 * kl.norm()


def test_at_rest_eq_has_the_least_criterion() -> None:
    """E[g^T P g] + trace(P^-1) is no smaller at any P nearby."""
    samples = draw(40, 3, 4) * draw(3, 4, seed=2).exp()
    runner = Runner(PSGD((Flat(), Dense(), Dense()), EQ(), **PURE), (40, 3, 4))
    runner.steps([samples] * 500)
    roots = [runner.state(f"root_{i}") for i in (1, 2)]

    def criterion(a: Tensor, b: Tensor) -> Tensor:
        p = torch.kron(a @ a.mT, b @ b.mT)
        g = samples.flatten(1)
        return ((g @ p) * g).sum() / 40 + torch.linalg.inv(p).trace()

    least = criterion(*roots)
    for seed in range(20):
        nearby = [r + 1e-3 * draw(*r.shape, seed=seed) for r in roots]
        assert criterion(*nearby) > least


def naive_step(roots: list[Tensor], g: Tensor, solver: Any, rate: float, bounds: list[Any]) -> None:
    """The formulas of the docstrings, in Q_i = K_i^T, before the sizes are made equal."""
    (q1, q2), (m, n) = (r.mT for r in roots), g.shape
    if isinstance(solver, PRO):
        w = q1.mT @ q1 @ g @ q2.mT @ q2
        moments, priors = (w @ w.mT / n, w.mT @ w / m), (torch.eye(m), torch.eye(n))
        changes = [c - e.to(c) for c, e in zip(moments, priors, strict=True)]
    else:
        a, i1, i2 = q1 @ g @ q2.mT, torch.linalg.inv(q1), torch.linalg.inv(q2)
        moments = a @ a.mT / n, a.mT @ a / m
        priors = i1.mT @ i1 * (i2**2).sum() / n, i2.mT @ i2 * (i1**2).sum() / m
        changes = [(c - b).triu() for c, b in zip(moments, priors, strict=True)]
    for i, q in enumerate((q1, q2)):
        roots[i] = (q - rate / bounds[i] * changes[i] @ q).mT


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_steps_are_those_of_a_plain_loop(solver: Any) -> None:
    rate = 0.2
    options = {**PURE, "rate": rate, "last_rate": rate, "size_beta": 1.0}
    quiet = PRO(rotate_every=1000) if isinstance(solver, PRO) else solver
    runner = Runner(PSGD(solver=quiet, **options), (3, 4))
    first = draw(3, 4)
    scale = first.square().mean() ** -0.125
    roots = [scale * torch.eye(d, dtype=DTYPE) for d in (3, 4)]
    for seed in range(6):
        gradient = draw(3, 4, seed=seed)
        direction = runner.step(gradient)
        bounds = [runner.state(f"bound_{i}") for i in (0, 1)]
        naive_step(roots, gradient, solver, rate, bounds)
        if isinstance(solver, PRO) and seed in (0, 1, 3):  # rotated in steps 1, 2, 4
            roots = [runner.state(f"root_{i}").clone() for i in (0, 1)]
        p, r = (x @ x.mT for x in roots)
        assert_close(direction, p @ gradient @ r)


def test_one_step_of_eq_is_that_of_the_published_package() -> None:
    """pytorch_optimizer.Kron draws a probe V; the mean over a basis of probes is our integral."""
    gradient = draw(3, 4)
    runner = Runner(PSGD(solver=EQ(), size_beta=1.0, **PURE), (3, 4))
    runner.steps([draw(3, 4, seed=i) for i in range(1, 8)])
    q = [runner.state(f"root_{i}").mT.clone() for i in (0, 1)]
    _, (a, grams, applied) = theirs.initialize_q_expressions(gradient, 1.0, 99, 2, None, DTYPE)
    units = torch.eye(12, dtype=torch.float32).reshape(12, 3, 4)
    q32, g32 = [x.float() for x in q], gradient.float()  # its solves are in float32
    terms = [
        theirs.get_q_terms(grams, *theirs.get_a_and_conj_b(a, g32, q32, unit)) for unit in units
    ]
    runner.step(gradient)
    for i, share in enumerate((1 / 4, 1 / 3)):
        moment, prior = terms[0][i][0], sum(term[i][1] for term in terms)
        change = 0.3 / runner.state(f"bound_{i}") * share * (moment - prior).double()
        q[i] = q[i] - change.triu() @ q[i]
    white = theirs.get_precondition_grad(q, ("", [], applied), gradient)
    ours = [runner.state(f"root_{i}") for i in (0, 1)]
    found = ours[0] @ ours[0].mT @ gradient @ ours[1] @ ours[1].mT
    assert_close(found, white, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_direction_does_not_depend_on_the_size_of_gradients(solver: Any, scale: float) -> None:
    gradients = [draw(4, 6, seed=i) for i in range(5)]
    usual = Runner(PSGD(solver=solver), (4, 6)).steps(gradients)
    scaled = Runner(PSGD(solver=solver), (4, 6)).steps([scale * g for g in gradients])
    assert_close(usual, scaled, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_gradients_that_grow_are_followed_at_once(solver: Any) -> None:
    """The size of S is an average of squares; the published bounded steps are far behind it."""
    gradients = [10.0 ** min(i, 3) * draw(6, 6, seed=i) for i in range(12)]
    followed, behind = (
        Runner(PSGD(solver=solver, size_beta=beta), (6, 6)).steps(gradients).square().mean().sqrt()
        for beta in (0.95, 1.0)
    )
    assert 0.5 < followed < 2
    assert behind > 20


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_long_silence_and_a_silent_start_do_no_harm(solver: Any) -> None:
    """O30, O31."""
    runner, silent = Runner(PSGD(solver=solver), (4, 3)), torch.zeros(4, 3, dtype=DTYPE)
    assert torch.equal(runner.step(silent), silent)
    assert torch.equal(runner.state("root_0"), torch.eye(4, dtype=DTYPE))
    usual = [runner.step(draw(4, 3, seed=i)).norm() for i in range(40)]
    for _ in range(400):
        assert torch.equal(runner.step(silent), silent)
    assert runner.step(draw(4, 3, seed=50)).norm() < 3 * max(usual)


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_what_was_always_silent_meets_a_bounded_inverse(solver: Any) -> None:
    """A row of zeros for long: P_1 grows no further than damping allows."""
    damping = 1e-4
    runner = Runner(PSGD(solver=solver, damping=damping, rate=0.4), (6, 6))
    for seed in range(500):
        gradient = draw(6, 6, seed=seed)
        gradient[0] = 0
        runner.step(gradient)
    rows, columns = (runner.state(f"inverse_{i}") for i in (0, 1))
    # S_1's floor: damping mean(G^2) trace(P_2^2) / 6, of gradients whose mean square is 5/6.
    floor = damping * 5 / 6 * columns.square().sum() / 6
    assert rows[0, 0] < 1.5 * floor**-0.5
    assert rows[0, 0] > 3 * rows[1, 1]


def spreads(tensors: dict[str, Tensor], moments: list[Tensor]) -> list[float]:
    """Standard deviation of the logarithms of the eigenvalues of P_i S_i P_i."""
    found = []
    for i, moment in enumerate(moments):
        p = tensors[f"inverse_{i}"].double()
        values = torch.linalg.eigvals(p @ moment @ p).real
        found.append(float(values.clamp(min=1e-30).log().std()))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tracking_survives_half_precision(dtype: torch.dtype) -> None:
    """O39: a Kronecker moment of condition 1e4 a side, learnt from 500 gradients, all in dtype."""
    generator = torch.Generator().manual_seed(0)
    roots = []
    for d in (32, 64):
        basis = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=DTYPE))[0]
        values = torch.logspace(0, -4, d, dtype=DTYPE)
        roots.append((basis * (values / values.mean()).sqrt()) @ basis.mT)
    what = program(PSGD(square=False, last_rate=0.1), (32, 64))
    tensors = {}
    for name in what.state:
        slot = what.slot(name)
        tensors[name] = torch.zeros(tuple(slot.shape or ()), dtype=dtype)
        slot.fill_(tensors[name])
    tensors["step"] = torch.zeros(())
    for _ in range(500):
        g = roots[0] @ torch.randn(32, 64, generator=generator, dtype=DTYPE) @ roots[1]
        given = {"gradient": g.to(dtype), "weight": torch.zeros(32, 64, dtype=dtype)}
        tensors = what.run(**{**tensors, **given, "lr": torch.ones((), dtype=dtype)})
    assert {tensors[name].dtype for name in what.state if name != "step"} == {dtype}
    assert max(spreads(tensors, [root @ root for root in roots])) <= 0.4


@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_a_batch_of_weights_moves_as_each_alone_by_turns(solver: Any) -> None:
    """O36, with every=2: the second weight's turn is the other step."""
    metric, shape = PSGD(solver=solver, every=2), (4, 8)
    what = program(metric, shape)
    weights = [torch.zeros(shape, dtype=DTYPE) for _ in range(2)]
    batch = Batch([what] * 2, weights, [0.0, 0.5])
    alone = [Batch([what], [torch.zeros(shape, dtype=DTYPE)], [turn]) for turn in (0.0, 0.5)]
    one = torch.ones((), dtype=DTYPE)
    for i in range(7):
        gradients = [draw(*shape, seed=i), draw(*shape, seed=100 + i)]
        batch.propose(gradients, {})
        batch.update(one, {})
        for each, gradient in zip(alone, gradients, strict=True):
            each.propose([gradient], {})
            each.update(one, {})
    for weight, each in zip(weights, alone, strict=True):
        assert_close(weight, each.weights[0])
    assert [float(x.flatten()[0]) for x in batch.state["seen"].views] == [4.0, 5.0]


def test_between_updates_the_factors_stand_still_and_the_plain_program_agrees() -> None:
    shape = (4, 4)
    runner = Runner(PSGD(every=3), shape)
    what = runner.program
    tensors = {name: runner.state(name).clone() for name in what.state}
    tensors["weight"] = torch.zeros(shape, dtype=DTYPE)
    stood = []
    for i in range(9):
        before, gradient = runner.state("inverse_0").clone(), draw(*shape, seed=i)
        runner.step(gradient)
        stood.append(torch.equal(before, runner.state("inverse_0")))
        tensors |= {"gradient": gradient, "lr": torch.ones((), dtype=DTYPE)}
        tensors = what.run(**tensors)
        assert_close(tensors["weight"], runner.weight)
    assert [i + 1 for i, still in enumerate(stood) if not still] == [1, 2, 3, 6, 9]


@pytest.mark.parametrize(("solver", "shape"), list(product(SOLVERS, [(5, 3), (3, 3)])), ids=str)
def test_the_sandwich_is_certified(solver: Any, shape: tuple[int, int]) -> None:
    """Q itself is a map of coordinates: any norm can be measured in them."""
    metric, norm = PSGD(solver=solver), Spectral()
    runner = Runner(metric, shape, norm=norm)
    gradient = draw(*shape, seed=9)
    direction = runner.steps([*(draw(*shape, seed=i) for i in range(4)), gradient])
    found = coordinates(metric, shape, False)
    known = found.known([runner.state(name) for name in found.reads])
    certificate = certify(
        InCoordinates(norm, known), Euclidean(), runner.weight, gradient, direction
    )
    assert certificate.norm <= 1.12
    assert -1e-9 <= certificate.gap <= 0.12


@pytest.mark.parametrize("metric", [PSGD(), PSGD(solver=EQ()), InverseFree(), *STRUCTURED], ids=str)
@pytest.mark.parametrize("shape", [(1,), (5,), (1, 1), (1, 6), (3, 1, 4), (4, 2, 3, 3)], ids=str)
def test_any_shape_has_a_metric(metric: Metric, shape: tuple[int, ...]) -> None:
    """O32."""
    direction = Runner(metric, shape).steps([draw(*shape, seed=i) for i in range(4)])
    assert direction.shape == shape
    assert direction.isfinite().all()
    assert 0 < (direction * draw(*shape, seed=3)).sum()


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (PSGD(), "PSGD-PRO"),
        (PSGD(solver=EQ()), "PSGD Kron"),
        (InverseFree(), "IF-Shampoo"),
        (SINGD(), "SINGD"),
        (SINGD(cross=False), "IKFAC"),
    ],
    ids=str,
)
def test_the_plan_knows_their_names(metric: Metric, name: str) -> None:
    assert known_as(Setting(L2(2), metric=metric, potential=Sharp()), None) == name


def test_it_says_what_it_is() -> None:
    assert describe(PSGD(), (64, 16)) == "PRO: 4 blocks of dense 16 x dense 16, power 0.5"
    assert describe(PSGD(), (50257, 768)) == "PRO: diagonal 50257 x dense 768, power 0.5"
    with pytest.raises(ValueError, match="0 < last_rate <= rate < 1"):
        PSGD(rate=0.1, last_rate=0.2)
    with pytest.raises(ValueError, match="rotate_every >= 1; got 0"):
        PRO(rotate_every=0)
    with pytest.raises(ValueError, match="damping -1"):
        PSGD(damping=-1)
