"""An error in a step leaves weights, state, statistics and counts as they were, bit by bit."""

import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import einops
import pytest
import torch
import torch.nn.functional as F
from snapshots import assert_unchanged, snapshot
from torch import Tensor, nn
from torch.amp import GradScaler

from modula import SteepestDescent
from modula.duality import Batch, Clip, Declaration, Scaler, Setting, line
from modula.duality.declaration.scalers.base import continued_by
from modula.duality.program.names import SAMPLED
from modula.duality.setting.derive import Derived
from modula.kernels.op import Op, Shape, elementwise_cost
from modula.manifolds import Implicit
from modula.norms import L2
from modula.norms.base import Norm
from modula.optimizer.param_groups import Group
from modula.recipes import RECIPES

LinAlgError: type[RuntimeError] = torch.linalg.LinAlgError  # type: ignore[attr-defined]


class Net(nn.Module):
    """Weights of several roles; `first` and `last` are in batches of their own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle, self.last = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x).tanh()).tanh())


def send_back(optimizer: SteepestDescent, net: nn.Module, seed: int) -> None:
    """All passes that a metric may ask for."""
    torch.manual_seed(seed)
    x, labels = torch.randn(2, 8, 6), torch.randint(3, (2, 8))
    optimizer.zero_grad()
    with optimizer.perturbed():
        for some, theirs in zip(x, labels, strict=True):
            (F.cross_entropy(net(some), theirs) / 2).backward()
    if optimizer.asks_for(*SAMPLED):
        with optimizer.sampled():
            for some, theirs in zip(x, labels.flip(0), strict=True):
                (F.cross_entropy(net(some), theirs) / 2).backward()


def places_that_fail(optimizer: SteepestDescent) -> list[tuple[list[Any], int]]:
    """The first and the last line of each batch that may raise an error in the next step."""
    places = []
    for _, batch, _ in optimizer._own.batches._batches:
        for lines in (batch._proposal, batch._update):
            found = [i for i, one in enumerate(lines) if one.line.op.can_fail]
            due = [i for i in found if batch._is_due(lines[i].line, 0)]
            places += [(lines, i) for i in {*due[:1], *due[-1:]}]
    return places


@pytest.mark.parametrize("name", [*RECIPES])
def test_an_error_in_any_op_that_can_fail_is_undone(name: str) -> None:
    net, twin = Net(), Net()
    optimizer, other = RECIPES[name](net), RECIPES[name](twin)
    for each, model in ((optimizer, net), (other, twin)):
        send_back(each, model, 0)
        each.step()
        send_back(each, model, 1)
    before = snapshot(optimizer)

    def fail(*_: object, **__: object) -> None:
        raise LinAlgError("did not converge")

    for lines, place in places_that_fail(optimizer):
        known = lines[place]
        lines[place] = known._replace(call=fail)
        with pytest.raises(LinAlgError, match="did not converge") as caught:
            optimizer.step()
        assert not hasattr(caught.value, "__notes__")
        assert_unchanged(optimizer, before)
        lines[place] = known
    optimizer.step()  # with the statistics of the same passes
    other.step()
    assert_unchanged(optimizer, snapshot(other))


class Switch:
    """What a user's code calls, which raises an error once one is set."""

    error: BaseException | None = None

    def __call__(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass(frozen=True)
class Stubborn(Norm):
    """L2, written by a user."""

    switch: Switch
    ndim: int = 2

    def __call__(self, x: Tensor) -> Tensor:
        return L2(2)(x)

    def dual(self, g: Tensor) -> Tensor:
        self.switch()
        return L2(2).dual(g)

    def duality_map(self, g: Tensor) -> Tensor:
        self.switch()
        return L2(2).duality_map(g)


@dataclass(frozen=True)
class Halved(Scaler):
    """Half of the direction, written by a user."""

    switch: Switch

    def applied(self, derived: Derived, setting: Setting, shape: Shape) -> Derived:
        def half(x: Tensor) -> Tensor:
            self.switch()
            return x / 2

        op = Op("half", half, elementwise_cost(1, 2))
        return continued_by(derived, line("halved", op, derived.direction))


def by_norm(switch: Switch) -> Declaration:
    return Declaration(Setting(Stubborn(switch)))


def by_manifold(switch: Switch) -> Declaration:
    def constraint(w: Tensor) -> Tensor:
        switch()
        return w.square().sum() - 1

    return Declaration(Setting(L2(2), Implicit(constraint)))


def by_scaler(switch: Switch) -> Declaration:
    return Declaration(Setting(L2(2)), scalers=(Halved(switch),))


def optimizer_with(last: Declaration, net: nn.Module, **options: Any) -> SteepestDescent:
    """The last matrix as declared, all other weights by momentum alone."""
    declarations = {n: Declaration(Setting(L2(w.ndim))) for n, w in net.named_parameters()}
    return SteepestDescent(net, groups=[Group(declarations | {"last.weight": last})], **options)


ERRORS = (
    RuntimeError("CUSOLVER_STATUS_INTERNAL_ERROR"),
    einops.EinopsError("no such pattern"),
    ZeroDivisionError("division by zero"),
    KeyboardInterrupt(),
    MemoryError("out of memory"),
)


@pytest.mark.parametrize("potential", [None, Clip(1.0)])
@pytest.mark.parametrize("declared", [by_norm, by_manifold, by_scaler])
@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_code_of_a_user_may_raise_anything(
    error: BaseException, declared: Callable[[Switch], Declaration], potential: Clip | None
) -> None:
    net, switch = Net(), Switch()
    options = {} if potential is None else {"potential": potential}
    optimizer = optimizer_with(declared(switch), net, state_dtype=torch.bfloat16, **options)
    for seed in range(2):
        send_back(optimizer, net, seed)
        optimizer.step()
    before, switch.error = snapshot(optimizer), error
    with pytest.raises(type(error)):
        optimizer.step()
    assert_unchanged(optimizer, before)  # the counters of roundings too
    switch.error = None
    optimizer.step()
    assert not torch.equal(snapshot(optimizer)[0], before[0])


def test_an_error_of_a_certificate_is_undone_and_not_counted() -> None:
    net, switch = Net(), Switch()
    optimizer = optimizer_with(by_norm(switch), net, certify_every=2)
    for seed in range(3):
        send_back(optimizer, net, seed)
        optimizer.step()
    before, certificates = snapshot(optimizer), optimizer.certificates
    switch.error = LinAlgError("svd did not converge")
    with pytest.raises(RuntimeError, match="svd"):
        optimizer.step()
    assert_unchanged(optimizer, before)
    certification = optimizer._certification
    assert certification is not None
    assert (certification.steps, optimizer.certificates) == (3, certificates)
    switch.error = None
    optimizer.step()
    assert certification.steps == 4


def test_an_error_of_the_closure_changes_nothing() -> None:
    net = Net()
    optimizer = RECIPES["kfac"](net)
    send_back(optimizer, net, 0)
    before = snapshot(optimizer)

    def closure() -> Tensor:
        raise ValueError("no batch")

    with pytest.raises(ValueError, match="no batch"):
        optimizer.step(closure)
    assert_unchanged(optimizer, before)
    optimizer.step()  # what the layers showed is still there
    changed = [not torch.equal(a, b) for a, b in zip(snapshot(optimizer), before, strict=True)]
    assert all(changed[: len([*net.parameters()])])


def test_a_grad_scaler_can_repeat_the_step() -> None:
    net, twin, switch = Net(), Net(), Switch()
    optimizer, other = RECIPES["kfac"](net), RECIPES["kfac"](twin)
    scalers = GradScaler("cpu"), GradScaler("cpu")
    for each, model, scaler in ((optimizer, net, scalers[0]), (other, twin, scalers[1])):
        torch.manual_seed(0)
        with each.sampled():
            scaler.scale(model(torch.randn(8, 6)).square().mean()).backward()
        scaler.scale(model(torch.randn(8, 6)).square().mean()).backward()
    before = snapshot(optimizer)
    gradients = [w.grad.clone() for w in net.parameters() if w.grad is not None]
    lines, place = places_that_fail(optimizer)[0]
    known = lines[place]
    switch.error = LinAlgError("no")
    lines[place] = known._replace(call=lambda *_, **__: switch())
    with pytest.raises(LinAlgError):
        scalers[0].step(optimizer)
    assert_unchanged(optimizer, before)
    assert not hasattr(optimizer, "found_inf")
    assert all(torch.equal(a, b.grad) for a, b in zip(gradients, net.parameters(), strict=True))  # type: ignore[arg-type]
    lines[place] = known
    for each, scaler in ((optimizer, scalers[0]), (other, scalers[1])):
        scaler.step(each)
    assert_unchanged(optimizer, snapshot(other))


@pytest.mark.parametrize("name", ["adamw", "muon"])
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_waits_for_the_end_of_a_step(
    name: str, presses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
    net, twin = Net(), Net()
    optimizer, other = RECIPES[name](net), RECIPES[name](twin)
    send_back(optimizer, net, 0)
    send_back(other, twin, 0)
    other.step()
    update = Batch.update

    def pressed(self: Batch, *arguments: Any) -> None:
        update(self, *arguments)
        monkeypatch.setattr(Batch, "update", update)
        for _ in range(presses):
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Batch, "update", pressed)
    with pytest.raises(KeyboardInterrupt) as caught:
        optimizer.step()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if presses == 1:
        assert_unchanged(optimizer, snapshot(other))
    else:
        assert "some weights had moved" in caught.value.__notes__[0]


def test_a_handler_of_the_user_is_left_alone() -> None:
    net, seen = Net(), list[int]()
    optimizer = RECIPES["adamw"](net)
    send_back(optimizer, net, 0)
    before = signal.signal(signal.SIGINT, lambda number, _: seen.append(number))
    try:
        optimizer.step(lambda: signal.raise_signal(signal.SIGINT))
        assert seen == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("name", ["adamw", "muon", "modular", "scion", "automatic", "lion", "ivon"])
def test_what_cannot_fail_is_not_copied(name: str) -> None:
    net = Net()
    optimizer = RECIPES[name](net)
    assert not any(batch.can_fail for _, batch, _ in optimizer._own.batches._batches)


def test_lines_that_wait_cost_no_copy_until_they_are_due() -> None:
    batches = RECIPES["manifold_muon"](Net())._own.batches._batches
    assert any(batch.can_fail for _, batch, _ in batches)  # a retraction in every step
    assert not all(batch.can_fail for _, batch, _ in batches)  # biases are plain
