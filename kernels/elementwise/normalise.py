"""Dividing a tensor, or each of its rows or columns, by its Euclidean length."""

from typing import Any

import torch
from torch import Tensor

from modula.kernels.op import Cost, Locality, Op, Shape, elementwise_cost


def _normalised(x: Tensor, dims: tuple[int, ...]) -> Tensor:
    # Summed in float64: squares of float32 entries below 1e-19 or above 1e19 leave float32's range.
    length = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=torch.float64)
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


def _cost(shape: Shape, itemsize: int = 4, **options: Any) -> Cost:
    return elementwise_cost(3, 3)(shape, itemsize)


normalise = Op("normalise", normalise_plain, _cost, Locality.WHOLE)
normalise_rows = Op("normalise_rows", normalise_rows_plain, _cost, Locality.ROWS)
normalise_columns = Op("normalise_columns", normalise_columns_plain, _cost, Locality.COLUMNS)
