"""The norm of a whole network: a norm of its weights' norms."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modula.norms.base import NoClosedForm, Norm
from modula.norms.checks import check_fields, check_kind
from modula.norms.numerics import add_dims, at_least_float32, decreasing_root, ratio
from modula.norms.vector import L1, L2, Max


@dataclass(frozen=True, repr=False)
class Composition:
    """A norm on named weights w = {name: tensor}: `outer` of the numbers s_l ||w_l||.

        ||w|| = outer(s_1 ||w_1||, s_2 ||w_2||, ...)
        ||g||_* = outer.dual(||g_1||_* / s_1, ||g_2||_* / s_2, ...)

    The duality map of layer l is its own, times share_l / s_l; the shares are the duality map of
    `outer` at the dual norms.  Every weight has the batch dims of the others, usually none.
    Source: Large et al. 2024, arXiv:2405.14813 (the modular norm, outer = Max).
    """

    parts: tuple[tuple[str, Norm, float], ...]
    outer: Max | L1 | L2 = Max()

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.norms) != len(self.parts) or not self.parts:
            names = ", ".join(name for name, _, _ in self.parts) or "none"
            raise ValueError(f"a network's norm needs weights of different names; got {names}")

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {norm}" for name, norm in self.norms.items())
        return f"{self.outer} of {{{parts}}}"

    @cached_property
    def norms(self) -> dict[str, Norm]:
        """The norm of each weight, times its factor."""
        return {name: norm if s == 1 else s * norm for name, norm, s in self.parts}

    def __call__(self, weights: Mapping[str, Tensor]) -> Tensor:
        """||w||"""
        found = self._pairs(weights)
        return self.outer(self._stack(weights, [norm(weight) for norm, weight in found]))

    def dual(self, gradients: Mapping[str, Tensor]) -> Tensor:
        """||g||_* = max of sum_l <g_l, t_l> over ||t|| <= 1."""
        return self.outer.dual(self._duals(gradients))

    def duality_map(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The t of that maximum."""
        shares = self.outer.duality_map(self._duals(gradients)).unbind(-1)
        return {
            name: _stretch(norm.duality_map(gradients[name]), share)
            for (name, norm), share in zip(self.norms.items(), shares, strict=True)
        }

    def project(self, weights: Mapping[str, Tensor], radius: float = 1.0) -> dict[str, Tensor]:
        """The network nearest to this one, in Frobenius distance, of the ball {||w|| <= radius}.

        Raises NoClosedForm for RootOf, whose ball has no formula.
        """
        _check_size("radius", radius)
        work = self._prepared(weights)
        if isinstance(self.outer, Max):
            return _like(weights, self._projected(work, radius))
        self._check_closed()
        step = decreasing_root(lambda t: self(self._shrunk(work, t)) - radius, self.dual(work))
        shrunk = self._shrunk(work, step)
        length = self(shrunk)  # more than the radius by rounding, which is as large as the weights
        fit = ratio(torch.full_like(length, radius), length).clamp(max=1)
        return _like(weights, {name: _stretch(each, fit) for name, each in shrunk.items()})

    def prox(self, weights: Mapping[str, Tensor], step: float) -> dict[str, Tensor]:
        """argmin over v of step ||v|| + 1/2 |v - w|^2, with the Frobenius length | |.

        Raises NoClosedForm for RootOf, whose ball has no formula.
        """
        _check_size("step", step)
        work = self._prepared(weights)
        if isinstance(self.outer, L1):
            return _like(weights, self._shrunk(work, step))
        self._check_closed()

        def excess(radius: Tensor) -> Tensor:
            moved = self._projected(work, radius)
            return self.dual({name: w - moved[name] for name, w in work.items()}) - step

        return _like(weights, self._projected(work, decreasing_root(excess, self(work))))

    def _projected(self, weights: dict[str, Tensor], radius: float | Tensor) -> dict[str, Tensor]:
        """Each weight moved to its own ball: to that of the network, if `outer` is Max."""
        return {name: norm.project(weights[name], radius) for name, norm in self.norms.items()}

    def _shrunk(self, weights: dict[str, Tensor], step: float | Tensor) -> dict[str, Tensor]:
        """Each weight shrunk by itself: the proximal map of the network, if `outer` is L1."""
        return {name: norm.prox(weights[name], step) for name, norm in self.norms.items()}

    def _prepared(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: weight for name, (_, weight) in zip(self.norms, self._pairs(weights), strict=True)
        }

    def _check_closed(self) -> None:
        if isinstance(self.outer, L2):
            raise NoClosedForm(
                f"{self} has no projection on its ball in closed form; MaxOf and SumOf have one"
            )

    def _duals(self, gradients: Mapping[str, Tensor]) -> Tensor:
        found = self._pairs(gradients)
        return self._stack(gradients, [norm.dual(gradient) for norm, gradient in found])

    def _pairs(self, tensors: Mapping[str, Tensor]) -> list[tuple[Norm, Tensor]]:
        missing, unknown = self.norms.keys() - tensors.keys(), tensors.keys() - self.norms.keys()
        if missing or unknown:
            raise ValueError(
                f"this norm measures {', '.join(self.norms)}; "
                f"missing: {', '.join(sorted(missing)) or 'none'}, "
                f"unknown: {', '.join(sorted(unknown)) or 'none'}"
            )
        return [(norm, at_least_float32(tensors[name])) for name, norm in self.norms.items()]

    def _stack(self, tensors: Mapping[str, Tensor], values: list[Tensor]) -> Tensor:
        """One number for each weight: (..., number of weights)."""
        if len({value.shape for value in values}) > 1:
            found = ", ".join(
                f"{name} {tuple(tensors[name].shape)} in {norm}"
                for name, norm in self.norms.items()
            )
            raise ValueError(
                f"the weights of a network must have equal batch dims; got {found} "
                f"(norm.over(ndim) measures a weight of more dims as one)"
            )
        return torch.stack(values, dim=-1)


def MaxOf(parts: Mapping[str, tuple[Norm, float]]) -> Composition:
    """||w|| = max_l s_l ||w_l||, the modular norm: every layer moves, at its own full length."""
    return Composition(_listed(parts), Max())


def SumOf(parts: Mapping[str, tuple[Norm, float]]) -> Composition:
    """||w|| = sum_l s_l ||w_l||: only the layer with the largest dual norm moves."""
    return Composition(_listed(parts), L1())


def RootOf(parts: Mapping[str, tuple[Norm, float]]) -> Composition:
    """||w|| = sqrt(sum_l (s_l ||w_l||)^2): layers move in proportion to their dual norms.

    With Frobenius norms this is globally normalised gradient descent.
    """
    return Composition(_listed(parts), L2())


def _listed(parts: Mapping[str, tuple[Norm, float]]) -> tuple[tuple[str, Norm, float], ...]:
    such = {"name": (L2(), 1.0)}
    check_kind("a network's norm", "its parts", parts, Mapping[str, tuple[Norm, float]], such)
    return tuple((name, norm, float(factor)) for name, (norm, factor) in parts.items())


def _check_size(what: str, size: float) -> None:
    """Raise ValueError for a negative number, or none."""
    check_kind("a network's norm", what, size, float, 1.0)
    if size < 0:
        raise ValueError(f"{what}={size} of a network's norm: a {what} is 0 or more")


def _like(weights: Mapping[str, Tensor], moved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The moved weights, in the dtypes of the weights."""
    return {name: each.to(weights[name].dtype) for name, each in moved.items()}


def _stretch(direction: Tensor, share: Tensor) -> Tensor:
    """share * direction, one share for each tensor of the batch."""
    return (add_dims(share, direction.ndim - share.ndim) * direction).to(direction.dtype)
