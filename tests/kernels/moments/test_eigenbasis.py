"""Bases that follow a factor, and second moments that follow the bases."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments.eigenbasis import carried, next_basis, off_diagonal, root_in_basis
from modula.kernels.spectral.polar import exact_polar
from strategies import seeds

DTYPE = torch.float64
Twin = Callable[..., Tensor]
TWINS = pytest.mark.parametrize("twin", [next_basis.plain, next_basis.fused])
OLD, YOUNG = torch.tensor([50.0]), torch.tensor([1.0])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def factor(n: int, seed: int = 0) -> Tensor:
    values = torch.logspace(0, -3, n, dtype=DTYPE)
    return (basis(n, seed) * values) @ basis(n, seed).mT


def basis(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(draw(n, n, seed=seed))[0]


def renewed(
    s: Tensor, q: Tensor, step: Tensor = OLD, tolerance: float = 0.0, twin: Twin = next_basis.plain
) -> Tensor:
    return twin(s[None], q[None], step, young=10, tolerance=tolerance)[0]


@TWINS
def test_at_first_it_is_the_eigenbasis_and_later_it_comes_nearer(twin: Twin) -> None:
    s, q = factor(6), basis(6, 5)
    found = renewed(s, q, YOUNG, twin=twin)
    assert off_diagonal(found.mT @ s @ found) < 1e-12
    ratios = [float(off_diagonal(q.mT @ s @ q))]
    for _ in range(60):
        q = renewed(s, q, twin=twin)
        ratios.append(float(off_diagonal(q.mT @ s @ q)))
        assert_close(q.mT @ q, torch.eye(6, dtype=DTYPE))
    assert ratios[-1] < 1e-8 < ratios[0]
    shares = (q.mT @ s @ q).diagonal()
    assert (shares.diff() < 0).all()


def test_a_polar_factor_would_not_move_the_basis() -> None:
    """O28: S Q = Q (Q^T S Q), whose polar factor is Q; so qr is used."""
    s, q = factor(5), basis(5, 3)
    assert_close(exact_polar(s @ q), q)
    assert (renewed(s, q) - q).abs().max() > 0.1


@TWINS
def test_bases_stay_where_nothing_can_be_said_or_nothing_has_to(twin: Twin) -> None:
    s, q = factor(4), basis(4, 2)
    for bad in (0 * s, s * float("nan"), s * float("inf")):
        for step in (OLD, YOUNG):
            assert torch.equal(renewed(bad, q, step, twin=twin), q)
    ratio = float(off_diagonal(q.mT @ s @ q))
    assert torch.equal(renewed(s, q, tolerance=1.01 * ratio, twin=twin), q)
    assert not torch.equal(renewed(s, q, tolerance=0.99 * ratio, twin=twin), q)


@TWINS
def test_young_and_old_weights_share_a_batch(twin: Twin) -> None:
    stack = torch.stack([factor(5, 1), factor(5, 2)])
    bases = torch.stack([basis(5, 3), basis(5, 4)])
    found = twin(stack, bases, torch.tensor([3.0, 50.0]), young=10, tolerance=0.0)
    for k, step in enumerate((YOUNG, OLD)):
        assert_close(found[k], renewed(stack[k], bases[k], step, twin=twin))


def test_in_the_eigenbasis_a_root_is_the_inverse_root() -> None:
    s, before = factor(5), draw(5, 5)
    q = torch.linalg.eigh(s)[1]
    for power in (0.5, 1.0):
        found = root_in_basis(s, q, before, power=power, damping=0.0)
        assert_close(torch.linalg.matrix_power(found, round(1 / power)), torch.linalg.inv(s))
    bounded = root_in_basis(s - 0.01 * torch.eye(5), q, before, power=0.5, damping=0.1)
    assert torch.linalg.eigvalsh(bounded).max() <= (0.1 * (s.trace() / 5 - 0.01)) ** -0.5 * 1.001
    for bad in (0 * s, s * float("nan"), s * float("inf"), -s):
        assert torch.equal(root_in_basis(bad, q, before, power=0.5, damping=0.1), before)


@given(seed=seeds(), blocks=st.integers(1, 3))
def test_second_moments_turn_by_squares(seed: int, blocks: int) -> None:
    """O27: the diagonal of the turned covariance; the sum is kept and nothing is negative."""
    square = draw(blocks, 3, 4, seed=seed % 2**30).square()
    olds, news = ([basis(n, seed % 2**20 + k + n) for n in (3, 4)] for k in (0, 50))
    found = carried(square, olds[0], news[0], olds[1], news[1], dims=(-2, -1), ndim=2)
    turns = [old.mT @ new for old, new in zip(olds, news, strict=True)]
    for before, after in zip(square, found, strict=True):
        turn = torch.kron(turns[0], turns[1])
        whole = turn.mT @ torch.diag(before.flatten()) @ turn
        assert_close(after.flatten(), whole.diagonal())
        assert_close(after.sum(), before.sum())
    assert (found >= 0).all()
