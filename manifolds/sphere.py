"""Spheres: vectors of one length."""

from dataclasses import dataclass

from modula.manifolds.checks import check_radius, is_whole
from modula.manifolds.unit_vectors import UnitVectors


@dataclass(frozen=True, repr=False)
class Sphere(UnitVectors):
    r"""{ w : ||w||_2 = radius },  the last `ndim` dims measured together as one long vector.

        to_tangent(w, v) = v - w <w, v> / <w, w>
        retract(w, v) = radius (w + v) / ||w + v||

    A zero vector is equally far from every point; it is sent to the first basis vector.

    >>> import torch
    >>> Sphere(radius=2.0).project(torch.tensor([3.0, 4.0]))
    tensor([1.2000, 1.6000])

    Source: Absil, Mahony, Sepulchre, Optimization Algorithms on Matrix Manifolds, 2008.
    """

    radius: float = 1.0
    ndim: int = 1

    def __post_init__(self) -> None:
        check_radius("Sphere", self.radius)
        if not is_whole(self.ndim, 1):
            raise ValueError(f"Sphere needs ndim >= 1 trailing dims, got {self.ndim!r}: use ndim=1")

    @property
    def dims(self) -> tuple[int, ...]:
        return tuple(range(-self.ndim, 0))
