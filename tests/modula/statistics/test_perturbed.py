"""Weights are moved inside, and restored bit by bit whatever happens."""

import pytest
import torch
from torch import Tensor, nn

from modula.statistics import perturbed


def weights() -> list[nn.Parameter]:
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(3, 2) * 1e-3), nn.Parameter(torch.randn(4).bfloat16())]


def noises() -> list[Tensor]:
    return [torch.full((3, 2), 1e3), torch.full((4,), 1e3).bfloat16()]  # x + n - n would not return


def bits(tensors: list[nn.Parameter]) -> list[Tensor]:
    return [tensor.detach().clone() for tensor in tensors]


def same(tensors: list[nn.Parameter], before: list[Tensor]) -> bool:
    return all(torch.equal(tensor, b) for tensor, b in zip(tensors, before, strict=True))


def test_gradients_inside_are_those_of_the_moved_weights() -> None:
    w, noise = nn.Parameter(torch.tensor([1.0, 2.0])), torch.tensor([0.5, -0.5])
    with perturbed([w], [noise]):
        w.pow(2).sum().backward()
    torch.testing.assert_close(w.grad, torch.tensor([3.0, 3.0]))
    torch.testing.assert_close(w.detach(), torch.tensor([1.0, 2.0]), rtol=0, atol=0)


def test_restored_bit_by_bit() -> None:
    moved = weights()
    before = bits(moved)
    with perturbed(iter(moved), iter(noises())):
        assert not same(moved, before)
    assert same(moved, before)


def test_restored_after_an_error() -> None:
    moved = weights()
    before = bits(moved)
    with pytest.raises(KeyError), perturbed(moved, noises()):
        raise KeyError
    assert same(moved, before)
    with perturbed(moved, noises()):  # and it may be done again
        pass


def test_restored_after_a_write_which_is_told() -> None:
    moved = weights()
    before = bits(moved)
    with pytest.raises(RuntimeError, match=r"weights \[1\] were written to"):
        with perturbed(moved, noises()), torch.no_grad():
            moved[1].mul_(2)
    assert same(moved, before)


def test_restored_if_a_noise_cannot_be_added() -> None:
    moved = weights()
    before = bits(moved)
    with pytest.raises(RuntimeError):
        with perturbed(moved, [noises()[0], torch.ones(4, dtype=torch.complex64)]):
            pass
    assert same(moved, before)


def test_moving_what_is_moved_already_is_refused() -> None:
    moved = weights()
    before = bits(moved)
    with perturbed(moved, noises()):
        inside = bits(moved)
        with pytest.raises(ValueError, match="perturbed already"):
            with perturbed(moved[:1], noises()[:1]):
                pass
        assert same(moved, inside)
        with perturbed(weights(), noises()):  # other weights may be moved
            pass
    assert same(moved, before)


@pytest.mark.parametrize(
    ("chosen", "noise", "words"),
    [
        ([0, 1], [0], "a noise of the shape of each weight"),
        ([0], [1], "a noise of the shape of each weight"),
        ([0, 0], [0, 0], "a weight twice"),
    ],
)
def test_a_misfit_is_refused_with_nothing_moved(
    chosen: list[int], noise: list[int], words: str
) -> None:
    moved = weights()
    before = bits(moved)
    with pytest.raises(ValueError, match=words):
        with perturbed([moved[i] for i in chosen], [noises()[i] for i in noise]):
            pass
    assert same(moved, before)


def test_a_backward_pass_after_leaving_is_an_error() -> None:
    """Its graph would mix moved and restored weights."""
    w = nn.Parameter(torch.ones(2))
    with perturbed([w], [torch.ones(2)]):
        loss = w.pow(2).sum()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
