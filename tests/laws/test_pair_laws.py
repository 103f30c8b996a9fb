"""Every norm on every manifold gives a step: those of every_norm.py and manifold_points.py."""

from collections.abc import Iterator
from itertools import product
from random import Random

import pytest
import torch
from every_norm import NORMS as EVERY_NORM
from every_norm import has_projection, on_matrices
from hypothesis import given, settings
from manifold_points import MANIFOLDS, of_length_one
from torch import Tensor
from torch.testing import assert_close

from modula.duality import Setting, certificate, certify, derive
from modula.duality.setting.derive import rule_name
from modula.manifolds import (
    Euclidean,
    Implicit,
    Manifold,
    SpectralSphere,
    Sphere,
    Stiefel,
)
from modula.norms import (
    Frobenius,
    FromDual,
    InCoordinates,
    KyFan,
    KyFanDual,
    Max,
    Norm,
    Nuclear,
    Schatten,
    SumOverBlocks,
)
from strategies import seeds

# The general solver is patient with norms whose balls have no projection, or a slow one.
PATIENT = [
    norm
    for norm in on_matrices()
    if isinstance(norm, Schatten | KyFan | KyFanDual | SumOverBlocks) or not has_projection(norm)
]
NORMS = [norm for norm in on_matrices() if norm not in PATIENT]
ON_MATRICES = [m for m in MANIFOLDS if m.ndim != 1 and not isinstance(m, Implicit)]
QUICK = [m for m in ON_MATRICES if isinstance(m, Euclidean | Sphere | SpectralSphere)]
PAIRS: list[tuple[Norm, Manifold]] = [
    *product(NORMS, ON_MATRICES),
    *product(PATIENT, QUICK),
    *((norm, Stiefel()) for norm in PATIENT if isinstance(norm, FromDual | InCoordinates)),
    *((norm, Implicit(of_length_one)) for norm in (Max(2), Nuclear(), Frobenius())),
]
SHAPES = [(4, 3), (3, 3), (4, 4), (5, 2), (6, 1), (1, 4), (2, 5), (7, 4)]  # m < n, m = n, m < 2n
TOO_SMALL = {KyFan: 2, KyFanDual: 2}  # singular values that these norms need


def test_no_norm_and_no_manifold_is_left_out() -> None:
    norms, manifolds = ({type(each) for each in side} for side in zip(*PAIRS, strict=True))
    assert norms == {type(norm) for norm in EVERY_NORM}
    # Manifolds of vectors alone meet no norm of matrices.
    assert manifolds == {type(manifold) for manifold in MANIFOLDS if manifold.ndim != 1}


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
