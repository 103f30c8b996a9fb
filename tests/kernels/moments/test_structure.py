"""What is kept of a matrix, against the matrix itself."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments.structure import DIAGONAL, FULL, LOWER, BlockMatrix, Pattern

KINDS = [FULL, LOWER, DIAGONAL, BlockMatrix(3), BlockMatrix(1), BlockMatrix(6)]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mask(kind: Pattern) -> Tensor:
    """Ones where a 6 x 6 matrix is kept."""
    if kind.ndim == 2:
        return torch.ones(6, 6, dtype=torch.float64)
    size = kind.width(6)
    return torch.block_diag(*[torch.ones(size, size, dtype=torch.float64)] * (6 // size))


def whole(kept: Tensor, kind: Pattern) -> Tensor:
    """The matrix that is kept."""
    if kind.ndim == 1:
        return torch.diag_embed(kept)
    return kept if kind.ndim == 2 else torch.stack([torch.block_diag(*x) for x in kept])


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_is_a_part_of_the_matrix(kind: Pattern) -> None:
    rows = draw(2, 6, 5)
    full = rows @ rows.mT
    part = kind.part_of(full)
    assert part.shape == (2, *kind.shape(6))
    assert_close(whole(part, kind), full * mask(kind))
    assert_close(kind.gram(rows), part)
    assert_close(kind.diagonal(part), full.diagonal(dim1=-2, dim2=-1))
    assert_close(kind.mean(part), full.diagonal(dim1=-2, dim2=-1).mean(-1))
    assert_close(kind.mean_square(part), (full * mask(kind)).square().sum((-2, -1)) / 6)


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_identities_and_generators(kind: Pattern) -> None:
    size = torch.tensor([2.0, 3.0], dtype=torch.float64)
    eyes = whole(kind.identity(size, torch.empty(2, *kind.shape(6), dtype=torch.float64)), kind)
    assert_close(eyes, size[:, None, None] * torch.eye(6, dtype=torch.float64))
    change = draw(2, 6, 6)
    symmetric = kind.part_of(change + change.mT)
    found = whole(kind.generator(symmetric), kind)
    assert_close(found + found.mT, 2 * whole(symmetric, kind))
    assert torch.equal(found, found.tril()) is (kind in (LOWER, DIAGONAL, BlockMatrix(6)))
