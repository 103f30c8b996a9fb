"""Grades of certificates."""

from dataclasses import replace

import torch

from modula import verify
from modula.duality import Certificate
from modula.manifolds import Sphere
from modula.norms import Frobenius


def test_a_gap_far_below_zero_is_no_proof() -> None:
    (row, *_) = verify.verify_pair(Frobenius(), Sphere(ndim=2), (3, 2), dtypes=(torch.float64,))
    graded = [
        verify.grade(replace(row, certificate=Certificate(1.0, 0.0, gap)), 0.1)
        for gap in (-1e-13, -2e-4, 0.01, 0.2, -0.2, float("nan"))
    ]
    assert graded == ["exact", "close", "close", "FAIL", "FAIL", "FAIL"]
