"""The gradients of microbatches against one autograd call for each."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

from modula.statistics import Collector, perturbed

NAME = "microbatch_gradients"


class Experts(nn.Module):
    """Weights of every kind, one of which only negative batches reach.

    The last has its gradient before a checkpoint around it all repeats the call.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Parameter(torch.randn(4).double())
        self.always = nn.Linear(4, 3).double()
        self.sometimes = nn.Linear(3, 3, bias=False).double()
        self.shift = nn.Parameter(torch.randn(3).double())

    def forward(self, x: Tensor) -> Tensor:
        y = self.always(x * self.table)
        return (self.sometimes(y) if x[0, 0] < 0 else y) + self.shift


def parts() -> list[Tensor]:
    torch.manual_seed(1)
    xs = torch.randn(3, 5, 4).double()
    xs[:, 0, 0] = torch.tensor([1.0, -1.0, 1.0])
    return list(xs)


WAYS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "plain": lambda model: model,
    "non-reentrant": lambda model: lambda x: checkpoint(model, x, use_reentrant=False),
    "reentrant": lambda model: (
        lambda x: checkpoint(model, x.clone().requires_grad_(), use_reentrant=True)
    ),
    "compiled": lambda model: torch.compile(model, backend="eager"),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_their_mean_is_the_gradient_and_each_is_its_own_batchs(way: Callable) -> None:
    model = Experts()
    weights = dict(model.named_parameters())
    collector = Collector(model, {name: {NAME} for name in weights})
    forward = way(model)
    for x in parts():
        (forward(x).pow(2).mean() / 3).backward()
    taken = collector.take()
    collector.remove()
    assert taken.keys() == weights.keys()
    for name, weight in weights.items():
        assert_close(taken[name][NAME].mean(0), weight.grad)
        for found, x in zip(taken[name][NAME], parts(), strict=True):
            loss = model(x).pow(2).mean()
            (alone,) = torch.autograd.grad(loss, weight, allow_unused=True)
            assert_close(found, torch.zeros_like(weight) if alone is None else alone)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_gradients_times_noise_add_up_over_the_draws(way: Callable) -> None:
    model = Experts()
    weights = dict(model.named_parameters())
    collector = Collector(model, {name: {"gradient_times_noise"} for name in weights})
    forward, truth = way(model), {name: torch.zeros_like(w) for name, w in weights.items()}
    forward(parts()[0]).sum().backward()  # at no draw
    for k, x in enumerate(parts()):
        model.zero_grad()
        noises = {name: torch.randn_like(weight) for name, weight in weights.items()}
        with perturbed(weights.values(), noises.values()), collector.perturbed(noises):
            (forward(x).pow(2).mean() * (k + 1)).backward()
        for name, weight in weights.items():
            truth[name] += 0 if weight.grad is None else weight.grad * noises[name]
    taken = collector.take(loss_scale=2.0)
    collector.remove()
    for name, expected in truth.items():
        assert_close(taken[name]["gradient_times_noise"], expected / 2)
    assert collector.take() == {}


def test_several_passes_of_one_call_are_one_microbatch() -> None:
    model, (x, *_) = Experts(), parts()
    collector = Collector(model, {"table": {NAME}})
    y = model(x)
    y.sum().backward(retain_graph=True)
    y.pow(2).sum().backward()
    assert_close(collector.take()["table"][NAME], model.table.grad[None])
    assert collector.take() == {}


def test_passes_at_sampled_labels_have_microbatches_of_their_own() -> None:
    """A graph may be made before the context that its backward pass is in."""
    model, (x, y, z) = Experts(), parts()
    collector = Collector(model, {"shift": {NAME, f"sampled_{NAME}"}})
    for each in (x, y, z):
        model(each).sum().backward()
        graph = model(each).pow(2).sum()
        with collector.sampled():
            graph.backward()
    taken = collector.take()["shift"]
    assert_close(taken[NAME], 3 * torch.full((3, 3), 5.0).double())
    squares = [3 * 2 * model(each).sum(0).detach() for each in (x, y, z)]
    assert_close(taken[f"sampled_{NAME}"], torch.stack(squares))


def test_a_microbatch_counts_that_only_reaches_weights_nobody_asks_about_now() -> None:
    model, xs = Experts(), parts()
    collector = Collector(model, {"sometimes.weight": {NAME}, "table": {NAME}})
    collector.expect({"sometimes.weight": (NAME,)})
    for x in xs:
        model(x).sum().backward()
    taken = collector.take()
    assert taken.keys() == {"sometimes.weight"}
    reached = taken["sometimes.weight"][NAME].abs().sum((1, 2)) > 0
    assert reached.tolist() == [False, True, False]


def test_a_loss_scale_is_taken_out_and_a_pause_skips() -> None:
    model, (x, *_) = Experts(), parts()
    collector = Collector(model, {"table": {NAME}})
    with collector.paused():
        model(x).sum().backward()
    model.zero_grad()
    (64 * model(x).sum()).backward()
    assert_close(collector.take(loss_scale=64)["table"][NAME][0], model.table.grad / 64)


def test_a_frozen_weight_is_refused() -> None:
    layer = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(ValueError, match="weight is frozen"):
        Collector(layer, {"weight": {NAME}})


@pytest.mark.parametrize("count", [2, 3, 16])
@pytest.mark.parametrize(
    ("dtype", "size"), [(torch.float16, 6e4), (torch.bfloat16, 1.0), (torch.float32, 1.0)]
)
def test_gradients_that_half_precision_just_holds(
    count: int, dtype: torch.dtype, size: float
) -> None:
    model = nn.Linear(1, 1, bias=False, dtype=dtype)
    collector = Collector(model, {"weight": {NAME}})
    for _ in range(count):
        (model(torch.ones(1, 1, dtype=dtype)) * (size / count)).sum().backward()
    found = collector.take()["weight"][NAME]
    assert found.dtype is torch.float32
    assert_close(found.mean(0), torch.full((1, 1), size), rtol=0.01, atol=0)
