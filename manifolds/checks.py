"""Checks of what manifolds are made of, and of the shapes of their points."""

from itertools import pairwise
from math import inf
from numbers import Integral, Real


def are_rising(*numbers: object) -> bool:
    """Whether all are real numbers, each above the one before."""
    real = all(isinstance(x, Real) and not isinstance(x, bool) for x in numbers)
    return real and all(a < b for a, b in pairwise(numbers))  # type: ignore[operator]


def is_whole(number: object, least: int) -> bool:
    """Whether it is a whole number, at least so large."""
    whole = isinstance(number, Integral) and not isinstance(number, bool)
    return whole and int(number) >= least  # type: ignore[call-overload]


def check_radius(manifold: str, radius: float) -> None:
    """Raise ValueError unless the radius is a positive, finite number."""
    if not are_rising(0, radius, inf):
        raise ValueError(
            f"{manifold} needs a positive, finite radius, got {radius!r}: the usual one is 1.0"
        )


def check_entries(manifold: object, shape: tuple[int, ...]) -> None:
    """Raise ValueError if a matrix of this shape has no entries, and so no singular value."""
    if 0 in shape[-2:]:
        raise ValueError(
            f"{manifold} has no point of shape {tuple(shape)}: a matrix without entries has no "
            f"singular value, so give every dim at least one"
        )


def check_tall(manifold: object, shape: tuple[int, ...], rows: str) -> None:
    """Raise ValueError for a wide matrix, whose columns cannot be orthogonal, its rows can.

    rows  what the rows are in the transposed manifold: "orthonormal" or "orthogonal"
    """
    if shape[-2] < shape[-1]:
        raise ValueError(
            f"{manifold} needs at least as many rows as columns, got shape {tuple(shape)}: "
            f"transpose the weight, or declare Transposed({manifold}), whose rows are {rows} "
            f"instead of its columns"
        )
