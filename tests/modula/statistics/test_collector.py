"""Statistics against a network written out by hand, whatever is done to its passes."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from torch.utils.checkpoint import checkpoint

import modula
from modula.duality.program.names import STATISTICS
from modula.statistics import Collector
from modula.statistics.accumulators import KNOWN

FIRST, LAST = "0.weight", "2.weight"
MOMENTS = {"input_moment", "output_moment"}
ALL = {*MOMENTS, "layer_inputs", "output_gradients"}


def network(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)).to(dtype)


def batch(*shape: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(*shape, 4, generator=generator, dtype=dtype)
    return x, torch.randn(*shape, 3, generator=generator, dtype=dtype)


def loss_of(y: Tensor, target: Tensor) -> Tensor:
    """A mean over rows."""
    return (y - target).pow(2).sum(-1).mean()


def by_hand(model: nn.Sequential, x: Tensor, target: Tensor) -> dict[str, dict[str, Tensor]]:
    """Both layers written out, on rows one by one."""
    w, b, v, c = (weight.detach() for weight in model.parameters())
    seen: dict[str, dict[str, list[Tensor]]] = {
        name: {"layer_inputs": [], "output_gradients": []} for name in (FIRST, LAST)
    }
    for row, goal in zip(x.reshape(-1, 4), target.reshape(-1, 3), strict=True):
        h = w @ row + b
        a = h.clamp(min=0)
        e = 2 * (v @ a + c - goal)
        seen[FIRST]["layer_inputs"].append(row)
        seen[FIRST]["output_gradients"].append((v.mT @ e) * (h > 0))
        seen[LAST]["layer_inputs"].append(a)
        seen[LAST]["output_gradients"].append(e)
    return {name: with_moments(found) for name, found in seen.items()}


def with_moments(seen: dict[str, list[Tensor]]) -> dict[str, Tensor]:
    def moment(rows: list[Tensor]) -> Tensor:
        return torch.stack([torch.outer(row, row) for row in rows]).mean(0)

    return {
        "input_moment": moment(seen["layer_inputs"]),
        "output_moment": moment(seen["output_gradients"]),
        **{name: torch.stack(rows) for name, rows in seen.items()},
    }


def run(forward: Callable[[Tensor], Tensor], x: Tensor, target: Tensor) -> None:
    loss_of(forward(x), target).backward()


FORWARDS: dict[str, Callable[[nn.Module], Callable[[Tensor], Tensor]]] = {
    "plain": lambda model: model,
    "non-reentrant": lambda model: lambda x: checkpoint(model, x, use_reentrant=False),
    "reentrant": lambda model: (
        lambda x: checkpoint(model, x.clone().requires_grad_(), use_reentrant=True)
    ),
    "eager": lambda model: torch.compile(model, backend="eager"),
    "aot_eager": lambda model: torch.compile(model, backend="aot_eager"),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile looks at it
@pytest.mark.parametrize("forward", FORWARDS.values(), ids=FORWARDS.keys())
def test_every_way_through_counts_each_row_once(forward: Callable) -> None:
    model, (x, target) = network(), batch(2, 3)
    truth = by_hand(model, x, target)
    bare = network()
    run(bare, x, target)
    collector = Collector(model, {FIRST: ALL, LAST: ALL})
    run(forward(model), x, target)
    assert_close(collector.take(), truth)
    for weight, other in zip(model.parameters(), bare.parameters(), strict=True):
        assert_close(weight.grad, other.grad, rtol=0, atol=0)


def test_accumulation_is_one_large_batch_even_in_unequal_parts() -> None:
    model, (x, target) = network(), batch(7)
    collector = Collector(model, {FIRST: ALL, LAST: ALL})
    for part in (slice(0, 2), slice(2, 7)):
        xs, targets = x[part], target[part]
        (loss_of(model(xs), targets) * (len(xs) / len(x))).backward()
    assert_close(collector.take(), by_hand(model, x, target))


def test_taking_forgets_and_unreached_weights_are_left_out() -> None:
    model, (x, target) = network(), batch(6)
    collector = Collector(model, {FIRST: MOMENTS, LAST: MOMENTS})
    run(model, x[:2], target[:2])
    collector.take()
    assert collector.take() == {}
    run(model, x, target)
    truth = by_hand(model, x, target)
    assert_close(collector.take()[LAST]["output_moment"], truth[LAST]["output_moment"])


def test_only_what_is_asked_for_is_returned() -> None:
    model, (x, target) = network(), batch(6)
    collector = Collector(model, {FIRST: {"input_moment"}, LAST: {"output_moment"}})
    run(model, x, target)
    taken = collector.take()
    assert {name: [*found] for name, found in taken.items()} == {
        FIRST: ["input_moment"],
        LAST: ["output_moment"],
    }


def test_statistics_come_in_one_order_however_they_were_asked_for() -> None:
    """A set has another order in each process, and processes average one after the other."""
    model, (x, target) = network(), batch(6)
    orders = set()
    for wanted in (sorted(ALL), sorted(ALL, reverse=True)):
        collector = Collector(model, {FIRST: wanted})
        run(model, x, target)
        orders.add((*collector.take()[FIRST],))
    assert len(orders) == 1


def test_forward_passes_without_a_backward_pass_are_not_counted() -> None:
    model, (x, target) = network(), batch(6)
    collector = Collector(model, {FIRST: MOMENTS, LAST: MOMENTS})
    model.eval()
    model(x + 1)
    with torch.no_grad():
        model(x + 2)
    with torch.inference_mode():
        model(x + 3)
    model.train()
    run(model, x, target)
    truth = by_hand(model, x, target)
    assert_close(collector.take()[FIRST]["input_moment"], truth[FIRST]["input_moment"])


def test_a_pause_skips_backward_passes_and_ends_even_after_an_error() -> None:
    model, (x, target) = network(), batch(6)
    collector = Collector(model, {FIRST: ALL, LAST: ALL})
    y = model(x)
    with pytest.raises(KeyError), collector.paused():
        y.sum().backward(retain_graph=True)
        raise KeyError
    loss_of(y, target).backward()  # of a forward pass that a paused one has used
    assert_close(collector.take(), by_hand(model, x, target))


def test_removing_leaves_the_model_as_it_was() -> None:
    model, (x, target) = network(), batch(6)
    collector = Collector(model, {FIRST: {*ALL, "microbatch_gradients"}})
    collector.remove()
    run(model, x, target)
    assert collector.take() == {}
    assert not any(module._forward_hooks for module in model.modules())


def test_frozen_weights_have_statistics() -> None:
    model, (x, target) = network(), batch(6)
    truth = by_hand(model, x, target)
    model[2].requires_grad_(False)
    collector = Collector(model, {FIRST: ALL, LAST: ALL})
    run(model, x, target)
    assert_close(collector.take(), truth)


def test_the_loss_scale_is_taken_out() -> None:
    model, (x, target) = network(), batch(6)
    collector = Collector(model, {FIRST: ALL, LAST: ALL})
    (1024 * loss_of(model(x), target)).backward()
    assert_close(collector.take(loss_scale=torch.tensor(1024.0)), by_hand(model, x, target))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_are_summed_in_float32(dtype: torch.dtype) -> None:
    """The rows are exact in half precision; the sums of 5000 of them are not."""
    layer = nn.Linear(2, 1, bias=False, dtype=dtype)
    x = torch.tensor([[1.0, 0.5]]).repeat(5000, 1)
    collector = Collector(layer, {"weight": ALL})
    layer(x.to(dtype)).sum().backward()  # dL/dy = 1
    found = collector.take()["weight"]
    assert_close(found["input_moment"], torch.tensor([[1.0, 0.5], [0.5, 0.25]]))
    assert_close(found["output_moment"], torch.tensor([[5000.0**2]]))
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_autocast_reaches_no_statistic() -> None:
    model, (x, _) = network(torch.float32), batch(6, dtype=torch.float32)
    model[2] = model[1] = nn.Identity()
    collector = Collector(model, {FIRST: {"input_moment"}})
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x).sum().backward()
    assert_close(collector.take()[FIRST]["input_moment"], x.mT @ x / 6)


def test_rows_are_copies() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(6, 4)
    before = x.clone()
    collector = Collector(layer, {"weight": {"layer_inputs"}})
    layer(x).sum().backward()
    x.zero_()
    assert_close(collector.take()["weight"]["layer_inputs"], before)


def test_a_layer_called_by_keyword_is_seen() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(6, 4)
    collector = Collector(layer, {"weight": {"layer_inputs"}})
    layer(input=x).sum().backward()
    assert_close(collector.take()["weight"]["layer_inputs"], x)


class Twice(nn.Module):
    """One layer, or two that own one tensor, one after the other."""

    def __init__(self, tied: bool) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4, bias=False).double()
        self.b = nn.Linear(4, 4, bias=False).double() if tied else self.a
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "used-twice"])
@pytest.mark.parametrize("name", ["a.weight", "b.weight"])
def test_uses_of_a_shared_weight_add_up(tied: bool, name: str) -> None:
    torch.manual_seed(0)
    model, x, target = Twice(tied), torch.randn(6, 4).double(), torch.randn(6, 4).double()
    h = F.linear(x, model.a.weight)
    a = torch.tanh(h)
    y = F.linear(a, model.a.weight)
    f, e = torch.autograd.grad((y - target).pow(2).sum(-1).sum(), (h, y))
    collector = Collector(model, {name: MOMENTS})
    loss_of(model(x), target).backward()
    found = collector.take(terms=6)[name]
    assert_close(found["input_moment"], (x.mT @ x + a.mT @ a).detach() / 12)
    assert_close(found["output_moment"], (e.mT @ e + f.mT @ f) / 6)


def test_reduce_averages_inputs_and_sums_gradients_over_positions() -> None:
    model, (x, _) = network(), batch(2, 3)
    collector = Collector(model, {LAST: {"reduced_" + name for name in ALL}})
    inputs = model[:2](x).detach()
    y = model(x)
    y.pow(2).sum((1, 2)).mean().backward()  # one loss a sequence
    rows, e = inputs.mean(1), (2 * y.detach()).sum(1)
    expected = {
        "reduced_layer_inputs": rows,
        "reduced_output_gradients": e,
        "reduced_input_moment": rows.mT @ rows / 2,
        "reduced_output_moment": e.mT @ e / 2,
    }
    assert_close(collector.take()[LAST], dict(sorted(expected.items())))


def test_one_loss_a_sequence_is_said_by_its_terms() -> None:
    model, (x, _) = network(), batch(2, 3)
    collector = Collector(model, {LAST: {"output_moment"}})
    y = model(x)
    y.pow(2).sum((1, 2)).mean().backward()
    e = (2 * y.detach()).flatten(0, 1)
    assert_close(collector.take(terms=2)[LAST]["output_moment"], e.mT @ e / 2)


@pytest.mark.parametrize("shape", [(6,), (6, 1)], ids=str)
def test_expand_and_reduce_agree_at_one_position(shape: tuple[int, ...]) -> None:
    model, (x, target) = network(), batch(*shape)
    collector = Collector(model, {FIRST: {*ALL, *("reduced_" + name for name in ALL)}})
    run(model, x, target)
    found = collector.take()[FIRST]
    for name in ALL:
        assert_close(found[name], found["reduced_" + name])


def alive_after(forward: Callable[[nn.Module, Tensor], Tensor], backward: bool) -> bool:
    """Whether the hidden layer's output is still in memory, while the loss is."""
    model, (x, _) = network(), batch(6)
    collector = Collector(model, {LAST: {"input_moment"}})
    hidden: list[weakref.ref[Tensor]] = []
    model[1].register_forward_hook(lambda _, __, y: hidden.append(weakref.ref(y)))
    model.requires_grad_(False)[0].requires_grad_(True)  # autograd itself keeps no input of LAST
    loss = forward(model, x).sum()
    if backward:
        loss.backward()
        assert collector.take()
    gc.collect()
    return hidden[0]() is not None and loss is not None


def test_inputs_are_kept_no_longer_than_autograd_keeps_them() -> None:
    assert alive_after(lambda model, x: model(x), backward=False)
    assert not alive_after(lambda model, x: model(x), backward=True)


def test_inputs_are_not_kept_across_a_checkpoint() -> None:
    def forward(model: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(model, x, use_reentrant=False)

    assert not alive_after(forward, backward=False)


@pytest.mark.parametrize(
    ("model", "name", "words"),
    [
        (nn.Embedding(3, 2), "weight", "weight cannot be seen: the model (Embedding) owns it"),
        (nn.Linear(3, 2), "bias", "owns it as 'bias'"),
        (nn.Sequential(nn.LayerNorm(3)), "0.weight", "0.weight cannot be seen: 0 (LayerNorm)"),
        (nn.MultiheadAttention(4, 2), "out_proj.weight", "choose a metric that reads gradients"),
        (nn.MultiheadAttention(4, 2), "in_proj_weight", "(MultiheadAttention) owns it"),
        (nn.Conv2d(4, 4, 3, groups=2), "weight", "groups=1"),
        (modula.Bias(3), "weight", "modula's Linear and Conv2d"),
        (nn.Linear(3, 2), "weigth", "did you mean weight"),
    ],
)
def test_a_weight_whose_inputs_are_hidden_is_refused_in_a_sentence(
    model: nn.Module, name: str, words: str
) -> None:
    with pytest.raises(ValueError) as caught:
        Collector(model, {name: {"input_moment"}})
    assert words in str(caught.value)
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_statistic_is_refused() -> None:
    with pytest.raises(ValueError, match="did you mean input_moment"):
        Collector(nn.Linear(2, 2), {"weight": {"input_moments"}})


def test_what_programs_read_can_be_collected() -> None:
    """All but the gradient of a pass that the training loop itself makes."""
    assert {*STATISTICS} - {"sampled_gradient"} == {*KNOWN}


def test_a_tied_embedding_is_refused() -> None:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    with pytest.raises(ValueError, match=r"1.weight cannot be seen: 0 \(Embedding\)"):
        Collector(model, {"1.weight": {"input_moment"}})


def test_an_expert_without_rows_is_left_out() -> None:
    model, x = network(), torch.zeros(0, 4, dtype=torch.float64)
    collector = Collector(model, {FIRST: ALL})
    model(x).sum().backward()
    assert collector.take() == {}
