"""IF-Shampoo and SINGD: first order, fixed points, and what they do with a network's moments."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, Runner, draw
from modula.duality import Behind, HeavyBall
from modula.duality.metrics.coordinates import describe
from modula.norms import (
    SINGD,
    Dense,
    DiagonalMode,
    Flat,
    InverseFree,
    Kronecker,
    Memory,
    Metric,
    Mode,
)

PURE: dict[str, Any] = {"damping": 0.0, "square": False}


def moment_of(runner: Runner, i: int) -> Tensor:
    """S_i = (K K^T)^-1."""
    root = runner.state(f"root_{i}")
    return torch.linalg.inv(root @ root.mT) if root.ndim == 2 else torch.diag(root**-2)


def positive(d: int, seed: int) -> Tensor:
    x = draw(d, 2 * d, seed=seed)
    return x @ x.mT / (2 * d)


@pytest.mark.parametrize(
    "modes",
    [
        (Dense(), Dense()),
        (DiagonalMode(), Dense()),
        (Dense(), Flat()),
        (Dense(), Dense(), DiagonalMode()),
    ],
    ids=str,
)
def test_it_comes_to_rest_at_the_kl_projection(modes: tuple[Mode, ...]) -> None:
    """O7: KL-Shampoo's S, at power one."""
    samples = draw(60, *(3, 5, 2)[: len(modes)])
    samples = samples * draw(samples.shape[-1], seed=1).exp()
    shape, all_modes = tuple(samples.shape), (Flat(), *modes)
    ours = Runner(InverseFree(all_modes, rate=0.3, **PURE), shape).steps([samples] * 200)
    memory = Memory(0.5, unbiased=False)
    exact = Kronecker(all_modes, memory=memory, power=1.0, every=1, **PURE)
    assert_close(ours, Runner(exact, shape).steps([samples] * 80), rtol=1e-6, atol=1e-7)


def naive_step(
    roots: list[Tensor], speeds: list[Tensor], g: Tensor, batch_size: float, damping: float
) -> None:
    """The docstring of InverseFree, with rate 0.1 and momentum 0.5, before sizes are equalled."""
    (k, c), (m, n) = roots, g.shape
    x = k.mT @ g @ c
    pulls = (
        batch_size * x @ x.mT / n + damping * (c.mT @ c).trace() / n * k.mT @ k,
        batch_size * x.mT @ x / m + damping * (k.mT @ k).trace() / m * c.mT @ c,
    )
    for i, pull in enumerate(pulls):
        speeds[i] = 0.5 * speeds[i] + 0.5 * (pull - torch.eye(len(pull), dtype=DTYPE)) / 2
        roots[i] = roots[i] - 0.1 * roots[i] @ speeds[i] / speeds[i].norm().clamp(min=1)


def test_steps_are_those_of_a_plain_loop() -> None:
    metric = InverseFree(rate=0.1, damping=1e-2, batch_size=5.0, square=False, size_beta=1.0)
    runner, first = Runner(metric, (3, 4)), draw(3, 4)
    scale = (5 * first.square().mean() + 1e-2) ** -0.25
    roots = [scale * torch.eye(d, dtype=DTYPE) for d in (3, 4)]
    speeds = [torch.zeros_like(root) for root in roots]
    for seed in range(5):
        gradient = draw(3, 4, seed=seed)
        direction = runner.step(gradient)
        naive_step(roots, speeds, gradient, 5.0, 1e-2)
        p, r = (x @ x.mT for x in roots)
        assert_close(direction, p @ gradient @ r)


def test_the_batch_size_is_a_factor_of_the_second_moment() -> None:
    """sqrt(B) G seen with a batch size of one gives the same metric."""
    gradients = [draw(4, 4, seed=i) for i in range(4)]
    runners = [Runner(InverseFree(batch_size=b), (4, 4)) for b in (9.0, 1.0)]
    directions = [
        runner.steps([scale * g for g in gradients])
        for runner, scale in zip(runners, (1.0, 3.0), strict=True)
    ]
    assert_close(3 * directions[0], directions[1])


def test_behind_the_direction_comes_the_heavy_ball() -> None:
    gradients = [draw(3, 3, seed=i) for i in range(3)]
    plain = Runner(InverseFree(), (3, 3))
    followed = Runner(InverseFree(), (3, 3), momentum=Behind(HeavyBall(0.5)))
    velocity = torch.zeros(3, 3, dtype=DTYPE)
    for gradient in gradients:
        velocity = 0.5 * velocity + plain.step(gradient)
        assert_close(followed.step(gradient), velocity)


@pytest.mark.parametrize(
    "metric", [InverseFree(rate=0.1), InverseFree(DiagonalMode())], ids=["dense", "diagonal"]
)
def test_long_silence_and_a_silent_start_do_no_harm(metric: Metric) -> None:
    """O30, O31."""
    runner, silent = Runner(metric, (4, 3)), torch.zeros(4, 3, dtype=DTYPE)
    assert torch.equal(runner.step(silent), silent)
    usual = [runner.step(draw(4, 3, seed=i)).norm() for i in range(40)]
    for _ in range(300):
        assert torch.equal(runner.step(silent), silent)
    assert runner.step(draw(4, 3, seed=50)).norm() < 3 * max(usual)


def test_ikfac_follows_the_averages_of_kfac_to_second_order() -> None:
    """S <- S + rate (M + damping I - S): the distance falls as the square of the rate."""
    damping, moments = 0.1, (positive(3, 0), positive(4, 1))
    eyes = [torch.eye(len(m), dtype=DTYPE) for m in moments]

    def distance(rate: float) -> float:
        metric = SINGD(rate=rate, momentum=0.0, damping=damping, cross=False, size_beta=1.0)
        runner = Runner(metric, (3, 4))
        runner.step(draw(3, 4), output_moment=eyes[0], input_moment=eyes[1])
        before = [moment_of(runner, i) for i in (0, 1)]
        runner.step(draw(3, 4), output_moment=moments[0], input_moment=moments[1])
        targets = [m + damping * eye for m, eye in zip(moments, eyes, strict=True)]
        expected = [s + rate * (t - s) for s, t in zip(before, targets, strict=True)]
        found = [moment_of(runner, i) for i in (0, 1)]
        return max(float((f - e).norm()) for f, e in zip(found, expected, strict=True))

    far, near = distance(1e-2), distance(1e-3)
    assert near < 1e-5
    assert far / near == pytest.approx(100, rel=0.1)


@pytest.mark.parametrize("modes", [Dense(), (DiagonalMode(), Dense())], ids=str)
def test_singd_comes_to_rest_at_the_inverse_of_the_layers_fisher(modes: Any) -> None:
    outputs, inputs, gradient = positive(3, 0), positive(4, 1), draw(3, 4)
    runner = Runner(SINGD(modes, rate=0.2, damping=0.0), (3, 4))
    for _ in range(200):
        direction = runner.step(gradient, output_moment=outputs, input_moment=inputs)
    if modes != Dense():
        outputs = outputs.diagonal().diag()
    expected = torch.linalg.solve(outputs, gradient) @ torch.linalg.inv(inputs)
    assert_close(direction, expected, rtol=1e-6, atol=1e-7)


def test_singd_waits_where_nothing_was_collected() -> None:
    moments = {"output_moment": positive(3, 0), "input_moment": positive(4, 1)}
    runner = Runner(SINGD(), (3, 4))
    assert_close(runner.step(draw(3, 4)), draw(3, 4))
    runner.step(draw(3, 4), **moments)
    before = runner.state("root_0").clone()
    runner.step(draw(3, 4))
    assert torch.equal(before, runner.state("root_0"))
    runner.step(draw(3, 4), **moments)
    assert not torch.equal(before, runner.state("root_0"))


def test_singd_reads_the_patches_of_a_convolution() -> None:
    runner = Runner(SINGD(rate=0.2, damping=0.0), (3, 2, 1, 2))
    outputs, inputs, gradient = positive(3, 0), positive(4, 1), draw(3, 2, 1, 2)
    for _ in range(200):
        direction = runner.step(gradient, output_moment=outputs, input_moment=inputs)
    expected = torch.linalg.solve(outputs, gradient.flatten(1)) @ torch.linalg.inv(inputs)
    assert_close(direction.flatten(1), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "options"),
    [((3, 2, 2), {}), ((3, 1, 2, 2), {}), ((4, 3), {"inputs_first": True})],
    ids=["one dim", "one channel", "inputs first"],
)
def test_singd_knows_both_sides_of_any_layer(shape: tuple[int, ...], options: Any) -> None:
    runner = Runner(SINGD(rate=0.2, damping=0.0, **options), shape)
    outputs, inputs, gradient = positive(3, 0), positive(4, 1), draw(*shape)
    for _ in range(200):
        direction = runner.step(gradient, output_moment=outputs, input_moment=inputs)
    seen, found = (x.mT if options else x.flatten(1) for x in (gradient, direction))
    expected = torch.linalg.solve(outputs, seen) @ torch.linalg.inv(inputs)
    assert_close(found, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -1.0])
@pytest.mark.parametrize("cross", [True, False])
def test_singd_keeps_its_factors_where_a_moment_is_none(bad: float, cross: bool) -> None:
    runner = Runner(SINGD(cross=cross), (3, 4))
    moments = {"output_moment": positive(3, 0), "input_moment": positive(4, 1)}
    for seed in range(3):
        runner.step(draw(3, 4, seed=seed), **moments)
    left, right = (moment_of(runner, i) for i in (0, 1))
    usual = torch.linalg.solve(left, draw(3, 4)) @ torch.linalg.inv(right)
    for count in (1, 2):
        bad_moments = {**moments, "input_moment": bad * moments["input_moment"]}
        assert_close(runner.step(draw(3, 4), **bad_moments), usual)
        assert (runner.state("rejected"), runner.state("seen")) == (count, 3)


def test_a_sudden_moment_leaves_the_factors_invertible() -> None:
    runner, eyes = Runner(SINGD(rate=0.1), (3, 3)), torch.eye(3, dtype=DTYPE)
    for size in (1.0, 1.0, 1e6, 1.0):
        moments = {"output_moment": size * eyes, "input_moment": eyes}
        direction = runner.step(draw(3, 3), **moments)
        assert direction.isfinite().all()
        assert torch.linalg.slogdet(runner.state("root_0")).sign == 1


def test_they_say_what_they_are() -> None:
    text = "layer moments: diagonal 5000 x dense 8, power 1"
    assert describe(SINGD(), (5000, 8)) == text
    assert describe(InverseFree(), (8, 4)) == "inverse-free: 2 blocks of dense 4 x dense 4, power 1"
    with pytest.raises(ValueError, match="declare a metric of gradients"):
        describe(SINGD(), (7,))
    with pytest.raises(ValueError, match="needs 0 < rate < 1"):
        SINGD(rate=2.0)
    with pytest.raises(ValueError, match="batch_size > 0; got 0"):
        InverseFree(batch_size=0)
