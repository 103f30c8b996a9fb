"""The ops of SINGD and KL-Shampoo without inverses, against dense matrices in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import inverse_free
from modula.kernels.moments.structure import DIAGONAL, FULL, Pattern

D = 4
EYE = torch.eye(D, dtype=torch.float64)
ONE = torch.ones((), dtype=torch.float64)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(seed: int) -> Tensor:
    x = drawn(seed, D, 2 * D)
    return x @ x.mT / (2 * D)


def kept(matrix: Tensor, kind: Pattern) -> Tensor:
    return matrix.diagonal() if kind is DIAGONAL else matrix


def dense(root: Tensor, kind: Pattern) -> Tensor:
    return root.diag() if kind is DIAGONAL else root


@pytest.mark.parametrize("kind", [FULL, DIAGONAL], ids=str)
def test_a_moment_in_the_coordinates_of_a_root(kind: Pattern) -> None:
    root = kept(EYE + 0.2 * drawn(0, D, D), kind)
    expected = dense(root, kind).mT @ moment(1) @ dense(root, kind)
    assert_close(inverse_free.congruence(moment(1), root, kind=kind), kept(expected, kind))


def test_a_moment_seen_by_the_other_dims() -> None:
    found = inverse_free.crossed(
        moment(0), moment(1), moment(2).diagonal(), kinds=(FULL, FULL, DIAGONAL)
    )
    assert_close(found, moment(0) * moment(1).trace() / D * moment(2).trace() / D)


@pytest.mark.parametrize("kind", [FULL, DIAGONAL], ids=str)
def test_a_step_follows_the_average_to_first_order(kind: Pattern) -> None:
    """S = (K K^T)^-1 moves by rate (M - S): the error is of second order in the rate."""
    root, target = kept(EYE + 0.2 * moment(0), kind), moment(1) + EYE
    seen = inverse_free.congruence(target, root, kind=kind)
    change = inverse_free.log_gradient(seen, root, damping=0.0, kinds=(kind,))
    errors = []
    for rate in (1e-3, 1e-4):
        after = inverse_free.group_step(root, change, ONE, rate=rate, limit=1e9, kind=kind)
        before, moved = (
            torch.linalg.inv(dense(x, kind) @ dense(x, kind).mT) for x in (root, after)
        )
        wanted = before + rate * (target - before)
        errors.append((kept(moved, kind) - kept(wanted, kind)).norm())
    assert errors[1] < 2e-2 * errors[0]


def test_damping_is_an_identity_seen_through_the_root() -> None:
    root, other = EYE + 0.2 * moment(0), 1.5 * EYE
    plain = inverse_free.log_gradient(moment(1), root, other, damping=0.0, kinds=(FULL, FULL))
    damped = inverse_free.log_gradient(moment(1), root, other, damping=0.1, kinds=(FULL, FULL))
    assert_close(plain, (moment(1) - EYE) / 2)
    assert_close(damped - plain, 0.1 * 1.5**2 * root.mT @ root / 2)


def test_long_steps_are_clipped_and_no_sample_means_no_step() -> None:
    speed = drawn(0, D, D)
    root = inverse_free.group_step(EYE, speed, ONE, rate=0.1, limit=0.5, kind=FULL)
    assert_close((root - EYE).norm(), torch.tensor(0.05, dtype=torch.float64))
    stay = inverse_free.group_step(EYE, speed, 0 * ONE, rate=0.1, limit=0.5, kind=FULL)
    assert torch.equal(stay, EYE)
    kept_speed = inverse_free.group_momentum(speed, drawn(1, D, D), 0 * ONE, beta=0.9)
    assert torch.equal(kept_speed, speed)
    averaged = inverse_free.group_momentum(speed, drawn(1, D, D), ONE, beta=0.9)
    assert_close(averaged, 0.9 * speed + 0.1 * drawn(1, D, D))


def test_a_gauge_divides_the_factor_by_its_root() -> None:
    found = inverse_free.group_step(EYE, 0 * EYE, ONE, 4 * ONE, rate=0.1, limit=1.0, kind=FULL)
    assert_close(found, EYE / 2)
