"""Linear, Embedding, Conv2d, Bias, Gain: forward, start, geometry."""

import copy

import pytest
import torch

from modula.manifolds.sphere import Sphere
from modula.manifolds.stiefel import Stiefel
from modula.network.algebra import Atom
from modula.network.atoms import Bias, Conv2d, Embedding, Gain, Linear
from modula.network.geometry import Geometry, geometries, semi_orthogonal, unit_direction
from modula.norms.base import Norm
from modula.norms.operator import RMSToRMS, Rows
from modula.norms.spectral import Nuclear, Spectral
from modula.norms.vector import L2, RMS, Max

SHAPES = [(1, 1), (4, 32), (32, 4), (8, 8), (1, 5), (5, 1)]
ONE = torch.tensor(1.0)


def norm_of(atom: Atom) -> torch.Tensor:
    return atom.geometry["weight"].norm(atom.weight.detach())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_starts_semi_orthogonal_at_norm_one(shape: tuple[int, int]) -> None:
    fan_out, fan_in = shape
    layer = Linear(fan_out, fan_in).double()
    layer.reset_parameters()
    short = layer.weight if fan_out <= fan_in else layer.weight.mT
    eye = torch.eye(min(shape), dtype=torch.float64)
    torch.testing.assert_close(short @ short.mT, fan_out / fan_in * eye)
    torch.testing.assert_close(norm_of(layer), ONE.double())


def test_embedding_rows_start_at_rms_one() -> None:
    table = Embedding(16, 50).weight
    assert table.shape == (50, 16)
    torch.testing.assert_close(table.square().mean(1), torch.ones(50))


def test_every_tap_of_a_convolution_starts_semi_orthogonal() -> None:
    layer = Conv2d(8, 4, 3)
    for i in range(3):
        for j in range(3):
            tap = layer.weight[:, :, i, j]
            torch.testing.assert_close(tap.T @ tap, 8 / 4 / 81 * torch.eye(4))
    torch.testing.assert_close(norm_of(layer), ONE)


def test_bias_starts_at_zero_and_gain_at_one() -> None:
    torch.testing.assert_close(Bias(4).weight.detach(), torch.zeros(4))
    torch.testing.assert_close(Gain(4).weight.detach(), torch.ones(4))
    torch.testing.assert_close(norm_of(Gain(4)), ONE)


def test_both_signs_are_drawn() -> None:
    """QR alone would always give the same one."""
    torch.manual_seed(0)
    assert {Linear(1, 1).weight.item() for _ in range(20)} == {1.0, -1.0}


def test_the_cheap_draw_has_the_law_of_the_duality_map() -> None:
    """Second and fourth moments of one entry of Q: 1/n and 3 / (n (n + 2))."""
    torch.manual_seed(0)
    n, draws = 3, 40_000
    corner = semi_orthogonal(torch.randn(draws, n, 2))[:, 0, 0]
    moments = torch.stack((corner.mean(), corner.square().mean(), corner.pow(4).mean()))
    expected = torch.tensor([0.0, 1 / n, 3 / (n * (n + 2))])
    torch.testing.assert_close(moments, expected, atol=0.01, rtol=0)


@pytest.mark.parametrize(
    "norm",
    [
        Spectral(),
        RMSToRMS(),
        Rows(RMS()),
        Max(ndim=2),
        Nuclear(),
        3 * RMSToRMS().on("(h d) i -> h d i", h=2),
    ],
    ids=str,
)
def test_a_drawn_direction_has_norm_one_whatever_the_norm(norm: Norm) -> None:
    drawn = unit_direction(norm, torch.randn(6, 4, dtype=torch.float64))
    torch.testing.assert_close(norm(drawn), ONE.double())
    layer = Linear(6, 4, norm=norm)
    torch.testing.assert_close(norm_of(layer), ONE)


def test_forward_is_the_formula() -> None:
    x = torch.randn(2, 5, 3)
    linear, bias, gain, table = Linear(4, 3), Bias(3), Gain(3), Embedding(4, 9)
    with torch.no_grad():
        bias.weight.normal_()
        gain.weight.normal_()
    torch.testing.assert_close(linear(x), torch.einsum("oi,bti->bto", linear.weight, x))
    torch.testing.assert_close(bias(x)[1, 2], x[1, 2] + bias.weight)
    torch.testing.assert_close(gain(x)[1, 2], x[1, 2] * gain.weight)
    tokens = torch.tensor([[0, 8], [3, 3]])
    torch.testing.assert_close(table(tokens)[1, 0], table.weight[3])
    torch.testing.assert_close(table(tokens)[0, 1], table.weight[8])


def test_convolution_is_the_sum_over_taps() -> None:
    layer, x = Conv2d(2, 3, 3, stride=2, padding=1), torch.randn(1, 3, 5, 5)
    padded = torch.zeros(3, 7, 7)
    padded[:, 1:6, 1:6] = x[0]
    expected = torch.zeros(2, 3, 3)
    for row in range(3):
        for column in range(3):
            window = padded[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            expected[:, row, column] = torch.einsum("ocij,cij->o", layer.weight, window)
    torch.testing.assert_close(layer(x)[0], expected)


def test_declared_geometry() -> None:
    declared = {
        "linear": Linear(2, 3),
        "head": Linear(2, 3, role="head"),
        "embedding": Embedding(2, 3),
        "conv": Conv2d(2, 3, 5),
        "bias": Bias(3),
        "gain": Gain(3),
    }
    shown = {k: (str(g.norm), g.role) for k, a in declared.items() for g in a.geometry.values()}
    assert shown == {
        "linear": ("RMSToRMS()", "hidden"),
        "head": ("RMSToRMS()", "head"),
        "embedding": ("Rows(RMS())", "embedding"),
        "conv": ("25 * RMSToRMS().on('o i h w -> h w o i')", "conv"),
        "bias": ("RMS()", "bias"),
        "gain": ("Max()", "gain"),
    }


def test_a_weight_starts_on_its_manifold() -> None:
    layer = Linear(6, 4, manifold=Stiefel())
    torch.testing.assert_close(layer.weight.T @ layer.weight, torch.eye(4))
    torch.testing.assert_close(Gain(4, manifold=Sphere()).weight.detach().norm(), ONE)
    rows = Embedding(4, 9, norm=Rows(L2()), manifold=Sphere()).weight
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(9))


def test_a_manifold_that_has_no_such_weight_says_so() -> None:
    with pytest.raises(ValueError, match="transpos"):
        Linear(4, 6, manifold=Stiefel())


def test_geometry_survives_copying_loading_and_materialising() -> None:
    net = Linear(4, 32) @ Linear(32, 16, manifold=Stiefel())
    declared = geometries(net)
    assert list(declared) == ["0.weight", "1.weight"]
    assert declared["0.weight"] == Geometry(RMSToRMS(), Stiefel(), "hidden")
    assert geometries(copy.deepcopy(net)) == declared
    zeros = {name: torch.zeros_like(weight) for name, weight in net.named_parameters()}
    net.load_state_dict(zeros, assign=True)
    assert geometries(net) == declared
    empty = net.to("meta").to_empty(device="cpu")
    assert geometries(empty) == declared
    empty.reset_parameters()
    torch.testing.assert_close(norm_of(empty.get_submodule("1")), ONE)


def test_atoms_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        atoms = [Linear(3, 4), Embedding(3, 4), Conv2d(3, 4, 2), Bias(3), Gain(3)]
    for atom in atoms:
        assert atom.weight.is_meta
        atom.to_empty(device="cpu").reset_parameters()
        assert atom.weight.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_every_dtype_can_be_drawn(dtype: torch.dtype) -> None:
    layer = Linear(8, 4).to(dtype)
    layer.reset_parameters()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(
        layer.weight.double().T @ layer.weight.double(),
        2 * torch.eye(4, dtype=torch.float64),
        atol=20 * eps,
        rtol=0,
    )


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Linear(0, 3), "Linear needs fan_out >= 1, an integer; got fan_out=0"),
        (lambda: Linear(3, -1), "fan_in=-1"),
        (lambda: Linear(3.0, 1), "fan_out=3.0"),
        (lambda: Embedding(3, 0), "vocab=0"),
        (lambda: Conv2d(3, 3, 0), "kernel=0"),
        (lambda: Conv2d(3, 3, 3, stride=0), "stride=0"),
        (lambda: Bias(0), "dim=0"),
        (lambda: Gain(0), "dim=0"),
    ],
)
def test_sizes_below_one_are_refused(build, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build()


@pytest.mark.parametrize(
    ("atom", "shape"),
    [(Linear(3, 4), (2, 3)), (Bias(3), (2, 1)), (Gain(3), (2, 1)), (Conv2d(3, 4, 2), (3, 5, 5))],
    ids=str,
)
def test_inputs_of_another_size_are_refused_by_name(atom: Atom, shape: tuple[int, ...]) -> None:
    """Broadcasting would otherwise let (2, 1) through."""
    with pytest.raises(ValueError, match=rf"{type(atom).__name__}.* expects \d entries in dim -"):
        atom(torch.zeros(shape))


def test_embedding_refuses_tokens_that_are_not_integers() -> None:
    with pytest.raises(ValueError, match="expected int64 or int32, got torch.float32"):
        Embedding(3, 4)(torch.zeros(2))


def test_an_unseen_token_has_no_gradient() -> None:
    table = Embedding(3, 4)
    table(torch.tensor([1, 1, 2])).sum().backward()
    assert table.weight.grad is not None
    torch.testing.assert_close(table.weight.grad[:, 0], torch.tensor([0.0, 2.0, 1.0, 0.0]))
