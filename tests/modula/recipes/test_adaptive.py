"""Recipes under a metric, and those with scalers, against the packages and papers they are from."""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from training_runs import Make, assert_same_run

import modula
from modula import recipes
from modula.duality import Decoupled, Potential, Sharp, Unit
from modula.kernels.spectral.polynomials import JORDAN
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

EXACT = {"rtol": 1e-9, "atol": 1e-12}
Direction = Callable[[Tensor, dict[str, Any], int], Tensor]


class Loop(torch.optim.Optimizer):
    """w <- w - lr direction(gradient, the weight's own state, step): papers as plain loops."""

    def __init__(self, net: nn.Module, lr: float, direction: Direction) -> None:
        super().__init__(net.parameters(), {"lr": lr})
        self.direction = direction

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for weight in group["params"]:
                state = self.state[weight]
                state["step"], state["weight"] = state.get("step", 0) + 1, weight
                weight.sub_(group["lr"] * self.direction(weight.grad, state, state["step"]))


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


@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad", "root_free"])
def test_a_decay_of_ones_own_takes_the_place_of_the_recipes(name: str) -> None:
    net = nn.Linear(3, 2)
    plain = recipes.RECIPES[name](net).plan["weight"].program
    decayed = recipes.RECIPES[name](net, weight_decay=Decoupled(0.1)).plan["weight"].program
    assert decayed.proposal == plain.proposal
    assert str(decayed.update[0]) == "weight = decay(weight, lr, rate=0.1, scale=1)"


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


def hidden(net: nn.Module) -> nn.Module:
    """All matrices of the network are for the recipe's own group."""
    for name in ("0", "2"):
        modula.declare(net, {f"{name}.weight": modula.norms.RMSToRMS()})
    return net


def inverse_root(x: Tensor, power: float, damping: float) -> Tensor:
    mean = x.trace() / len(x)
    values, basis = torch.linalg.eigh(x / mean)
    return mean**-power * (basis * (values.clamp(min=0) + damping) ** -power) @ basis.mT


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (
            lambda net: recipes.adam(net, 3e-3, weight_decay=0.1),
            lambda net: torch.optim.Adam(net.parameters(), 3e-3, weight_decay=0.1),
        ),
        (
            lambda net: recipes.rmsprop(net, 3e-3),
            lambda net: torch.optim.RMSprop(net.parameters(), 3e-3),
        ),
        (
            lambda net: recipes.rmsprop(net, 1e-3, momentum=0.9, weight_decay=0.1),
            lambda net: torch.optim.RMSprop(net.parameters(), 1e-3, momentum=0.9, weight_decay=0.1),
        ),
        (
            lambda net: recipes.adagrad(net, 0.05, weight_decay=0.1),
            lambda net: torch.optim.Adagrad(net.parameters(), 0.05, weight_decay=0.1),
        ),
        (
            lambda net: recipes.adagrad(net, 0.05, first=0.1),
            lambda net: torch.optim.Adagrad(net.parameters(), 0.05, initial_accumulator_value=0.1),
        ),
    ],
    ids=["adam", "rmsprop", "rmsprop with momentum", "adagrad", "adagrad from 0.1"],
)
def test_recipes_are_torchs_for_300_steps(ours: Make, theirs: Make) -> None:
    assert_same_run(ours, theirs, steps=300, **EXACT)


def test_root_free_is_the_papers_loop() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        state["v"] = 0.95 * state.get("v", 1 / 16) + 0.05 * g**2
        decayed = g / (16 * state["v"] + 1e-3) + 0.1 * state["weight"]
        state["b"] = 0.9 * state.get("b", 0.0) + decayed
        return state["b"]

    assert_same_run(
        lambda net: recipes.root_free(net, 1e-3, batch=16, beta=0.95, weight_decay=0.1),
        lambda net: Loop(net, 1e-3, direction),
        steps=200,
        **EXACT,
    )


def test_adam_with_equal_betas_is_sign_descent_in_a_trust_region() -> None:
    """m / sqrt(v) = sign(m) / sqrt(1 + s / m^2), s: what the average failed to foresee."""

    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        m, s = state.get("m", torch.zeros_like(g)), state.get("s", 0.0)
        state["s"] = s = 0.9 * s + 0.9 * 0.1 * (m - g) ** 2
        state["m"] = m = 0.9 * m + 0.1 * g
        return m.sign() / (1 + s / m**2).sqrt() / (1 - 0.9**step) ** 0.5

    assert_same_run(
        lambda net: recipes.adam(net, 1e-3, betas=(0.9, 0.9), eps=0.0),
        lambda net: Loop(net, 1e-3, direction),
        steps=100,
        rtol=1e-7,
        atol=1e-10,
    )


def test_shampoo_grafted_to_adam_is_the_plain_loop() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        for name, new, beta in (
            ("m", g, 0.9),
            ("left", g @ g.mT, 0.99),
            ("right", g.mT @ g, 0.99),
            ("v", g**2, 0.999),
        ):
            state[name] = beta * state.get(name, 0.0) + (1 - beta) * new
        m = state["m"] / (1 - 0.9**step)
        left, right = (state[n] / (1 - 0.99**step) for n in ("left", "right"))
        adam = m / ((state["v"] / (1 - 0.999**step)).sqrt() + 1e-8)
        d = inverse_root(left, 0.25, 1e-4) @ m @ inverse_root(right, 0.25, 1e-4)
        return d * adam.norm() / d.norm()

    assert_same_run(
        lambda net: recipes.shampoo(hidden(net), 1e-2, every=1, damping=1e-4),
        lambda net: Loop(net, 1e-2, direction),
        steps=60,
        bias=False,
        width=10,  # no multiple of another side: one block a weight
        rtol=1e-6,
        atol=1e-8,
    )


def test_shampoo_squared_is_the_plain_loop() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        for name, new, beta in (("m", g, 0.9), ("left", g @ g.mT, 0.95), ("right", g.mT @ g, 0.95)):
            state[name] = beta * state.get(name, 0.0) + (1 - beta) * new
        left, right = (state[n] / (1 - 0.95**step) for n in ("left", "right"))
        d = inverse_root(left, 0.5, 0.1) @ state["m"] @ inverse_root(right, 0.5, 0.1)
        return left.trace().sqrt() * d

    assert_same_run(
        lambda net: recipes.shampoo_squared(hidden(net), 1e-2, every=1, damping=0.1),
        lambda net: Loop(net, 1e-2, direction),
        steps=60,
        bias=False,
        width=10,  # no multiple of another side: one block a weight
        rtol=1e-6,
        atol=1e-8,
    )


def test_asgo_is_the_plain_loop_along_the_short_side() -> None:
    def direction(g: Tensor, state: dict[str, Any], step: int) -> Tensor:
        wide = g.shape[0] <= g.shape[1]
        new = g @ g.mT if wide else g.mT @ g
        state["m"] = 0.9 * state.get("m", 0.0) + 0.1 * g
        state["v"] = 0.8 * state.get("v", 0.0) + 0.2 * new
        root = inverse_root(state["v"], 0.5, 1e-4)
        d = root @ state["m"] if wide else state["m"] @ root
        return 0.2 * d / d.square().mean().sqrt()

    assert_same_run(
        lambda net: recipes.asgo(hidden(net), 1e-2, damping=1e-4),
        lambda net: Loop(net, 1e-2, direction),
        steps=60,
        bias=False,
        rtol=1e-6,
        atol=1e-8,
    )


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (4, 4)], ids=str)
def test_one_sided_without_memory_is_the_polar_factor_of_rms_one(shape: tuple[int, int]) -> None:
    net = nn.Linear(shape[1], shape[0], bias=False).double()
    modula.declare(net, {"weight": modula.norms.RMSToRMS()})
    before = net.weight.detach().clone()
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(0)).double()
    net.weight.grad = gradient.clone()
    recipes.one_sided(net, 1.0, momentum=0.0, beta=0.0, damping=0.0).step()
    u, _, vh = torch.linalg.svd(gradient, full_matrices=False)
    assert_close(before - net.weight.detach(), max(shape) ** 0.5 * u @ vh)


def test_adamuon_is_the_one_of_pytorch_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("pytorch_optimizer").AdaMuon
        matrix = pytest.importorskip("pytorch_optimizer.optimizer.utils.matrix")
    polar = matrix.zero_power_via_newton_schulz_5  # in bfloat16, by its last default
    monkeypatch.setattr(polar, "__defaults__", (*polar.__defaults__[:-1], torch.float64))
    monkeypatch.setattr("modula.kernels.spectral.polar.DEFAULT", JORDAN)

    def other(net: nn.Module) -> torch.optim.Optimizer:
        group = {"params": [*net.parameters()], "use_muon": True}
        found: torch.optim.Optimizer = theirs([group], lr=1e-3, weight_decay=0.1)
        return found

    assert_same_run(
        lambda net: recipes.adamuon(
            hidden(net), 1e-3, momentum=0.9, nesterov=False, weight_decay=0.1
        ),
        other,
        steps=200,
        bias=False,
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("name", "options", "known_as"),
    [
        ("adam", {}, "Adam"),
        ("adamw", {}, "AdamW"),
        ("rmsprop", {}, "RMSProp"),
        ("adagrad", {}, "AdaGrad"),
        ("root_free", {}, "root-free RMSProp"),
        ("normuon", {}, "NorMuon"),
        ("adamuon", {}, "AdaMuon"),
        ("muon", {"scalers": (modula.duality.Hyperball(),)}, "MuonH"),
        ("kl_shampoo", {}, "KL-Shampoo"),
        ("shampoo", {}, "Shampoo, grafted to Adam"),
        ("shampoo_squared", {}, "Shampoo squared"),
        ("one_sided", {}, "one-sided Shampoo"),
        ("asgo", {}, "ASGO"),
    ],
)
def test_plans_know_the_published_name(name: str, options: dict[str, Any], known_as: str) -> None:
    optimizer = recipes.RECIPES[name](hidden(small()), **options)
    assert optimizer.plan["0.weight"].known_as == known_as


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 3))


def test_the_guard_binds_only_after_a_long_silence() -> None:
    def lengths(silent: int) -> float:
        net = nn.Linear(4, 4, bias=False).double()
        modula.declare(net, {"weight": modula.norms.RMSToRMS()})
        optimizer = recipes.kl_shampoo(net, 1.0)
        generator, largest = torch.Generator().manual_seed(0), 0.0
        for step in range(60 + silent):
            scale = 1e-12 if 30 <= step < 30 + silent else 1.0
            before = net.weight.detach().clone()
            net.weight.grad = scale * torch.randn(4, 4, generator=generator).double()
            optimizer.step()
            largest = max(largest, float((before - net.weight.detach()).square().mean().sqrt()))
        return largest

    most = 2 * (0.1 / 1.9) ** 0.5  # twice what white gradients make under a momentum of 0.9
    assert lengths(0) < 0.9 * most
    assert lengths(300) == pytest.approx(most)


def test_only_the_short_side_has_a_factor_in_convolutions_too() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 40, 2))
    optimizer = recipes.one_sided(net)
    shapes = {k: tuple(v.shape) for k, v in optimizer.state[net[1].weight].items()}
    assert shapes["factor_1"][-2:] == (32, 32)  # of 40 outputs and 8 inputs on 2 x 2 taps
    assert "factor_0" not in shapes
