"""When the general solver is the rule, how a plan prints it, and that it trains."""

import pytest
import torch

from modula.duality import Average, NoRule, Setting, Within, derive, plan_of
from modula.duality.declaration.declaration import Declaration
from modula.duality.setting.derive import rule_name
from modula.manifolds import Oblique, Sphere, Stiefel
from modula.manifolds.spectral_sphere import SpectralSphere
from modula.norms import L1, RMS, Columns, Frobenius, Max, Rows, Spectral
from modula.optimizer.param_groups import Group
from modula.optimizer.steepest_descent import SteepestDescent


def test_more_special_rules_keep_winning() -> None:
    expected = {
        (Frobenius(), SpectralSphere()): "riemannian_gradient",
        (Spectral(), Stiefel()): "manifold_muon",
        (Rows(RMS()), Oblique("rows")): "oblique_rows",
        (Rows(RMS()), Oblique("columns")): "general_solver",
        (Columns(L1()), Oblique("columns")): "oblique_columns",
        (Max(2), Stiefel()): "general_solver",
        (Max(2), Sphere(ndim=2)): "hyperplane_root",
        (Spectral(), SpectralSphere()): "hyperplane_root",
        (Max(2), Sphere()): "general_solver",  # a sphere for each row: many constraints
    }
    found = {pair: rule_name(Setting(*pair), (6, 4)) for pair in expected}
    assert found == expected


def test_a_plan_names_the_solver() -> None:
    declaration = Declaration(Setting(Max(2), Stiefel(), momentum=Average()))
    row = plan_of([("head.weight", (6, 4), declaration, 4)])["head.weight"]
    assert row.rule == "general_solver"
    assert row.known_as == "Riemannian steepest descent"
    assert str(row.program).splitlines()[1:] == [
        "active = active[weight](momentum, gradient)",
        "tangent = to_tangent[Stiefel()](weight, active)",
        "solved = splitting[Max(), Stiefel()](weight, tangent, dual)",
        "direction = first(solved)",
        "dual = second(solved)",
        "point = copy(weight)",
        "weight = step(weight, direction, lr, scale=1)",
        "weight = retract[Stiefel()](point, weight)",
    ]


def test_what_still_has_no_rule_says_so() -> None:
    with pytest.raises(NoRule, match="potential Within"):
        derive(Setting(Max(2), Stiefel(), potential=Within(Max(2), 1.0)), (6, 4))


def test_descent_under_the_max_norm_stays_orthonormal_and_falls() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(5, 8, bias=False, dtype=torch.float64)
    target = Stiefel().project(torch.randn(8, 5, dtype=torch.float64, generator=generator))
    with torch.no_grad():
        layer.weight.copy_(Stiefel().project(layer.weight))
    declaration = Declaration(Setting(Max(2), Stiefel()))
    optimizer = SteepestDescent(layer, 0.1, groups=[Group({"weight": declaration})])
    losses = []
    for step in range(60):
        for group in optimizer.param_groups:
            group["lr"] = 0.1 * (1 - step / 60)
        optimizer.zero_grad()
        loss = (layer.weight - target).square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.05 * losses[0]
    assert float(Stiefel().residual(layer.weight.detach())) < 1e-9
