"""Stiefel against closed forms."""

import pytest
import torch
from torch.testing import assert_close

from modula.manifolds.oblique import Oblique
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.manifolds.transposed import Transposed


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def test_projection_of_two_by_two() -> None:
    """The polar factor of [[3, 4], [0, 5]] in closed form: (2, 1; -1, 2) / sqrt 5."""
    x = torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64)
    expected = torch.tensor([[2.0, 1.0], [-1.0, 2.0]], dtype=torch.float64) / 5**0.5
    assert_close(Stiefel().project(x), expected)
    assert_close(Stiefel(radius=3.0).project(x), 3 * expected)


def test_projection_is_x_times_the_inverse_root_of_its_gram_matrix() -> None:
    x = random(2, 7, 4)
    values, basis = torch.linalg.eigh(x.mT @ x)
    assert_close(Stiefel().project(x), x @ basis @ torch.diag_embed(values**-0.5) @ basis.mT)


def test_one_column_is_a_sphere_and_orthonormal_columns_are_unit_columns() -> None:
    x, v = random(5, 1), random(5, 1, seed=1)
    stiefel, sphere = Stiefel(2.0), Sphere(2.0, ndim=2)
    point = stiefel.project(x)
    assert_close(point, sphere.project(x))
    assert_close(stiefel.to_tangent(point, v), sphere.to_tangent(point, v))
    assert_close(stiefel.retract(point, v), sphere.retract(point, v))
    wide = Stiefel(2.0).sample((7, 3), dtype=torch.float64)
    assert_close(Oblique("columns", 2.0).residual(wide), torch.zeros((), dtype=torch.float64))


@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_tangents_are_w_times_skew_plus_what_is_orthogonal_to_w(radius: float) -> None:
    w = Stiefel(radius).project(random(6, 3))
    v = random(6, 3, seed=1)
    u = w / radius
    inner = u.T @ v
    expected = u @ ((inner - inner.T) / 2) + v - u @ inner
    tangent = Stiefel(radius).to_tangent(w, v)
    assert_close(tangent, expected)
    assert_close(w.T @ tangent + tangent.T @ w, torch.zeros(3, 3, dtype=torch.float64))


def test_a_turn_of_the_plane() -> None:
    """From the identity along [[0, -1], [1, 0]]: (I + t J) / sqrt(1 + t^2)."""
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    assert_close(Stiefel().retract(eye, 0.1 * turn), (eye + 0.1 * turn) / 1.01**0.5)


def test_zero_becomes_columns_of_the_identity() -> None:
    assert_close(Stiefel().project(torch.zeros(3, 2)), torch.eye(3, 2))


def test_rank_deficient_matrices_keep_the_columns_they_have() -> None:
    x = random(6, 2) @ random(2, 4, seed=1)
    point = Stiefel().project(x)
    assert_close(Stiefel().residual(point), torch.zeros((), dtype=torch.float64))
    # Nearest: <x, point> attains the largest value any orthonormal matrix has, the nuclear norm.
    assert_close((x * point).sum(), torch.linalg.matrix_norm(x, ord="nuc"))


def test_samples_are_uniform() -> None:
    """In O(2), a quarter of all matrices has its first column in each quadrant, half det > 0."""
    torch.manual_seed(0)
    w = Stiefel().sample((4000, 2, 2), dtype=torch.float64)
    quadrant = 2 * (w[:, 0, 0] > 0) + (w[:, 1, 0] > 0) + 4 * (torch.linalg.det(w) > 0)
    share = torch.bincount(quadrant, minlength=8) / 4000
    assert_close(share, torch.full((8,), 1 / 8), atol=0.025, rtol=0)


def test_a_wide_matrix_is_told_to_be_transposed() -> None:
    for ask in (Stiefel().check_shape, Stiefel().sample):
        with pytest.raises(ValueError, match=r"got shape \(2, 3\): transpose the weight"):
            ask((2, 3))
    with pytest.raises(ValueError, match="transpose"):
        Stiefel().project(torch.ones(2, 3))
    Stiefel().check_shape((5, 3, 3))


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
def test_a_radius_is_positive(radius: float) -> None:
    with pytest.raises(ValueError, match="positive, finite radius"):
        Stiefel(radius)


def test_a_tall_weight_is_sent_back_from_the_transposed_manifold() -> None:
    with pytest.raises(ValueError, match=r"Transposed\(Stiefel\(\)\) has .* declare Stiefel\(\)"):
        Transposed(Stiefel()).check_shape((3, 2))
