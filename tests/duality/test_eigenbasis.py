"""SOAP's family against Adam, plain loops and its own symmetries."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.duality import Batch, Declaration, Setting, Sharp, program_of
from modula.norms import KL, L2, Eigenbasis, Kronecker, Memory, Sum

DTYPE = torch.float64


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def metric(beta: float = 0.9, every: int = 1, **how: Any) -> Eigenbasis:
    fit, floor = how.pop("fit", Sum()), how.pop("floor", 1e-12)
    memory = Memory(0.8, unbiased=False)
    return Eigenbasis(
        Kronecker(fit=fit, memory=memory, every=every, **{"instant": True, "square": False, **how}),
        Memory(beta),
        floor=floor,
    )


def run(what: Eigenbasis, gradients: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Directions, and the state at the end."""
    shape = tuple(gradients[0].shape)
    setting = Setting(L2(len(shape)), metric=what, potential=Sharp())
    weight = torch.zeros(shape, dtype=DTYPE)
    batch = Batch([program_of(Declaration(setting), shape)], [weight])
    directions = []
    for gradient in gradients:
        before = weight.clone()
        batch.propose([gradient], {})
        batch.update(torch.ones((), dtype=DTYPE), {})
        directions.append(before - weight)
    return directions, batch.state_of(0)


def renewed(s: Tensor, q: Tensor, step: int) -> Tensor:
    if step == 1:
        return torch.linalg.eigh(s)[1].flip(-1)
    order = (q.mT @ s @ q).diagonal().argsort(descending=True)
    return torch.linalg.qr(s @ q[:, order])[0]


def test_soap_is_the_plain_loop() -> None:
    """Delayed bases, the first an exact one; D in the basis of its step, carried over."""
    gradients = [draw(4, 3, seed=i) for i in range(6)]
    directions, _ = run(metric(instant=False), gradients)
    left, right = torch.zeros(4, 4, dtype=DTYPE), torch.zeros(3, 3, dtype=DTYPE)
    covariance, bases = (
        torch.zeros(4, 3, dtype=DTYPE),
        [torch.eye(4).double(), torch.eye(3).double()],
    )
    for k, (g, found) in enumerate(zip(gradients, directions, strict=True), 1):
        turned = bases[0].mT @ g @ bases[1]
        weight = 0.1 / (1 - 0.9**k)
        covariance = (1 - weight) * covariance + weight * turned**2
        assert_close(found, bases[0] @ (turned / covariance.sqrt()) @ bases[1].mT)
        left, right = 0.8 * left + 0.2 * g @ g.mT, 0.8 * right + 0.2 * g.mT @ g
        new = [renewed(s, q, k) for s, q in zip((left, right), bases, strict=True)]
        turns = [(old.mT @ q).square() for old, q in zip(bases, new, strict=True)]
        covariance, bases = turns[0].mT @ covariance @ turns[1], new


def test_without_memory_it_is_the_sign_in_the_eigenbasis() -> None:
    gradients = [draw(4, 4, seed=i) for i in range(3)]
    directions, state = run(metric(beta=0.0, fit=KL()), gradients)
    q, p = state["basis_0"], state["basis_1"]
    turned = q.mT @ gradients[-1] @ p
    assert_close(directions[-1], q @ turned.sign() @ p.mT, rtol=1e-6, atol=1e-6)


def test_in_the_identity_basis_it_is_adam() -> None:
    """O26: a diagonal factor keeps the axes; so do flat ones, here a weight of one dim."""
    gradients = [torch.diag(draw(3, seed=i)) for i in range(4)]
    directions, state = run(metric(), gradients)
    second, square = torch.zeros(3, 3, dtype=DTYPE), None
    for k, g in enumerate(gradients, 1):
        weight = 0.1 / (1 - 0.9**k)
        second = (1 - weight) * second + weight * g**2
        square = (g / (second.sqrt() + 1e-12)).nan_to_num(0.0)
    assert square is not None
    assert_close(directions[-1], square, rtol=1e-6, atol=1e-6)


def test_rotating_the_weight_rotates_the_direction() -> None:
    """Once D was only ever seen in bases that turn along; the first one is fixed."""
    u, v = torch.linalg.qr(draw(4, 4))[0], torch.linalg.qr(draw(3, 3, seed=1))[0]
    gradients = [draw(4, 3, seed=i) for i in range(5)]
    # The floor keeps what is rounding in an empty direction from looking like a gradient.
    plain, _ = run(metric(floor=1e-6), gradients)
    turned, _ = run(metric(floor=1e-6), [u @ g @ v.mT for g in gradients])
    for one, other in zip(plain, turned, strict=True):
        assert_close(u @ one @ v.mT, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 4), (6,), (1, 5), (4, 3, 2, 2), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("instant", [True, False])
def test_every_shape_moves_and_silence_does_no_harm(shape: tuple[int, ...], instant: bool) -> None:
    silent = [torch.zeros(shape, dtype=DTYPE)]
    stream = (
        silent + [draw(*shape, seed=i) for i in range(12)] + silent * 30 + [draw(*shape, seed=99)]
    )
    what = metric(every=4, instant=instant, square=True)
    directions, _ = run(what, stream)
    assert torch.equal(directions[0], silent[0])
    usual = max(float(d.norm()) for d in directions[2:13])
    assert all(d.isfinite().all() for d in directions)
    assert 0 < directions[-1].norm() < 4 * usual
