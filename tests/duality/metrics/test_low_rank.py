"""PSGD's low-rank metric: one step against dense matrices, its fixed point, and what it follows."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, Runner, draw, program
from modula.duality import Setting, Sharp
from modula.duality.known_as import known_as
from modula.duality.metrics.coordinates import describe
from modula.kernels.moments import low_rank
from modula.norms import L2, LowRank

EYE = torch.eye(6, dtype=DTYPE)


def dense(scale: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Q = (I + U V^T) diag(d)"""
    return (EYE + left @ right.mT) @ scale.flatten().diag()


def q_of(runner: Runner) -> Tensor:
    return dense(*(runner.state(name) for name in ("scale", "left", "right")))


def planted(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """d, U and V of a Q; the condition of Q^-4 is about 2e3."""
    left, right = (0.3 * draw(6, 2, seed=seed + i) for i in (1, 2))
    return (0.5 * draw(6, seed=seed)).exp(), left, right


def test_a_step_is_that_of_dense_matrices() -> None:
    """On the groups: U by Q <- (I - X V V^T) Q, V by (I - U U^T X) Q, d by Q (I - diag)."""
    damping, rate = 1e-2, 0.2
    metric = LowRank(2, rate, rate, damping=damping, size_beta=1.0)
    runner = Runner(metric, (2, 3))
    runner.steps([draw(2, 3, seed=i) for i in range(4)])
    scale, left, right = (runner.state(n).clone() for n in ("scale", "left", "right"))
    q, gradient = dense(scale, left, right), draw(2, 3, seed=9)
    runner.step(gradient)
    steps = [rate / runner.state(f"bound_{n}") for n in ("scale", "left", "right")]
    g = gradient.flatten()
    noisy = torch.outer(g, g) + damping * g.square().mean() * EYE
    inverse = torch.linalg.inv(q)
    x = q @ noisy @ q.mT - inverse.mT @ inverse
    ours = [runner.state(n) for n in ("scale", "left", "right")]
    d = scale.flatten() * (1 - steps[0] * (q.mT @ q @ noisy - inverse @ inverse.mT).diagonal())
    assert_close(ours[0].flatten(), d)
    by_left, by_right = (
        (EYE - steps[1] * x @ right @ right.mT) @ (EYE + left @ right.mT),
        (EYE - steps[2] * left @ left.mT @ x) @ (EYE + left @ right.mT),
    )
    # U and V are those of these two products, each with the other one as it was, up to balance.
    u = torch.linalg.lstsq(right, (by_left - EYE).mT).solution.mT
    v = torch.linalg.lstsq(left, by_right - EYE).solution.mT
    assert_close(ours[1] @ ours[2].mT, u @ v.mT)
    assert_close(ours[1].norm(), ours[2].norm())


def test_where_the_covariance_is_of_its_kind_it_rests_at_the_inverse_root() -> None:
    """E X = 0 where Q^T Q = E[g g^T]^-1/2: nothing pulls harder than it pushes."""
    scale, left, right = planted()
    q = dense(scale, left, right)
    roots = torch.linalg.inv(q.mT @ q) * 6**0.5  # columns are samples of covariance P^-2
    many = [x.expand(6, *x.shape) for x in (scale, left, right)]
    white, samples = (q @ roots).mT, roots.mT
    pulls = [
        low_rank.pull_scale(white, samples, *many, damping=0.0),
        low_rank.pull(white, samples, *many, many[2], damping=0.0),
        low_rank.pull(white, samples, *many, many[1], damping=0.0),
    ]
    pushes = [
        low_rank.push_scale(*many),
        low_rank.push(*many, many[2]),
        low_rank.push(*many, many[1]),
    ]
    for pull, push in zip(pulls, pushes, strict=True):
        assert_close(pull.mean(0), push[0])


def test_a_stream_of_gradients_is_whitened_where_a_diagonal_sees_nothing() -> None:
    """Two directions across all entries in which gradients are 20 times as large."""
    across = torch.linalg.qr(draw(30, 2))[0]
    root = torch.eye(30, dtype=DTYPE) + 19 * across @ across.mT
    runner = Runner(LowRank(2, rate=0.3, last_rate=0.02, horizon=30.0), (5, 6))
    for seed in range(400):
        runner.step((root @ draw(30, seed=seed)).view(5, 6))
    scale, left, right = (runner.state(name) for name in ("scale", "left", "right"))
    q = (torch.eye(30, dtype=DTYPE) + left @ right.mT) @ scale.flatten().diag()
    white = torch.linalg.svdvals(q.mT @ q @ root)
    alone = torch.linalg.svdvals((root @ root).diagonal().rsqrt().diag() @ root)
    assert white.log().std() < 0.3 * alone.log().std()


@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_the_direction_does_not_depend_on_the_size_of_gradients(scale: float) -> None:
    gradients = [draw(4, 6, seed=i) for i in range(5)]
    usual = Runner(LowRank(3), (4, 6)).steps(gradients)
    scaled = Runner(LowRank(3), (4, 6)).steps([scale * g for g in gradients])
    assert_close(usual, scaled, rtol=1e-6, atol=1e-9)


def test_what_was_always_silent_meets_a_bounded_inverse() -> None:
    runner = Runner(LowRank(2, damping=1e-2, rate=0.4), (6,))
    for seed in range(300):
        gradient = draw(6, seed=seed)
        gradient[0] = 0
        runner.step(gradient)
    q = q_of(runner)
    p = (q.mT @ q).diagonal()
    assert 2 * p[1:].max() < p[0] < 1.5 * (1e-2 * 5 / 6) ** -0.5


def test_its_state_and_its_work_grow_with_the_entries_alone() -> None:
    small, large = (program(LowRank(4), shape) for shape in ((64, 64), (640, 64)))
    sizes = [what.state_bytes(s, 4) for what, s in ((small, (64, 64)), (large, (640, 64)))]
    assert sizes[1] / sizes[0] == pytest.approx(10, rel=1e-2)
    assert sizes[0] == 4 * (64 * 64 * 9 + 5)
    flops = [what.cost(s, 4).flops for what, s in ((small, (64, 64)), (large, (640, 64)))]
    assert flops[1] / flops[0] == pytest.approx(10, rel=1e-2)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"rank": 0}, "rank >= 1; got 0"), ({"rate": 2.0}, "LowRank needs 0 < last_rate <= rate < 1")],
    ids=str,
)
def test_it_says_what_it_is_and_what_it_cannot_be(options: dict[str, Any], message: str) -> None:
    assert describe(LowRank(4), (8, 3)) == "LRA: diagonal 24 with rank 4, power 0.5"
    assert known_as(Setting(L2(2), metric=LowRank(), potential=Sharp()), False) == "PSGD LRA"
    with pytest.raises(ValueError, match=message):
        LowRank(**options)
