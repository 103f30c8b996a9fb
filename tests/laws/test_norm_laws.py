"""Every norm keeps the promises of Norm.  A new norm joins by one line in NORMS."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

import modula.norms
from modula.norms.base import Norm
from modula.norms.operator import Columns, RMSToRMS, Rows, Spectral
from modula.norms.schatten import Nuclear
from modula.norms.vector import L1, L2, RMS, Frobenius, Max, RMSDual
from strategies import matrices, seeds, vectors


def two_heads(x: Tensor) -> Tensor:
    """(out, in) -> (2 out, in)"""
    return torch.cat((x, -3 * x.flip(0)))


def taps(x: Tensor) -> Tensor:
    """(out, in) -> (out, in, 1, 3), a convolution with a dead tap."""
    return torch.stack((x, 0 * x, -3 * x.flip(0)), -1).unsqueeze(-2)


def scalars() -> st.SearchStrategy[Tensor]:
    return matrices().map(lambda x: x[0, 0])


NORMS: dict[Norm, st.SearchStrategy[Tensor]] = {
    L1(): vectors(),
    L2(): vectors(),
    RMS(): vectors(),
    RMSDual(): vectors(),
    Max(): vectors(),
    RMS(ndim=0): scalars(),
    L1(ndim=2): matrices(),
    Frobenius(): matrices(),
    RMS(ndim=4): matrices().map(taps),
    Max(ndim=2): matrices(),
    Spectral(): matrices(),
    Spectral(L2(), RMS()): matrices(),
    Spectral(RMS(), RMSDual()): matrices(),
    RMSToRMS(): matrices(),
    RMSToRMS().over(4): matrices().map(taps),
    Nuclear(): matrices(),
    Rows(RMS()): matrices(),
    Rows(RMSDual()): matrices(),
    Rows(L1()): matrices(),
    Columns(RMS()): matrices(),
    Columns(Max()): matrices(),
    Columns(2 * L1()): matrices(),
    2 * RMSToRMS(): matrices(),
    9 * RMSToRMS().on("o i h w -> h w o i"): matrices().map(taps),
    RMSToRMS().on("(h d) i -> h d i", h=2): matrices().map(two_heads),
    (3 * Nuclear()).on("(d h) i -> h i d", h=2): matrices().map(two_heads),
    Columns(RMS()).on("(h d) i -> h d i", h=2).on("a b c -> c a b"): matrices().map(
        lambda x: two_heads(x).unsqueeze(-1)
    ),
}
SMOOTH_SHAPES = {0: (), 1: (5,), 2: (4, 3), 3: (4, 3, 1), 4: (4, 3, 1, 3)}

each_norm = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm}-{norm.ndim}")
few = settings(max_examples=8)  # a norm: 27 of them make 216 shapes a law


def concrete_norms() -> Iterator[type[Norm]]:
    """Every concrete class of modula.norms that derives from Norm, however deeply."""
    for module in pkgutil.iter_modules(modula.norms.__path__, "modula.norms."):
        importlib.import_module(module.name)
    found: list[type[Norm]] = [Norm]
    for kind in found:
        found += kind.__subclasses__()
        if not inspect.isabstract(kind) and kind.__module__.startswith("modula."):
            yield kind


def inner(x: Tensor, y: Tensor, ndim: int) -> Tensor:
    """<x, y> over the last `ndim` dims."""
    dims = range(max(x.ndim, y.ndim) - ndim, max(x.ndim, y.ndim))
    return (x * y).sum(tuple(dims)) if ndim else x * y


def like(x: Tensor, seed: int, *batch: int) -> Tensor:
    """Normal entries of the size of x's."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((*batch, *x.shape), dtype=x.dtype, generator=generator) * x.abs().max()


def smooth_point(norm: Norm, seed: int) -> Tensor:
    """A weight of full rank and without ties, where a dual norm has a gradient."""
    shape = SMOOTH_SHAPES[norm.ndim]
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def assert_steepest(norm: Norm, t: Tensor, g: Tensor, tolerance: float = 1e-9) -> None:
    """t has norm one and attains the dual norm of g."""
    g, t = g.double(), t.double()
    one = torch.ones((), dtype=torch.float64)
    assert_close(norm(t), one, rtol=tolerance, atol=0.0)
    assert_close(inner(g, t, norm.ndim), norm.dual(g), rtol=tolerance, atol=0.0)


def test_no_norm_is_left_out() -> None:
    assert {type(norm) for norm in NORMS} == set(concrete_norms())


@each_norm
@few
@given(data=st.data())
def test_duality_map_has_norm_one_and_attains_the_dual_norm(
    norm: Norm, data: st.DataObject
) -> None:
    g = data.draw(NORMS[norm])
    assert_steepest(norm, norm.duality_map(g), g)


@each_norm
@few
@given(data=st.data(), factor=st.floats(0.01, 100))
def test_homogeneous_and_odd(norm: Norm, data: st.DataObject, factor: float) -> None:
    x = data.draw(NORMS[norm])
    assert_close(norm(-factor * x), factor * norm(x))
    assert_close(norm.dual(-factor * x), factor * norm.dual(x))
    assert_steepest(norm, norm.duality_map(factor * x), x)
    assert_close(norm.duality_map(-x), -norm.duality_map(x))


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_triangle_inequality(norm: Norm, data: st.DataObject, seed: int) -> None:
    x = data.draw(NORMS[norm])
    y = like(x, seed)
    for measure in (norm, norm.dual):
        assert measure(x + y) <= (measure(x) + measure(y)) * (1 + 1e-12)


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_no_tensor_beats_the_dual_norm(norm: Norm, data: st.DataObject, seed: int) -> None:
    g = data.draw(NORMS[norm])
    t = like(g, seed, 50)
    t = torch.cat((t, t.sign(), 0.1 * t + 10 * norm.duality_map(g) * g.abs().max()))
    assert (inner(g, t, norm.ndim) <= norm.dual(g) * norm(t) * (1 + 1e-12)).all()


@each_norm
def test_dual_norm_by_brute_force(norm: Norm) -> None:
    """Not one of 10 000 tensors beats it; that it is reached, the first law says."""
    g = smooth_point(norm, 1)
    t = like(g, 2, 5_000)
    t = torch.cat((t, t**5))  # spread out, and with few large entries
    best = (inner(g, t, norm.ndim) / norm(t)).max()
    assert 0.3 * norm.dual(g) < best <= norm.dual(g) * (1 + 1e-12)


@each_norm
@pytest.mark.parametrize("seed", range(3))
def test_duality_map_is_the_gradient_of_the_dual_norm(norm: Norm, seed: int) -> None:
    g, step = smooth_point(norm, seed), 1e-6
    e = like(g, seed + 100)
    slope = (norm.dual(g + step * e) - norm.dual(g - step * e)) / (2 * step)
    assert_close(slope, inner(e, norm.duality_map(g), norm.ndim), rtol=1e-6, atol=1e-7)


@each_norm
@few
@given(data=st.data(), factor=st.floats(0.01, 100))
def test_rescaling_rule(norm: Norm, data: st.DataObject, factor: float) -> None:
    x = data.draw(NORMS[norm])
    assert_close((factor * norm)(x), factor * norm(x))
    assert_close((factor * norm).dual(x), norm.dual(x) / factor)
    assert_close((factor * norm).duality_map(x), norm.duality_map(x) / factor)


@each_norm
@few
@given(data=st.data(), seed=seeds())
def test_a_batch_is_a_loop(norm: Norm, data: st.DataObject, seed: int) -> None:
    x = data.draw(NORMS[norm])
    batch = torch.stack((x, 0 * x, *like(x, seed, 2))).unflatten(0, (2, 2))
    for measure in (norm, norm.dual, norm.duality_map):
        loop = torch.stack([measure(one) for one in batch.flatten(0, 1)]).unflatten(0, (2, 2))
        assert_close(measure(batch), loop)


@each_norm
def test_inputs_are_unchanged_and_not_shared(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    before = x.clone()
    for measure in (norm, norm.dual, norm.duality_map):
        measure(x).mul_(2)
    assert torch.equal(x, before)


@each_norm
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_zero_in_zero_out(norm: Norm, dtype: torch.dtype) -> None:
    zero = torch.zeros(SMOOTH_SHAPES[norm.ndim], dtype=dtype)
    number = torch.zeros((), dtype=dtype)
    assert_close(norm(zero), number, rtol=0, atol=0)
    assert_close(norm.dual(zero), number, rtol=0, atol=0)
    assert_close(norm.duality_map(zero), zero, rtol=0, atol=0)


@each_norm
@few
@given(data=st.data(), scale=st.sampled_from([1e-30, 1e-20, 1.0, 1e20, 1e30]))
def test_float32_is_near_float64_at_every_scale(
    norm: Norm, data: st.DataObject, scale: float
) -> None:
    x = data.draw(NORMS[norm])
    x = x / x.abs().max()
    x32 = (scale * x).float()
    x = x32.double() / scale
    for measure in (norm, norm.dual):
        assert measure(x32).dtype == torch.float32
        assert_close(measure(x32).double() / scale, measure(x), rtol=1e-5, atol=0.0)
    assert norm.duality_map(x32).dtype == torch.float32
    assert_steepest(norm, norm.duality_map(x32), x, tolerance=1e-5)


@each_norm
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_computed_in_float32(norm: Norm, dtype: torch.dtype) -> None:
    x = smooth_point(norm, 0).to(dtype)
    for measure in (norm, norm.dual, norm.duality_map):
        assert_close(measure(x), measure(x.double()).to(dtype))


@each_norm
def test_a_nan_is_never_hidden(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    x.view(-1)[0] = torch.nan
    measures: tuple[Callable[[Tensor], Tensor], ...] = (norm, norm.dual, norm.duality_map)
    for measure in measures:
        try:
            assert measure(x).isnan().any()
        except torch.linalg.LinAlgError as error:  # torch's SVD refuses it: as good
            assert "non-finite" in str(error)


@each_norm
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)], ids=str)
def test_empty_weights(norm: Norm, shape: tuple[int, int]) -> None:
    x = torch.zeros(*shape, *(1,) * (norm.ndim - 2))
    assert norm.duality_map(x).shape == x.shape
    if norm.ndim >= 2:
        assert norm(x) == norm.dual(x) == 0


@each_norm
def test_wrong_tensors_are_refused_by_name(norm: Norm) -> None:
    wrong = [torch.ones(SMOOTH_SHAPES[norm.ndim], dtype=torch.int64)]
    wrong += [torch.ones((2,) * (norm.ndim - 1))] if norm.ndim else []
    for x in wrong:
        for measure in (norm, norm.dual, norm.duality_map):
            with pytest.raises(ValueError, match="measures the last . dims of a floating-point"):
                measure(x)


@each_norm
def test_norms_are_values(norm: Norm) -> None:
    assert norm.over(norm.ndim) == norm
    again = eval(str(norm), vars(modula.norms))
    if again.ndim == norm.ndim:  # vector norms do not print theirs
        assert again == norm and hash(again) == hash(norm)
    else:
        assert again.over(norm.ndim) == norm
