"""Hundreds of steps leave a constrained recipe on its manifold, no further off than at first."""

import copy

import pytest
import torch
from torch import nn

import modula.manifolds as manifolds
from modula import recipes
from modula.duality import Program
from modula.duality.program import batch
from modula.duality.program.line import line
from modula.kernels.elementwise import update

ALLOWED = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
STEPS = {"hypersphere": 300, "oblique": 300, "manifold_muon": 150, "spectral_sphere": 60}
RECIPES = ["hypersphere", "oblique", "manifold_muon", "unit_condition", "spectral_sphere"]


@pytest.mark.parametrize("dtype", ALLOWED, ids=str)
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.filterwarnings("ignore")
def test_no_recipe_drifts(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 9, bias=False, dtype=dtype)
    optimizer = getattr(recipes, name)(model, lr=0.1)
    manifold = eval(optimizer.plan["weight"].manifold, vars(manifolds))
    residuals = []
    for _ in range(STEPS.get(name, 24)):
        model.weight.grad = torch.randn(9, 4).to(dtype)
        optimizer.step()
        residuals.append(float(manifold.residual(model.weight.detach().double())))
    first, last = residuals[: len(residuals) // 3], residuals[-len(residuals) // 3 :]
    assert max(residuals) <= ALLOWED[dtype]
    # Rounding stays as it is; what adds up would be thrice as much in the last third.
    assert sum(last) <= 2 * sum(first) + 1e-9


@pytest.mark.parametrize("name", [*RECIPES, "muon", "adamw"])
@pytest.mark.filterwarnings("ignore")
def test_a_step_in_half_precision_is_rounded_once(name: str) -> None:
    """After the retraction, as if the step had been taken in float32."""
    torch.manual_seed(0)
    half = nn.Linear(4, 9, bias=False, dtype=torch.bfloat16)
    gradient = torch.randn(9, 4).bfloat16()
    first = getattr(recipes, name)(half, lr=0.1)  # which brings the weight to its manifold
    single = copy.deepcopy(half).float()
    second = getattr(recipes, name)(single, lr=0.1)
    single.weight.data.copy_(half.weight)
    half.weight.grad, single.weight.grad = gradient, gradient.float()
    first.step()
    second.step()
    assert torch.equal(half.weight, single.weight.bfloat16())


def test_copies_of_half_precision_weights_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """On accelerators, where full precision is worked on in place and batched whole."""
    monkeypatch.setattr(batch, "COPIED_ENTRIES", 100)
    for dtype, most in ((torch.bfloat16, 2), (torch.float32, 6)):
        weights = [torch.empty(50, dtype=dtype, device="meta") for _ in range(6)]
        program = Program(
            (), (line("weight", update.step, "weight", "gradient", "lr"),), direction="gradient"
        )
        groups = [chosen for _, chosen in batch.batches([program] * 6, weights)]
        assert max(map(len, groups)) == most
        assert sorted(sum(groups, [])) == list(range(6))
