"""The ops of PSGD's low-rank metric against dense matrices: Q = (I + U V^T) diag(d)."""

import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import low_rank

N, RANK, DAMPING = 6, 2, 1e-2
ONE = torch.ones((), dtype=torch.float64)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


SCALE, LEFT, RIGHT = drawn(0, 2, 3).exp(), 0.3 * drawn(1, N, RANK), 0.3 * drawn(2, N, RANK)
SAMPLE, THROUGH = drawn(3, 2, 3), drawn(4, N, RANK)
EYE = torch.eye(N, dtype=torch.float64)
SPREAD = EYE + LEFT @ RIGHT.mT
Q = SPREAD @ SCALE.flatten().diag()
WHITE = (Q @ SAMPLE.flatten()).reshape(SAMPLE.shape)
NOISE = DAMPING * SAMPLE.square().mean()


def pull() -> Tensor:
    return low_rank.pull(WHITE, SAMPLE, SCALE, LEFT, RIGHT, THROUGH, damping=DAMPING)


def push() -> Tensor:
    return low_rank.push(SCALE, LEFT, RIGHT, THROUGH)


def test_products_with_the_spread_matrix_and_back() -> None:
    assert_close(low_rank.moved(THROUGH, LEFT, RIGHT), SPREAD @ THROUGH)
    assert_close(low_rank.moved_back(SPREAD @ THROUGH, LEFT, RIGHT), THROUGH)
    rows = (EYE + RIGHT @ LEFT.mT).square().sum(-1)
    assert_close(low_rank.row_squares(LEFT, RIGHT), rows)


def test_pull_and_push_are_the_two_parts_of_the_gradient() -> None:
    a, inverse = WHITE.flatten(), torch.linalg.inv(Q)
    assert_close(pull(), (torch.outer(a, a) + NOISE * Q @ Q.mT) @ THROUGH)
    assert_close(push(), inverse.mT @ inverse @ THROUGH)


def test_along_the_scale_they_are_diagonals() -> None:
    p, g = Q.mT @ Q, SAMPLE.flatten()
    pulled = low_rank.pull_scale(WHITE, SAMPLE, SCALE, LEFT, RIGHT, damping=DAMPING)
    assert_close(pulled.flatten(), p @ g * g + NOISE * p.diagonal())
    pushed = low_rank.push_scale(SCALE, LEFT, RIGHT)
    assert_close(pushed.flatten(), torch.linalg.inv(p).diagonal())


def test_changes_are_of_the_factors() -> None:
    x = drawn(5, N, N)
    left = low_rank.change_left(x @ RIGHT, 0 * RIGHT, LEFT, RIGHT)
    assert_close(left, x @ RIGHT @ (torch.eye(RANK, dtype=x.dtype) + RIGHT.mT @ LEFT))
    right = low_rank.change_right(x @ LEFT, 0 * LEFT, LEFT, RIGHT)
    assert_close(right, (EYE + RIGHT @ LEFT.mT) @ x @ LEFT)


def test_a_bound_rises_at_once_and_falls_slowly() -> None:
    now = (pull() @ THROUGH.mT).norm() + (push() @ THROUGH.mT).norm()
    for before, after in ((now / 2, now), (3 * now, 2 * now)):
        found = low_rank.bound(before, ONE, pull(), push(), THROUGH, beta=0.5)
        assert_close(found, after)
    assert low_rank.bound(now, 0 * ONE, pull(), push(), THROUGH, beta=0.5) == now


def test_nothing_moves_without_a_sample() -> None:
    options = {"rate": 0.5, "last_rate": 0.1, "horizon": 10.0}
    stay = low_rank.stepped(LEFT, THROUGH, ONE, 0 * ONE, 0 * ONE, **options)
    assert torch.equal(stay, LEFT)
    assert_close(
        low_rank.stepped(LEFT, THROUGH, 2 * ONE, ONE, 0 * ONE, **options), LEFT - 0.25 * THROUGH
    )


def test_the_ratio_of_lengths_is_one_where_there_is_none() -> None:
    assert_close(low_rank.ratio(LEFT, RIGHT), LEFT.norm() / RIGHT.norm())
    assert low_rank.ratio(LEFT, 0 * RIGHT) == 1 and low_rank.ratio(0 * LEFT, RIGHT) == 1
