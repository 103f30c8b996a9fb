"""Weights without entries are left out, and what no norm measures is refused by name."""

from collections.abc import Callable

import pytest
import torch
from gradients import fill_gradients
from torch import Tensor, nn

import modula
from modula.duality import Declaration, Setting
from modula.network.trained import trained_weights
from modula.norms import L2
from modula.recipes import RECIPES

pytestmark = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")

EMPTY: dict[str, Callable[[], nn.Module]] = {
    "in": lambda: nn.Linear(0, 4),
    "out": lambda: nn.Linear(3, 0),
    "words": lambda: nn.Embedding(0, 3),
    "conv": lambda: nn.Conv2d(2, 0, 3),
    "gain": lambda: nn.LayerNorm(0),
}


class Net(nn.Module):
    """A layer, and another of a size that is odd."""

    def __init__(self, odd: nn.Module | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 4)
        self.odd = odd or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)
        return y


def stepped(recipe: str, net: Net) -> list[Tensor]:
    optimizer = RECIPES[recipe](net)
    fill_gradients(net, 0)
    if optimizer._statistics is not None:
        optimizer._statistics.take = lambda *_: {}  # type: ignore[method-assign, assignment]
    optimizer.step()
    return [weight.detach().clone() for weight in net.layer.parameters()]


@pytest.mark.parametrize("recipe", [*RECIPES])
def test_a_weight_without_entries_changes_nothing_for_the_others(recipe: str) -> None:
    alone = stepped(recipe, Net())
    for made in EMPTY.values():
        net = Net(made())
        found = stepped(recipe, net)
        # Beside a bias that has entries, a number of the whole network is another.
        has_more = any(weight.numel() for weight in net.odd.parameters())
        assert has_more or all(map(torch.equal, found, alone))
        assert all(x.isfinite().all() for x in net.parameters())


@pytest.mark.parametrize("odd", [*EMPTY.values()], ids=[*EMPTY])
def test_it_is_in_no_group_no_plan_and_no_state(odd: Callable[[], nn.Module]) -> None:
    net = Net(odd())
    full = [name for name, weight in net.named_parameters() if weight.numel()]
    optimizer = modula.recipes.muon(modula.declare(net))
    assert {row.name for row in optimizer.plan.rows} == {*full}
    assert len(optimizer.state) == len(full)


def test_a_warning_of_strangers_does_not_name_it(caplog: pytest.LogCaptureFixture) -> None:
    net = Net(nn.Linear(0, 4))
    optimizer = modula.recipes.adamw(net)
    fill_gradients(net, 0)
    optimizer.step()
    assert "no weight of the optimizer" not in caplog.text


def test_adding_or_putting_one_in_place_is_refused() -> None:
    net = Net()
    optimizer = modula.recipes.adamw(net)
    group = {
        "params": [("later", nn.Parameter(torch.zeros(0, 3)))],
        "declarations": [Declaration(Setting(L2(2)))],
    }
    with pytest.raises(ValueError, match=r"later of shape \(0, 3\) has nothing to train"):
        optimizer.add_param_group(group)
    with pytest.raises(ValueError, match="one entry at least"):
        optimizer.replace("layer.weight", nn.Parameter(torch.zeros(0, 3)))
    assert len(optimizer.param_groups) == 1


def parameter(weight: Tensor) -> nn.Module:
    module = nn.Linear(3, 4, bias=False)
    module.weight = nn.Parameter(weight)
    return module


def in_inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Linear(3, 4, bias=False)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "complex64": (lambda: parameter(torch.zeros(4, 3, dtype=torch.complex64)), "is complex64"),
    "complex128": (lambda: parameter(torch.zeros((), dtype=torch.complex128)), "view_as_real"),
    "lazy": (lambda: nn.LazyLinear(4), "odd.weight has no shape yet: call the model once"),
    "sparse": (lambda: parameter(torch.eye(3).to_sparse()), "is stored as sparse_coo"),
    "inference": (in_inference, "was made in inference mode"),
    "expanded": (lambda: parameter(torch.zeros(1, 3).expand(4, 3)), "share memory"),
}


@pytest.mark.parametrize("recipe", ["muon", "adamw", "kfac", "modular"])
@pytest.mark.parametrize(("odd", "sentence"), [*REFUSED.values()], ids=[*REFUSED])
def test_what_no_norm_measures_is_refused_by_name(
    recipe: str, odd: Callable[[], nn.Module], sentence: str
) -> None:
    with pytest.raises(ValueError, match="odd.weight") as caught:
        RECIPES[recipe](Net(odd()))
    assert sentence in str(caught.value)


@pytest.mark.parametrize("recipe", [*RECIPES])
def test_complex_weights_are_refused_by_every_recipe(recipe: str) -> None:
    with pytest.raises(ValueError, match="odd.weight is complex64"):
        RECIPES[recipe](Net(parameter(torch.zeros(4, 3, dtype=torch.complex64))))


def test_frozen_ones_are_left_alone() -> None:
    net = Net(parameter(torch.zeros(4, 3, dtype=torch.complex64)).requires_grad_(False))
    assert [*trained_weights(net)] == ["layer.weight", "layer.bias"]
    modula.recipes.adamw(net)


def test_certificates_pass_over_it() -> None:
    net = Net(nn.Linear(0, 4, bias=False))
    optimizer = RECIPES["unit_condition"](net, certify_every=1)
    fill_gradients(net, 0)
    optimizer.step()
    assert optimizer.certificates
