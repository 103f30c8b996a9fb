"""The derivative of a function of many points, by products alone."""

from collections.abc import Callable

import torch
from torch import Tensor

from modula.manifolds.numerics import ratio

Function = Callable[[Tensor], Tensor]

MOST_PRODUCTS = 500  # with J and with J^T, in one solve


class Jacobian:
    """J = df / dw at w, known only by its products, row by row.  f: (batch, d) -> (batch, k)

    >>> J = Jacobian(lambda w: w.square(), torch.tensor([[1.0, 2.0]]))
    >>> J.times(torch.tensor([[1.0, 1.0]]))
    tensor([[2., 4.]])
    >>> J.shortest_step(torch.tensor([[2.0, 2.0]]))
    tensor([[1.0000, 0.5000]])
    """

    def __init__(self, f: Function, w: Tensor) -> None:
        # J^T y is linear in y, so the transpose of its derivative is J: no forward mode needed.
        self.value, self._transposed = torch.func.vjp(f, w)[:2]
        self._forward = torch.func.vjp(self.transpose_times, torch.zeros_like(self.value))[1]

    def times(self, d: Tensor) -> Tensor:
        """J d: (batch, d) -> (batch, k)"""
        return self._forward(d)[0]

    def transpose_times(self, y: Tensor) -> Tensor:
        """J^T y: (batch, k) -> (batch, d)"""
        return self._transposed(y)[0]

    def shortest_step(self, target: Tensor) -> Tensor:
        """J^+ target: the shortest of the steps d that bring J d nearest to the target.

        Conjugate gradients on the normal equations J^T J d = J^T target, started at zero.
        Source: Hestenes and Stiefel 1952, Methods of conjugate gradients for linear systems.
        """
        scale = target.abs().amax(1, keepdim=True)
        rest, gain = ratio(target, scale), torch.zeros_like(scale)
        p = descent = self.transpose_times(rest)
        d = torch.zeros_like(p)
        gamma = start = _square(descent)
        for _ in range(min(MOST_PRODUCTS, 2 * min(d.shape[1], target.shape[1]) + 10)):
            # Solved; or what is left is out of the reach of J, as far as rounding can tell.
            floor = torch.maximum(start, 64 * gain * _square(rest)) * torch.finfo(d.dtype).eps ** 2
            if (done := gamma <= floor).all():
                break
            q = self.times(p)
            gain = torch.maximum(gain, ratio(_square(q), _square(p)))  # up to the norm of J^T J
            alpha = torch.where(done, 0, ratio(gamma, _square(q)))
            d, rest = d + alpha * p, rest - alpha * q
            descent = self.transpose_times(rest)
            gamma, before = _square(descent), gamma
            p = descent + ratio(gamma, before) * p
        return d * scale


def row_length(x: Tensor) -> Tensor:
    """||row||_2: (batch, k) -> (batch, 1)"""
    return torch.linalg.vector_norm(x, dim=1, keepdim=True)


def _square(x: Tensor) -> Tensor:
    return x.square().sum(1, keepdim=True)
