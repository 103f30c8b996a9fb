"""What every manifold has from its base class."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from modula.duality import Setting, derive
from modula.manifolds import Manifold, Sphere, TangentConstraint
from modula.norms import Frobenius


class Plain(Manifold):
    """A sphere as a user may write it, without @dataclass."""

    ndim = 2
    right = Sphere(ndim=2)

    def __init__(self, **given: Any) -> None:
        vars(self).update(given)

    def residual(self, x: Tensor) -> Tensor:
        return self.right.residual(x)

    def project(self, x: Tensor) -> Tensor:
        return self.right.project(x)

    def tangent_constraint(self, x: Tensor) -> TangentConstraint:
        return self.right.tangent_constraint(x)

    def sample(self, shape: tuple[int, ...], *, dtype: torch.dtype | None = None) -> Tensor:
        return self.right.sample(shape, dtype=dtype)


@dataclass(frozen=True, repr=False)
class Frozen(Plain):
    """The same with @dataclass."""

    radius: float = 1.0


@pytest.mark.parametrize(
    ("manifold", "printed"),
    [
        (Plain(), "Plain()"),
        (Plain(radius=2.0), "Plain(radius=2.0)"),
        (Plain(name=":corn:", k=3), "Plain(name=':corn:', k=3)"),
        (Frozen(), "Frozen()"),
        (Frozen(2.0), "Frozen(radius=2.0)"),
    ],
)
def test_a_manifold_that_is_no_dataclass_prints_its_attributes(
    manifold: Manifold, printed: str
) -> None:
    """It was a TypeError: in a plan, in a refusal, in the tables of `modula verify`."""
    assert str(manifold) == printed
    derive(Setting(Frobenius(), manifold), (3, 2))
    with pytest.raises(ValueError) as error:
        manifold.check_shape((3,))
    assert str(error.value).startswith(f"{printed} needs at least 2 dims")
