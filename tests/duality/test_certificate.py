"""Certificates are of weights, gradients and directions of one kind and shape."""

from typing import Any

import pytest
import torch

from modula.duality import certify
from modula.manifolds import Euclidean, Stiefel
from modula.norms import (
    RMSToRMS,
)


def test_a_certificate_needs_a_shape_that_the_manifold_has() -> None:
    wide = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"or declare Transposed\(Stiefel\(\)\)"):
        certify(RMSToRMS(), Stiefel(), wide, wide, wide)


@pytest.mark.parametrize("name", ["weight", "gradient", "direction"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.tensor([[1.0, float("nan")]]), "the {} is not finite in 1 of 2 entries"),
        (torch.tensor([[float("inf")] * 2]), "the {} is not finite in 2 of 2 entries"),
        (torch.tensor([[1, 2]]), "the {} is of torch.int64: a certificate needs real floating"),
        (torch.tensor([[1j, 2]]), "the {} is of torch.complex64: a certificate needs real"),
        (torch.ones(1, 2, device="meta"), "on one device, with their values; got .*meta"),
        (torch.ones(2, 1), "all of one shape; got "),
        ([[1.0, 2.0]], r"certify needs a Tensor for {}; got \[\[1.0, 2.0\]\]"),
    ],
    ids=str,
)
def test_a_certificate_needs_numbers_of_one_kind(name: str, bad: Any, words: str) -> None:
    given = {each: torch.ones(1, 2) for each in ("weight", "gradient", "direction")} | {name: bad}
    with pytest.raises(ValueError, match=words.format(name)) as error:
        certify(RMSToRMS(), Euclidean(), **given)
    assert "\n" not in str(error.value)


def test_a_certificate_needs_a_norm_and_a_manifold() -> None:
    x, nothing = torch.ones(1, 2), Any
    with pytest.raises(ValueError, match="certify needs a Norm for norm"):
        certify(nothing, Euclidean(), x, x, x)
    with pytest.raises(ValueError, match=r"certify needs a Manifold for manifold, such as Eucl"):
        certify(RMSToRMS(), nothing, x, x, x)
