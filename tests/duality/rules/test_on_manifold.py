"""Steps of positive definite matrices: exact where the norm does not see a transpose."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.duality import Setting, certify, derive
from modula.duality.setting.derive import rule_name
from modula.manifolds import SPD
from modula.norms import (
    L1,
    KyFan,
    KyFanDual,
    Max,
    Norm,
    Nuclear,
    RMSToRMS,
    Rows,
    Schatten,
    Spectral,
)
from modula.norms.vector import L2

NORMS = [Spectral(), RMSToRMS(), Nuclear(), Schatten(3.0), KyFan(2), KyFanDual(2), L1(2), Max(2)]
EVERY = [*NORMS, 2.0 * Nuclear()]
MANIFOLD = SPD(0.1)


def steepest(norm: Norm, weight: Tensor, gradient: Tensor) -> Tensor:
    return derive(Setting(norm, MANIFOLD), weight.shape[-2:]).first_direction(weight, gradient)


@pytest.mark.parametrize("norm", EVERY, ids=str)
@pytest.mark.parametrize("n", [2, 5, 6])
def test_nothing_is_missed(norm: Norm, n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    gradients = torch.randn(3, n, n, dtype=torch.float64, generator=generator)
    weight = MANIFOLD.project(gradients[0].mT @ gradients[0])
    for gradient in gradients:
        d = steepest(norm, weight, gradient)
        proof = certify(norm, MANIFOLD, weight, gradient, d)
        assert torch.equal(d, d.mT)
        assert proof.norm == pytest.approx(1.0, abs=1e-9)
        assert abs(proof.gap) < 1e-9


@pytest.mark.parametrize("norm", NORMS, ids=str)
def test_singular_vectors_that_are_not_one_anothers_mirror_image(norm: Norm) -> None:
    """Eigenvalues 1 and -1: the best rank-one matrices on either side are not symmetric."""
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    d = steepest(norm, torch.eye(2, dtype=torch.float64), swap)
    assert torch.equal(d, d.mT)
    assert_close((d * swap).sum(), norm.dual(swap))
    assert_close(norm(d), torch.ones((), dtype=torch.float64))
    assert torch.equal(steepest(norm, torch.eye(2, dtype=torch.float64), 0 * swap), 0 * swap)


def test_norms_that_see_a_transpose_are_solved_as_any_other() -> None:
    assert rule_name(Setting(Rows(L2()), MANIFOLD), (4, 4)) == "general_solver"
    assert rule_name(Setting(Spectral(), MANIFOLD), (4, 4)) == "symmetric_duality_map"
