"""What no manifold or family can be made of gets one clear sentence."""

from dataclasses import fields, is_dataclass

import numpy as np
import pytest
import torch

from modula import manifolds
from modula.manifolds import (
    Cayley,
    CayleyNeumann,
    ExponentialFamily,
    Implicit,
    Isospectral,
    Manifold,
    NormBall,
    Product,
    Rotations,
    SpectralBand,
    Sphere,
)
from modula.norms import Max

MADE = [getattr(manifolds, name) for name in manifolds.__all__]
ARGUED = [
    each
    for each in MADE
    if isinstance(each, type)
    and issubclass(each, Manifold | ExponentialFamily | Rotations | CayleyNeumann)
    and is_dataclass(each)
    and fields(each)
]
GOOD = {SpectralBand: (1.0, 2.0), NormBall: (Max(),), Implicit: (torch.sum,)}
PLACES = [(each, place) for each in ARGUED for place in range(len(fields(each)))]


def test_the_walk_meets_them() -> None:
    assert {Sphere, Isospectral, SpectralBand, NormBall, Rotations} <= set(ARGUED)


@pytest.mark.parametrize(
    "wrong", ["x", float("nan"), [], -1.0, object], ids=["text", "nan", "list", "negative", "type"]
)
@pytest.mark.parametrize(
    ("made", "place"), PLACES, ids=lambda each: getattr(each, "__name__", str(each))
)
def test_an_argument_of_another_kind_is_refused(made: type, place: int, wrong: object) -> None:
    names = [field.name for field in fields(made)]
    arguments = dict(zip(names, GOOD.get(made, ()), strict=False))
    with pytest.raises(ValueError, match=f"^(an? )?{made.__name__}") as caught:
        made(**arguments | {names[place]: wrong})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parts", [(("a", "b"),), (("a", Sphere), ("b", Sphere())), 3], ids=str)
def test_a_product_is_made_of_manifolds(parts: object) -> None:
    with pytest.raises(ValueError, match="a product needs"):
        Product(parts)


def test_what_fits_is_taken() -> None:
    assert Sphere(2, ndim=1).radius == 2  # a whole number is a number
    assert Isospectral((2.0, 1)).spectrum == (2.0, 1)
    assert Rotations(4, 1, Cayley()).block == 4
    assert Sphere(ndim=np.int64(2)).ndim == 2
