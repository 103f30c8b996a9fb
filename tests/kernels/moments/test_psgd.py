"""The ops of PSGD against linear algebra in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from modula.kernels.moments import psgd
from modula.kernels.moments.structure import FULL

SEEDS = st.integers(0, 2**31 - 1)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=SEEDS, d=st.integers(1, 9), rank=st.integers(1, 9), scale=st.integers(-8, 8))
def test_the_guessed_norm_is_below_and_near_the_largest_eigenvalue(
    seed: int, d: int, rank: int, scale: int
) -> None:
    x = 10.0**scale * drawn(seed, 2, d, rank)
    moment = x @ x.mT
    largest = torch.linalg.eigvalsh(moment)[..., -1]
    guess = psgd.spectral_guess(moment)
    assert (guess <= largest * (1 + 1e-12)).all()
    assert (guess >= 0.6 * largest).all()


def test_the_guess_of_zero_is_zero() -> None:
    assert torch.equal(psgd.spectral_guess(torch.zeros(2, 3, 3)), torch.zeros(2))


def test_bounds_rise_at_once_and_fall_slowly() -> None:
    moments = [size * torch.eye(2, dtype=torch.float64) for size in (3.0, 1.0, 9.0, 0.0)]
    bound, seen = torch.zeros((), dtype=torch.float64), []
    for moment in moments:
        fresh = torch.tensor(float(moment.any()), dtype=torch.float64)
        bound = psgd.running_bound(bound, fresh, moment, beta=0.5, kind=FULL)
        seen.append(float(bound))
    assert seen == pytest.approx([4.0, 3.0, 10.0, 10.0])


@given(seed=SEEDS, d=st.integers(2, 8), asymmetry=st.sampled_from([1e-2, 1e-1, 1.0]))
def test_rotations_keep_the_square_and_raise_the_trace(seed: int, d: int, asymmetry: float) -> None:
    spd = drawn(seed, d, 2 * d)
    root = torch.linalg.cholesky(spd @ spd.mT / d + torch.eye(d))
    values, basis = torch.linalg.eigh(root @ root.mT)
    root = (
        (basis * values.sqrt())
        @ basis.mT
        @ torch.linalg.matrix_exp(asymmetry * (lambda x: x - x.mT)(drawn(seed + 1, d, d)) / d)
    )
    turned = psgd.rotated(root)
    assert turned.trace() >= root.trace() - 1e-12
    # a R has the norm a <= 1/8: what is left of (I + aR + a^2 R^2 / 2)(...)^T - I is a^4 R^4 / 4.
    change = (turned @ turned.mT - root @ root.mT).norm() / (root @ root.mT).norm()
    assert change <= (1 / 8) ** 4 / 4


def test_a_symmetric_root_is_not_turned() -> None:
    root = drawn(0, 4, 4)
    root = root @ root.mT
    assert torch.equal(psgd.rotated(root), root)
