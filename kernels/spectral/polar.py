"""polar(x) = U V^T for x = U S V^T, by matrix products alone."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from torch import Tensor

from modula.kernels.op import Cost, Error, Op, Shape, check_matrix
from modula.kernels.spectral.polynomials import PolarExpress, Polynomials
from modula.kernels.spectral.products import (
    STRIP,
    ProductTwins,
    gram,
    left_multiply,
    product_twins,
    symmetric_product,
)

# Singular values within 6 % of one, which is all that training needs.
DEFAULT = PolarExpress(steps=5, lower=1.5e-3, safety=1.01, schatten=8)
# Half precision gets more room above the bound: its rounding moves singular values by a percent.
DEFAULT_HALF = PolarExpress(steps=5, lower=1.5e-3, safety=1.05, schatten=8)
# Within 1e-7: for float64, and for small matrices, whose products are not what takes the time.
NEAR = PolarExpress(steps=7, lower=1e-3, safety=1.01, schatten=8)
SMALL = 32  # up to this short side a matrix is small

# By so many at most a singular value that just arrives is off in float32 and float64, as measured.
ROUNDINGS = 512.0

# Gram squares X afresh before rounding, grown by the product of a_t^2, would pass this.
GROWTH = 0.6


@dataclass(frozen=True)
class Products:
    """How many matrix products of each kind, for X: (n, m) with n <= m."""

    gram: int  # (n, m) (m, n), symmetric
    small: int  # (n, n) (n, n), symmetric
    wide: int  # (n, n) (n, m)

    def cost(self, short: int, long: int, itemsize: int = 4) -> Cost:
        """Of all of them, symmetric ones counted whole."""
        wide, small = (short, long), (short, short)
        counted = (
            (self.gram, gram.cost(wide, itemsize)),
            (self.small, symmetric_product.cost(small, itemsize)),
            (self.wide, left_multiply.cost(wide, itemsize)),
        )
        return Cost(sum(n * c.flops for n, c in counted), sum(n * c.bytes for n, c in counted))


@dataclass(frozen=True)
class Start:
    """x x^T, and its part b A + c A^2 of the first polynomial, for the normalised x * inverse."""

    inverse: Tensor
    gram: Tensor
    even: Tensor


class Form(ABC):
    """One way to apply p_T(... p_1(s / bound)) to the singular values of X: (..., n, m), n <= m."""

    @abstractmethod
    def __call__(self, x: Tensor, polynomials: Polynomials, scale: float) -> Tensor:
        """scale * p(x / bound), for x of Frobenius norm one (or zero)."""

    @abstractmethod
    def products(self, polynomials: Polynomials) -> Products:
        """What it multiplies."""


@dataclass(frozen=True)
class Standard(Form):
    """A = X X^T,  X <- a X + (b A + c A^2) X,  once per polynomial."""

    def __call__(self, x: Tensor, polynomials: Polynomials, scale: float) -> Tensor:
        multiply, last = product_twins(x), len(polynomials.terms)
        start = normalised_gram(x, polynomials, multiply)
        x, even = _times(x, start.inverse), start.even
        for step, (a, b, c) in enumerate(polynomials.terms, start=1):
            if step > 1:
                square = multiply.gram(x)
                even = multiply.symmetric_product(square, square, square, beta=b, alpha=c)
            factor = scale if step == last else 1.0
            x = multiply.left_multiply(even, x, beta=factor * a, alpha=factor)
        return x

    def products(self, polynomials: Polynomials) -> Products:
        steps = len(polynomials.terms)
        return Products(gram=steps, small=steps, wide=steps)


@dataclass(frozen=True)
class Gram(Form):
    """The same on n x n matrices, cheaper when m > 3/2 n: R = X X^T, Q = I, and once per polynomial

        Z = a I + b R + c R^2,  Q <- Q Z,  R <- Z R Z;        the result is Q X.

    Rounding leaves R slightly indefinite, and a negative eigenvalue grows by a^2 a step.  So after
    the steps in `restarts`, counted from 1:  X <- Q X,  R = X X^T,  Q = I.

    Source: "Gram Newton-Schulz", Dao AI Lab blog, 2026.
    """

    restarts: tuple[int, ...] = ()

    def __call__(self, x: Tensor, polynomials: Polynomials, scale: float) -> Tensor:
        multiply, last = product_twins(x), len(polynomials.terms)
        start = normalised_gram(x, polynomials, multiply)
        inverse, r, even, q = start.inverse, start.gram, start.even, None
        for step, (a, b, c) in enumerate(polynomials.terms, start=1):
            if step > 1:
                even = multiply.symmetric_product(r, r, r, beta=b, alpha=c)
            # Z = a I + even is never rounded as a whole: the dominant a I stays exact.
            if q is None:
                q = _plus_identity(even, a)
            else:
                q = multiply.symmetric_product(q, even, q, beta=a)
            # x itself was never scaled: q, which is smaller, takes its scale.
            if step == last:
                return multiply.left_multiply(_times(q, inverse * scale), x)
            if step in self.restarts:
                x, q = multiply.left_multiply(_times(q, inverse), x), None
                inverse, r = torch.ones_like(inverse), multiply.gram(x)
            else:
                half_way = multiply.symmetric_product(r, even, r, beta=a)
                r = multiply.symmetric_product(even, half_way, half_way, beta=a)
        raise AssertionError("Polynomials has at least one term")

    def products(self, polynomials: Polynomials) -> Products:
        steps = len(polynomials.terms)
        cuts = sum(1 <= cut < steps for cut in set(self.restarts))
        return Products(gram=1 + cuts, small=steps + 3 * (steps - 1 - cuts), wide=1 + cuts)


def normalised_gram(x: Tensor, polynomials: Polynomials, multiply: ProductTwins) -> Start:
    """Divide by safety * Schatten norm, for x of Frobenius norm one: that is Schatten-2.

    ||x||_4^2 = ||A||_F and ||x||_8^4 = ||A^2||_F for A = x x^T.  Both products are needed anyway,
    and both norms are closer to sigma_max than Frobenius: 4 and 8 times on a square Gaussian.
    """
    a, room = multiply.gram(x), polynomials.safety**2
    (_, b, c), *_ = polynomials.terms
    size = _frobenius(a)
    if polynomials.schatten < 8:
        bound = torch.ones_like(size) if polynomials.schatten == 2 else size
        a = _times(a, 1 / (room * bound))
        even = multiply.symmetric_product(a, a, a, beta=b, alpha=c)
        return Start((room * bound).rsqrt(), a, even)
    # Divided by its norm first, so that the square keeps its digits in half precision.
    a = _times(a, 1 / size)
    square = multiply.symmetric_product(a, a)
    eighth = _frobenius(square)
    # The bound's square, known only now, is put on the square that is there: no second product.
    square = _times(square, 1 / (room * room * eighth))
    a, bound = _times(a, size), size * eighth.sqrt()
    a = _times(a, 1 / (room * bound))
    return Start((room * bound).rsqrt(), a, torch.add(b * a, square, alpha=c))


def _frobenius(x: Tensor) -> Tensor:
    """||x||_F, (..., 1, 1), at least in float32; one where x is zero, so that it can divide."""
    wide = torch.promote_types(x.dtype, torch.float32)
    length = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True, dtype=wide)
    return torch.where(length == 0, 1.0, length)


def _times(x: Tensor, factor: Tensor) -> Tensor:
    return (x * factor).to(x.dtype)


def _plus_identity(x: Tensor, a: float) -> Tensor:
    x = x.clone()
    x.diagonal(dim1=-2, dim2=-1).add_(a)
    return x


def restarts(polynomials: Polynomials, roundoff: float) -> tuple[int, ...]:
    """The steps after which Gram has to start afresh: as late as rounding allows."""
    # A rounding error of R along a null vector grows by a^2 in each step until R is made afresh.
    cuts, growth = [], roundoff
    for step, (a, _, _) in enumerate(polynomials.terms):
        growth *= a * a
        if growth > GROWTH and step > 0:
            cuts.append(step)
            growth = roundoff * a * a
    return tuple(cuts)


def default_polynomials(short: int, dtype: torch.dtype) -> Polynomials:
    """How many terms a matrix of this short side gets, computed in this dtype."""
    if dtype.itemsize < 4:
        return DEFAULT_HALF
    return NEAR if short <= SMALL or dtype == torch.float64 else DEFAULT


@lru_cache(maxsize=1024)  # once for each shape of a network, not in each step
def choose_form(
    short: int, long: int, polynomials: Polynomials, dtype: torch.dtype, device: str = "cpu"
) -> Form:
    """The form with fewest operations, Gram with the restarts that the precision asks for.

    float64 takes the standard form, which loses fewer digits (R holds squares of singular values);
    so does bfloat16, in which R has too few.  float32 on an accelerator may be rounded to the 10
    bits of TF32 and is counted as such.
    """
    if dtype in (torch.float64, torch.bfloat16):
        return Standard()
    roundoff = 2.0**-24 if dtype == torch.float32 and device == "cpu" else 2.0**-11
    forms: tuple[Form, ...] = (Standard(), Gram(restarts(polynomials, roundoff)))
    return min(forms, key=lambda form: form.products(polynomials).cost(short, long).flops)


def polar_plain(
    x: Tensor,
    *,
    polynomials: Polynomials | None = None,
    scale: float = 1.0,
    form: Form | None = None,
) -> Tensor:
    """scale * U V^T for x = U S V^T: (..., m, n), to the error of `polynomials`; zero gives zero.

    Left out, these are `default_polynomials`: see there, and `polar_error`, for what they miss.
    On CPU, half precision is computed in float32, which is the faster one there.
    A matrix with an entry that is not finite gives one that is not finite.
    """
    check_matrix(x, "polar")
    if x.numel() == 0:
        return x.clone()
    half = x.dtype in (torch.float16, torch.bfloat16)
    working = torch.float32 if half and x.device.type == "cpu" else x.dtype
    short, long = sorted(x.shape[-2:])
    polynomials = polynomials or default_polynomials(short, working)
    form = form or choose_form(short, long, polynomials, working, x.device.type)
    # Normalised before it is rounded: half precision has few exponents.
    unit = _unit(x).to(working).reshape(-1, *x.shape[-2:])
    tall = x.shape[-2] > short
    if x.device.type == "cpu" and short > 2 * STRIP:
        # One by one: large matrices gain more from symmetric_product's strips than from a batch.
        out = torch.stack([_oriented(form, one, tall, polynomials, scale) for one in unit])
    else:
        out = _oriented(form, unit, tall, polynomials, scale)
    return out.reshape(x.shape).to(x.dtype)


def _oriented(form: Form, x: Tensor, tall: bool, polynomials: Polynomials, scale: float) -> Tensor:
    """The form wants its short side first; the polar factor of x^T is that of x, transposed."""
    return form(x.mT, polynomials, scale).mT if tall else form(x, polynomials, scale)


def _unit(x: Tensor) -> Tensor:
    """x / ||x||_F, at least in float32; by the largest entry first, as squares overflow."""
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    largest = x.abs().amax(dim=(-2, -1), keepdim=True)
    x = x / torch.where(largest == 0, 1.0, largest)
    return x / _frobenius(x)


def polar_cost(
    shape: Shape,
    itemsize: int = 4,
    *,
    polynomials: Polynomials | None = None,
    scale: float = 1.0,
    form: Form | None = None,
) -> Cost:
    """Of the products of the chosen form."""
    (short, long), dtype = sorted(shape[-2:]), _dtype(itemsize)
    polynomials = polynomials or default_polynomials(short, dtype)
    form = form or choose_form(short, long, polynomials, dtype)
    one, batch = form.products(polynomials).cost(short, long, itemsize), prod(shape[:-2])
    return Cost(batch * one.flops, batch * one.bytes)


def polar_error(
    shape: Shape, itemsize: int = 4, *, polynomials: Polynomials | None = None, **options: object
) -> Error:
    """Of the singular values, for the polynomials of this shape.

    What arrives is said of the bound that x is divided by: in the worst case, where all singular
    values are equal, that is safety * short^(1 / schatten) times the largest.  Half precision moves
    them by a percent more.
    """
    short, dtype = min(shape[-2:]), _dtype(itemsize)
    used = polynomials or default_polynomials(short, dtype)
    above = used.lower * used.safety * short ** (1 / used.schatten)
    rounding = ROUNDINGS * torch.finfo(dtype).eps if itemsize > 2 else 0.0
    return Error(max(used.error, rounding), min(above, 1.0))


def _dtype(itemsize: int) -> torch.dtype:
    return {2: torch.bfloat16, 4: torch.float32}.get(itemsize, torch.float64)


def exact_polar(x: Tensor) -> Tensor:
    """U_r V_r^T for x = U S V^T of rank r, by SVD in float64: the definition of the polar factor.

    Singular values below max(m, n) eps sigma_max, eps that of x's dtype, count as zero, so that
    what comes out is a partial isometry.
    """
    check_matrix(x, "exact_polar")
    if x.numel() == 0:
        return x.clone()
    u, s, vh = torch.linalg.svd(_unit(x.double()), full_matrices=False)
    floor = max(x.shape[-2:]) * torch.finfo(x.dtype).eps * s[..., :1]
    return ((u * (s > floor).unsqueeze(-2)) @ vh).to(x.dtype)


polar = Op("polar", polar_plain, polar_cost, error=polar_error, can_fail=False)
