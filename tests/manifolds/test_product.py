"""Product against its own parts, and as one manifold of one long vector."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from modula.manifolds.oblique import Oblique
from modula.manifolds.product import Product
from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel

NETWORK = Product((("rows", Oblique()), ("head", Stiefel(2.0)), ("gain", Sphere())))
SHAPES = {"rows": (4, 3), "head": (5, 2), "gain": (6,)}


def random(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, dtype=torch.float64, generator=generator)
        for name, shape in SHAPES.items()
    }


def inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(float((a[name] * b[name]).sum()) for name in SHAPES)


def minus(a: dict[str, Tensor], b: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: a[name] - b[name] for name in SHAPES}


def test_the_parts_answer_for_themselves() -> None:
    x, v = random(0), random(1)
    point = NETWORK.project(x)
    assert_close(point["head"], Stiefel(2.0).project(x["head"]))
    moved = NETWORK.retract(point, NETWORK.to_tangent(point, v))
    assert_close(
        moved["gain"],
        Sphere().retract(point["gain"], v["gain"] - point["gain"] * (point["gain"] @ v["gain"])),
    )
    assert NETWORK.residual(moved) < 1e-12
    constraints = NETWORK.tangent_constraints(point)
    assert_close(constraints["gain"].of(v["gain"]), (point["gain"] @ v["gain"])[None])


def test_the_laws_of_a_manifold_hold_for_the_whole() -> None:
    point, v, u = NETWORK.project(random(0)), random(1), random(2)
    tangent, other = NETWORK.to_tangent(point, v), NETWORK.to_tangent(point, u)
    assert abs(inner(minus(v, tangent), other)) < 1e-12
    y = NETWORK.retract(point, tangent)
    carried = NETWORK.transport(point, y, tangent)
    assert_close(NETWORK.to_tangent(y, carried), carried)
    other_point = NETWORK.sample(SHAPES, dtype=torch.float64)
    assert NETWORK.residual(other_point) < 1e-12
    far, near = minus(random(0), other_point), minus(random(0), point)
    assert inner(near, near) < inner(far, far)


def test_residuals_add_up_in_squares() -> None:
    x = {"a": torch.tensor([4.0]), "b": torch.tensor([[5.0], [1.0]])}
    assert_close(Product((("a", Sphere()), ("b", Sphere()))).residual(x), torch.tensor(5.0))


def test_what_does_not_fit_gets_one_clear_sentence() -> None:
    with pytest.raises(ValueError, match="missing: gain, unknown: bias"):
        NETWORK.project({"rows": torch.ones(1, 1), "head": torch.ones(1, 1), "bias": torch.ones(1)})
    with pytest.raises(ValueError, match=r"head: Stiefel.*transpose the weight"):
        NETWORK.check_shapes(SHAPES | {"head": (2, 5)})
    NETWORK.check_shapes(SHAPES)
    with pytest.raises(ValueError, match="different names; got none"):
        Product(())
    with pytest.raises(ValueError, match="different names; got a, a"):
        Product((("a", Sphere()), ("a", Stiefel())))
