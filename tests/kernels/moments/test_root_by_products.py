"""Roots by coupled iterations, against eigendecompositions in float64."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from devices import RoundedProducts, remote, to_bfloat16, to_tf32
from modula.kernels.moments.eigenbasis import next_basis
from modula.kernels.moments.root import SMALLEST, eigen, inverse_root
from modula.kernels.moments.root_by_products import SAFETY, fewest, square_roots
from modula.kernels.precision import full_precision
from modula.kernels.spectral.bound import spectral_bound

SIDE = 256
EPS = torch.finfo(torch.float32).eps
LOWER = (SMALLEST * EPS / 2) ** 0.5


def spread(condition: float, damping: float = 0.0, side: int = SIDE, seed: int = 0) -> Tensor:
    """Positive, with eigenvalues from 1 down to 1 / condition, log-uniform, and damping added."""
    generator = torch.Generator().manual_seed(seed)
    exponents = torch.rand(side, dtype=torch.float64, generator=generator)
    exponents[:2] = torch.tensor([0.0, 1.0])
    x = torch.randn(side, side, dtype=torch.float64, generator=generator)
    q = torch.linalg.qr(x)[0]
    return (q * (condition**-exponents + damping)) @ q.mT


def exact(s: Tensor, power: float, damping: float = 0.0) -> Tensor:
    """(S + damping mean)^-power in float64, with what is added at least float32's floor."""
    values, basis = torch.linalg.eigh(s.double() / s.diagonal().mean().double())
    added = max(damping, SMALLEST * EPS * float(values[-1]))
    size = s.diagonal().mean().double()
    return (basis * (values.clamp(min=0) + added) ** -power) @ basis.mT * size**-power


def errors(z: Tensor, s: Tensor) -> tuple[float, float]:
    """||Z S Z - I||_F / sqrt(d), and the relative error of Z M for a random M."""
    z, d = z.double(), len(s)
    values, basis = torch.linalg.eigh(s)
    m = torch.randn(d, d, dtype=s.dtype, generator=torch.Generator().manual_seed(1))
    wanted = (basis * values**-0.5) @ basis.mT @ m
    residual = torch.linalg.matrix_norm(z @ s @ z - torch.eye(d)) / d**0.5
    return float(residual), float((z @ m - wanted).norm() / wanted.norm())


def coupled(s: Tensor) -> Tensor:
    """S^-1/2 in float32, with nothing added to S."""
    single = s.float()
    bound = spectral_bound(single, squarings=2)
    return square_roots(single / bound, fewest(LOWER, EPS))[1] / bound.sqrt()


@pytest.mark.parametrize(
    ("condition", "damping", "residual", "update", "side"),
    [
        (1e2, 0.0, 8e-6, 4e-6, SIDE),
        (1e4, 0.0, 1e-4, 7e-5, SIDE),
        (1e4, 1e-3, 2e-5, 9e-6, SIDE),
        (1e6, 0.0, 5e-3, 5e-3, SIDE),
        (1e6, 1e-3, 3e-5, 1e-5, SIDE),
        (1e4, 0.0, 1e-4, 7e-5, 400),  # where products known to be symmetric are cut in strips
    ],
)
def test_it_is_as_accurate_as_an_eigendecomposition(
    condition: float, damping: float, residual: float, update: float, side: int
) -> None:
    s = spread(condition, damping, side)
    found = errors(coupled(s), s)
    assert found[0] <= residual and found[1] <= update
    values, basis = eigen(s.float())
    theirs = errors((basis * values.clamp(min=EPS) ** -0.5) @ basis.mT, s)
    assert found[0] <= 2 * theirs[0] and found[1] <= 2 * theirs[1]


@pytest.mark.parametrize("condition", [1e4, 1e6])
def test_with_damping_it_stands_products_of_fewer_bits(condition: float) -> None:
    """O35."""
    s = spread(condition, 1e-3)
    for rounded, update in ((to_tf32, 6e-3), (to_bfloat16, 5e-2)):
        with RoundedProducts(rounded):
            z = coupled(s)
        assert update / 10 < errors(z, s)[1] <= update


@pytest.mark.parametrize("damping", [1e-4, 1e-8, 0.0])
@pytest.mark.parametrize("rank", [1, 8])
def test_a_factor_of_low_rank_has_a_root(rank: int, damping: float) -> None:
    x = torch.randn(SIDE, rank, generator=torch.Generator().manual_seed(rank))
    s = x @ x.mT
    for power in (1.0, 0.5, 0.25):
        found = inverse_root.fused(s, torch.full_like(s, torch.nan), power=power, damping=damping)
        wanted = exact(s, power, damping)
        # The bound is up to 8^(1/16) times the largest eigenvalue; so is what is added at least.
        assert (found.double() - wanted).norm() <= 0.15 * power * wanted.norm()
        assert torch.linalg.eigvalsh(found.double())[0] > 0


def test_many_at_once_are_each_for_itself() -> None:
    """O36."""
    stack = torch.stack([spread(1e3, side=12, seed=k) for k in range(6)]).reshape(2, 3, 12, 12)
    for power in (1.0, 0.5, 0.25):
        found = inverse_root.fused(stack, stack, power=power, damping=1e-4)
        for one, s in zip(found.flatten(0, 1), stack.flatten(0, 1), strict=True):
            assert_close(one, inverse_root.fused(s, s, power=power, damping=1e-4))
            assert_close(one, one.mT)


def test_what_is_no_root_is_not_taken() -> None:
    """An eigenvalue below zero: there is none, and the iteration runs away, far or not so far."""
    previous = torch.randn(3, 3)
    for negative in (-0.5, -4e-6):
        s = torch.diag(torch.tensor([1.0, 0.5, negative]))
        for power in (1.0, 0.5, 0.25):
            assert torch.equal(inverse_root.fused(s, previous, power=power, damping=0.0), previous)


def test_other_powers_are_left_to_the_eigendecomposition() -> None:
    s = spread(10.0, side=6)
    for power in (1 / 6, 0.75, 2.0):
        options = {"power": power, "damping": 1e-3, "trace_power": 0.25}
        found = inverse_root.fused(s, s, **options)
        assert torch.equal(found, inverse_root.plain(s, s, **options))


def test_on_cuda_nothing_is_decomposed_and_nobody_waits() -> None:
    s = torch.stack([spread(10.0, side=5, seed=k) for k in range(3)])
    for power in (1.0, 0.5, 0.25):
        for damping in (1e-4, remote(torch.full((3, 1), 1e-4, dtype=s.dtype))):
            found = inverse_root(remote(s), remote(s), power=power, damping=damping)
            wanted = inverse_root(s, s, power=power, damping=1e-4)
            assert_close(found.as_subclass(Tensor), wanted)
    with pytest.raises(AssertionError, match="waits"):
        inverse_root(remote(s), remote(s), power=1 / 6, damping=0.0)


def test_the_fewest_polynomials_are_enough_and_one_less_is_not() -> None:
    for lower, roundoff in ((LOWER, EPS), (LOWER**0.5, EPS), (4e-8, 2.2e-16)):
        polynomials = fewest(lower, roundoff)
        s = torch.logspace(torch.tensor(lower).log10().item(), 0, 999, dtype=torch.float64)
        assert (polynomials(s / SAFETY) - 1).abs().max() <= 5 * roundoff
    assert len(fewest(LOWER, EPS).terms) == 7
    for lower in (1e-7, 1e-3, 0.17378008287493762, 0.99):
        assert len(fewest(lower, 2.2e-16).terms) <= 16


def test_it_takes_seven_rounds_of_four_products() -> None:
    """Two less in the first round, two more to see that it is a root; and three for the bound."""

    def seen(x: Tensor) -> Tensor:
        arguments.append(x)
        return x

    s, arguments = spread(10.0, side=5).float(), list[Tensor]()
    for power, rounds in ((0.5, 7), (0.25, 7 + 5)):
        arguments.clear()
        with RoundedProducts(seen):
            inverse_root.fused(s, s, power=power, damping=0.1)
        assert len(arguments) / 2 == 3 + 4 * rounds


def test_products_that_small_eigenvalues_need_keep_all_bits() -> None:
    def seen(x: Tensor) -> Tensor:
        precisions.add(torch.backends.cuda.matmul.fp32_precision)
        return x

    s, old, precisions = spread(10.0, side=5).float(), torch.tensor(9.0), set[str]()
    with RoundedProducts(seen):
        inverse_root.fused(s, s, power=0.5, damping=0.1)
        next_basis.fused(s, s, old, young=1, tolerance=0.1)
    assert precisions == {"ieee"}


def test_full_precision_ends_where_it_began() -> None:
    products = torch.backends.cuda.matmul
    before = products.fp32_precision
    try:
        for outside in ("tf32", "ieee"):
            products.fp32_precision = outside
            with pytest.raises(KeyError), full_precision():
                assert products.fp32_precision == "ieee"
                raise KeyError
            assert products.fp32_precision == outside
    finally:
        products.fp32_precision = before
