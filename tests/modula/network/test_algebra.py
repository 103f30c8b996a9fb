"""Composition, tuples, sums, scalings, powers: what they compute, and what they are called."""

import copy
import pickle
from math import inf, nan

import pytest
import torch
from torch import Tensor, nn

from modula.network.algebra import Add, Atom, Bond, Compose, Identity, Module, Parallel, Scale
from modula.network.atoms import Bias, Linear
from modula.network.bonds import ReLU
from modula.network.geometry import geometries

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def names(net: nn.Module) -> list[str]:
    return [name for name, _ in net.named_parameters()]


def test_composition_applies_the_right_operand_first_and_numbers_in_that_order() -> None:
    first, second = Linear(4, 3), Linear(2, 4)
    net = second @ ReLU() @ first
    torch.testing.assert_close(net(X), (X @ first.weight.T).relu() @ second.weight.T)
    assert names(net) == ["0.weight", "2.weight"]
    assert net.get_submodule("0") is first


def test_composition_is_associative_down_to_the_names() -> None:
    a, b, c, d = (Linear(3, 3) for _ in range(4))
    left, right = ((a @ b) @ c) @ d, a @ (b @ (c @ d))
    assert isinstance(left, Compose) and left.parts == right.parts == (d, c, b, a)


def test_a_tuple_on_either_side_stands_in_parallel() -> None:
    a, b, c, d = (Linear(3, 3) for _ in range(4))
    for given, expected in zip(((a, b) @ c)(X), (a(c(X)), b(c(X))), strict=True):
        torch.testing.assert_close(given, expected)
    first, (second, third) = (Identity() @ (a, (b, c)))(X)
    torch.testing.assert_close((first, second, third), (a(X), b(X), c(X)))
    torch.testing.assert_close((Add() @ (a, b, c) @ d)(X), a(d(X)) + b(d(X)) + c(d(X)))
    assert names((a, b) @ c) == ["0.weight", "1.0.weight", "1.1.weight"]


def test_sums_and_scalars_compute_what_they_say() -> None:
    a, b = Linear(2, 3), Linear(2, 3)
    torch.testing.assert_close((a + b)(X), a(X) + b(X))
    torch.testing.assert_close((-0.5 * a)(X), -0.5 * a(X))
    torch.testing.assert_close((2 * (a + b))(X), 2 * (a(X) + b(X)))
    assert names(a + b) == ["0.0.weight", "0.1.weight"]


def test_negative_scale_keeps_sensitivity_positive() -> None:
    net = -2.0 * (Linear(3, 4) @ Linear(4, 5))
    assert (net.sensitivity, net.mass) == (2.0, 2.0)
    assert list((Linear(2, 3) @ (-2.0 * Linear(3, 4))).budgets().values()) == [0.25, 0.5]


@pytest.mark.parametrize(
    ("factor", "error", "text"),
    [
        (0, ValueError, "cuts the network in two: nothing before it can learn"),
        (0.0, ValueError, "cuts the network in two"),
        (inf, ValueError, "finite"),
        (nan, ValueError, "finite"),
        ("2", TypeError, "real number"),
        (True, TypeError, "real number"),
    ],
)
def test_scale_refuses(factor: float, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        factor * Linear(3, 3)


def test_a_power_is_that_many_fresh_copies() -> None:
    torch.manual_seed(0)
    block = Linear(3, 3) @ ReLU()
    net = block**3
    assert names(net) == ["0.1.weight", "1.1.weight", "2.1.weight"]
    weights = [block.get_parameter("1.weight"), *net.parameters()]
    for i, one in enumerate(weights):
        for other in weights[:i]:
            assert not torch.allclose(one, other)
    expected = X
    for weight in net.parameters():
        expected = expected.relu() @ weight.T
    torch.testing.assert_close(net(X), expected)


def test_powers_zero_and_one() -> None:
    torch.testing.assert_close((Linear(3, 3) ** 0)(X), X)
    assert (Linear(3, 3) ** 0).mass == 0
    assert names(Linear(3, 3) ** 1) == ["0.weight"]


@pytest.mark.parametrize("depth", [-1, 2.0, "2", True])
def test_a_power_must_be_a_natural_number(depth: int) -> None:
    with pytest.raises(ValueError, match="integer >= 0"):
        Linear(3, 3) ** depth


def test_other_operands_are_refused_with_the_reason() -> None:
    for build in (
        lambda: Linear(3, 3) @ nn.ReLU(),
        lambda: Linear(3, 3) @ (ReLU(), nn.ReLU()),
        lambda: Linear(3, 3) + torch.ones(3),
        lambda: Linear(3, 3) @ torch.ones(3),
        lambda: torch.ones(3) @ Linear(3, 3),
        lambda: 3 @ Linear(3, 3),
    ):
        with pytest.raises(TypeError, match="expected a modula Module or a tuple of them"):
            build()


def test_a_module_cannot_stand_in_a_network_twice() -> None:
    layer = Linear(3, 3)
    for build in (
        lambda: layer @ layer,
        lambda: layer + (ReLU() @ layer),
        lambda: layer @ (ReLU(), 0.5 * layer),
    ):
        with pytest.raises(ValueError, match=r"Linear\(3, 3\) stands in the network twice"):
            build()


def test_a_module_without_weights_may_stand_there_twice() -> None:
    relu = ReLU()
    a, b = Linear(3, 3), Linear(3, 3)
    torch.testing.assert_close((relu @ a @ relu @ b)(X), a(b(X).relu()).relu())


def test_empty_compositions_are_refused() -> None:
    for kind in (Compose, Parallel):
        with pytest.raises(ValueError, match="at least one module"):
            kind()


def test_tare_rescales_everything_below_and_returns_the_module() -> None:
    a, b, c = Linear(3, 3), Linear(3, 3), Linear(3, 3)
    inner = (a @ b).tare(6.0)
    net = inner @ c
    assert (a.mass, b.mass, net.mass) == (3.0, 3.0, 7.0)
    assert net.tare(1.0) is net
    torch.testing.assert_close(torch.tensor([a.mass, c.mass]), torch.tensor([3 / 7, 1 / 7]))


def test_tare_refuses_what_cannot_be_done() -> None:
    with pytest.raises(ValueError, match="ReLU has mass 0"):
        ReLU().tare(1.0)
    for mass in (-1.0, inf, nan):
        with pytest.raises(ValueError, match="finite number >= 0"):
            Linear(3, 3).tare(mass)


def test_mass_zero_freezes_and_the_rest_shares_the_budget() -> None:
    frozen = Linear(3, 3).tare(0.0)
    net = Linear(3, 3) @ frozen @ Linear(3, 3)
    assert net.budgets() == {"0.weight": 0.5, "1.weight": 0.0, "2.weight": 0.5}
    assert frozen.budgets() == {"weight": 0.0}
    with pytest.raises(ValueError, match="mass 0"):
        frozen.tare(1.0)


def test_reset_parameters_draws_again_in_place() -> None:
    torch.manual_seed(0)
    net = Linear(4, 3) @ (Bias(3) @ Linear(3, 3))
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    with torch.no_grad():
        net.get_parameter("1.weight").fill_(3.0)
    same = net.get_parameter("0.weight")
    net.reset_parameters()
    assert net.get_parameter("0.weight") is same and same.requires_grad
    assert not torch.allclose(before["0.weight"], same)
    torch.testing.assert_close(net.get_parameter("1.weight").detach(), torch.zeros(3))


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_whole_and_separate(duplicate) -> None:
    net = (0.5 * Linear(3, 3) + ReLU() @ Linear(3, 3)).tare(3.0)
    twin = duplicate(net)
    torch.testing.assert_close(twin(X), net(X))
    assert twin.budgets() == net.budgets() and twin.mass == 3.0
    assert geometries(twin) == geometries(net)
    with torch.no_grad():
        next(twin.parameters()).zero_()
    assert not torch.allclose(twin(X), net(X))


def test_tied_weights_have_no_budget() -> None:
    a, b = Linear(3, 3), Linear(3, 3)
    b.weight = a.weight
    with pytest.raises(ValueError, match=r"0\.weight and 1\.weight are one tensor"):
        (a @ b).budgets()


class Square(Bond):
    """x^2 on [-1, 1], a user's own bond."""

    def __init__(self) -> None:
        super().__init__(sensitivity=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return x.square()


class Shift(Atom):
    """x + w for one number w, a user's own atom."""

    def __init__(self) -> None:
        super().__init__((1,), geometries(Bias(1))["weight"])

    def fresh(self) -> Tensor:
        return torch.full_like(self.weight, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.weight


def test_a_users_own_bond_and_atom_join_the_algebra() -> None:
    net = Square() @ Shift()
    torch.testing.assert_close(net(X), (X + 0.5).square())
    assert net.budgets() == {"0.weight": 0.5} and net.sensitivity == 2.0


def test_module_is_abstract() -> None:
    for kind in (Module, Atom):
        with pytest.raises(TypeError, match="abstract"):
            kind()


def test_printing_shows_sizes_and_factors() -> None:
    text = str(0.5 * Linear(2, 3))
    assert "Linear(2, 3)" in text and "Scale(0.5)" in text


def test_scale_and_add_are_bonds() -> None:
    assert (Scale(-3).sensitivity, Add().sensitivity, Identity().sensitivity) == (3.0, 1.0, 1.0)
