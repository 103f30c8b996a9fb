"""The dual that a run of the general solver leaves: what it holds, and how the next one uses it."""

import pytest
import torch
from directions import draw
from torch import Tensor
from torch.testing import assert_close

from modula.duality import Setting, derive
from modula.duality.rules.solvers.general import solve, steepest_tangent
from modula.manifolds import Manifold, Oblique, Stiefel
from modula.manifolds.transposed import Transposed
from modula.manifolds.unit_condition_number import UnitConditionNumber
from modula.norms import L1, FromDual, Norm, Nuclear, RMSToRMS, Spectral


def nuclear_and_more(g: Tensor) -> Tensor:
    """The dual of a norm that nobody has named."""
    return torch.linalg.matrix_norm(g, ord="nuc") + torch.linalg.vector_norm(g)


@pytest.mark.parametrize("norm", [Nuclear(), Spectral()], ids=str)
def test_a_dual_that_is_kept_saves_rounds(norm: Norm) -> None:
    """For the same gradient, at another scale, a later run goes on where the first one stopped."""
    manifold = Oblique("columns")
    weight, gradient = draw(manifold, (6, 4), 3)
    tangent = manifold.to_tangent(weight, gradient)
    dual, gained = None, []
    for scale in (1.0, 1e20, 1e-20):
        found, dual = solve(norm, manifold, weight, scale * tangent, 4, dual)
        gained.append(float((tangent * found).sum()))
    best = float((tangent * steepest_tangent(norm, manifold, weight, tangent, 300)).sum())
    assert best - gained[2] < 0.5 * (best - gained[0]) + 1e-9 * best
    found, _ = solve(norm, manifold, weight, 0 * tangent, 4, dual)
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize("manifold", [Oblique("columns"), UnitConditionNumber()], ids=str)
@pytest.mark.parametrize("norm", [L1(2), RMSToRMS(), FromDual(nuclear_and_more)], ids=str)
def test_a_dual_that_is_of_no_use_changes_nothing(norm: Norm, manifold: Manifold) -> None:
    weight, gradient = draw(manifold, (6, 4), 5)
    tangent = manifold.to_tangent(weight, gradient)
    cold, dual = solve(norm, manifold, weight, tangent, 6)
    for useless in (torch.zeros_like(dual), -dual, 1e3 * torch.ones_like(dual)):
        assert torch.equal(solve(norm, manifold, weight, tangent, 6, useless)[0], cold)


def test_each_weight_of_a_batch_chooses_where_it_starts() -> None:
    norm, manifold = RMSToRMS(), UnitConditionNumber()
    weight, gradient = draw(manifold, (2, 6, 4), 6)
    tangent = manifold.to_tangent(weight, gradient)
    dual = solve(norm, manifold, weight, tangent, 30)[1] * torch.tensor([1.0, 0.0])[:, None, None]
    together = solve(norm, manifold, weight, tangent, 2, dual)[0]
    gained = (tangent * (together - solve(norm, manifold, weight, tangent, 2)[0])).sum((-2, -1))
    assert gained[0] > 1e-3
    assert abs(gained[1]) < 1e-12
    for i in range(2):
        alone = solve(norm, manifold, weight[i], tangent[i], 2, dual[i])[0]
        assert_close(together[i], alone, rtol=0, atol=1e-10)


def test_a_dual_holds_the_direction_and_a_proof_that_it_is_steep() -> None:
    """Its tangent part is D / |D|, its normal part -Z, and ||G + Z||_* is hardly above <G, D>."""
    norm, manifold = Spectral(), Oblique("columns")
    weight, gradient = draw(manifold, (6, 4), 7)
    unit = manifold.to_tangent(weight, gradient)
    unit = unit / unit.norm()
    d, dual = solve(norm, manifold, weight, 1e6 * unit)
    assert_close(manifold.to_tangent(weight, dual), d / d.norm())
    z = manifold.to_tangent(weight, dual) - dual
    assert float((unit * d).sum()) <= float(norm.dual(unit + z)) * (1 + 1e-12)
    assert float((unit * d).sum()) >= float(norm.dual(unit + z)) * (1 - 1e-4)


def test_the_dual_is_kept_from_step_to_step_and_survives_steps_without_gradient() -> None:
    """Later steps are no less steep, for wide weights (transposed) as for tall ones."""
    norm, shape = L1(2), (9, 24)
    manifold = Transposed(Stiefel())
    derived = derive(Setting(norm, manifold), shape)
    program = derived.as_program()
    assert "dual" in program.state
    weight, gradient = draw(manifold, shape, 8)
    kept = program.run(weight=weight, gradient=gradient, dual=torch.zeros_like(weight))
    first = kept["direction"]
    assert_close(manifold.to_tangent(weight, kept["dual"]), first / first.norm())
    again = program.run(weight=weight, gradient=3 * gradient, dual=kept["dual"])["direction"]
    assert float((gradient * (again - first)).sum()) > -1e-9
    still = program.run(weight=weight, gradient=0 * gradient, dual=kept["dual"])
    assert not still["direction"].any()
    after = program.run(weight=weight, gradient=gradient, dual=still["dual"])["direction"]
    assert_close(after, first)
