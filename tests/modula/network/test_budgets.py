"""Mass, sensitivity and budgets against their flat definition, and what budgets promise."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from modula.network.algebra import Add, Identity, Module, Scale
from modula.network.atoms import Conv2d, Embedding, Gain, Linear
from modula.network.bonds import GELU, ReLU, SiLU, Softmax
from modula.network.compounds import GPT, MLP, ResNet, SelfAttention, residual
from modula.network.geometry import Geometry, geometries
from modula.norms.base import Norm
from modula.norms.operator import Rows
from modula.norms.vector import RMS
from strategies import seeds

WIDTH, POSITIONS = 4, 3
SEQUENCE = Rows(RMS())  # the largest RMS of a position


@dataclass(frozen=True)
class Drawn:
    """A network beside its flat description: (mass, sensitivity of all that follows) per atom."""

    net: Module
    atoms: tuple[tuple[float, float], ...]
    sensitivity: float

    def before(self, factor: float) -> tuple[tuple[float, float], ...]:
        return tuple((mass, after * factor) for mass, after in self.atoms)


def composed(after: Drawn, before: Drawn) -> Drawn:
    atoms = before.before(after.sensitivity) + after.atoms
    return Drawn(after.net @ before.net, atoms, after.sensitivity * before.sensitivity)


def tupled(terms: list[Drawn]) -> Drawn:
    net = Add() @ tuple(term.net for term in terms)
    atoms = tuple(atom for term in terms for atom in term.atoms)
    return Drawn(net, atoms, sum(term.sensitivity for term in terms))


def summed(a: Drawn, b: Drawn) -> Drawn:
    return Drawn(a.net + b.net, a.atoms + b.atoms, a.sensitivity + b.sensitivity)


def scaled(of: Drawn, factor: float) -> Drawn:
    return Drawn(factor * of.net, of.before(abs(factor)), abs(factor) * of.sensitivity)


def power(base: Drawn, depth: int) -> Drawn:
    later = [base.sensitivity ** (depth - 1 - copy) for copy in range(depth)]
    atoms = tuple(atom for factor in later for atom in base.before(factor))
    return Drawn(base.net**depth, atoms, base.sensitivity**depth)


def tared(of: Drawn, mass: float) -> Drawn:
    total = sum(m for m, _ in of.atoms)
    if total == 0:  # refused, see test_algebra
        return of
    atoms = tuple((m * mass / total, after) for m, after in of.atoms)
    return Drawn(of.net.tare(mass), atoms, of.sensitivity)


def leaves() -> st.SearchStrategy[Drawn]:
    atom = st.builds(lambda: Drawn(Linear(WIDTH, WIDTH), ((1.0, 1.0),), 1.0))
    gain = st.builds(lambda: Drawn(Gain(WIDTH), ((1.0, 1.0),), 1.0))
    relu = st.builds(lambda: Drawn(ReLU(), (), 1.0))
    sharp = st.builds(lambda: Drawn(Softmax(0.5), (), 0.5))
    return st.one_of(atom, atom, gain, relu, sharp)


def larger(of: st.SearchStrategy[Drawn]) -> st.SearchStrategy[Drawn]:
    factor = st.sampled_from([-3.0, -0.25, 0.5, 2.0])
    return st.one_of(
        st.builds(composed, of, of),
        st.builds(summed, of, of),
        st.builds(tupled, st.lists(of, min_size=1, max_size=3)),
        st.builds(scaled, of, factor),
        st.builds(power, of, st.integers(0, 3)),
        st.builds(tared, of, st.sampled_from([0.0, 0.5, 3.0])),
    )


@given(st.recursive(leaves(), larger, max_leaves=8))
def test_the_recursion_equals_the_flat_definition(drawn: Drawn) -> None:
    """t_l = (m_l / m) / product of sensitivities after l, for every atom of any expression."""
    mass = sum(m for m, _ in drawn.atoms)
    assert drawn.net.mass == pytest.approx(mass)
    assert drawn.net.sensitivity == pytest.approx(drawn.sensitivity)
    expected = [m / mass / after if mass else 0.0 for m, after in drawn.atoms]
    budgets = drawn.net.budgets()
    assert list(budgets.values()) == pytest.approx(expected)
    assert list(budgets) == [name for name, _ in drawn.net.named_parameters()]


@pytest.mark.parametrize("depth", [1, 2, 6])
def test_gpt_budgets_do_not_depend_on_depth(depth: int) -> None:
    net = GPT(vocab=5, context=4, width=8, depth=depth, heads=2)
    assert (net.mass, net.sensitivity) == pytest.approx((7, 1))
    expected = {"embedding.weight": 1 / 7, "head.weight": 1 / 7}
    for layer in range(depth):
        for name in ("attention.query", "attention.key", "attention.value"):
            expected[f"blocks.{layer}.{name}.weight"] = 5 / 7
        for name in ("attention.output", "mlp.up", "mlp.down"):
            expected[f"blocks.{layer}.{name}.weight"] = 5 / 21
    assert net.budgets() == pytest.approx(expected, rel=1e-12)


def test_layers_in_a_chain_share_equally() -> None:
    assert MLP(10, 256, 256, 784).budgets() == pytest.approx(
        {f"layers.{place}.weight": 1 / 3 for place in range(3)}
    )


def test_resnet_budgets_do_not_depend_on_depth() -> None:
    for depth in (1, 3):
        net = ResNet(classes=3, channels=2, widths=(4, 6), depth=depth)
        assert (net.mass, net.sensitivity) == pytest.approx((8, 1))
        for name, budget in net.budgets().items():
            assert budget == pytest.approx(5 / 16 if name.startswith("stages") else 1 / 8)


def test_a_lost_scale_or_a_swapped_order_changes_the_budgets() -> None:
    a, b = Linear(3, 3), Linear(3, 3).tare(3.0)
    right = (a @ (0.5 * b)).budgets()
    assert right == {"0.weight": 1.5, "2.weight": 0.25}
    for wrong in (a @ b, 0.5 * (a @ b), (0.5 * b) @ a, a @ (2.0 * b)):
        assert list(wrong.budgets().values()) != list(right.values())


def test_budgets_of_shares_that_cancel() -> None:
    """The 1 / L of a residual stack is undone by the sensitivity: no layer moves less for it."""
    for depth in (2, 5, 50):
        net = residual(Linear(3, 3), 1 / depth) ** depth
        assert net.sensitivity == pytest.approx(1)
        assert list(net.budgets().values()) == pytest.approx([1.0] * depth)


# What budgets promise: ||f(w') - f(w)|| <= max_l ||w'_l - w_l|| / t_l inside the unit balls.


def unit_ball(norm: Norm, shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A weight of norm <= 1: any direction, a steepest one, or one of rank one."""
    kind = int(torch.randint(0, 3, (), generator=generator))
    x = torch.randn(shape, dtype=torch.float64, generator=generator)
    if kind == 0 and x.ndim == 2:
        x = x[:, :1] @ x[:1]
    x = norm.duality_map(x) if kind == 1 else x / norm(x)
    full = torch.rand((), generator=generator) < 0.7
    return x if full else torch.rand((), generator=generator, dtype=torch.float64) * x


def point(net: nn.Module, generator: torch.Generator) -> dict[str, Tensor]:
    shapes = {name: weight.shape for name, weight in net.named_parameters()}
    declared: dict[str, Geometry] = geometries(net)
    return {
        name: unit_ball(declared[name].norm, shape, generator) for name, shape in shapes.items()
    }


def modular_norm(net: Module) -> Callable[[dict[str, Tensor]], Tensor]:
    """max_l ||w_l|| / t_l"""
    measures = [(name, net.budgets()[name], g.norm) for name, g in geometries(net).items()]
    return lambda weights: torch.stack([norm(weights[n]) / t for n, t, norm in measures]).max()


def largest_ratio(net: Module, x: Tensor, outer: Norm, draws: int, seed: int) -> float:
    """The largest ||f(w') - f(w)|| / ||w' - w|| found over pairs of points of the unit balls."""
    generator, length, found = torch.Generator().manual_seed(seed), modular_norm(net), 0.0
    for draw in range(draws):
        here, there = point(net, generator), point(net, generator)
        step = (1.0, 0.1, 0.001)[draw % 3]
        there = {name: w + step * (there[name] - w) for name, w in here.items()}
        gone = {name: there[name] - w for name, w in here.items()}
        with torch.no_grad():
            change = functional_call(net, there, (x,)) - functional_call(net, here, (x,))
        found = max(found, (outer(change).max() / length(gone)).item())
    return found


def sequences(batch: int, seed: int) -> Tensor:
    """(batch, positions, width), every position of RMS at most one."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, POSITIONS, WIDTH, dtype=torch.float64, generator=generator)
    return x / SEQUENCE(x)[:, None, None]


def tame_leaves() -> st.SearchStrategy[Module]:
    kinds = (
        lambda: Linear(WIDTH, WIDTH),
        lambda: Gain(WIDTH),
        ReLU,
        GELU,
        SiLU,
        Identity,
        lambda: SelfAttention(WIDTH, heads=1),
    )
    return st.one_of(*(st.builds(kind) for kind in kinds))


def tame(of: st.SearchStrategy[Module]) -> st.SearchStrategy[Module]:
    """Networks in which nothing inside leaves the unit ball, as well-normedness asks."""
    return st.one_of(
        st.builds(lambda after, before: after @ before, of, of),
        st.builds(lambda a, b, share: (1 - share) * a + -share * b, of, of, st.floats(0.1, 0.9)),
        st.builds(lambda a, factor: factor * a, of, st.sampled_from([-1.0, 0.5])),
        st.builds(lambda block, share: residual(block, share), of, st.floats(0.1, 0.9)),
    )


@settings(max_examples=80)
@given(st.recursive(tame_leaves(), tame, max_leaves=6), seeds(), st.floats(0.1, 3.0))
def test_no_step_changes_the_output_by_more_than_its_modular_norm(
    net: Module, seed: int, loud: float
) -> None:
    torch.manual_seed(seed)
    net, x, y = (loud * net).double(), sequences(4, seed), sequences(4, seed + 1)
    net.reset_parameters()
    if net.mass > 0:
        assert largest_ratio(net, x, SEQUENCE, draws=6, seed=seed) <= 1 + 1e-9
    moved = SEQUENCE(net(y) - net(x))
    assert (moved <= net.sensitivity * SEQUENCE(y - x) * (1 + 1e-9)).all()


TOKENS = torch.randint(0, 9, (2, 5), generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(2, 2, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
WHOLE = {
    "mlp": (lambda: MLP(5, 16, 8, WIDTH), sequences(4, 0), SEQUENCE, 180),
    "attention": (lambda: SelfAttention(WIDTH, heads=2), sequences(4, 1), SEQUENCE, 150),
    "gpt": (lambda: GPT(vocab=9, context=8, width=8, depth=2, heads=2), TOKENS, SEQUENCE, 60),
    "resnet": (
        lambda: ResNet(classes=3, channels=2, widths=(4, 6), depth=1),
        IMAGES / IMAGES.square().mean(1).sqrt().max(),
        RMS(),
        60,
    ),
    "embedding": (lambda: Linear(4, 6) @ Embedding(6, 9), TOKENS, SEQUENCE, 90),
}


@pytest.mark.parametrize(("build", "x", "outer", "draws"), WHOLE.values(), ids=WHOLE.keys())
def test_whole_networks_keep_the_promise(build, x: Tensor, outer: Norm, draws: int) -> None:
    assert 0 < largest_ratio(build().double(), x, outer, draws, seed=0) <= 1 + 1e-9


@pytest.mark.parametrize(
    "net",
    [
        MLP(*[WIDTH] * 5),
        residual(ReLU() @ Linear(WIDTH, WIDTH), 0.25) ** 4,
        (0.5 * Linear(WIDTH, WIDTH) + 0.5 * Linear(WIDTH, WIDTH)) @ Linear(WIDTH, WIDTH).tare(5.0),
        Linear(WIDTH, 2) @ (2.0 * (ReLU() @ (0.5 * Linear(2, WIDTH)))),
    ],
    ids=["chain", "residual", "parallel", "there and back"],
)
def test_no_smaller_promise_would_hold(net: Module) -> None:
    """All weights along one direction: the bound is reached as the step shrinks."""
    net, x, step = net.double(), torch.ones(1, WIDTH, dtype=torch.float64), 1e-6
    here = {n: torch.ones_like(w) / w.shape[1] for n, w in net.named_parameters()}
    there = {n: w * (1 - step * net.budgets()[n]) for n, w in here.items()}
    gone = {n: there[n] - w for n, w in here.items()}
    assert modular_norm(net)(gone).item() == pytest.approx(step)
    change = SEQUENCE(functional_call(net, there, (x,)) - functional_call(net, here, (x,)))
    assert change.item() == pytest.approx(step, rel=1e-4)


def test_a_convolution_is_bounded_by_its_taps_and_reaches_the_bound() -> None:
    net = Conv2d(3, 3, 3, padding=1).double()
    weight = torch.ones_like(net.weight) / 27
    image = torch.ones(1, 3, 4, 4, dtype=torch.float64)
    out = functional_call(net, {"weight": weight}, (image,))
    assert geometries(net)["weight"].norm(weight).item() == pytest.approx(1)
    assert out.square().mean(1).sqrt().max().item() == pytest.approx(1)


def test_scaling_the_whole_network_scales_the_budgets_down() -> None:
    a, b = Linear(3, 3), Linear(3, 3)
    loud = Scale(-4.0) @ a @ b
    assert list(loud.budgets().values()) == [0.125, 0.125]
