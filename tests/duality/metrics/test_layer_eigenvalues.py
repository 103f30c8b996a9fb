"""EKFAC: eigenvalues of a layer's Fisher in KFAC's basis, against the dense Fisher."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, Runner, draw, moment, once, program
from modula.duality import Batch
from modula.norms import (
    Absolute,
    LayerEigenvalues,
    Memory,
)


def ekfac(rows: list[tuple[Tensor, Tensor]], g: Tensor, beta: float, amount: float) -> Tensor:
    """Bases by eigh of the averages, D as the diagonal of the turned dense Fisher; one basis."""
    weights = [beta ** (len(rows) - 1 - i) for i in range(len(rows))]
    shares = [w / sum(weights) for w in weights]
    a = sum(w * x.mT @ x / len(x) for w, (x, _) in zip(shares, rows, strict=True))
    b = sum(w * e.mT @ e / len(e) for w, (_, e) in zip(shares, rows, strict=True))
    basis = torch.kron(torch.linalg.eigh(b)[1], torch.linalg.eigh(a)[1])
    last = [torch.einsum("ni,nj->nij", e, x).flatten(1) @ basis for x, e in rows]
    d = sum(w * (each**2).mean(0) for w, each in zip(shares, last, strict=True))
    return (basis @ ((basis.mT @ g.flatten()) / (d + amount))).reshape(g.shape)


def test_ekfac_has_the_diagonal_of_the_fisher_in_kfacs_basis() -> None:
    """Dense Fisher of per-example gradients, one row an example."""
    x, e, g = draw(20, 4), draw(20, 3, seed=1), draw(3, 4, seed=2)
    e = e * x[:, :1].abs()  # so that S is no Kronecker product
    metric = LayerEigenvalues(memory=Memory(0.9), every=1, damping=Absolute(0.01))
    runner = Runner(metric, (3, 4))
    for _ in range(3):  # the same rows: the basis stays, and so does D
        direction = runner.step(g, layer_inputs=x, output_gradients=e)
        assert_close(direction, ekfac([(x, e)], g, 0.9, 0.01))
    a = runner.state("basis_inputs")
    assert_close(a.mT @ a, torch.eye(4, dtype=DTYPE))


def test_between_renewals_ekfac_averages_in_its_old_basis_and_then_turns() -> None:
    metric = LayerEigenvalues(memory=Memory(0.5, unbiased=False), every=1, damping=Absolute(0.0))
    runner = Runner(metric, (2, 3))
    x, e = draw(9, 3), draw(9, 2, seed=1)
    runner.step(draw(2, 3), layer_inputs=x, output_gradients=e)
    old, curvature = runner.state("basis_inputs").clone(), runner.state("curvature").clone()
    left = runner.state("basis_outputs").clone()
    zero = torch.zeros_like(x)
    runner.state("factor_inputs").copy_(moment(3, seed=7))
    runner.step(draw(2, 3), layer_inputs=zero, output_gradients=e)
    turn = old.mT @ runner.state("basis_inputs")
    side = left.mT @ runner.state("basis_outputs")
    assert_close(runner.state("curvature"), side.square().mT @ curvature @ turn.square())
    assert_close(runner.state("curvature").sum(), curvature.sum())


def test_ekfac_keeps_the_basis_of_a_wide_side_and_views_convolutions() -> None:
    x, e, g = draw(20, 12), draw(20, 3, seed=1), draw(3, 6, 2, 1, seed=2)
    metric = LayerEigenvalues(every=1, damping=Absolute(0.1), max_dim=5)
    direction = once(metric, g, layer_inputs=x, output_gradients=e)
    q = torch.linalg.eigh(e.mT @ e)[1]
    d = (e @ q).square().mT @ x.square() / 20 + 0.1
    assert_close(direction.flatten(1), q @ ((q.mT @ g.flatten(1)) / d))


def test_weights_of_one_batch_may_have_different_numbers_of_rows() -> None:
    metric, shape = LayerEigenvalues(every=1), (3, 4)
    what = program(metric, shape)
    weights = [torch.zeros(shape, dtype=DTYPE) for _ in range(2)]
    batch = Batch([what] * 2, weights)
    rows = [{"layer_inputs": draw(n, 4), "output_gradients": draw(n, 3)} for n in (5, 8)]
    gradients = [draw(*shape, seed=i) for i in range(2)]
    batch.propose(gradients, {}, rows)
    batch.update(torch.ones((), dtype=DTYPE), {})
    for weight, g, own in zip(weights, gradients, rows, strict=True):
        assert_close(-weight, once(metric, g, **own))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_rows_that_are_not_finite_leave_ekfac_as_it_was(bad: float) -> None:
    runner = Runner(LayerEigenvalues(every=1), (3, 4))
    g, x, e = draw(3, 4), draw(7, 4), draw(7, 3, seed=1)
    usual = runner.step(g, layer_inputs=x, output_gradients=e)
    broken = x.index_fill(0, torch.tensor(2), bad)
    assert_close(runner.step(g, layer_inputs=broken, output_gradients=e), usual)
    assert runner.state("rejected") == 1
    assert runner.state("seen") == 1
