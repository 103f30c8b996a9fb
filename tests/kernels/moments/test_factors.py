"""Factors of an inverse against linear algebra in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import factors
from modula.kernels.moments.structure import DIAGONAL, FULL, BlockMatrix, Pattern

KINDS = [FULL, DIAGONAL, BlockMatrix(2)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def dense(x: Tensor, kind: Pattern) -> Tensor:
    """The matrix that is kept as x."""
    if kind.ndim == 3:
        return torch.stack([torch.block_diag(*blocks) for blocks in x])
    return x if kind.ndim == 2 else torch.diag_embed(x)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_squares_and_growth(kind: Pattern) -> None:
    root, change = draw(2, *kind.shape(4)), draw(2, *kind.shape(4), seed=1)
    full, eye = dense(root, kind), torch.eye(4, dtype=root.dtype)
    assert_close(dense(factors.square(root, kind=kind), kind), full @ full.mT)
    assert_close(dense(factors.transposed_square(root, kind), kind), full.mT @ full)
    grown = factors.grown(root, change, kind)
    assert_close(dense(grown, kind), full @ (eye + dense(change, kind)))


def test_mean_squares_are_mean_eigenvalues() -> None:
    root, other = draw(2, 4, 4), draw(2, 3, seed=1)
    expected = (root @ root.mT).diagonal(0, -2, -1).mean(-1) * other.square().mean(-1)
    assert_close(factors.mean_squares((root, other), (FULL, DIAGONAL), root), expected)
    assert factors.mean_squares((), (), root) == 1


@pytest.mark.parametrize("beta", [0.9, 1.0])
def test_the_first_sample_gives_the_size_and_later_ones_average(beta: float) -> None:
    size, fresh = torch.tensor([4.0, 4.0, 4.0]), torch.tensor([1.0, 1.0, 0.0])
    gain = factors.gain_of(size, fresh, torch.tensor([1.0, 1e6, 1.0]), beta)
    later = 1 + (1 - beta) * 3
    assert_close(gain, torch.tensor([4.0, later, 1.0]), rtol=1e-5, atol=0)


def test_the_size_of_a_sample_counts_damping() -> None:
    white, ones, root = draw(2, 3, 4), torch.ones(2, dtype=torch.float64), draw(2, 3, 3, seed=1)
    options = {"beta": 1.0, "share": 0.5, "damping": 0.1, "kinds": (FULL,)}
    expected = 0.5 * white.square().mean((-2, -1)) + 0.1 * FULL.mean_square(root)
    assert_close(factors.size_gain(white, ones, ones, root, **options), expected)
