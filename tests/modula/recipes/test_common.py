"""Which weights a recipe takes for matrices, and what it is told of their factors."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import modula
from modula import recipes
from modula.duality import Potential, Sharp, Unit
from modula.manifolds import Sphere
from modula.norms import (
    L2,
    BlockDiagonal,
    Dense,
    DiagonalMode,
    Flat,
    Kronecker,
    SpikeAndFlat,
    Triangular,
)


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("kl_shampoo", {"modes": SpikeAndFlat(4)}, "KL: 16 with 4 spikes x 8 with 4 spikes"),
        ("kl_shampoo", {"modes": (Dense(), DiagonalMode())}, "KL: dense 16 x diagonal 8"),
        ("if_shampoo", {"modes": Triangular()}, "2 blocks of triangular 8 x triangular 8"),
        ("singd", {"modes": BlockDiagonal(4)}, "16 in blocks of 4 x 8 in blocks of 4"),
        ("psgd_lra", {"rank": 3}, "LRA: diagonal 128 with rank 3"),
    ],
)
def test_recipes_take_the_structure_of_their_factors(
    name: str, options: dict[str, Any], text: str
) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16, bias=False), nn.Linear(16, 4, bias=False))
    modula.declare(net, {"0.weight": modula.norms.RMSToRMS()})
    optimizer = recipes.RECIPES[name](net, **options)
    assert text in optimizer.plan["0.weight"].metric
    x, losses = torch.randn(32, 8), []
    for _ in range(20):
        losses.append((net(x) - x[:, :4]).square().mean())
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0]


class Own(nn.Module):
    """A matrix, and a vector and a number of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4, 3, bias=False)
        self.vector = nn.Parameter(torch.ones(3))
        self.number = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.number * (self.map(x) + self.vector)
        return y


@pytest.mark.parametrize(
    "name", ["kl_shampoo", "psgd_pro", "kfac", "singd", "normuon", "soap_muon"]
)
def test_vectors_and_numbers_of_ones_own_are_for_adamw(name: str) -> None:
    net = Own()
    modula.declare(net, {"vector": modula.norms.RMS(), "number": modula.norms.Max(0)})
    optimizer = recipes.RECIPES[name](net)
    net(torch.randn(5, 4)).square().mean().backward()
    optimizer.step()
    assert [optimizer.plan[n].known_as for n in ("vector", "number")] == ["Adam", "Adam"]
    assert all(weight.isfinite().all() for weight in net.parameters())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("kl_shampoo", "0.weight (8, 6): KL: 2 blocks of dense 4 x dense 6, power 0.5"),
        ("soap", "0.weight (8, 6): diagonal in the eigenbasis of Sum: 2 blocks of dense 4"),
        ("bias_corrected_shampoo", "0.weight (8, 6): variance-corrected Sum: 2 blocks of"),
        ("kfac", "0.weight (8, 6): sampled_output_moment 4 in 2 blocks x sampled_input_moment 6"),
        ("one_sided", ""),
    ],
)
def test_one_line_says_what_was_too_wide(
    name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 6))
    recipes.RECIPES[name](net, max_dim=6)
    assert [record.getMessage()[: len(text) + 41] for record in caplog.records] == (
        [f"wider than max_dim, so cut or made diagonal: {text}"[: len(text) + 41]] if text else []
    )


@pytest.mark.parametrize(
    "declare",
    [
        lambda: modula.norms.Kronecker(damping=torch.nan),
        lambda: modula.norms.Diagonal(floor=torch.nan),
        lambda: modula.norms.Scalar(power=-1.0),
        lambda: modula.norms.Relative(-0.1),
        lambda: modula.norms.InverseFree(damping=torch.nan),
        lambda: recipes.kfac(nn.Linear(2, 2), damping=1e-3),
        lambda: recipes.root_free(nn.Linear(2, 2), batch=0),
        lambda: recipes.if_shampoo(nn.Linear(2, 2), modes=Flat()),
        lambda: recipes.singd(nn.Linear(2, 2), modes=Flat()),
    ],
)
def test_what_means_nothing_is_refused_where_it_is_declared(declare: Callable[[], Any]) -> None:
    with pytest.raises(ValueError, match=r"needs|got|Flat\(\)"):
        declare()


@pytest.mark.parametrize(
    ("geometry", "potential", "text"),
    [
        (modula.Geometry(Kronecker().then(L2(2)), Sphere(ndim=2)), Unit(), "is a chain"),
        (modula.Geometry(Kronecker().then(L2(2))), Sharp(), "is a chain"),
        (modula.Geometry(L2(2).under(Kronecker((Dense(),)))), Unit(), "declares 1 modes"),
    ],
)
def test_what_does_not_fit_a_weight_names_it(
    geometry: modula.Geometry, potential: Potential, text: str
) -> None:
    net = nn.Sequential(nn.Linear(3, 2, bias=False))
    net[0].geometry = {"weight": geometry}
    with pytest.raises(ValueError, match=f"0.weight: .*{text}"):
        modula.SteepestDescent(net, potential=potential)
