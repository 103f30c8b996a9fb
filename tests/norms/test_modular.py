"""The norm of a network against its formulas, its laws, and brute force."""

from collections.abc import Callable, Mapping
from math import sqrt
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from modula.norms.base import NoClosedForm, Norm
from modula.norms.modular import Composition, MaxOf, RootOf, SumOf
from modula.norms.operator import RMSToRMS, Rows
from modula.norms.vector import L1, L2, RMS, Frobenius
from strategies import matrices, seeds

Build = Callable[[Mapping[str, tuple[Norm, float]]], Composition]
PARTS: dict[str, tuple[Norm, float]] = {
    "embed": (Rows(RMS()), 7.0),
    "hidden": (RMSToRMS(), 0.7),
    "bias": (RMS(), 1.0),
}
ONE = torch.ones((), dtype=torch.float64)

each_kind = pytest.mark.parametrize("build", [MaxOf, SumOf, RootOf])


def network(x: Tensor, seed: int) -> dict[str, Tensor]:
    """Weights of a small network; x fits "hidden"."""
    generator = torch.Generator().manual_seed(seed)
    embed, bias = torch.randn(2, 5, 3, dtype=torch.float64, generator=generator) * x.abs().max()
    return {"embed": embed, "hidden": x, "bias": bias[0]}


def inner(x: dict[str, Tensor], y: dict[str, Tensor]) -> Tensor:
    return torch.stack([(x[name] * y[name]).sum() for name in x]).sum()


@each_kind
@settings(max_examples=15)
@given(x=matrices(), seed=seeds())
def test_duality_map_has_norm_one_and_attains_the_dual_norm(
    build: Build, x: Tensor, seed: int
) -> None:
    norm, g = build(PARTS), network(x, seed)
    t = norm.duality_map(g)
    assert_close(norm(t), ONE)
    assert_close(inner(g, t), norm.dual(g))


@each_kind
@settings(max_examples=15)
@given(x=matrices(), seed=seeds())
def test_no_network_beats_the_dual_norm(build: Build, x: Tensor, seed: int) -> None:
    norm, g = build(PARTS), network(x, seed)
    for k in range(5):
        t = network(torch.randn_like(x), seed + k)
        assert inner(g, t) <= norm.dual(g) * norm(t) * (1 + 1e-12)


@each_kind
@settings(max_examples=15)
@given(x=matrices(), seed=seeds())
def test_formulas(build: Build, x: Tensor, seed: int) -> None:
    g = network(x, seed)
    value = torch.stack([s * norm(g[name]) for name, (norm, s) in PARTS.items()])
    dual = torch.stack([norm.dual(g[name]) / s for name, (norm, s) in PARTS.items()])
    root = dual.square().sum().sqrt()
    greedy = torch.zeros_like(dual).index_fill(0, dual.argmax(), 1.0)
    expected_value, expected_dual, shares = {
        MaxOf: (value.max(), dual.sum(), torch.ones_like(dual)),
        SumOf: (value.sum(), dual.max(), greedy),
        RootOf: (value.square().sum().sqrt(), root, dual / root),
    }[build]
    assert_close(build(PARTS)(g), expected_value)
    assert_close(build(PARTS).dual(g), expected_dual)
    t = build(PARTS).duality_map(g)
    for share, (name, (norm, s)) in zip(shares, PARTS.items(), strict=True):
        assert_close(t[name], share / s * norm.duality_map(g[name]))


@each_kind
def test_dual_norm_by_brute_force(build: Build) -> None:
    """Two layers of two entries and one: directions from a fine grid of the sphere."""
    norm = build({"a": (L1(), 2.0), "b": (L2(), 0.5)})
    g = {"a": torch.tensor([3.0, -4.0]).double(), "b": torch.tensor([2.0]).double()}
    polar, azimuth = torch.meshgrid(
        torch.linspace(0, torch.pi, 401).double(),
        torch.linspace(0, 2 * torch.pi, 801).double(),
        indexing="ij",
    )
    a = torch.stack((polar.sin() * azimuth.cos(), polar.sin() * azimuth.sin()), -1)
    b = polar.cos().unsqueeze(-1)
    ratios = ((a * g["a"]).sum(-1) + (b * g["b"]).sum(-1)) / norm({"a": a, "b": b})
    assert ratios.max() <= norm.dual(g) * (1 + 1e-12)
    assert_close(ratios.max(), norm.dual(g), rtol=1e-2, atol=0)


@each_kind
def test_zero_in_zero_out_and_inputs_unchanged(build: Build) -> None:
    norm = build(PARTS)
    zero = {name: torch.zeros_like(w) for name, w in network(torch.ones(2, 2), 0).items()}
    assert norm(zero) == norm.dual(zero) == 0
    assert all(t.count_nonzero() == 0 for t in norm.duality_map(zero).values())
    g = network(torch.ones(2, 2).double(), 0)
    before = {name: w.clone() for name, w in g.items()}
    for t in norm.duality_map(g).values():
        t.mul_(2)
    assert all(torch.equal(g[name], before[name]) for name in g)


@each_kind
def test_a_batch_is_a_loop(build: Build) -> None:
    norm = build(PARTS)
    nets = [network(torch.ones(2, 3).double() + k, k) for k in range(3)]
    batch = {name: torch.stack([net[name] for net in nets]) for name in PARTS}
    assert_close(norm(batch), torch.stack([norm(net) for net in nets]))
    assert_close(norm.dual(batch), torch.stack([norm.dual(net) for net in nets]))
    for name, t in norm.duality_map(batch).items():
        assert_close(t, torch.stack([norm.duality_map(net)[name] for net in nets]))


@each_kind
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_extreme_scales_in_float32(build: Build, scale: float) -> None:
    norm, g = build(PARTS), network(torch.ones(2, 3).double(), 0)
    small = {name: (scale * w).float() for name, w in g.items()}
    assert_close(norm(small).double() / scale, norm(g), rtol=1e-5, atol=0)
    assert_close(norm.dual(small).double() / scale, norm.dual(g), rtol=1e-5, atol=0)
    for name, t in norm.duality_map(small).items():
        assert_close(t, norm.duality_map(g)[name].float(), rtol=1e-5, atol=1e-6)


@each_kind
def test_weights_keep_their_dtypes(build: Build) -> None:
    g = network(torch.ones(2, 3).double(), 0)
    g = g | {"hidden": g["hidden"].bfloat16(), "bias": g["bias"].float()}
    t = build(PARTS).duality_map(g)
    assert {name: w.dtype for name, w in t.items()} == {name: w.dtype for name, w in g.items()}


def minus(x: dict[str, Tensor], y: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x[name] - y[name] for name in x}


@pytest.mark.parametrize("build", [MaxOf, SumOf])
@settings(max_examples=8, deadline=None)
@given(x=matrices(), seed=seeds(), share=st.floats(0.01, 1.2))
def test_projection_and_proximal_map_are_optimal(
    build: Build, x: Tensor, seed: int, share: float
) -> None:
    """<w - p, p> = radius ||w - p||_* on the ball, and the same of the dual ball (Moreau)."""
    norm, w = build(PARTS), network(x, seed)
    rounding = 1e-9 * float(inner(w, w))
    radius = share * float(norm(w))
    p = norm.project(w, radius)
    assert norm(p) <= radius * (1 + 1e-9)
    if share < 1:
        assert_close(
            inner(minus(w, p), p), radius * norm.dual(minus(w, p)), rtol=1e-9, atol=rounding
        )
    else:
        assert_close(p, w)
    step = share * float(norm.dual(w))
    y = norm.prox(w, step)
    assert norm.dual(minus(w, y)) <= step * (1 + 1e-9)
    assert_close(inner(minus(w, y), y), step * norm(y), rtol=1e-9, atol=rounding)


def test_hand_computed_projections_of_networks() -> None:
    w = {"a": torch.tensor([3.0, 4.0]).double(), "b": torch.tensor([1.0]).double().bfloat16()}
    parts: dict[str, tuple[Norm, float]] = {"a": (L2(), 1.0), "b": (L2(), 2.0)}
    found = MaxOf(parts).project(w, 1.0)
    assert_close(found, {"a": w["a"] / 5, "b": w["b"] / 2})
    found = SumOf(parts).prox(w, 0.25)
    assert_close(found, {"a": 0.95 * w["a"], "b": w["b"] / 2})
    found = SumOf(parts).project(w, 3.9)  # step 1.1: 5 - 1.1 is left, and of b nothing
    assert_close(found, {"a": 3.9 / 5 * w["a"], "b": 0 * w["b"]})
    for move in (RootOf(parts).project, RootOf(parts).prox):
        with pytest.raises(NoClosedForm, match="MaxOf and SumOf have one"):
            move(w, 1.0)


@pytest.mark.parametrize("build", [MaxOf, SumOf])
@pytest.mark.parametrize("size", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("radius", [0.0, 1.0])
def test_a_projection_is_in_the_ball_at_every_scale(
    build: Build, size: float, radius: float
) -> None:
    norm, w = build(PARTS), network(size * torch.randn(4, 3, dtype=torch.float64), 0)
    assert norm.project(w, radius).keys() == w.keys()
    assert norm(norm.project(w, radius)) <= radius * (1 + 1e-12)


@pytest.mark.parametrize("build", [MaxOf, SumOf])
@pytest.mark.parametrize("size", [-1.0, float("nan"), "1"])
def test_a_radius_and_a_step_are_zero_or_more(build: Build, size: Any) -> None:
    norm, w = build(PARTS), network(torch.ones(4, 3, dtype=torch.float64), 0)
    with pytest.raises(ValueError, match="radius"):
        norm.project(w, size)
    with pytest.raises(ValueError, match="step"):
        norm.prox(w, size)


def test_root_of_frobenius_is_globally_normalised_gradient() -> None:
    g = {"a": torch.tensor([[3.0]]), "b": torch.tensor([[0.0, 4.0]])}
    norm = RootOf({"a": (Frobenius(), 1.0), "b": (Frobenius(), 1.0)})
    assert norm.dual(g) == 5
    assert_close(norm.duality_map(g), {"a": g["a"] / 5, "b": g["b"] / 5})


def test_sum_of_moves_one_layer() -> None:
    g = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}
    assert SumOf({"a": (L2(), 1.0), "b": (L2(), 1.0)}).duality_map(g) == {"a": 0, "b": 1}
    assert SumOf({"a": (L2(), 1.0), "b": (L2(), 2.0)}).duality_map(g) == {"a": 1, "b": 0}


def test_agd_gradient_summary() -> None:
    """(||G||_F + sqrt(3/2) ||H||_F) / 2 = 7.908748 is a dual norm: of the largest scaled layer."""
    g = {"g": torch.tensor([[3.0, 4], [0, 5]]), "h": torch.tensor([[3.0, 4], [0, 5], [1, 0]])}
    norm = MaxOf({"g": (Frobenius(), 2.0), "h": (Frobenius(), 2 / sqrt(3 / 2))})
    assert_close(norm.dual(g), torch.tensor(7.908748))


def test_compositions_are_values() -> None:
    norm = MaxOf({"a": (RMSToRMS(), 2.0), "b": (RMS(), 1.0)})
    assert norm == MaxOf({"a": (RMSToRMS(), 2), "b": (RMS(), 1)})
    assert hash(norm) == hash(Composition((("a", RMSToRMS(), 2.0), ("b", RMS(), 1.0))))
    assert norm != SumOf({"a": (RMSToRMS(), 2.0), "b": (RMS(), 1.0)})
    assert str(norm) == "Max() of {a: 2 * RMSToRMS(), b: RMS()}"


def test_wrong_networks_are_refused_by_name() -> None:
    norm = MaxOf({"a": (RMSToRMS(), 2.0), "b": (RMS(), 1.0)})
    with pytest.raises(ValueError, match="measures a, b; missing: b, unknown: c"):
        norm({"a": torch.ones(2, 2), "c": torch.ones(2)})
    with pytest.raises(ValueError, match=r"equal batch dims; got a \(3, 2, 2\) in 2 \* RMSToRMS"):
        norm.dual({"a": torch.ones(3, 2, 2), "b": torch.ones(2)})
    with pytest.raises(ValueError, match="the factor must be positive and finite"):
        MaxOf({"a": (RMSToRMS(), 0.0)})
    with pytest.raises(ValueError, match=r"such as {'name': \(L2\(\), 1.0\)}; got {'a': RMS\(\)}"):
        MaxOf({"a": RMS()})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="different names; got none"):
        MaxOf({})
    with pytest.raises(ValueError, match="different names; got a, a"):
        Composition((("a", RMS(), 1.0), ("a", RMS(), 2.0)))
