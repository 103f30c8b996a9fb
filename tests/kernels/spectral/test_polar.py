"""polar against the SVD, its invariances, its extreme inputs, and what its two forms cost."""

from math import log10

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from published_polynomials import JORDAN
from torch import Tensor
from torch.testing import assert_close

from modula.kernels.spectral.polar import (
    DEFAULT,
    DEFAULT_HALF,
    GROWTH,
    Form,
    Gram,
    Standard,
    choose_form,
    default_polynomials,
    exact_polar,
    polar,
    polar_cost,
    polar_error,
    restarts,
)
from modula.kernels.spectral.polynomials import PolarExpress, Polynomials, Term
from modula.kernels.spectral.products import STRIP, symmetric_product
from strategies import batches, matrices, seeds

DTYPES = {4: torch.float32, 8: torch.float64}
EXACT = PolarExpress(11, lower=1e-4, safety=1.01, schatten=8)
FORMS = [Standard(), Gram(), Gram((2,))]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


def orthogonal(n: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(n, n, seed=seed))[0]


def with_singular_values(rows: int, columns: int, sigma: Tensor) -> Tensor:
    n = len(sigma)
    return orthogonal(rows, 1)[:, :n] * sigma @ orthogonal(columns, 2)[:, :n].mT


def distance(x: Tensor, y: Tensor) -> float:
    return (torch.linalg.matrix_norm(x - y) / torch.linalg.matrix_norm(y)).item()


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([[3, 4], [0, 5]], [[0.894427, 0.447214], [-0.447214, 0.894427]]),
        (
            [[3, 4], [0, 5], [1, 0]],
            [[0.830956, 0.464249], [-0.402307, 0.882042], [0.384267, -0.080461]],
        ),
    ],
)
def test_hand_computed_polar_factors(x: list[list[int]], expected: list[list[float]]) -> None:
    x, expected = torch.tensor(x, dtype=torch.float64), torch.tensor(expected, dtype=torch.float64)
    assert_close(exact_polar(x), expected, rtol=0, atol=1e-6)
    assert_close(polar(x, polynomials=EXACT), expected, rtol=0, atol=1e-6)


def with_room(terms: tuple[Term, ...], safety: float) -> Polynomials:
    """s -> p(s / safety) in place of each p, the input divided by safety."""
    shrunk = ((a / safety, b / safety**3, c / safety**5) for a, b, c in terms)
    return Polynomials(tuple(shrunk), safety=safety)


@pytest.mark.parametrize(
    ("polynomials", "expected"),
    [
        (JORDAN, [[0.928897, 0.251646], [-0.592130, 0.758655]]),
        (
            with_room(PolarExpress(8).terms[:5], 1.01),
            [[0.813455, 0.442560], [-0.385228, 0.842121]],
        ),
    ],
    ids=str,
)
def test_lists_that_do_not_converge(polynomials: Polynomials, expected: list[list[float]]) -> None:
    out = polar(
        torch.tensor([[3.0, 4.0], [0.0, 5.0]], dtype=torch.float64), polynomials=polynomials
    )
    assert_close(out, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 0.1, 0.01, 1e-3])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_enough_steps_give_the_svd_in_float64(sigma: float, form: Form) -> None:
    x = with_singular_values(4, 20, torch.tensor([1.0, 0.7, sigma, 0.3], dtype=torch.float64))
    tolerance = 1e-13 if form == Standard() else 1e-6  # Gram works with squares
    out = polar(x, polynomials=EXACT, form=form)
    assert distance(out, exact_polar(x)) < tolerance / sigma


@pytest.mark.parametrize("schatten", [2, 4, 8])
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_singular_values_go_through_the_polynomial(schatten: int, form: Form) -> None:
    sigma = torch.tensor([3.0, 2.0, 0.5, 0.01], dtype=torch.float64)
    polynomials = PolarExpress(4, lower=1e-2, safety=1.03, schatten=schatten)
    out = polar(with_singular_values(4, 7, sigma), polynomials=polynomials, form=form)
    bound = 1.03 * sigma.pow(schatten).sum() ** (1 / schatten)
    expected = with_singular_values(4, 7, polynomials(sigma / bound))
    assert_close(out, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_cubics(form: Form) -> None:
    x = normal(5, 9)
    for schatten in (2, 8):
        cubics = Polynomials(((1.5, -0.5, 0.0),) * 40, schatten)
        assert_close(polar(x, polynomials=cubics, form=form), exact_polar(x), rtol=0, atol=1e-7)


@given(batches())
def test_batch_is_loop(x: Tensor) -> None:
    out = polar(x)
    assert out.shape == x.shape
    rows = x.reshape(-1, *x.shape[-2:])
    one_by_one = torch.stack([polar(row) for row in rows]).reshape(x.shape)
    assert_close(out, one_by_one, rtol=0, atol=1e-12)


@given(matrices())
def test_transposing_commutes(x: Tensor) -> None:
    assert_close(polar(x.mT), polar(x).mT, rtol=0, atol=1e-12)


@given(matrices(), seeds())
def test_rotations_commute(x: Tensor, seed: int) -> None:
    u, v = orthogonal(x.shape[0], seed % 1000), orthogonal(x.shape[1], seed % 1000 + 1)
    tolerance = 1e-9
    assert_close(polar(u @ x @ v), u @ polar(x) @ v, rtol=0, atol=tolerance)


@given(matrices(), st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
def test_dtype_is_kept_and_arguments_are_not_written_to(x: Tensor, dtype: torch.dtype) -> None:
    x = (x / x.abs().max()).to(dtype)
    before = x.clone()
    for function in (polar, exact_polar):
        out = function(x)
        assert out.dtype == dtype
        assert out.data_ptr() != x.data_ptr()
        assert torch.equal(x, before)
    loss = {torch.float16: 2e-2, torch.bfloat16: 1e-1}.get(dtype, 1e-4)
    assert_close(polar(x).double(), polar(x.double()), rtol=0, atol=loss)


@given(matrices(), st.floats(0.01, 100))
def test_scale_multiplies_the_result(x: Tensor, scale: float) -> None:
    for form in FORMS:
        scaled, plain = polar(x, scale=scale, form=form), polar(x, form=form)
        assert_close(scaled, scale * plain, rtol=1e-9, atol=1e-9)


@given(matrices())
def test_exact_polar_is_a_partial_isometry_of_the_same_rank(x: Tensor) -> None:
    q = exact_polar(x)
    assert_close(q @ q.mT @ q, q, rtol=0, atol=1e-10)
    rank = torch.linalg.matrix_rank(x, rtol=1e-12)
    assert_close(torch.linalg.matrix_norm(q) ** 2, rank.double(), rtol=0, atol=1e-9)
    assert_close((q * x).sum(), torch.linalg.svdvals(x).sum(), rtol=1e-9, atol=0)


@pytest.mark.parametrize("form", FORMS, ids=str)
def test_rank_deficient(form: Form) -> None:
    for dtype, tolerance in ((torch.float64, 1e-6), (torch.float32, 5e-3)):
        x = (normal(30, 3) @ normal(3, 90, seed=1)).to(dtype)
        out = polar(x, polynomials=PolarExpress(7, lower=1e-2, safety=1.01, schatten=8), form=form)
        expected = exact_polar(normal(30, 3) @ normal(3, 90, seed=1)).to(dtype)
        assert distance(out, expected) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("form", [None, *FORMS], ids=str)
def test_zero_gives_zero_also_inside_a_batch(dtype: torch.dtype, form: Form | None) -> None:
    x = normal(3, 4, 10, dtype=dtype)
    x[1] = 0
    out = polar(x, form=form)
    assert torch.equal(out[1], torch.zeros_like(out[1]))
    assert_close(out[2], polar(x[2], form=form))
    assert torch.equal(exact_polar(x)[1], torch.zeros_like(out[1]))


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0)])
def test_empty(shape: tuple[int, ...]) -> None:
    assert polar(torch.zeros(shape)).shape == shape
    assert exact_polar(torch.zeros(shape)).shape == shape


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (7, 1), (2, 1, 5)])
def test_single_rows_and_columns_are_normalised(shape: tuple[int, ...]) -> None:
    x = normal(*shape)
    unit = x / torch.linalg.matrix_norm(x, keepdim=True)
    assert_close(exact_polar(x), unit)
    assert_close(polar(x), unit, rtol=0, atol=0.06)
    assert_close(polar(x, polynomials=EXACT), unit, rtol=0, atol=1e-12)


@pytest.mark.parametrize("exponent", [-45, -44, -37, -30, -20, 20, 30, 38])
@pytest.mark.parametrize("shape", [(6, 6), (5, 12), (12, 5)])
def test_scale_of_the_input_does_not_matter(exponent: int, shape: tuple[int, int]) -> None:
    x = normal(*shape).clamp(-3, 3).to(torch.float32)
    scaled = (x.double() * 10.0**exponent).float()
    if exponent < -37:  # among subnormal numbers the input itself has few digits
        assert torch.isfinite(polar(scaled)).all()
    else:
        assert_close(polar(scaled), polar(x), rtol=0, atol=1e-4)
    assert_close(polar(x.double() * 1e300), polar(x.double()), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("form", [None, *FORMS], ids=str)
def test_what_is_not_finite_is_seen(bad: float, form: Form | None) -> None:
    x = normal(2, 4, 9)
    x[0, 2, 3] = bad
    out = polar(x, form=form)
    assert not torch.isfinite(out[0]).all()
    assert_close(out[1], polar(x[1], form=form))


@pytest.mark.parametrize("wrong", [torch.zeros(3), torch.zeros(2, 2, dtype=torch.int64)])
def test_what_is_no_matrix_is_refused(wrong: Tensor) -> None:
    for function in (polar, exact_polar):
        with pytest.raises(ValueError, match="matrix"):
            function(wrong)


@pytest.mark.parametrize("aspect", [1, 2, 4, 8])
@pytest.mark.parametrize("cuts", [(), (1,), (2,), (2, 4)])
def test_gram_is_standard_in_float64(aspect: int, cuts: tuple[int, ...]) -> None:
    for x in (normal(24, 24 * aspect), normal(3, 24 * aspect, 24)):
        gram, standard = polar(x, form=Gram(cuts)), polar(x, form=Standard())
        assert distance(gram.flatten(0, -2), standard.flatten(0, -2)) < 1e-10


def test_gram_without_restarts_needs_more_than_half_precision() -> None:
    """The reason for `restarts`: rounding leaves x x^T slightly indefinite."""
    x = with_singular_values(96, 384, torch.logspace(0, -7, 96, dtype=torch.float64))
    polynomials = PolarExpress(5, safety=1.05)
    exact = polar(x, polynomials=polynomials)

    def rounded(form: Form, dtype: torch.dtype) -> float:
        unit = (x / torch.linalg.matrix_norm(x)).to(dtype)
        return distance(form(unit, polynomials, 1.0).double(), exact)

    assert rounded(Gram(), torch.float16) > 2 * rounded(Gram((2,)), torch.float16)
    assert rounded(Gram((2,)), torch.float16) < 0.5
    assert rounded(Gram(), torch.float32) < 0.05
    assert rounded(Gram((2,)), torch.float32) < 1e-3


def test_restarts_follow_the_precision() -> None:
    assert restarts(DEFAULT, 2.0**-24) == ()
    assert restarts(DEFAULT_HALF, 2.0**-11) == (2,)
    assert restarts(PolarExpress(8), 2.0**-24) != ()
    for roundoff in (2.0**-24, 2.0**-11):
        growth, cuts = roundoff, restarts(PolarExpress(12, lower=1e-6), roundoff)
        for step, (a, _, _) in enumerate(PolarExpress(12, lower=1e-6).terms):
            growth = (roundoff if step in cuts else growth) * a * a
            assert growth <= max(GROWTH, roundoff * a * a)


@pytest.mark.parametrize(
    ("form", "aspect", "units"),
    [
        (Standard(), 4, 45),
        (Gram(), 4, 25),
        (Gram((2,)), 4, 30),
        (Standard(), 1, 15),
        (Gram(), 3, 23),
    ],
    ids=str,
)
def test_operations_in_units_of_a_square_product(form: Form, aspect: int, units: float) -> None:
    n = 16
    flops = form.products(PolarExpress(5)).cost(n, aspect * n).flops
    assert flops / (2 * n**3) == units


def test_counted_operations_are_the_ones_done() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    for shape in ((2, 8, 8), (8, 16), (32, 8)):
        for form in FORMS:
            with FlopCounterMode(display=False) as counter:
                polar(normal(*shape), polynomials=DEFAULT, form=form)
            cost = polar_cost(shape, 8, polynomials=DEFAULT, form=form)
            assert counter.get_total_flops() == cost.flops


def test_the_cheaper_form_is_chosen() -> None:
    assert choose_form(768, 768, DEFAULT, torch.float32) == Standard()
    assert choose_form(768, 3072, DEFAULT, torch.float32) == Gram()
    assert choose_form(768, 3072, DEFAULT_HALF, torch.float16, "cuda") == Gram((2,))
    assert choose_form(768, 3072, DEFAULT_HALF, torch.bfloat16, "cuda") == Standard()
    assert choose_form(768, 3072, DEFAULT, torch.float64) == Standard()
    wide = polar_cost((768, 3072))
    assert wide == polar.cost((3072, 768)) and wide.flops == 25 * 2 * 768**3
    assert polar_cost((12, 768, 3072)).flops == 12 * wide.flops


@pytest.mark.parametrize("n", [2 * STRIP + 1, 3 * STRIP, 3 * STRIP + 17])
def test_strips_are_the_whole_product(n: int) -> None:
    x = normal(n, 40)
    add = symmetric_product(x, x.mT)
    assert torch.equal(add[STRIP:, :STRIP], add[:STRIP, STRIP:].mT)
    assert_close(add, x @ x.mT)
    assert_close(symmetric_product(x, x.mT, alpha=0.5), 0.5 * x @ x.mT)
    out = symmetric_product(x, x.mT, add=add, beta=-2.0, alpha=0.5)
    assert_close(out, 0.5 * x @ x.mT - 2 * add)


def test_strips_leave_no_trace_in_the_result() -> None:
    x = normal(2, 2 * STRIP + 40, 2 * STRIP + 90)
    small = Standard()(x / torch.linalg.matrix_norm(x, keepdim=True), DEFAULT, 1.0)
    out = polar(x, polynomials=DEFAULT, form=Standard())
    assert_close(out, small, rtol=0, atol=1e-11)


@pytest.mark.parametrize("shape", [(6, 9), (9, 6), (2, 9, 6), (300, 310), (310, 300)])
def test_a_contiguous_input_gives_a_contiguous_result(shape: tuple[int, ...]) -> None:
    assert polar(normal(*shape)).is_contiguous()


def test_gradients_flow() -> None:
    x = normal(3, 5).requires_grad_()
    for form in FORMS:
        assert torch.autograd.gradcheck(lambda x, form=form: polar(x, form=form), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "shape", [(2, 2), (1, 1), (1, 7), (5, 3), (12, 6), (4, 16, 16), (32, 400), (70, 31)], ids=str
)
def test_small_matrices_are_within_a_thousandth(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for seed in range(10):
        x = normal(*shape, seed=seed, dtype=dtype)
        share = torch.linalg.svdvals(x) / torch.linalg.matrix_norm(x, ord=2)[..., None]
        sigma = torch.linalg.svdvals(polar(x).double())
        assert sigma.max() < 1 + 1e-4
        assert (sigma - 1).abs()[share > polar_error(shape).above].max() < 1e-4


@pytest.mark.parametrize("shape", [(40, 64), (300, 310), (33, 33)], ids=str)
def test_float64_is_within_a_thousandth_at_any_size(shape: tuple[int, ...]) -> None:
    sigma = torch.linalg.svdvals(polar(normal(*shape)))
    assert sigma.max() < 1 + 1e-7 and sigma.mean() > 1 - 1e-2


@pytest.mark.parametrize(
    ("shape", "itemsize", "stated"),
    [
        ((384, 384), 4, 5.87e-2),
        ((40, 64), 4, 5.87e-2),
        ((12, 6), 4, 6.1e-5),
        ((32, 9), 4, 6.1e-5),
        ((300, 310), 8, 1.18e-8),
        ((5, 3), 8, 1.18e-8),
    ],
    ids=str,
)
def test_the_stated_error_holds(shape: tuple[int, ...], itemsize: int, stated: float) -> None:
    """For singular values down to a thousandth of the smallest that arrives."""
    error, above = polar_error(shape, itemsize)
    assert error == pytest.approx(stated, rel=0.01)
    sigma = torch.logspace(0, log10(above) - 3, min(shape), dtype=torch.float64)
    x = with_singular_values(*shape, sigma)
    out = orthogonal(shape[0], 1)[:, : len(sigma)].mT @ polar(x.to(DTYPES[itemsize])).double()
    arrived = (out @ orthogonal(shape[1], 2)[:, : len(sigma)]).diagonal()
    assert arrived.max() <= 1 + error
    assert (1 - arrived[sigma >= above]).max() <= error


def test_normal_sizes_keep_their_five_steps() -> None:
    for short in (33, 64, 768):
        assert default_polynomials(short, torch.float32) == DEFAULT
        assert default_polynomials(short, torch.bfloat16) == DEFAULT_HALF
    assert default_polynomials(2, torch.float16) == DEFAULT_HALF  # rounding moves more than terms
    assert polar_cost((768, 768)).flops == 15 * 2 * 768**3


def momentum_like(rows: int, columns: int) -> Tensor:
    """Rank 16 with singular values from 1 to 0.1, and noise whose largest is 0.02."""
    sigma = torch.logspace(0, -1, 16, dtype=torch.float64)
    noise = normal(rows, columns, seed=3) / (rows**0.5 + columns**0.5)
    return with_singular_values(rows, columns, sigma) + 0.02 * noise


@pytest.mark.parametrize(
    ("x", "bound"),
    [
        (normal(384, 384), 0.08),
        (normal(768, 192), 0.06),
        (momentum_like(384, 384), 0.2),
    ],
    ids=["square Gaussian", "tall Gaussian", "low rank and noise"],
)
def test_default_is_nearer_to_the_svd_than_jordan(x: Tensor, bound: float) -> None:
    exact = exact_polar(x)
    ours = distance(polar(x.float()).double(), exact)
    assert ours < bound
    assert ours < 0.6 * distance(polar(x, polynomials=JORDAN), exact)
