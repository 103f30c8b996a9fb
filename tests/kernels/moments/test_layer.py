"""Averages of a layer's inputs and output gradients, and their eigenbases, against plain loops."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import layer

ONE = torch.ones((), dtype=torch.float64)
NAN = float("nan")


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment(seed: int, d: int) -> Tensor:
    x = drawn(seed, d, 2 * d)
    return x @ x.mT


def test_blocks_of_a_moment_are_those_along_the_diagonal() -> None:
    whole = moment(0, 6)
    expected = torch.stack([whole[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] for k in range(3)])
    assert torch.equal(layer.diagonal_blocks(whole, ()), whole)
    assert torch.equal(layer.diagonal_blocks(whole, (3, 1)), expected[:, None])
    assert torch.equal(layer.diagonal_blocks(whole, (1, 3)), expected[None])


def test_rows_are_averaged_over_their_number() -> None:
    rows, factor = drawn(0, 5, 3), moment(1, 3)
    found = layer.average_rows(factor, rows, 7 * ONE, beta=0.9, unbiased=False)
    loop = sum(torch.outer(row, row) for row in rows) / 5
    assert_close(found, 0.9 * factor + 0.1 * loop)


def test_curvature_is_the_mean_product_of_squares_in_the_basis() -> None:
    x, e, curvature = drawn(0, 5, 3), drawn(1, 5, 4), drawn(2, 4, 3).square()
    basis = torch.linalg.qr(drawn(3, 4, 4))[0]
    options = {"rotated": (True, False), "beta": 0.9, "unbiased": False}
    found = layer.average_curvature(curvature, x, e, 7 * ONE, basis, **options)
    loop = sum(torch.outer(basis.mT @ b, a).square() for a, b in zip(x, e, strict=True)) / 5
    assert_close(found, 0.9 * curvature + 0.1 * loop)


@pytest.mark.parametrize("bad", [NAN, float("inf")])
def test_bad_data_changes_no_average_and_no_count(bad: float) -> None:
    factor, rows, good = moment(0, 3), torch.full((5, 3), bad, dtype=torch.float64), drawn(1, 5, 3)
    options = {"beta": 0.9, "unbiased": False}
    assert torch.equal(layer.average_rows(factor, rows, ONE, **options), factor)
    assert torch.equal(layer.average_blocks(factor, rows.mT @ rows, ONE, **options), factor)
    curved = layer.average_curvature(factor, rows, good, ONE, rotated=(False, False), **options)
    assert torch.equal(curved, factor)
    assert layer.tally_rows(ONE, rows, good) == 1 and layer.tally_rows(ONE, good, good) == 2
    assert layer.tally_rows(ONE, 0 * good, good) == 1


def test_a_factor_without_eigenvectors_keeps_the_previous_basis() -> None:
    previous = torch.linalg.qr(drawn(0, 2, 3, 3))[0]
    factor = torch.stack([moment(1, 3), torch.zeros(3, 3, dtype=torch.float64)])
    found = layer.eigenbasis(factor, previous)
    turned = found[0].mT @ factor[0] @ found[0]
    assert_close(turned, turned.diagonal().diag())
    assert (turned.diagonal().diff() >= 0).all()
    assert torch.equal(found[1], previous[1])


def test_eigenvalues_are_the_diagonal_in_the_basis() -> None:
    factor, basis = moment(0, 3), torch.linalg.qr(drawn(1, 3, 3))[0]
    previous = torch.ones(3, dtype=torch.float64)
    found = layer.eigenvalues(factor, basis, previous)
    assert_close(found, (basis.mT @ factor @ basis).diagonal())
    assert torch.equal(layer.eigenvalues(factor * NAN, basis, previous), previous)


@pytest.mark.parametrize("dim", [-2, -1])
def test_a_turned_diagonal_is_that_of_the_turned_matrix(dim: int) -> None:
    curvature, d = drawn(0, 4, 3).square(), (4, 3)[dim]
    basis, fresh = (torch.linalg.qr(drawn(seed, d, d))[0] for seed in (1, 2))
    found = layer.turn_curvature(curvature, fresh, basis, dim=dim)
    turn = fresh.mT @ basis
    columns = curvature if dim == -2 else curvature.mT
    exact = torch.stack([(turn @ c.diag() @ turn.mT).diagonal() for c in columns.mT], -1)
    assert_close(found, exact if dim == -2 else exact.mT)
    assert_close(found.sum(), curvature.sum())


def test_rows_of_different_lengths_are_taken_one_by_one() -> None:
    rows, factors = [drawn(0, 5, 3), drawn(1, 2, 3)], [moment(2, 3), moment(3, 3)]
    options = {"beta": 0.9, "unbiased": True}
    found = layer.average_rows(factors, rows, [ONE, 2 * ONE], **options)
    for out, factor, each, seen in zip(found, factors, rows, (ONE, 2 * ONE), strict=True):
        assert torch.equal(out, layer.average_rows(factor, each, seen, **options))
