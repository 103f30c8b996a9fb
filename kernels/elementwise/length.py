"""Euclidean lengths of weights, rows and columns, and scaling to a given length."""

from collections.abc import Callable

import torch
from torch import Tensor

from modula.kernels.op import Locality, Op, elementwise_cost


def _length(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # Summed in float64: squares of float32 entries below 1e-19 or above 1e19 leave float32's range.
    return torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float64)


def length_plain(x: Tensor, *, ndim: int) -> Tensor:
    """||x||_2 over the last ndim dims, which stay as ones: (..., *weight) -> (..., 1, ..., 1)"""
    return _length(x, tuple(range(-ndim, 0)))


def at_length_plain(x: Tensor, length: Tensor, *, ndim: int) -> Tensor:
    """length x / ||x||_2 over the last ndim dims; zero stays zero."""
    own = length_plain(x, ndim=ndim)
    return torch.where(own > 0, x * (length / own), 0.0).to(x.dtype)


def limit_length_plain(x: Tensor, *, limit: float, ndim: int) -> Tensor:
    """min(1, limit / ||x||_2) x over the last ndim dims."""
    own = length_plain(x, ndim=ndim)
    return torch.where(own > limit, x * (limit / own), x).to(x.dtype)


def average_row_square_plain(moment: Tensor, x: Tensor, *, beta: float) -> Tensor:
    """beta moment + (1 - beta) v,  v: mean square of each row of x

    moment: (..., rows), x: (..., rows, *others)
    """
    return beta * moment + (1 - beta) * x.square().flatten(moment.ndim).mean(-1)


def over_root_plain(x: Tensor, moment: Tensor) -> Tensor:
    """x / sqrt(moment), where moment may lack the last dims of x; zero over zero is zero."""
    root = moment.sqrt()[(..., *(None,) * (x.ndim - moment.ndim))]
    return torch.where(root > 0, x / root, 0.0)


def _normalised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    length = _length(x, dims)
    return torch.where(length > 0, x / length, 0.0).to(x.dtype)


def normalise_plain(x: Tensor, *, ndim: int) -> Tensor:
    """x / ||x||_2 over the last ndim dims; zero stays zero."""
    return _normalised(x, tuple(range(-ndim, 0)))


def normalise_rows_plain(x: Tensor) -> Tensor:
    """Each row of x: (..., m, n) divided by its length; zero rows stay zero."""
    return _normalised(x, (-1,))


def normalise_columns_plain(x: Tensor) -> Tensor:
    """Each column of x: (..., m, n) divided by its length; zero columns stay zero."""
    return _normalised(x, (-2,))


def _op(name: str, plain: Callable[..., Tensor], flops: float, passes: int, local: Locality) -> Op:
    return Op(name, plain, elementwise_cost(flops, passes), local, can_fail=False)


length = _op("length", length_plain, 2, 1, Locality.WHOLE)
at_length = _op("at_length", at_length_plain, 3, 3, Locality.WHOLE)
limit_length = _op("limit_length", limit_length_plain, 3, 3, Locality.WHOLE)
average_row_square = _op("average_row_square", average_row_square_plain, 2, 1, Locality.WHOLE)
over_root = _op("over_root", over_root_plain, 1, 2, Locality.WHOLE)
normalise = _op("normalise", normalise_plain, 3, 3, Locality.WHOLE)
normalise_rows = _op("normalise_rows", normalise_rows_plain, 3, 3, Locality.ROWS)
normalise_columns = _op("normalise_columns", normalise_columns_plain, 3, 3, Locality.COLUMNS)
