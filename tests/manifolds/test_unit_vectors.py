"""Sphere and Oblique against closed forms."""

import pytest
import torch
from torch.testing import assert_close

from modula.manifolds.oblique import Oblique
from modula.manifolds.sphere import Sphere

X = torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, 0.0]], dtype=torch.float64)


def test_one_step_on_the_sphere() -> None:
    """At w = e1 with gradient (2, 3, 4): tangent direction (0, .6, .8), then a step of 0.1."""
    w = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    tangent = Sphere().to_tangent(w, torch.tensor([2.0, 3.0, 4.0], dtype=torch.float64))
    assert_close(tangent, torch.tensor([0.0, 3.0, 4.0], dtype=torch.float64))
    landed = Sphere().retract(w, -0.1 * tangent / tangent.norm())
    expected = torch.tensor([0.995037, -0.059702, -0.079603], dtype=torch.float64)
    assert_close(landed, expected, atol=1e-6, rtol=0)


def test_the_sphere_measures_all_its_dims_as_one_vector() -> None:
    assert_close(Sphere(ndim=2).project(X), X / X.norm())
    assert_close(Sphere(2.0).project(X), 2 * X / X.norm(dim=-1, keepdim=True))
    assert_close(Sphere(ndim=2).residual(X), X.norm() - 1)
    assert_close(Sphere(2.0).residual(X), (X.norm(dim=-1) / 2 - 1).abs())


@pytest.mark.parametrize(("axis", "dim"), [("rows", -1), ("columns", -2)])
def test_oblique_is_a_sphere_for_every_row_or_column(axis: str, dim: int) -> None:
    manifold = Oblique(axis, radius=2.0)  # type: ignore[arg-type]
    lengths = X.norm(dim=dim, keepdim=True)
    assert_close(manifold.project(X), 2 * X / lengths)
    assert_close(manifold.residual(X), (lengths / 2 - 1).norm())
    v = X.flip(1)
    inner = (X * v).sum(dim, keepdim=True)
    assert_close(manifold.to_tangent(X, v), v - X * inner / lengths**2)


def test_zero_vectors_become_the_first_basis_vector() -> None:
    rows = torch.tensor([[0.0, 0.0], [0.0, 5.0]])
    assert_close(Sphere().project(torch.zeros(3)), torch.tensor([1.0, 0.0, 0.0]))
    assert_close(Sphere(ndim=2).project(torch.zeros(2, 2)), torch.eye(2) * torch.tensor([1.0, 0]))
    assert_close(Oblique().project(rows), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    assert_close(Oblique("columns").project(rows), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(bad: float) -> None:
    x = torch.tensor([[1.0, bad], [3.0, 4.0]])
    projected = Oblique().project(x)
    assert projected[0].isnan().any()
    assert_close(projected[1], torch.tensor([0.6, 0.8]))


def test_samples_are_uniform() -> None:
    """On the unit sphere of R^3 every coordinate is uniform on [-1, 1] (Archimedes)."""
    torch.manual_seed(0)
    z = Sphere().sample((20000, 3), dtype=torch.float64)[:, 2].sort().values
    uniform = torch.linspace(-1, 1, 20000, dtype=torch.float64)
    assert (z - uniform).abs().max() < 0.03  # Kolmogorov-Smirnov: exceeded once in 10000


@pytest.mark.parametrize("radius", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("manifold", [Sphere, Oblique])
def test_a_radius_is_positive(manifold: type[Sphere | Oblique], radius: float) -> None:
    with pytest.raises(ValueError, match="positive, finite radius"):
        manifold(radius=radius)


def test_bad_arguments_get_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match='axis="rows" or axis="columns", got \'row\''):
        Oblique("row")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ndim >= 1"):
        Sphere(ndim=0)
    with pytest.raises(ValueError, match=r"needs at least 2 dims, got shape \(3,\)"):
        Oblique().project(torch.ones(3))
    with pytest.raises(ValueError, match="without entries"):
        Sphere().project(torch.ones(2, 0))
    with pytest.raises(ValueError, match="floating-point"):
        Sphere().project(torch.ones(3, dtype=torch.int64))


def test_names() -> None:
    assert str(Sphere()) == "Sphere()"
    assert str(Sphere(radius=2.0, ndim=2)) == "Sphere(radius=2.0, ndim=2)"
    assert str(Oblique("columns")) == "Oblique(axis='columns')"
