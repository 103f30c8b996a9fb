"""Norms of all entries on Oblique: exact, row by row or column by column."""

import pytest
import torch
from directions import direction, draw
from torch.testing import assert_close

from modula.duality import Setting, certify
from modula.duality.rules.solvers.hyperplane import steepest
from modula.duality.setting.derive import rule_name
from modula.manifolds import Manifold, Oblique, Sphere, Transposed
from modula.norms import L1, Max, Norm

MANIFOLDS: list[Manifold] = [Oblique("rows"), Oblique("columns"), Transposed(Oblique("rows"))]


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize("norm", [L1(2), Max(2)], ids=str)
@pytest.mark.parametrize("shape", [(6, 4), (16, 9), (3, 5)], ids=str)
def test_it_is_the_steepest(norm: Norm, manifold: Manifold, shape: tuple[int, int]) -> None:
    weight, gradient = draw(manifold, shape, 1)
    proof = certify(norm, manifold, weight, gradient, direction(norm, manifold, weight, gradient))
    assert proof.tangency < 1e-12
    assert proof.norm == pytest.approx(1.0)
    assert 0 <= proof.gap < 1e-9
    assert rule_name(Setting(norm, manifold), shape) != "general_solver"


def test_under_l1_the_column_that_gains_most_turns_alone() -> None:
    manifold = Oblique("columns")
    weight, gradient = draw(manifold, (6, 4), 2)
    gradient = torch.stack([gradient, -3 * gradient.flip(-1)])
    tangent = manifold.to_tangent(weight, gradient)
    turned = steepest(L1(), Sphere(), weight.mT.expand(2, 4, 6), tangent.mT).mT
    gains = (tangent * turned).sum(-2)
    found = direction(L1(2), manifold, weight.expand(2, 6, 4), gradient)
    for d, t, gain in zip(found, turned, gains, strict=True):
        best = int(gain.argmax())
        assert_close(d[:, best], t[:, best])
        assert not d[:, [c for c in range(4) if c != best]].any()
