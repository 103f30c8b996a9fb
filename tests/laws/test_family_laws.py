"""Every exponential family keeps the promises of ExponentialFamily.

A new family joins by one line in FAMILIES; torch.distributions is what it is held to.
"""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import kl_divergence
from torch.testing import assert_close

from modula.manifolds.families.base import ExponentialFamily
from modula.manifolds.families.beta import Beta
from modula.manifolds.families.categorical import Categorical
from modula.manifolds.families.gamma import Gamma
from modula.manifolds.families.gaussian import DiagonalGaussian, Gaussian
from sources import concrete
from strategies import seeds


def gaussian(z: Tensor, n: int) -> Tensor:
    factor = torch.randn(n, n, dtype=z.dtype, generator=torch.Generator().manual_seed(n))
    precision = factor @ factor.mT + torch.diag_embed(z[..., n : 2 * n].exp())
    return Gaussian(n).from_precision(z[..., :n], precision)


# Each family, and a point of it for any numbers z: (..., dim).
FAMILIES: list[tuple[ExponentialFamily, Callable[[Tensor], Tensor]]] = [
    (Gaussian(), lambda z: gaussian(z, 1)),
    (Gaussian(3), lambda z: gaussian(z, 3)),
    (DiagonalGaussian(), lambda z: DiagonalGaussian().from_precision(z[..., :1], z[..., 1:].exp())),
    (DiagonalGaussian(4), lambda z: torch.cat((z[..., :4], -z[..., 4:].exp()), -1)),
    (Categorical(), lambda z: z),
    (Categorical(5), lambda z: z),
    (Gamma(), lambda z: torch.stack((z[..., 0].exp(), -z[..., 1].exp()), -1)),
    (Beta(), lambda z: z.exp()),
]
every_family = pytest.mark.parametrize(
    ("family", "point"), FAMILIES, ids=[str(family) for family, _ in FAMILIES]
)
few = settings(max_examples=6)  # each law meets eight families
batch_shapes = st.sampled_from([(), (3,), (2, 1)])
Point = Callable[[Tensor], Tensor]


def test_no_family_is_left_out() -> None:
    assert {type(family) for family, _ in FAMILIES} == concrete(ExponentialFamily, "manifolds")


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def wavy(natural: Tensor) -> Tensor:
    """A function with a gradient and a curvature of its own at every point."""
    k = torch.arange(1.0, natural.shape[-1] + 1, dtype=natural.dtype)
    return (k * natural).sin().sum(-1) + (natural.sum(-1) / 3).square()


def gradient(natural: Tensor) -> Tensor:
    k = torch.arange(1.0, natural.shape[-1] + 1, dtype=natural.dtype)
    return k * (k * natural).cos() + 2 * natural.sum(-1, keepdim=True) / 9


@every_family
@few
@given(seed=seeds())
def test_the_density_is_that_of_torch(family: ExponentialFamily, point: Point, seed: int) -> None:
    """log q(x) - <natural, T(x)> + A = log h(x): the same for two densities, at every x."""
    torch.manual_seed(seed)
    one, two = point(normal(seed, 2, family.dim))
    x = family.distribution(one).sample((20,))
    statistics = family.statistics(x).to(one.dtype)
    left, right = (
        family.distribution(q).log_prob(x) - statistics @ q + family.log_partition(q)
        for q in (one, two)
    )
    assert_close(left, right, atol=1e-9, rtol=1e-9)


@every_family
@few
@given(seed=seeds(), batch=batch_shapes)
def test_divergence_is_bregmans(
    family: ExponentialFamily, point: Point, seed: int, batch: tuple[int, ...]
) -> None:
    """KL(p || q) = A(q) - A(p) - <q - p, m(p)>: mean parameters and A fit together."""
    p, q = point(normal(seed, 2, *batch, family.dim))
    bregman = family.log_partition(q) - family.log_partition(p)
    bregman = bregman - ((q - p) * family.to_mean(p)).sum(-1)
    expected = kl_divergence(family.distribution(p), family.distribution(q))
    assert_close(bregman, expected, atol=1e-9, rtol=1e-9)


@every_family
def test_mean_parameters_are_expectations_and_fisher_is_a_covariance(
    family: ExponentialFamily, point: Point
) -> None:
    torch.manual_seed(0)
    q = point(normal(0, family.dim) / 2)
    samples = family.statistics(family.distribution(q).sample((20_000,))).to(q.dtype)
    error = samples.std(0) / 20_000**0.5
    assert ((samples.mean(0) - family.to_mean(q)).abs() < 5 * error).all()
    centered = samples - samples.mean(0)
    products = centered[:, :, None] * centered[:, None, :]
    error = products.std(0) / 20_000**0.5
    assert ((products.mean(0) - family.fisher(q)).abs() < 5 * error).all()


@every_family
@few
@given(seed=seeds(), batch=batch_shapes)
def test_natural_and_mean_parameters_are_the_same_point(
    family: ExponentialFamily, point: Point, seed: int, batch: tuple[int, ...]
) -> None:
    q = point(normal(seed, *batch, family.dim))
    assert_close(family.from_mean(family.to_mean(q)), q, atol=1e-8, rtol=1e-8)


@every_family
@few
@given(seed=seeds(), batch=batch_shapes)
def test_fisher_is_positive_and_gives_products(
    family: ExponentialFamily, point: Point, seed: int, batch: tuple[int, ...]
) -> None:
    q, u, v = (normal(seed + k, *batch, family.dim) for k in range(3))
    q = point(q)
    metric = family.fisher(q)
    assert_close(metric, metric.mT)
    assert (torch.linalg.eigvalsh(metric) > 0).all()
    product = torch.einsum("...i,...ij,...j->...", u, metric, v)
    assert_close(family.inner(q, u, v), product)


@every_family
@few
@given(seed=seeds(), batch=batch_shapes)
def test_natural_gradient_solves_for_the_gradient(
    family: ExponentialFamily, point: Point, seed: int, batch: tuple[int, ...]
) -> None:
    """F (natural gradient) = gradient, both by formula."""
    q = point(normal(seed, *batch, family.dim))
    found = family.fisher_product(q, family.natural_gradient(wavy, q))
    scale = float(gradient(q).norm())
    assert_close(found, gradient(q), atol=1e-8 * scale, rtol=1e-7)


@every_family
@few
@given(seed=seeds())
def test_natural_gradient_is_a_vector(family: ExponentialFamily, point: Point, seed: int) -> None:
    """In other coordinates t it is F_t^-1 grad_t f; carried over, it is the same vector."""

    def natural_at(t: Tensor) -> Tensor:
        return start + mix @ (t + t.pow(3))

    start, mix = point(normal(seed, family.dim)), normal(seed + 1, family.dim, family.dim)
    t = 1e-2 * normal(seed + 2, family.dim) * start.abs().min() / (1 + mix.norm())
    q = natural_at(t)
    jacobian = torch.func.jacrev(natural_at)(t)
    metric = jacobian.mT @ family.fisher(q) @ jacobian
    there = torch.linalg.solve(metric, torch.func.grad(lambda t: wavy(natural_at(t)))(t))
    here = family.natural_gradient(wavy, q)
    assert_close(jacobian @ there, here, atol=1e-6 * float(here.norm()), rtol=0)


@every_family
def test_from_mean_is_differentiable_twice(family: ExponentialFamily, point: Point) -> None:
    """The second derivative of the identity from_mean(to_mean(q)) along a line is zero."""
    q, v = point(normal(0, family.dim) / 2), normal(1, family.dim)

    def there_and_back(t: Tensor) -> Tensor:
        return family.from_mean(family.to_mean(q + t * v))

    zero = torch.zeros((), dtype=q.dtype)
    first = torch.func.jacrev(there_and_back)(zero)
    second = torch.func.jacrev(torch.func.jacrev(there_and_back))(zero)
    assert_close(first, v, atol=1e-8, rtol=1e-8)
    assert_close(second, torch.zeros_like(v), atol=1e-6, rtol=0)


@every_family
@few
@given(seed=seeds())
def test_a_batch_is_a_loop_and_arguments_are_left_alone(
    family: ExponentialFamily, point: Point, seed: int
) -> None:
    q = point(normal(seed, 2, 3, family.dim))
    before = q.clone()
    for ask in (
        family.log_partition,
        family.to_mean,
        family.fisher,
        lambda p: family.natural_gradient(wavy, p),
    ):
        loop = torch.stack([torch.stack([ask(p) for p in row]) for row in q])
        assert_close(ask(q), loop)
    assert torch.equal(q, before)


@every_family
def test_float32_is_near_float64(family: ExponentialFamily, point: Point) -> None:
    q = point(normal(3, 4, family.dim) / 2)
    for ask in (family.to_mean, lambda p: family.natural_gradient(wavy, p)):
        assert ask(q.float()).dtype == torch.float32
        assert_close(ask(q.float()).double(), ask(q), atol=2e-3, rtol=2e-3)


@every_family
def test_an_empty_batch_is_fine(family: ExponentialFamily, point: Point) -> None:
    nothing = torch.zeros(0, family.dim)
    assert family.fisher(nothing).shape == (0, family.dim, family.dim)
    assert family.natural_gradient(wavy, nothing).shape == nothing.shape


@every_family
def test_a_wrong_shape_is_told(family: ExponentialFamily, point: Point) -> None:
    for wrong in (torch.zeros(3, family.dim + 1), torch.zeros(())):
        for ask in (family.to_mean, family.from_mean, family.fisher, family.distribution):
            with pytest.raises(ValueError, match=f"{family.dim} natural parameters in the last"):
                ask(wrong)
