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
from modula.norms.base import NoClosedForm, Norm
from modula.norms.coordinates import Elementwise, InCoordinates, Quadratic
from modula.norms.from_dual import FromDual
from modula.norms.operator import Columns, RMSToRMS, Rows, Spectral
from modula.norms.over_blocks import RootOverBlocks, SumOverBlocks
from modula.norms.schatten import Nuclear
from modula.norms.singular_values import KyFan, KyFanDual, Schatten
from modula.norms.vector import L1, L2, RMS, Frobenius, Max, RMSDual
from strategies import matrices, seeds, vectors


def two_heads(x: Tensor) -> Tensor:
    """(out, in) -> (2 out, in)"""
    return torch.cat((x, -3 * x.flip(0)))


def two_by_two(x: Tensor) -> Tensor:
    """(out, in) -> (2 out, 2 in): at least two singular values."""
    return two_heads(two_heads(x).mT).mT


def taps(x: Tensor) -> Tensor:
    """(out, in) -> (out, in, 1, 3), a convolution with a dead tap."""
    return torch.stack((x, 0 * x, -3 * x.flip(0)), -1).unsqueeze(-2)


def ellipsoid(g: Tensor) -> Tensor:
    """A dual norm that a user may write: (out, in) -> number."""
    return torch.linalg.vector_norm(torch.cat((g, g.mean(0, keepdim=True))))


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
    Nuclear(RMS(), RMS()): matrices(),
    Schatten(1): matrices(),
    Schatten(1.2): matrices(),
    Schatten(3): matrices(),
    KyFan(2): matrices().map(two_by_two),
    KyFanDual(2): matrices().map(two_by_two),
    FromDual(ellipsoid): matrices(),
    InCoordinates(Frobenius(), Elementwise(torch.tensor(0.3, dtype=torch.float64))): matrices(),
    Quadratic(Elementwise(torch.tensor(0.3, dtype=torch.float64))): matrices(),
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
    SumOverBlocks(L2().on("o i -> o i")): matrices(),
    SumOverBlocks(RMSToRMS().on("o i h w -> h w o i")): matrices().map(taps),
    RootOverBlocks(Nuclear().on("(h d) i -> h d i", h=2)): matrices().map(two_heads),
    Columns(RMS()).on("(h d) i -> h d i", h=2).on("a b c -> c a b"): matrices().map(
        lambda x: two_heads(x).unsqueeze(-1)
    ),
}
SMOOTH_SHAPES = {0: (), 1: (5,), 2: (4, 3), 3: (4, 3, 1), 4: (4, 3, 1, 3)}

UNPROJECTED = FromDual | InCoordinates | Quadratic | RootOverBlocks
projectable = pytest.mark.parametrize(
    "norm",
    [norm for norm in NORMS if not isinstance(norm, UNPROJECTED)],
    ids=lambda norm: f"{norm}-{norm.ndim}",
)
each_norm = pytest.mark.parametrize("norm", NORMS, ids=lambda norm: f"{norm}-{norm.ndim}")
few = settings(max_examples=8)  # a norm: 34 of them make 272 shapes a law


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


def in_ball(norm: Norm, y: Tensor, radius: float) -> Tensor:
    """The batch y, what lies outside the ball pulled on it."""
    shrink = (radius / norm(y)).nan_to_num(nan=1.0).clamp(max=1)
    return y * shrink[(..., *(None,) * norm.ndim)]


shares = st.floats(0.01, 1.2)  # of ||x||: the radius of a ball, beyond 1 with x inside it


@projectable
@few
@given(data=st.data(), share=shares, seed=seeds())
def test_projection_is_the_nearest_point_of_the_ball(
    norm: Norm, data: st.DataObject, share: float, seed: int
) -> None:
    """In the ball, and at no acute angle to any way on from there into the ball."""
    x = data.draw(NORMS[norm])
    radius = share * float(norm(x))
    p = norm.project(x, radius)
    assert norm(p) <= radius * (1 + 1e-12)
    assert_close(norm.project(p, radius), p, rtol=0, atol=1e-12 * float(x.abs().max()))
    y = like(x, seed, 50)
    y = in_ball(norm, torch.cat((y, radius * norm.duality_map(x - p + 0.1 * y))), radius)
    rounding = 1e-10 * float(x.square().sum())
    assert (inner(x - p, y - p, norm.ndim) <= rounding).all()
    assert_close(inner(x - p, p, norm.ndim), radius * norm.dual(x - p), rtol=1e-9, atol=rounding)


@projectable
@few
@given(data=st.data(), share=shares, seed=seeds())
def test_projection_is_non_expansive(
    norm: Norm, data: st.DataObject, share: float, seed: int
) -> None:
    x = data.draw(NORMS[norm])
    y, radius = like(x, seed), share * float(norm(x))
    moved = norm.project(x, radius) - norm.project(y, radius)
    assert moved.square().sum() <= (x - y).square().sum() * (1 + 1e-10)


@projectable
def test_a_point_of_the_ball_is_its_own_projection_to_the_bit(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    for each in (x, x.float(), x.bfloat16()):
        assert torch.equal(norm.project(each, 1.01 * float(norm(x))), each)
        assert_close(norm.prox(each, 0.0), each)
    assert_close(norm.project(x, 0.0), 0 * x, rtol=0, atol=1e-15)
    assert_close(norm.prox(x, 1.01 * float(norm.dual(x))), 0 * x, rtol=0, atol=1e-14)


@projectable
@few
@given(data=st.data(), share=shares)
def test_moreau(norm: Norm, data: st.DataObject, share: float) -> None:
    """x - prox(x) is in the dual ball, and attains step ||prox(x)|| there."""
    x = data.draw(NORMS[norm])
    step = share * float(norm.dual(x))
    y = norm.prox(x, step)
    assert norm.dual(x - y) <= step * (1 + 1e-9)
    rounding = 1e-10 * float(x.square().sum())
    assert_close(inner(x - y, y, norm.ndim), step * norm(y), rtol=1e-9, atol=rounding)
    try:
        dual = norm.dual_norm()
    except NoClosedForm:
        return
    assert_close(y + dual.project(x, step), x, rtol=0, atol=1e-9 * float(x.abs().max()))


@each_norm
@few
@given(data=st.data())
def test_the_dual_norm_swaps_value_and_dual(norm: Norm, data: st.DataObject) -> None:
    x = data.draw(NORMS[norm])
    try:
        dual = norm.dual_norm()
    except NoClosedForm as error:
        assert "is no object: use" in str(error)
        return
    assert_close(dual(x), norm.dual(x))
    assert_close(dual.dual(x), norm(x))


@projectable
@few
@given(data=st.data(), seed=seeds())
def test_a_batch_is_projected_as_a_loop_each_with_its_radius(
    norm: Norm, data: st.DataObject, seed: int
) -> None:
    x = data.draw(NORMS[norm])
    batch = torch.stack((x, 0 * x, *like(x, seed, 2))).unflatten(0, (2, 2))
    for move, measure in ((norm.project, norm), (norm.prox, norm.dual)):
        size = torch.tensor([[0.5, 1.0], [0.2, 1.1]], dtype=x.dtype) * measure(x)
        pairs = zip(batch.flatten(0, 1), size.flatten(), strict=True)
        loop = torch.stack([move(one, float(r)) for one, r in pairs]).unflatten(0, (2, 2))
        assert_close(move(batch, size), loop, rtol=1e-9, atol=1e-10 * float(x.abs().max()))


@projectable
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_projection_in_float32_is_near_float64_at_every_scale(norm: Norm, scale: float) -> None:
    x = smooth_point(norm, 0)
    for move, measure in ((norm.project, norm), (norm.prox, norm.dual)):
        size = 0.5 * float(measure(x))
        y = move((scale * x).float(), scale * size)
        assert y.dtype == torch.float32
        assert_close(y.double() / scale, move(x, size), rtol=1e-4, atol=1e-5)


@each_norm
def test_balls_and_steps_are_not_negative(norm: Norm) -> None:
    x = smooth_point(norm, 0)
    for move, what in ((norm.project, "radius"), (norm.prox, "step")):
        for number in (-1.0, float("nan"), torch.tensor(-1.0)):
            with pytest.raises(ValueError, match=f"{what}=.* a {what} is 0 or more"):
                move(x, number)


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


@pytest.mark.parametrize(
    "norm", [norm for norm in NORMS if not isinstance(norm, InCoordinates | Quadratic)], ids=str
)  # which holds tensors
def test_norms_are_values(norm: Norm) -> None:
    assert norm.over(norm.ndim) == norm
    again = eval(str(norm), vars(modula.norms) | {"ellipsoid": ellipsoid})
    if again.ndim == norm.ndim:  # vector norms do not print theirs
        assert again == norm and hash(again) == hash(norm)
    else:
        assert again.over(norm.ndim) == norm
