"""Spikes and a flat part against the matrices they stand for."""

import torch
from hypothesis import given
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.moments import spiked
from modula.kernels.moments.spiked import SpikedMatrix
from strategies import seeds

D, RANK = 7, 3
KIND = SpikedMatrix(D, RANK)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(seed: int) -> Tensor:
    return torch.linalg.qr(draw(2, D, RANK, seed=seed))[0]


def whole(values: Tensor, u: Tensor) -> Tensor:
    """U diag(l) U^T + mu (I - U U^T)"""
    flat = values[..., -1:, None]
    return flat * torch.eye(D, dtype=u.dtype) + (u * (values[..., None, :-1] - flat)) @ u.mT


def averaged(x: Tensor, u: Tensor) -> Tensor:
    """The values of one sample alone."""
    zero, seen = torch.zeros(2, RANK + 1, dtype=u.dtype), torch.ones(2, dtype=u.dtype)
    how = {"dim": -2, "ndim": 2, "share": 0.5, "beta": 0.9, "unbiased": True, "kind": KIND}
    return spiked.average_values(zero, x, u, seen, **how)


@given(seed=seeds())
def test_the_values_are_the_kl_projection_for_a_given_basis(seed: int) -> None:
    x, u = draw(2, D, 20, seed=seed % 2**30), basis(seed % 2**30 + 1)
    moment, found = x @ x.mT / 2, averaged(x, u)
    assert_close(KIND.mean(found), moment.diagonal(dim1=-2, dim2=-1).mean(-1))

    def divergence(values: Tensor) -> Tensor:
        s = whole(values, u)
        return torch.logdet(s) + torch.linalg.solve(s, moment).diagonal(dim1=-2, dim2=-1).sum(-1)

    values = found.requires_grad_()
    (slope,) = torch.autograd.grad(divergence(values).sum(), values)
    assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-9)


@given(seed=seeds())
def test_in_a_new_basis_the_same_matrix_keeps_its_squares_and_its_trace(seed: int) -> None:
    values = draw(2, RANK + 1, seed=seed % 2**30).exp()
    old, new = basis(seed % 2**30 + 1), basis(seed % 2**30 + 2)
    carried = spiked.carried_values(values, old, new, kind=KIND)
    matrix = whole(values, old)
    assert_close(carried[..., :-1], (new * (matrix @ new)).sum(-2))
    assert_close(KIND.mean(carried), KIND.mean(values))
    image = spiked.carried_image(matrix @ old, old, new, values)
    assert_close(image, matrix @ new)


def test_roots_are_those_of_the_matrix() -> None:
    values, u = draw(2, RANK + 1).exp(), basis(1)
    how = {"power": 0.5, "damping": 0.1, "trace_power": 0.5}
    found = spiked.inverse_root(values, values, **how, kind=KIND)
    s = whole(values, u)
    trace = s.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    damped = (s + 0.1 * trace / D * torch.eye(D, dtype=u.dtype)) / trace**0.5
    root = whole(found, u)
    assert_close(root @ root @ damped, torch.eye(D, dtype=u.dtype).expand(2, D, D))


def test_where_nothing_was_seen_and_where_it_is_not_finite_all_stays() -> None:
    u, values = basis(1), draw(2, RANK + 1).exp()
    x, silent = draw(2, D, 4), torch.zeros(2, D, 4)
    zero, bad = torch.zeros(2, D, RANK), torch.full((2, D, RANK), torch.nan)
    for image, sample in ((zero, x), (bad, x), (draw(2, D, RANK), silent)):
        assert torch.equal(spiked.next_subspace(image.double(), u, values, sample), u)
    for unknown in (torch.zeros_like(values), torch.full_like(values, torch.inf)):
        found = spiked.inverse_root(unknown, values, power=0.5, damping=0.0, kind=KIND)
        assert torch.equal(found, values)


def test_it_begins_with_orthonormal_directions_that_touch_every_row() -> None:
    u, x = basis(1), draw(2, D, 4)
    x[1] = 0
    begun = spiked.begun(u, x, torch.ones(2, dtype=u.dtype))
    assert_close(begun[0].mT @ begun[0], torch.eye(RANK, dtype=u.dtype))
    assert (begun[0].square().sum(-1) > 0.1).all()
    assert torch.equal(begun[1], u[1])
    assert torch.equal(spiked.begun(u, x, torch.full((2,), 2.0)), u)
