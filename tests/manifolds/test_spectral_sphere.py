"""SpectralSphere against closed forms."""

import pytest
import torch
from torch.testing import assert_close

from modula.manifolds.spectral_sphere import SpectralSphere
from modula.manifolds.sphere import Sphere

G = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)  # singular values sqrt 45, sqrt 5


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4), (2, 5, 3)])
@pytest.mark.parametrize("radius", [0.5, 1.0, 2.0, 9.0])
def test_projection_clips_or_raises_and_keeps_the_singular_vectors(
    shape: tuple[int, ...], radius: float
) -> None:
    x = random(*shape)
    point = SpectralSphere(radius).project(x)
    before, after = torch.linalg.svdvals(x), torch.linalg.svdvals(point)
    expected = before.clamp(max=radius)
    expected[..., 0] = radius
    assert_close(after, expected)
    # Sorted alike and with the distance of the singular values alone: the same singular vectors.
    assert_close((x - point).norm(), (before - after).norm())


def test_one_step_at_a_diagonal_point() -> None:
    w = torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64))
    tangent = SpectralSphere(2.0).to_tangent(w, G)
    assert_close(tangent, torch.tensor([[0.0, 4.0], [0.0, 5.0]], dtype=torch.float64))
    landed = SpectralSphere(2.0).retract(w, tangent)
    assert_close(landed, 2 * (w + tangent) / torch.linalg.matrix_norm(w + tangent, ord=2))


def test_a_column_is_a_sphere() -> None:
    x, v = random(5, 1), random(5, 1, seed=1)
    spectral, sphere = SpectralSphere(2.0), Sphere(2.0, ndim=2)
    point = spectral.project(x)
    assert_close(point, sphere.project(x))
    assert_close(spectral.to_tangent(point, v), sphere.to_tangent(point, v))
    assert_close(spectral.retract(point, v), sphere.retract(point, v))


def test_sigma_max_leaves_to_second_order_when_it_is_simple() -> None:
    w = SpectralSphere().project(torch.diag(torch.tensor([1.0, 0.9, 0.1], dtype=torch.float64)))
    tangent = SpectralSphere().to_tangent(w, random(3, 3))
    drift = [float(SpectralSphere().residual(w + t * tangent)) for t in (1e-3, 5e-4)]
    assert 3.8 < drift[0] / drift[1] < 4.2


def test_where_sigma_max_is_repeated_only_the_retraction_holds_it() -> None:
    """The caveat of the docstring: to first order sigma_max does rise, and is scaled away."""
    w = torch.eye(2, dtype=torch.float64)
    tangent = SpectralSphere().to_tangent(w, torch.eye(2, dtype=torch.float64))
    assert_close(tangent.norm(), torch.ones((), dtype=torch.float64))
    assert_close(SpectralSphere().residual(w + 0.01 * tangent).item(), 0.01)
    landed = SpectralSphere().retract(w, 0.01 * tangent)
    assert_close(SpectralSphere().residual(landed).item(), 0.0)


def test_zero_becomes_the_first_pair() -> None:
    expected = torch.zeros(2, 3, 4)
    expected[:, 0, 0] = 2.0
    assert_close(SpectralSphere(2.0).project(torch.zeros(2, 3, 4)), expected)
    w = SpectralSphere(2.0).project(random(3, 4).float())
    assert SpectralSphere(2.0).residual(SpectralSphere(2.0).retract(w, -w)) < 1e-6


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
def test_a_radius_is_positive(radius: float) -> None:
    with pytest.raises(ValueError, match="positive, finite radius"):
        SpectralSphere(radius)


def test_a_matrix_has_entries() -> None:
    for ask in (SpectralSphere().check_shape, SpectralSphere().sample):
        with pytest.raises(ValueError, match="without entries"):
            ask((0, 3))
    with pytest.raises(ValueError, match="at least 2 dims"):
        SpectralSphere().project(torch.ones(3))
