"""Bonds compute their formula and stretch nothing by more than their sensitivity."""

from collections.abc import Callable
from dataclasses import dataclass
from math import cos, sin, sqrt

import pytest
import torch
from torch import Tensor

from modula.network.algebra import Add, Bond, Identity, Module, Scale
from modula.network.atoms import Linear
from modula.network.bonds import (
    GELU,
    GELU_SLOPE,
    SILU_SLOPE,
    Apply,
    Attention,
    AttentionQK,
    AvgPool,
    Context,
    Flatten,
    Mask,
    Mean,
    MergeHeads,
    ReLU,
    RMSNorm,
    Rope,
    SiLU,
    Softmax,
    SplitHeads,
)
from modula.norms.base import Norm
from modula.norms.operator import Rows
from modula.norms.vector import L1, RMS, Max

POSITIONS, DIM = 4, 6
SEQUENCE = Rows(RMS())
HEADS = RMS().on("h t d -> h t d")
SCORES = Max(ndim=2)
PROBABILITIES = Rows(L1())
IMAGE = RMS().on("c h w -> h w c")
FEATURES = RMS()


def stretch(f: Callable[[Tensor], Tensor], x: Tensor, inner: Norm, outer: Norm) -> float:
    """The largest ||J v||_outer over ||v||_inner <= 1 that an ascent finds, J the Jacobian at x.

    v <- duality_map(J^T u),  u the subgradient of ||.||_outer at J v:  never decreases.
    """
    jacobian = torch.autograd.functional.jacobian(f, x)
    v, best = inner.duality_map(torch.randn_like(x)), 0.0
    for _ in range(20):
        out = torch.tensordot(jacobian, v, dims=x.ndim).requires_grad_()
        value = outer(out)
        best = max(best, value.item())
        (u,) = torch.autograd.grad(value, out)
        v = inner.duality_map(torch.tensordot(u, jacobian, dims=u.ndim))
    return best


def inside(norm: Norm, shape: tuple[int, ...]) -> Tensor:
    """A random point of the unit ball; half of them on its surface."""
    x = torch.randn(shape, dtype=torch.float64)
    radius = 1.0 if torch.rand(()) < 0.5 else torch.rand(()).item()
    return radius * x / norm(x)


@dataclass(frozen=True)
class Case:
    """A map between tuples of normed inputs and a normed output."""

    bond: Module
    inputs: tuple[tuple[Norm, tuple[int, ...]], ...]
    outer: Norm
    pick: int = 0  # which output, where there are several


def plain(bond: Module, inner: Norm, shape: tuple[int, ...], outer: Norm) -> Case:
    return Case(bond, ((inner, shape),), outer)


TOKENS, PER_HEAD = (POSITIONS, DIM), (2, POSITIONS, DIM)
CASES = {
    "identity": plain(Identity(), SEQUENCE, TOKENS, SEQUENCE),
    "scale": plain(Scale(-2.5), SEQUENCE, TOKENS, SEQUENCE),
    "relu": plain(ReLU(), SEQUENCE, TOKENS, SEQUENCE),
    "gelu": plain(GELU(), SEQUENCE, TOKENS, SEQUENCE),
    "silu": plain(SiLU(), SEQUENCE, TOKENS, SEQUENCE),
    "add": Case(Add(), ((SEQUENCE, TOKENS),) * 3, SEQUENCE),
    "rope on q": Case(Rope(), ((SEQUENCE, TOKENS),) * 2, SEQUENCE, pick=0),
    "rope on k": Case(Rope(), ((SEQUENCE, TOKENS),) * 2, SEQUENCE, pick=1),
    "qk": Case(AttentionQK(), ((SEQUENCE, TOKENS),) * 2, SCORES),
    "softmax": plain(Softmax(1.7), SCORES, (POSITIONS, POSITIONS), PROBABILITIES),
    "masked softmax": plain(Softmax() @ Mask(), SCORES, (POSITIONS,) * 2, PROBABILITIES),
    "apply": Case(Apply(), ((SEQUENCE, TOKENS), (PROBABILITIES, (POSITIONS, POSITIONS))), SEQUENCE),
    "split": plain(SplitHeads(2), SEQUENCE, TOKENS, RMS().on("h t d -> t (h d)")),
    "merge": plain(MergeHeads(), RMS().on("h t d -> t (h d)"), (2, POSITIONS, 3), SEQUENCE),
    "attention": Case(Attention(1), ((SEQUENCE, TOKENS),) * 3, SEQUENCE),
    "attention, both ways": Case(Attention(1, causal=False), ((SEQUENCE, TOKENS),) * 3, SEQUENCE),
    "attention, head by head": Case(
        Attention(2),
        ((RMS().on("t (h d) -> t h d", h=2), (POSITIONS, 8)),) * 3,
        RMS().on("t (h d) -> t h d", h=2),
    ),
    "flatten": plain(Flatten(), RMS().on("b c d -> b d c"), (1, 3, 4), Rows(RMS())),
    "pool": plain(AvgPool(2), IMAGE, (3, 4, 4), IMAGE),
    "mean": plain(Mean(), IMAGE, (3, 4, 4), FEATURES),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_no_input_is_stretched_by_more_than_the_sensitivity(case: Case) -> None:
    """A tuple's norm is the sum of norms, so each entry may be stretched on its own."""
    torch.manual_seed(0)
    found = 0.0
    for _ in range(4):
        xs = [inside(norm, shape) for norm, shape in case.inputs]
        for place, (norm, _) in enumerate(case.inputs):

            def moved(x: Tensor, place: int = place, xs: list[Tensor] = xs) -> Tensor:
                out = case.bond(x if len(xs) == 1 else (*xs[:place], x, *xs[place + 1 :]))
                return out[case.pick] if isinstance(out, tuple) else out

            found = max(found, stretch(moved, xs[place], norm, case.outer))
    assert 0.05 * case.bond.sensitivity < found <= case.bond.sensitivity * (1 + 1e-9)


def test_every_bond_has_a_case() -> None:
    held = {type(m) for case in CASES.values() for m in case.bond.modules()}
    without = {RMSNorm, Context}  # unbounded near zero; acts on integers
    assert {kind for kind in Bond.__subclasses__() if kind.__module__.startswith("modula.")} == (
        {kind for kind in held if issubclass(kind, Bond)} | without
    )


@pytest.mark.parametrize(
    ("case", "x"),
    [("relu", 0.5), ("gelu", sqrt(2)), ("silu", 2.3993572805154677), ("identity", 0.1)],
)
def test_sensitivities_are_attained(case: str, x: float) -> None:
    point = torch.full(TOKENS, x, dtype=torch.float64)
    assert stretch(CASES[case].bond, point, SEQUENCE, SEQUENCE) == pytest.approx(1.0, abs=1e-12)


def test_softmax_attains_its_sensitivity_between_two_equal_scores() -> None:
    scores = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    assert stretch(Softmax(1.7), scores, SCORES, PROBABILITIES) == pytest.approx(1.7)


def test_slopes_are_the_largest_derivatives() -> None:
    x = torch.linspace(-10, 10, 400_001, dtype=torch.float64, requires_grad=True)
    for f, slope, published in (
        (torch.nn.functional.gelu, GELU_SLOPE, 1.128904145),
        (torch.nn.functional.silu, SILU_SLOPE, 1.0998393),
    ):
        (derivative,) = torch.autograd.grad(f(x).sum(), x)
        assert derivative.max().item() == pytest.approx(slope, abs=1e-9)
        assert slope == pytest.approx(published, abs=1e-7)


def test_splitting_heads_can_stretch_by_the_root_of_their_number() -> None:
    """The documented gap between RMS over all features and RMS head by head."""
    x = torch.zeros(1, 8)
    x[0, :2] = 2.0
    torch.testing.assert_close(SEQUENCE(x), torch.tensor(1.0))
    torch.testing.assert_close(HEADS(SplitHeads(4)(x)), torch.tensor(sqrt(4)))


def test_activations_compute_their_formula() -> None:
    x = torch.randn(50, dtype=torch.float64)
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(ReLU()(x), torch.where(x > 0, x, 0))
    torch.testing.assert_close(GELU()(x) * GELU_SLOPE, x * normal.cdf(x))
    torch.testing.assert_close(SiLU()(x) * SILU_SLOPE, x / (1 + torch.exp(-x)))


@pytest.mark.parametrize("bond", [ReLU(), GELU(), SiLU(), RMSNorm(), Softmax(), Mask()], ids=str)
def test_no_bond_writes_to_its_input(bond: Bond) -> None:
    x = torch.randn(4, 4)
    kept = x.clone()
    bond(x)
    torch.testing.assert_close(x, kept)


@pytest.mark.parametrize("bond", [GELU(), SiLU(), RMSNorm()], ids=str)
def test_gradients_are_right(bond: Bond) -> None:
    assert torch.autograd.gradcheck(bond, torch.randn(3, 4, dtype=torch.float64).requires_grad_())


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e30])
def test_rmsnorm_is_blind_to_scale(scale: float) -> None:
    x = torch.randn(3, 8)
    torch.testing.assert_close(RMSNorm()(scale * x), RMSNorm()(x))
    torch.testing.assert_close(RMSNorm()(scale * x).square().mean(-1), torch.ones(3))


def test_rmsnorm_of_zero_is_zero_with_a_finite_gradient() -> None:
    x = torch.zeros(2, 4, requires_grad=True)
    y = RMSNorm()(x)
    y.sum().backward()
    torch.testing.assert_close(y, torch.zeros(2, 4))
    assert x.grad is not None and x.grad.isfinite().all()


def test_rmsnorm_stretches_by_one_over_the_rms() -> None:
    """The documented exception: its sensitivity is true for inputs of RMS >= 1 only."""
    x = torch.randn(4, dtype=torch.float64)
    x = x / RMS()(x)
    for size in (4.0, 1.0, 0.01):
        assert stretch(RMSNorm(), size * x, RMS(), RMS()) == pytest.approx(1 / size)


def test_rope_turns_pairs_by_angles_that_grow_with_the_position() -> None:
    x, base = torch.randn(2, 7, 6, dtype=torch.float64), 100.0
    (turned,) = Rope(base)((x,))
    for position in range(7):
        for pair in range(3):
            point = torch.complex(x[:, position, pair], x[:, position, pair + 3])
            angle = torch.tensor(position * base ** (-2 * pair / 6), dtype=torch.float64)
            expected = point * torch.polar(torch.ones_like(angle), angle)
            torch.testing.assert_close(turned[:, position, pair], expected.real)
            torch.testing.assert_close(turned[:, position, pair + 3], expected.imag)


def test_rope_makes_scores_depend_on_distance_alone() -> None:
    query, key = (torch.randn(1, 6, dtype=torch.float64).expand(9, 6) for _ in range(2))
    scores = (AttentionQK() @ Rope())((query, key))
    torch.testing.assert_close(scores[1:, 1:], scores[:-1, :-1])
    torch.testing.assert_close(scores[0, 0], (query[0] @ key[0]) / 6)


def test_attention_is_softmax_over_the_past() -> None:
    """By hand, two positions, one head of two features, rope by one radian."""
    query, key, value = torch.randn(3, 2, 2, dtype=torch.float64)
    turn = torch.tensor([[cos(1), -sin(1)], [sin(1), cos(1)]], dtype=torch.float64)
    scores = torch.stack(((turn @ query[1]) @ key[0], (turn @ query[1]) @ (turn @ key[1]))) / 2
    weights = scores.exp() / scores.exp().sum()
    expected = torch.stack((value[0], weights[0] * value[0] + weights[1] * value[1]))
    torch.testing.assert_close(Attention(1)((query, key, value)), expected)


def unfused(heads: int, query: Module, key: Module, value: Module) -> Module:
    """Attention(heads) @ (query, key, value), one bond at a time."""
    split = SplitHeads(heads)
    scores = AttentionQK() @ Rope() @ (split @ query, split @ key)
    return MergeHeads() @ Apply() @ (split @ value, Softmax() @ Mask() @ scores)


@pytest.mark.parametrize("heads", [1, 2, 4])
@pytest.mark.parametrize("shape", [(5, 8), (2, 5, 8), (2, 3, 5, 8)], ids=str)
def test_fused_attention_is_its_bonds_one_after_the_other(
    heads: int, shape: tuple[int, ...]
) -> None:
    q, k, v, o = (Linear(8, 8).double() for _ in range(4))
    fused = o @ (1 / 3 * Attention(heads)) @ (q, k, v)
    steps = o @ (1 / 3 * unfused(heads, q, k, v))
    x = torch.randn(shape, dtype=torch.float64)
    torch.testing.assert_close(fused(x), steps(x))
    weights = [q.weight, k.weight, v.weight]
    for one, other in zip(
        torch.autograd.grad(fused(x).square().sum(), weights),
        torch.autograd.grad(steps(x).square().sum(), weights),
        strict=True,
    ):
        torch.testing.assert_close(one, other)


def test_fused_attention_has_the_budgets_of_its_bonds() -> None:
    q, k, v, o = (Linear(8, 8) for _ in range(4))
    fused = o @ (1 / 3 * Attention(2)) @ (q, k, v)
    steps = o @ (1 / 3 * unfused(2, q, k, v))
    assert fused.sensitivity == pytest.approx(1) == steps.sensitivity
    by_atom = [dict(net.allot(1.0)) for net in (fused, steps)]
    for atom in (q, k, v, o):
        expected = 0.25 if atom is o else 0.75
        assert by_atom[0][atom] == pytest.approx(expected) == by_atom[1][atom]


def test_softmax_scale_enters_the_budgets() -> None:
    """mu = (1 + 2 scale) / 3 for 1/3 Apply @ (v, Softmax(scale) @ QK @ (q, k))."""
    q, k, v = (Linear(4, 4) for _ in range(3))
    net = 1 / 3 * (Apply() @ (v, Softmax(5.0) @ AttentionQK() @ (q, k)))
    assert net.sensitivity == pytest.approx(11 / 3)
    assert dict(net.allot(1.0)) == pytest.approx({q: 1 / 5, k: 1 / 5, v: 1.0})


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_softmax_refuses_scales_that_are_not_positive(scale: float) -> None:
    with pytest.raises(ValueError, match="positive finite scale"):
        Softmax(scale)


def test_impossible_heads_are_refused() -> None:
    x = torch.zeros(2, 6)
    with pytest.raises(ValueError, match="6 features do not divide into 4 heads"):
        Attention(4)((x, x, x))
    with pytest.raises(ValueError, match="even number, got 3"):
        Attention(2)((x, x, x))
    with pytest.raises(ValueError, match="heads >= 1"):
        Attention(0)


def test_context_lets_short_sequences_through_and_refuses_long_ones() -> None:
    tokens = torch.arange(4)[None]
    assert Context(4)(tokens) is tokens
    with pytest.raises(ValueError, match="a sequence of 4 tokens is longer than the context of 3"):
        Context(3)(tokens)


def test_pooling_averages() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    torch.testing.assert_close(AvgPool(2)(x)[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    torch.testing.assert_close(Mean()(x), torch.tensor([[7.5]]))
    torch.testing.assert_close(Flatten()(x), torch.arange(16.0)[None])
