"""SOAP's family against Adam, the published package, plain loops and its own symmetries."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from metrics import DTYPE, Runner, draw
from modula.duality import Average, Batch, Unbiased
from modula.kernels.moments import eigenbasis
from modula.kernels.op import Op, elementwise_cost
from modula.kernels.spectral.polar import exact_polar
from modula.norms import KL, Dense, Eigenbasis, First, Flat, Kronecker, Memory, Mode, Spectral, Sum

NEVER = 1000  # steps from one basis to the next, after the first 512


def metric(
    beta: float = 0.9, floor: float = 0.0, tolerance: float = 0.0, **kronecker: Any
) -> Eigenbasis:
    options = {"fit": Sum(), "memory": Memory(0.8, unbiased=False), "every": 1, "square": False}
    return Eigenbasis(
        Kronecker(**{**options, **kronecker}), Memory(beta), floor=floor, tolerance=tolerance
    )


def directions(what: Eigenbasis, gradients: Sequence[Tensor], **how: Any) -> list[Tensor]:
    runner = Runner(what, tuple(gradients[0].shape), **how)
    return [runner.step(gradient) for gradient in gradients]


class PlainLoop:
    """One weight, momentum-free, a new basis in every step, the first of them exact."""

    def __init__(self, rows: int, columns: int, fixed: Sequence[int] = ()) -> None:
        self.bases = [torch.eye(n, dtype=DTYPE) for n in (rows, columns)]
        self.square = torch.zeros(rows, columns, dtype=DTYPE)
        self.fixed = fixed
        self.steps = 0

    def turn(self, factors: Sequence[Tensor]) -> None:
        """New bases; second moments go along by the squares of the rotations."""
        for i, (s, q) in enumerate(zip(factors, self.bases, strict=True)):
            order = (q.mT @ s @ q).diagonal().argsort(descending=True)
            exact = self.steps == 1
            new = torch.linalg.eigh(s)[1] if exact else torch.linalg.qr(s @ q[:, order])[0]
            new = q if i in self.fixed else new
            turn = (q.mT @ new).square()
            self.square = self.square @ turn if i else turn.mT @ self.square
            self.bases[i] = new

    def direction(self, gradient: Tensor) -> Tensor:
        """Along Q (G' / sqrt D) Q^T, D with this gradient in it."""
        turned = self.bases[0].mT @ gradient @ self.bases[1]
        self.square += 0.1 / (1 - 0.9**self.steps) * (turned**2 - self.square)
        return self.bases[0] @ (turned / self.square.sqrt()) @ self.bases[1].mT


@pytest.mark.parametrize("fixed", [(), (1,), (0,)], ids=["both sides", "rows", "columns"])
@pytest.mark.parametrize("instant", [True, False], ids=["EShampoo", "SOAP"])
def test_it_is_the_plain_loop(instant: bool, fixed: tuple[int, ...]) -> None:
    modes: list[Mode] = [Flat() if i in fixed else Dense() for i in (0, 1)]
    gradients = [draw(4, 3, seed=i) for i in range(6)]
    found = directions(metric(instant=instant, modes=tuple(modes)), gradients)
    loop, left, right = PlainLoop(4, 3, fixed), draw(4, 4) * 0, draw(3, 3) * 0
    for k, (g, ours) in enumerate(zip(gradients, found, strict=True)):
        loop.steps += 1
        left, right = 0.8 * left + 0.2 * g @ g.mT, 0.8 * right + 0.2 * g.mT @ g
        if instant:
            loop.turn((left, right))
        expected = loop.direction(g)
        if not instant:
            loop.turn((left, right))
        if k or not instant:  # else what rounding leaves of the zeros of G' decides
            assert_close(ours, expected, rtol=1e-6, atol=1e-8)


def inverse_in(s: Tensor, q: Tensor) -> Tensor:
    """S^-1 where Q is its eigenbasis."""
    return q @ torch.diag(1 / (q.mT @ s @ q).diagonal()) @ q.mT


def test_kl_soap_is_the_plain_loop() -> None:
    gradients = [draw(4, 3, seed=i) for i in range(6)]
    memory = Memory(0.8, unbiased=False, first=1.0)
    how = {"fit": KL(), "memory": memory, "damping": 0.0, "balance": False, "instant": False}
    loop, left, right = PlainLoop(4, 3), torch.eye(4, dtype=DTYPE), torch.eye(3, dtype=DTYPE)
    for g, ours in zip(gradients, directions(metric(**how), gradients), strict=True):
        loop.steps += 1
        assert_close(ours, loop.direction(g))
        rows = g @ inverse_in(right, loop.bases[1]) @ g.mT / 3
        columns = g.mT @ inverse_in(left, loop.bases[0]) @ g / 4
        left, right = 0.8 * left + 0.2 * rows, 0.8 * right + 0.2 * columns
        loop.turn((left, right))


def sort_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a basis turns, second moments are put in the order of its columns, no more."""
    renew, orders = eigenbasis.next_basis_plain, list[Tensor]()

    def next_basis(factor: Tensor, basis: Tensor, step: Tensor, **how: Any) -> Tensor:
        orders.append((basis * (factor @ basis)).sum(-2).argsort(descending=True)[0])
        return renew(factor, basis, step, **how)

    def carried(square: Tensor, *bases: Tensor, **how: Any) -> Tensor:
        columns, rows = orders.pop(), orders.pop()
        return square[..., rows, :][..., columns]

    cost = elementwise_cost(0, 0)
    monkeypatch.setattr(eigenbasis, "next_basis", Op("next_basis", next_basis, cost))
    monkeypatch.setattr(eigenbasis, "carried", Op("sorted", carried, cost))


@pytest.mark.parametrize("every", [1, 3, NEVER])
def test_it_is_the_published_soap(every: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """30 steps of pytorch_optimizer.SOAP, up to one thing that cannot be declared: see sort_only.

    Its conventions, declared: bases behind the direction, averages without correction, no floor.
    By hand: its first step only learns a basis, and the correction of both averages stands in its
    learning rate; ours early renewals are jumped over.  Left out: weight decay, which it does
    behind the step.  It takes its QR in float32, hence the tolerance.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        published = pytest.importorskip("pytorch_optimizer").SOAP
    sort_only(monkeypatch)
    shape, slow, fast = (5, 4), 0.9, 0.95
    gradients = [draw(*shape, seed=i) for i in range(31)]
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=DTYPE))
    theirs = published(
        [weight], 1.0, (slow, fast), weight_decay=0, precondition_frequency=every, eps=0.0
    )
    kronecker = metric(memory=Memory(fast, unbiased=False), every=every, instant=False).kronecker
    declared = Eigenbasis(kronecker, Memory(fast, unbiased=False), floor=0.0)
    ours = Runner(declared, shape, momentum=Average(slow))
    for k, gradient in enumerate(gradients):
        before = weight.detach().clone()
        weight.grad = gradient
        theirs.step()
        direction = ours.step(gradient)
        if k == 0:
            for name in ("momentum", "square"):
                ours.state(name).zero_()
            ours.state("step").fill_(1000 * every)
            continue
        lr = (1 - fast**k) ** 0.5 / (1 - slow**k)
        assert_close(lr * direction, before - weight.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "axes", [{"modes": Flat()}, {"tolerance": 2.0}], ids=["flat modes", "bases that stay"]
)
def test_in_the_axes_it_is_adam(axes: dict[str, Any]) -> None:
    """O26"""
    weight = torch.nn.Parameter(torch.zeros(4, 3, dtype=DTYPE))
    adam = torch.optim.Adam([weight], 1.0, (0.8, 0.9), eps=0.0)
    ours = Runner(metric(**axes), (4, 3), momentum=Unbiased(0.8))
    for i in range(8):
        gradient = draw(4, 3, seed=i)
        weight.grad = gradient
        adam.step()
        ours.step(gradient)
        assert_close(ours.weight, weight.detach())


@pytest.mark.parametrize("every", [NEVER, 1])
def test_the_order_of_the_columns_means_nothing(every: int) -> None:
    """O26: the bases and D sorted anew, alike; D left behind is another metric."""
    what, shape = metric(every=every, instant=False), (5, 4)
    gradients = [draw(*shape, seed=i) for i in range(10)]
    rows, columns = torch.randperm(5), torch.tensor([2, 0, 3, 1])
    plain, sorted_anew, left_behind = (Runner(what, shape) for _ in range(3))
    for runner in (plain, sorted_anew, left_behind):
        runner.steps(gradients[:7])
        if runner is plain:
            continue
        for name, order in (("basis_0", rows), ("basis_1", columns)):
            runner.state(name).copy_(runner.state(name)[:, order])
        if runner is sorted_anew:
            runner.state("square").copy_(runner.state("square")[rows][:, columns])
    for gradient in gradients[7:]:
        expected = plain.step(gradient)
        assert_close(sorted_anew.step(gradient), expected)
        assert not torch.allclose(left_behind.step(gradient), expected, rtol=0.01)


def test_without_memory_it_is_the_sign_in_the_eigenbasis() -> None:
    for fit in (Sum(), KL()):
        runner = Runner(metric(beta=0.0, fit=fit), (4, 4))
        for i in range(3):
            gradient = draw(4, 4, seed=i)
            direction = runner.step(gradient)
            if i == 0 and isinstance(fit, Sum):
                continue  # the eigenbasis of G itself: next test
            q, p = runner.state("basis_0"), runner.state("basis_1")
            assert_close(direction, q @ (q.mT @ gradient @ p).sign() @ p.mT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rank", [3, 24], ids=["rank 3", "full rank"])
def test_of_one_gradient_it_is_the_polar_factor(dtype: torch.dtype, rank: int) -> None:
    """In its own eigenbasis G is diagonal; the sign of what rounding leaves of zeros is nothing."""
    gradient = draw(24, rank) @ draw(rank, 24, seed=1) if rank < 24 else draw(24, 24)
    runner = Runner(Eigenbasis(metric().kronecker), (24, 24))
    runner.weight = runner.weight.to(dtype)
    runner.batch = Batch([runner.program], [runner.weight])
    direction = runner.step(gradient.to(dtype)).double()
    error = (direction - exact_polar(gradient)).norm() / rank**0.5
    assert error < 0.05
    assert (direction.norm() ** 2 - rank).abs() < 0.05 * rank


def test_of_a_vector_it_is_the_whole_second_moment() -> None:
    """Gradients along fixed directions: the bases find them, and D is the spectrum."""
    axes = torch.linalg.qr(draw(4, 4))[0]
    gradients = [(1 + i % 3) * axes[:, i % 4] for i in range(70)] + [draw(4, seed=9)]
    half = Memory(0.5, unbiased=False)
    what = Eigenbasis(Kronecker(fit=Sum(), memory=half, every=16), half, floor=0.0)
    runner = Runner(what, (4,))
    runner.steps(gradients[:-1])
    moment = sum(0.5 ** (70 - i) * torch.outer(g, g) for i, g in enumerate(gradients[:-1]))
    values, vectors = torch.linalg.eigh(moment)
    turned = vectors.mT @ gradients[-1]
    expected = vectors @ (turned / (0.5 * values + 0.5 * turned**2).sqrt())
    assert_close(runner.step(gradients[-1]), expected, rtol=1e-6, atol=1e-6)


def test_rotating_the_weight_rotates_the_direction() -> None:
    """In bases that turn along from the first step on."""
    u, v = torch.linalg.qr(draw(4, 4))[0], torch.linalg.qr(draw(3, 3, seed=1))[0]
    gradients = [draw(4, 3, seed=i) for i in range(5)]
    plain = directions(metric(floor=1e-4), gradients)
    turned = directions(metric(floor=1e-4), [u @ g @ v.mT for g in gradients])
    for one, other in zip(plain, turned, strict=True):
        assert_close(u @ one @ v.mT, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fit", [Sum(), KL()], ids=str)
def test_the_size_of_the_gradients_means_nothing(fit: Any) -> None:
    gradients = [draw(4, 3, seed=i) for i in range(8)]
    what = metric(floor=1e-4, fit=fit, every=4)
    for scale in (1e-10, 1e10):
        for one, other in zip(
            directions(what, gradients),
            directions(what, [scale * g for g in gradients]),
            strict=True,
        ):
            assert_close(one, other, rtol=1e-6, atol=1e-6)


SHAPES = [(8, 4), (6,), (1,), (1, 5), (1, 1), (4, 3, 2, 2), (2, 3, 4)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("instant", [True, False], ids=["instant", "delayed"])
def test_every_shape_moves_and_silence_does_no_harm(shape: tuple[int, ...], instant: bool) -> None:
    """O30 to O32"""
    silent = torch.zeros(shape, dtype=DTYPE)
    what = metric(floor=1e-4, every=4, instant=instant, square=True)
    runner = Runner(what, shape, momentum=Unbiased(0.9))
    assert torch.equal(runner.step(silent), silent)
    usual = [float(runner.step(draw(*shape, seed=i)).norm()) for i in range(12)]
    runner.steps([silent] * (400 if shape == SHAPES[0] else 30))
    last = float(runner.step(draw(*shape, seed=99)).norm())
    assert 0 < last < 2 * max(usual)


@pytest.mark.parametrize("fit", [Sum(), KL()], ids=str)
@pytest.mark.parametrize("every", [1, 4])
def test_a_batch_of_weights_moves_as_each_alone(fit: Any, every: int) -> None:
    """O36, one weight a step behind the others."""
    shape, what = (4, 6), metric(fit=fit, every=every, instant=False)
    alone = [Runner(what, shape) for _ in range(3)]
    weights = [torch.zeros(shape, dtype=DTYPE) for _ in alone]
    batch = Batch([alone[0].program] * 3, weights)
    for i in range(6):
        gradients = [draw(*shape, seed=10 * k + i) for k in range(3)]
        batch.propose([None if (i, k) == (0, 1) else g for k, g in enumerate(gradients)], {})
        batch.update(torch.ones((), dtype=DTYPE), {})
        for k, runner in enumerate(alone):
            if (i, k) != (0, 1):
                runner.step(gradients[k])
    for weight, runner in zip(weights, alone, strict=True):
        assert_close(weight, runner.weight)


def test_before_a_norm_it_is_a_chain() -> None:
    """SOAP-Muon: the polar factor of SOAP's direction."""
    what, momentum = metric(instant=False, floor=1e-4), Average(0.9)
    plain, chained = Runner(what, (4, 3), momentum=momentum), chain(what, (4, 3), momentum)
    for i in range(5):
        gradient = draw(4, 3, seed=i)
        expected = exact_polar(plain.step(gradient))
        assert_close(chained(gradient), expected, rtol=0, atol=0.15)


def chain(what: Eigenbasis, shape: tuple[int, ...], momentum: Any) -> Callable[[Tensor], Tensor]:
    return Runner(First(what), shape, norm=Spectral(), momentum=momentum).step
