"""Metrics of a layer's data against golden values, dense solves, and changes of coordinates."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, Runner, draw, moment, once, setting
from modula.duality.known_as import known_as
from modula.duality.metrics.coordinates import describe
from modula.kernels.spectral.polar import exact_polar, polar
from modula.norms import (
    Absolute,
    Balanced,
    Damping,
    Exact,
    LayerEigenvalues,
    LayerMoments,
    Memory,
    Metric,
    Norm,
    Relative,
    Spectral,
)
from modula.norms.metrics.base import First

NONE = Relative(0.0)
BOTH = LayerMoments(every=1, damping=NONE)
INPUTS = LayerMoments(outputs="", every=1, damping=NONE)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """The polar factor by SVD, in place of Muon's polynomial."""
    op = replace(polar, plain=exact_polar, fused_at=None)
    monkeypatch.setattr("modula.duality.rules.unconstrained.polar", op)


GOLDEN = [
    (None, Spectral(), [[0.7071068, 0.7071068], [-0.7071068, 0.7071068]]),
    (First(INPUTS), Spectral(), [[0.52999894, 0.84799830], [-0.84799830, 0.52999894]]),
    (INPUTS, Spectral(), [[0.3, 0.8], [-0.4, 0.6]]),
    (INPUTS, None, [[0.25, 2.0], [0.0, 1.0]]),
]


@pytest.mark.parametrize(
    ("metric", "norm", "expected"), GOLDEN, ids=["muon", "chain", "in", "foof"]
)
def test_golden_directions(
    metric: Any, norm: Any, expected: list[list[float]], exact: None
) -> None:
    """O21: Muon, Newton-Muon, its sandwich, FOOF."""
    gradient = torch.tensor([[1.0, 2.0], [0.0, 1.0]], dtype=DTYPE)
    moment = torch.diag(torch.tensor([4.0, 1.0], dtype=DTYPE))
    direction = once(metric, gradient, norm, input_moment=moment)
    assert_close(direction, torch.tensor(expected, dtype=DTYPE), rtol=0, atol=1e-6)


def solved(metric: LayerMoments, g: Tensor, a: Tensor, b: Tensor, power: float = 1.0) -> Tensor:
    """The definition, by eigendecompositions of damped factors."""

    def root(s: Tensor, amount: float) -> Tensor:
        values, basis = torch.linalg.eigh(s)
        return (basis * (values + amount) ** -power) @ basis.mT

    means = [float(s.diagonal().mean()) for s in (a, b)]
    pi = (means[0] / means[1]) ** 0.5
    damping = metric.damping
    amounts = {
        Relative: [getattr(damping, "share", 0.0) * mean for mean in means],
        Absolute: [getattr(damping, "value", 0.0)] * 2,
        Balanced: [getattr(damping, "value", 0.0) ** 0.5 * x for x in (pi, 1 / pi)],
    }[type(damping)]
    return root(b, amounts[1]) @ g @ root(a, amounts[0])


@pytest.mark.parametrize("damping", [Relative(0.3), Absolute(0.2), Balanced(0.1)], ids=str)
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_kfac_is_the_solve_of_both_damped_factors(damping: Damping, power: float) -> None:
    metric = LayerMoments(every=1, damping=damping, power=power)
    g, a, b = draw(3, 5), moment(5), 0.01 * moment(3, seed=1)
    direction = once(metric, g, input_moment=a, output_moment=b)
    assert_close(direction, solved(metric, g, a, b, power))


def dense(g: Tensor, a: Tensor, b: Tensor, value: float, power: float) -> Tensor:
    """(B x A + value I)^-power g, by the matrix itself."""
    product = torch.kron(b, a)
    values, basis = torch.linalg.eigh(product + value * torch.eye(len(product), dtype=DTYPE))
    return (basis @ (values**-power * (basis.mT @ g.flatten()))).reshape(g.shape)


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("ranks", [(5, 3), (2, 1)], ids=["full", "deficient"])
def test_exact_damping_is_that_of_the_whole_matrix(power: float, ranks: tuple[int, int]) -> None:
    metric = LayerMoments(every=1, damping=Exact(0.1), power=power)
    g, x, e = draw(3, 5), draw(ranks[0], 5), draw(ranks[1], 3, seed=1)
    a, b = x.mT @ x, 0.3 * e.mT @ e
    direction = once(metric, g, input_moment=a, output_moment=b)
    assert_close(direction, dense(g, a, b, 0.1, power))
    if power == 1.0:
        kronecker = torch.kron(b, a) + 0.1 * torch.eye(15, dtype=DTYPE)
        assert_close(direction.flatten(), torch.linalg.solve(kronecker, g.flatten()))


def test_exact_damping_sees_blocks_convolutions_and_averages() -> None:
    g, memory = draw(4, 6, 2, 1), Memory(0.9)
    metric = LayerMoments(every=1, damping=Exact(0.2), memory=memory, max_dim=4)
    runner, matrix = Runner(metric, tuple(g.shape)), g.flatten(1)
    moments = [(moment(12, seed=i), moment(4, seed=9 + i)) for i in (0, 1)]
    for a, b in moments:
        direction = runner.step(g, input_moment=a, output_moment=b).flatten(1)
    a, b = (0.9 / 1.9 * old + 1 / 1.9 * new for old, new in zip(*moments, strict=True))
    for cut in (slice(i, i + 4) for i in (0, 4, 8)):
        assert_close(direction[:, cut], dense(matrix[:, cut], a[cut, cut], b, 0.2, 1.0))


def test_of_one_factor_or_of_eigenvalues_exact_damping_is_absolute() -> None:
    for kind in (LayerMoments(outputs="", every=1), LayerEigenvalues(every=1)):
        rows = {"layer_inputs": draw(7, 5), "output_gradients": draw(7, 3, seed=1)}
        seen = {"input_moment": moment(5), **rows}
        directions = [
            once(replace(kind, damping=damping), draw(3, 5), **seen)
            for damping in (Exact(0.3), Absolute(0.3))
        ]
        assert_close(*directions)


def test_balanced_damping_of_one_factor_is_absolute() -> None:
    g, a = draw(3, 5), moment(5)
    directions = [
        once(LayerMoments(outputs="", every=1, damping=d), g, input_moment=a)
        for d in (Balanced(0.1), Absolute(0.1))
    ]
    assert_close(*directions)


def test_factors_are_averages_of_what_was_seen() -> None:
    metric = LayerMoments(memory=Memory(0.9), every=1)
    runner = Runner(metric, (3, 4))
    moments = [(moment(4, seed=i), moment(3, seed=10 + i)) for i in range(4)]
    for a, b in moments:
        runner.step(draw(3, 4), input_moment=a, output_moment=b)
    weights = torch.tensor([0.9**i for i in (3, 2, 1, 0)], dtype=DTYPE)
    weights = weights / weights.sum()
    expected = sum(w * a for w, (a, _) in zip(weights, moments, strict=True))
    assert_close(runner.state("factor_inputs"), expected)


@pytest.mark.parametrize(
    ("shape", "how", "counts"),
    [
        ((4, 8), {"square": True}, (1, 2)),
        ((8, 4), {"square": True}, (2, 1)),
        ((4, 6), {"max_dim": 3}, (2, 2)),
        ((4, 7), {"max_dim": 3}, (2, 7)),
        ((4, 6, 2, 1), {"max_dim": 4}, (1, 3)),
        ((6, 4), {"max_dim": 3, "inputs_first": True}, (2, 2)),
    ],
    ids=str,
)
def test_blocks_are_layers_of_their_own(
    shape: tuple[int, ...], how: dict[str, Any], counts: tuple[int, int]
) -> None:
    """Each block of the weight meets the diagonal blocks of both factors, by a plain loop."""
    metric = LayerMoments(every=1, damping=Relative(0.1), **how)
    g = draw(*shape)
    matrix = g.mT if metric.inputs_first else g.flatten(1)
    m, n = matrix.shape
    a, b = moment(n), moment(m, seed=1)
    expected = torch.empty_like(matrix)
    rows, columns = m // counts[0], n // counts[1]
    for i in range(0, m, rows):
        for j in range(0, n, columns):
            cut = slice(i, i + rows), slice(j, j + columns)
            own = a[cut[1], cut[1]], b[cut[0], cut[0]]
            expected[cut] = solved(metric, matrix[cut], *own)
    direction = once(metric, g, input_moment=a, output_moment=b)
    assert_close(direction.mT if metric.inputs_first else direction.flatten(1), expected)


def transformed(metric: Metric, norm: Norm | None, p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """The direction, and that of the same layer under W = P^-1 W' Q^-1, brought back: both."""
    m, n = len(p), len(q)
    g, a, b = draw(m, n, seed=3), moment(n, seed=4), moment(m, seed=5)
    here = once(metric, g, norm, input_moment=a, output_moment=b)
    pi, qi = torch.linalg.inv(p), torch.linalg.inv(q)
    there = {"input_moment": qi @ a @ qi.mT, "output_moment": pi.mT @ b @ pi}
    return here, pi @ once(metric, pi.mT @ g @ qi.mT, norm, **there) @ qi


HALF = LayerMoments(every=1, damping=NONE, power=0.5)
P, Q, EYE = draw(3, 3, seed=1), draw(4, 4, seed=2), torch.eye(3, dtype=DTYPE)


@pytest.mark.parametrize(
    ("metric", "norm", "p", "q", "holds"),
    [
        (BOTH, None, P, Q, True),
        (BOTH, Spectral(), P, Q, True),
        (HALF, None, P, Q, False),
        (HALF, None, exact_polar(P), exact_polar(Q), True),
        (INPUTS, None, EYE, Q, True),
        (INPUTS, Spectral(), EYE, Q, True),
        (First(INPUTS), Spectral(), EYE, Q, False),
    ],
    ids=["kfac", "kfac+muon", "root", "root, turned", "foof", "sandwich", "newton-muon"],
)
def test_who_is_indifferent_to_how_a_layer_is_parametrised(
    metric: Metric, norm: Norm | None, p: Tensor, q: Tensor, holds: bool
) -> None:
    """O20: natural gradients and the sandwich are; Newton-Muon and square roots are not."""
    here, there = transformed(metric, norm, p, q)
    distance = (here - there).norm() / here.norm()
    assert distance < 1e-8 if holds else distance > 0.05


def test_the_sandwich_has_its_dual_norm_and_the_one_sided_chain_descends(exact: None) -> None:
    """O19 and T-chain, for random inputs."""
    for seed in range(20):
        g, a = draw(3, 4, seed=seed), moment(4, seed=100 + seed)
        values, basis = torch.linalg.eigh(a)
        root = (basis * values.sqrt()) @ basis.mT
        direction = once(INPUTS, g, Spectral(), input_moment=a)
        dual = torch.linalg.matrix_norm(torch.linalg.solve(root, g.mT), "nuc")
        assert_close((g * direction).sum(), dual)
        assert torch.linalg.matrix_norm(direction @ root, 2) < 1 + 1e-9
        assert (g * once(First(INPUTS), g, Spectral(), input_moment=a)).sum() > 0


@pytest.mark.parametrize("damping", [NONE, Exact()], ids=str)
@pytest.mark.parametrize("bad", ["nan", "inf", "negative"])
def test_a_bad_statistic_changes_nothing_and_is_counted(bad: str, damping: Damping) -> None:
    runner = Runner(replace(BOTH, damping=damping), (3, 4))
    g = draw(3, 4)
    good = {"input_moment": moment(4), "output_moment": moment(3)}
    usual = runner.step(g, **good)
    broken = (
        -moment(4) if bad == "negative" else moment(4).index_fill(0, torch.tensor(1), float(bad))
    )
    assert_close(runner.step(g, **{**good, "input_moment": broken}), usual)
    assert runner.state("rejected_inputs") == 1
    assert runner.state("rejected_outputs") == 0
    assert runner.state("seen_inputs") == 1
    assert_close(runner.step(g, **good), usual)


@pytest.mark.parametrize(
    "metric",
    [BOTH, LayerEigenvalues(every=1), LayerMoments(damping=Exact())],
    ids=["kfac", "ekfac", "exact"],
)
def test_without_statistics_the_metric_is_the_identity(metric: Metric) -> None:
    runner = Runner(metric, (3, 4))
    for seed in range(3):
        assert_close(runner.step(draw(3, 4, seed=seed)), draw(3, 4, seed=seed))


def test_long_silence_does_no_harm() -> None:
    """O30, O31: a layer without a gradient says nothing of its outputs."""
    runner = Runner(LayerMoments(every=1), (3, 4))
    zeros = {"gradient": torch.zeros(3, 4, dtype=DTYPE), "output_moment": draw(3, 3) * 0}
    for _ in range(3):
        assert not runner.step(**zeros, input_moment=moment(4)).any()
    usual = runner.step(draw(3, 4), input_moment=moment(4), output_moment=moment(3))
    for _ in range(400):
        runner.step(**zeros, input_moment=moment(4))
    again = runner.step(draw(3, 4), input_moment=moment(4), output_moment=moment(3))
    assert_close(again, usual)


def test_a_delayed_metric_has_not_seen_the_batch_of_the_step() -> None:
    runner = Runner(LayerMoments(outputs="", every=1, damping=NONE, instant=False), (3, 4))
    g = draw(3, 4)
    assert_close(runner.step(g, input_moment=moment(4)), g)
    before = torch.linalg.solve(moment(4), g.mT).mT
    assert_close(runner.step(g, input_moment=moment(4, seed=1)), before)


@pytest.mark.parametrize(
    "metric",
    [
        LayerEigenvalues(every=4),
        LayerMoments(every=4),
        LayerMoments(every=4, damping=Exact(), instant=False),
    ],
    ids=str,
)
def test_the_plain_program_agrees(metric: Metric) -> None:
    runner = Runner(metric, (3, 4))
    tensors = {name: runner.state(name).clone() for name in runner.program.state}
    tensors["weight"] = runner.weight.clone()
    for i in range(10):
        rows = draw(7, 4, seed=i), draw(7, 3, seed=20 + i)
        seen = dict(zip(("layer_inputs", "output_gradients"), rows, strict=True))
        seen |= {"input_moment": rows[0].mT @ rows[0], "output_moment": rows[1].mT @ rows[1]}
        seen = {name: seen[name] for name in runner.program.statistics}
        gradient = draw(3, 4, seed=40 + i)
        runner.step(gradient, **seen)
        lr = torch.ones((), dtype=DTYPE)
        tensors = runner.program.run(**{**tensors, **seen, "gradient": gradient, "lr": lr})
        assert_close(tensors["weight"], runner.weight)


@pytest.mark.parametrize(
    ("metric", "norm", "name", "text"),
    [
        (BOTH, None, "KFAC", "output_moment 4 x input_moment 8, power 1"),
        (INPUTS, None, "FOOF", "input_moment 8, power 1"),
        (First(INPUTS), Spectral(), "Newton-Muon", "no descent guarantee"),
        (INPUTS, Spectral(), "Newton-Muon as a sandwich", "input_moment 8"),
        (LayerEigenvalues(), None, "EKFAC", "eigenbases of output_gradients x layer_inputs"),
        (LayerMoments(max_dim=4), None, "KFAC", "input_moment 4 in 2 blocks"),
    ],
    ids=str,
)
def test_the_plan_says_what_it_is(metric: Metric, norm: Any, name: str, text: str) -> None:
    assert known_as(setting(metric, norm), None) == name
    assert text in describe(metric, (4, 8))


def test_a_metric_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a statistic of the inputs or of the outputs"):
        LayerMoments(inputs="", outputs="")
    with pytest.raises(ValueError, match="every >= 1"):
        LayerEigenvalues(every=0)
