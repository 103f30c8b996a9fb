"""Certificates: of what they are given, what they refuse, and what they say of a wrong norm."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from modula.duality import Certificate, certify, gap_of
from modula.manifolds import (
    SPD,
    Euclidean,
    Manifold,
    Oblique,
    SpectralBall,
    Sphere,
    Stiefel,
    UnitConditionNumber,
)
from modula.norms import L2, Frobenius, FromDual, Max, Nuclear, RMSToRMS, Rows, Spectral
from modula.norms.from_dual import is_searched


def test_a_certificate_needs_a_shape_that_the_manifold_has() -> None:
    wide = torch.ones(2, 3)
    with pytest.raises(ValueError, match=r"or declare Transposed\(Stiefel\(\)\)"):
        certify(RMSToRMS(), Stiefel(), wide, wide, wide)


@pytest.mark.parametrize("name", ["weight", "gradient", "direction"])
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.tensor([[1.0, float("nan")]]), "the {} is not finite in 1 of 2 entries"),
        (torch.tensor([[float("inf")] * 2]), "the {} is not finite in 2 of 2 entries"),
        (torch.tensor([[1, 2]]), "the {} is of torch.int64: a certificate needs real floating"),
        (torch.tensor([[1j, 2]]), "the {} is of torch.complex64: a certificate needs real"),
        (torch.ones(1, 2, device="meta"), "on one device, with their values; got .*meta"),
        (torch.ones(2, 1), "all of one shape; got "),
        ([[1.0, 2.0]], r"certify needs a Tensor for {}; got \[\[1.0, 2.0\]\]"),
    ],
    ids=str,
)
def test_a_certificate_needs_numbers_of_one_kind(name: str, bad: Any, words: str) -> None:
    given = {each: torch.ones(1, 2) for each in ("weight", "gradient", "direction")} | {name: bad}
    with pytest.raises(ValueError, match=words.format(name)) as error:
        certify(RMSToRMS(), Euclidean(), **given)
    assert "\n" not in str(error.value)


def test_a_certificate_needs_a_norm_and_a_manifold() -> None:
    x, nothing = torch.ones(1, 2), Any
    with pytest.raises(ValueError, match="certify needs a Norm for norm"):
        certify(nothing, Euclidean(), x, x, x)
    with pytest.raises(ValueError, match=r"certify needs a Manifold for manifold, such as Eucl"):
        certify(RMSToRMS(), nothing, x, x, x)


def drawn(*shape: int) -> tuple[Tensor, Tensor]:
    weight, gradient = torch.randn(
        2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    return weight, gradient


@pytest.mark.parametrize(
    ("certificate", "passes"),
    [
        (Certificate(1.0, 0.0, 0.0), True),
        (Certificate(1.0, 0.0, 9e-3), True),
        (Certificate(1.0, 0.0, -9e-3), True),
        (Certificate(1.0, 0.0, 2e-2), False),
        (Certificate(1.0, 0.0, -3e-2), False),
        (Certificate(1.0, 0.0, -3.0), False),
        (Certificate(1.02, 0.0, 0.0), False),
        (Certificate(1.0, 0.02, 0.0), False),
        (Certificate(1.0, 0.0, 0.0, residual=0.02), False),
        (Certificate(0.5, 0.0, 0.0, excess=0.5), False),
        (Certificate(1.0, 0.0, float("nan")), False),
        (Certificate(0.0, 0.0, 0.0), True),
    ],
    ids=str,
)
def test_a_certificate_passes_where_nothing_is_missed(
    certificate: Certificate, passes: bool
) -> None:
    """To the tolerance on both sides of zero; the last is that of a zero gradient."""
    assert certificate.passes(1e-2) is passes


@pytest.mark.parametrize(
    ("manifold", "shape"),
    [
        (Stiefel(), (5, 3)),
        (Sphere(ndim=2), (4, 4)),
        (Oblique("columns"), (3, 6)),
        (SpectralBall(2.0), (5, 3)),
        (UnitConditionNumber(), (4, 4)),
        (SPD(floor=0.1), (4, 4)),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["shifted", "zero", "bent"])
def test_a_weight_off_its_manifold_is_refused(
    manifold: Manifold, shape: tuple[int, ...], kind: str
) -> None:
    draw, g = drawn(*shape)
    point = manifold.project(draw)
    bad = {"shifted": point + 3 * draw, "zero": 0 * point, "bent": point + 0.05 * draw}[kind]
    if kind == "zero" and isinstance(manifold, SpectralBall):
        assert certify(Frobenius(), manifold, bad, g, g).residual == 0  # its centre
        return
    with pytest.raises(ValueError, match=r"the weight is off .* by .* of its length: a cert") as e:
        certify(Frobenius(), manifold, bad, g, g)
    assert str(manifold) in str(e.value) and "manifold.project(weight)" in str(e.value)
    distance = float((bad - manifold.project(bad)).norm())
    said = distance / max(float(bad.norm()), float(manifold.project(bad).norm()), 1e-300)
    assert f"by {1.0 if kind == 'zero' else said:.3g} of its length" in str(e.value)


@pytest.mark.parametrize("manifold", [Stiefel(), Oblique("rows"), SpectralBall(1.0)], ids=str)
@pytest.mark.parametrize(
    ("dtype", "eps"),
    [(torch.bfloat16, 2**-8), (torch.float16, 2**-11), (torch.float32, 2**-24)],
    ids=str,
)
@pytest.mark.parametrize("shape", [(5, 3), (96, 96)], ids=str)
def test_a_rounded_weight_is_certified_at_every_size(
    manifold: Manifold, dtype: torch.dtype, eps: float, shape: tuple[int, int]
) -> None:
    draw, g = drawn(*shape)
    weight = manifold.project(draw).to(dtype)
    direction = manifold.to_tangent(weight.double(), g)
    found = certify(Frobenius(), manifold, weight, g, direction / direction.norm(), close=1.0)
    assert found.residual <= eps


def test_a_weight_that_many_steps_moved_is_certified() -> None:
    weight, g = (x.float() for x in drawn(8, 5))
    weight = Stiefel().project(weight)
    for _ in range(300):
        step = Stiefel().to_tangent(weight, g)
        weight = Stiefel().retract(weight, -0.1 * step / step.norm())
        g = g.roll(1, 0)
    found = certify(Frobenius(), Stiefel(), weight, g, Stiefel().to_tangent(weight, g))
    assert found.residual < 1e-6


@dataclass(frozen=True, repr=False)
class SmallDual(L2):
    """Its dual norm is half of what it should be."""

    def dual(self, g: Tensor) -> Tensor:
        return super().dual(g) / 2


@dataclass(frozen=True, repr=False)
class SmallValue(Max):
    """Its value is a quarter of what it should be."""

    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x) / 4


@pytest.mark.parametrize(
    ("norm", "length", "left", "right"),
    [
        (SmallDual(2), 1.0, "2 dual(g) on the left", "1 dual(g) on the right"),
        (SmallDual(2), 0.5, "1 dual(g) on the left", "0.5 dual(g) on the right"),
        (SmallDual(2), 0.25, "0.5 dual(g) on the left", "0.25 dual(g) on the right"),
        (SmallValue(2), 1.0, "1 dual(g) on the left", "0.25 dual(g) on the right"),
        (SmallValue(2), 4.0, "4 dual(g) on the left", "1 dual(g) on the right"),
    ],
    ids=str,
)
def test_a_gap_below_one_minus_the_norm_is_a_contradiction(
    norm: Any, length: float, left: str, right: str
) -> None:
    """<g, t> / dual(g) and norm(t), by hand: the gap alone, 0 in the second case, says nothing."""
    weight, g = drawn(4, 3)
    direction = length * (g / g.norm() if isinstance(norm, L2) else g.sign())
    found = certify(norm, Euclidean(), weight, g, direction)
    assert not found.passes(0.1)
    assert found.contradiction.startswith("<g, t> <= dual(g) norm(t) is broken: ")
    assert left in found.contradiction and right in found.contradiction
    assert "\n" not in found.contradiction


@pytest.mark.parametrize("manifold", [Sphere(ndim=2), Stiefel(), SpectralBall(1.0)], ids=str)
def test_a_contradiction_is_seen_on_a_manifold(manifold: Manifold) -> None:
    draw, g = drawn(5, 3)
    weight = manifold.project(draw)
    direction = -manifold.to_tangent(weight, -g)
    direction = direction / direction.norm()
    assert certify(SmallDual(2), manifold, weight, g, direction).contradiction
    assert certify(L2(2), manifold, weight, g, direction).contradiction == ""
    assert certify(L2(2), manifold, weight, g, direction / 3).contradiction == ""
    assert certify(L2(2), manifold, weight, 0 * g, 0 * direction).contradiction == ""


@pytest.mark.parametrize(
    "norm",
    [
        FromDual(lambda g: g.abs().amax(), iterations=1),
        FromDual(lambda g: g.norm(dim=1).sum() + g.abs().sum(), iterations=1),
        3.0 * FromDual(lambda g: g.abs().sum() + g.norm(), iterations=1),
        FromDual(lambda g: g.abs().sum(), ndim=1, iterations=1).on("o i -> o i"),
    ],
    ids=["max", "rows and entries", "multiple", "blocks"],
)
@pytest.mark.parametrize("manifold", [Euclidean(), Stiefel()], ids=str)
def test_a_value_that_is_searched_for_is_no_contradiction(norm: Any, manifold: Manifold) -> None:
    """It is a lower bound; another is what the direction attains of the dual norm, never less."""
    draw, g = drawn(6, 5)
    weight = manifold.project(draw)
    direction = manifold.to_tangent(weight, norm.duality_map(g))
    found = certify(norm, manifold, weight, g, direction, close=1.0)
    assert found.gap >= 0 and found.excess == 0
    assert found.norm >= (1 if isinstance(manifold, Euclidean) else 0.1) - 1e-9
    assert is_searched(norm)


def test_other_values_are_not_searched_for() -> None:
    norms = (Spectral(), 2 * Max(2), Rows(L2()), Nuclear(), L2().on("o i -> o i"))
    assert not any(map(is_searched, norms))


@pytest.mark.parametrize("place", range(3), ids=["weight", "gradient", "direction"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("norm", [Spectral(), Max(2), Nuclear()], ids=str)
def test_the_gap_of_what_is_no_number_is_none(place: int, number: float, norm: Any) -> None:
    """It was 0, or an error of a decomposition."""
    given = [Stiefel().project(drawn(4, 3)[0]), *drawn(4, 3)]
    given[place][1, 2] = number
    assert gap_of(norm, Stiefel(), *given).isnan()


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e305])
@pytest.mark.parametrize("norm", [Frobenius(), Spectral(), Max(2)], ids=str)
def test_the_gap_forgets_the_scale_of_the_gradient(scale: float, norm: Any) -> None:
    weight, g = drawn(4, 3)
    g = (4 * g).round()  # numbers that a scale near the ends of float64 does not round
    gaps = [
        certify(norm, Euclidean(), weight, x, weight / norm(weight)).gap for x in (g, scale * g)
    ]
    assert gaps[0] > 0.1
    assert gaps[1] == pytest.approx(gaps[0], rel=2e-3)


@pytest.mark.parametrize("norm", [Spectral(), Frobenius(), Max(2)], ids=str)
def test_a_zero_weight_has_a_gap_of_unit_condition_numbers(norm: Any) -> None:
    """`gap_of`, which does not look at the weight, ended in an error of a decomposition."""
    weight, g = drawn(4, 3)
    assert gap_of(norm, UnitConditionNumber(), 0 * weight, g, g).isfinite()


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
def test_nothing_is_not_certified(shape: tuple[int, int]) -> None:
    x = torch.zeros(shape)
    with pytest.raises(ValueError, match="has no entries, and nothing to certify"):
        certify(Max(2), Euclidean(), x, x, x)
