"""Every norm on every manifold gives a step.  A new norm or manifold joins by one line."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from itertools import product
from random import Random

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor
from torch.testing import assert_close

import modula.manifolds
import modula.norms
from modula.duality import Setting, certificate, certify, derive
from modula.duality.setting.derive import rule_name
from modula.manifolds import (
    SPD,
    Euclidean,
    Implicit,
    Isospectral,
    Manifold,
    NormBall,
    Oblique,
    SpectralBall,
    SpectralBand,
    SpectralSphere,
    Sphere,
    Stiefel,
    Transposed,
    UnitConditionNumber,
)
from modula.norms import (
    L1,
    L2,
    RMS,
    Columns,
    Frobenius,
    FromDual,
    KyFan,
    KyFanDual,
    Max,
    Norm,
    Nuclear,
    RMSDual,
    RootOverBlocks,
    Rows,
    Schatten,
    Spectral,
    SumOverBlocks,
)
from modula.norms.in_coordinates import InCoordinates, Quadratic
from modula.norms.maps.linear import Elementwise
from strategies import seeds


def nuclear_and_more(g: Tensor) -> Tensor:
    """A dual norm that a user may write."""
    return torch.linalg.matrix_norm(g, ord="nuc") + torch.linalg.vector_norm(g)


def of_length_one(w: Tensor) -> Tensor:
    """A constraint that a user may write."""
    return (w * w).sum() - 1


NORMS: list[Norm] = [
    L1(2),
    Frobenius(),
    RMS(2),
    RMSDual(2),
    Max(2),
    Spectral(),
    2.0 * Spectral(L2(), RMS()),
    Nuclear(),
    Rows(RMS()),
    Columns(Max()),
    Spectral().on("(b o) i -> b o i", b=1),
]
# Their balls have no projection, or a slow one: the general solver is patient with them.
PATIENT: list[Norm] = [
    Schatten(3.0),
    KyFan(2),
    KyFanDual(2),
    FromDual(nuclear_and_more),
    RootOverBlocks(L1().on("o i -> i o")),
    SumOverBlocks(L2().on("o i -> i o")),
    InCoordinates(Max(2), Elementwise(torch.tensor(0.3, dtype=torch.float64))),
    Quadratic(Elementwise(torch.tensor(0.3, dtype=torch.float64))),
]
QUICK: list[Manifold] = [Euclidean(), Sphere(ndim=2), SpectralSphere(2.0)]
MANIFOLDS: list[Manifold] = [
    *QUICK,
    Oblique("rows"),
    Oblique("columns", radius=3.0),
    Stiefel(),
    Transposed(Stiefel()),
    UnitConditionNumber(),
    SPD(floor=0.1),
    Isospectral(),
    SpectralBall(0.5),
    SpectralBand(0.2, 0.6),
    NormBall(Max(2), 0.5),
]
PAIRS: list[tuple[Norm, Manifold]] = [
    *product(NORMS, MANIFOLDS),
    *product(PATIENT, QUICK),
    *((norm, Stiefel()) for norm in PATIENT if isinstance(norm, FromDual | InCoordinates)),
    *((norm, Implicit(of_length_one)) for norm in (Max(2), Nuclear(), Frobenius())),
]
SHAPES = [(4, 3), (3, 3), (5, 2), (6, 1), (1, 4), (2, 5), (7, 4)]  # m < n, m = n, m < 2n, odd, even
TOO_SMALL = {KyFan: 2, KyFanDual: 2}  # singular values that these norms need


def concrete(base: type, package: str, path: list[str]) -> Iterator[type]:
    """Every concrete class of a package that derives from the base, however deeply."""
    for module in pkgutil.walk_packages(path, f"{package}."):
        importlib.import_module(module.name)
    found = [base]
    for kind in found:
        found += kind.__subclasses__()
        if not inspect.isabstract(kind) and kind.__module__.startswith("modula."):
            yield kind


def test_no_norm_and_no_manifold_is_left_out() -> None:
    norms, manifolds = ({type(each) for each in side} for side in zip(*PAIRS, strict=True))
    assert norms == set(concrete(Norm, "modula.norms", list(modula.norms.__path__)))
    assert manifolds == set(concrete(Manifold, "modula.manifolds", list(modula.manifolds.__path__)))


def shapes_of(norm: Norm, manifold: Manifold) -> list[tuple[int, int]]:
    """The shapes of which the manifold has points and the norm has a step."""
    found = []
    for shape in SHAPES:
        try:
            derive(Setting(norm, manifold), shape)
        except ValueError:
            continue
        if min(shape) >= TOO_SMALL.get(type(norm), 1):
            found.append(shape)
    return found


SEARCHED = ("general_solver", "steepest_in_cone")


def direction(norm: Norm, manifold: Manifold, weight: Tensor, gradient: Tensor) -> Tensor:
    """D, by the plain twins."""
    derived = derive(Setting(norm, manifold), weight.shape[-2:])
    return derived.first_direction(weight, gradient)


@pytest.mark.parametrize(("norm", "manifold"), PAIRS, ids=str)
@settings(max_examples=2)
@given(seed=seeds())
def test_a_step_is_feasible_steepest_and_blind_to_scale(
    norm: Norm, manifold: Manifold, seed: int
) -> None:
    # Of few examples hypothesis makes the first ones plain: all pairs would share shape and scale.
    chance = Random(f"{norm} {manifold} {seed}")
    shape, exponent = chance.choice(shapes_of(norm, manifold)), chance.randint(-30, 30)
    generator = torch.Generator().manual_seed(seed)
    draw, gradient = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    weight = manifold.retract(draw, torch.zeros_like(draw))
    scale = 10.0**exponent
    gradients = torch.stack([gradient, scale * gradient, 0 * gradient])
    d, scaled, zero = direction(norm, manifold, weight.expand_as(gradients), gradients)

    by_polynomials = "polar" in str(derive(Setting(norm, manifold), shape).lines)
    tolerance = 0.15 if by_polynomials else 1e-3
    found = certify(norm, manifold, weight, gradient, d)
    assert found.norm <= 1 + tolerance
    assert found.tangency < 1e-7
    assert -1e-3 <= found.gap <= (0.15 if by_polynomials else 0.05)
    assert torch.equal(zero, torch.zeros_like(zero))
    gains = [float((gradient * each).sum()) for each in (d, scaled)]
    low = direction(norm, manifold, weight.float(), (scale * gradient).float())
    assert low.dtype == torch.float32
    gains.append(float((gradient * low.double()).sum()))
    assert gains == pytest.approx([gains[0]] * 3, rel=2e-2, abs=1e-5 * float(gradient.norm()))
    alone = direction(norm, manifold, weight, gradient)
    if rule_name(Setting(norm, manifold), shape) in SEARCHED:
        # Rounding of a batch's products may decide where a search ends, if not how well.
        assert float((gradient * alone).sum()) == pytest.approx(gains[0], rel=1e-3)
    else:
        assert_close(alone, d, atol=1e-7, rtol=1e-7)


def test_shapes_of_every_kind_are_tried() -> None:
    assert set(SHAPES) == set(shapes_of(Max(2), Euclidean()))
    assert (1, 4) not in shapes_of(Max(2), Stiefel())


@pytest.fixture(autouse=True, scope="module")
def shorter_proofs() -> Iterator[None]:
    """A certificate in fewer rounds: looser, and quick enough for so many pairs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(certificate, "MOST_ROUNDS", certificate.FEWEST_ROUNDS)
        yield
