"""Habits about state: save, load, copy, move, clear."""

from __future__ import annotations

import copy
import gc
import io
import pickle
import re
from collections import defaultdict
from collections.abc import Callable

import torch
from torch import nn

from habits.network import Net, User, assert_finite, assert_near, assert_same
from habits.table import Outcome, always_refused, habit, refused
from modula.recipes import RECIPES

PART = "State"
DRAWING = ("ivon", "psgd_pro", "psgd", "psgd_lra")  # one after the other, so in another order


def through_a_file(saved: object) -> object:
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@habit(
    PART,
    "save and resume: `torch.save(optimizer.state_dict())`, `load_state_dict` in a new process",
    "The run goes on bit by bit.",
)
def resumed(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1, 2)
    other = User(recipe)
    other.net.load_state_dict(user.net.state_dict())
    other.optimizer.load_state_dict(through_a_file(user.optimizer.state_dict()))
    assert_same(other.steps(3, 4).everything(), user.steps(3, 4).everything())
    return None


def renamed(recipe: str, wrap: Callable[[nn.Module], nn.Module]) -> Outcome:
    user, other = User(recipe).steps(0, 1), User(recipe)
    other.net.load_state_dict(user.net.state_dict())
    wrapped = User(recipe, wrap(other.net))
    wrapped.optimizer.load_state_dict(through_a_file(user.optimizer.state_dict()))
    wrapped.step(2), user.step(2)
    assert_same(
        dict(zip(user.everything(), wrapped.everything().values(), strict=True)),
        user.everything(),
    )
    back = User(recipe, copy.deepcopy(other.net))
    back.optimizer.load_state_dict(through_a_file(wrapped.optimizer.state_dict()))
    assert_same(back.step(3).everything(), user.step(3).everything())
    return None


class Wrapped(nn.Module):
    """The network under another name."""

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        self.name = name
        setattr(self, name, net)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return getattr(self, self.name)(x)


@habit(
    PART,
    "resume under `torch.compile` (names begin with `_orig_mod.`), and go back",
    "The run goes on bit by bit, names are matched.",
)
def resumed_compiled(recipe: str) -> Outcome:
    return renamed(recipe, lambda net: Wrapped(net, "_orig_mod"))


@habit(
    PART,
    "resume under DistributedDataParallel (names begin with `module.`), and go back",
    "The run goes on bit by bit, names are matched.",
)
def resumed_parallel(recipe: str) -> Outcome:
    return renamed(recipe, lambda net: Wrapped(net, "module"))


@habit(
    PART,
    "resume in a LightningModule (names begin with `net.`, or with any one prefix), and go back",
    "The run goes on bit by bit, names are matched.",
)
def resumed_lightning(recipe: str) -> Outcome:
    return renamed(recipe, lambda net: Wrapped(net, "net"))


class Two(nn.Module):
    """Two matrices of one shape, in this order or the other."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__()
        torch.default_generator.manual_seed(0)
        weights = {name: nn.Linear(4, 4, bias=False) for name in ("a", "b")}
        self.words = nn.Embedding(7, 4)
        setattr(self, first, weights[first])
        setattr(self, second, weights[second])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(self.a(self.words(x)).tanh())


@habit(
    PART,
    "resume after layers of one shape changed their order in the code",
    "State follows the names: the run goes on bit by bit.",
)
def reordered(recipe: str) -> Outcome:
    user = User(recipe, Two("a", "b")).steps(0, 1, 2)
    other = User(recipe, Two("b", "a"))
    other.net.load_state_dict(user.net.state_dict())
    other.optimizer.load_state_dict(through_a_file(user.optimizer.state_dict()))
    one, two = user.everything(), other.everything()
    assert_same({name: two[name] for name in one}, one)
    if recipe not in DRAWING:
        assert_near(other.step(3).weights(), user.step(3).weights(), 1e-4, 1e-6)
    return None


@habit(
    PART,
    "load the state of a network with other names",
    "It is refused, and both sides' names are listed; nothing changes.",
)
def other_names(recipe: str) -> Outcome:
    saved = User(recipe, Two("a", "b")).steps(0).optimizer.state_dict()

    class Three(Two):
        def __init__(self) -> None:
            super().__init__("a", "b")
            self.c = self.b
            del self.b

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(self.a(self.words(x)).tanh())

    user = User(recipe, Three()).steps(0)
    before = user.everything()
    sentence = always_refused(
        lambda: user.optimizer.load_state_dict(saved), r"b\.weight.*c\.weight|c\.weight.*b\.weight"
    )
    assert_same(user.everything(), before)
    return sentence


@habit(
    PART,
    "load the state of a torch optimizer, such as `torch.optim.SGD`",
    "It is refused; nothing changes.",
)
def foreign(recipe: str) -> Outcome:
    user = User(recipe).step(0)
    before = user.everything()
    rows = [{"params": group["params"]} for group in user.optimizer.param_groups]
    saved = torch.optim.SGD(rows, 0.1).state_dict()
    sentence = always_refused(
        lambda: user.optimizer.load_state_dict(saved), "was saved under no geometry"
    )
    assert_same(user.everything(), before)
    return re.sub(r"^\S+", "WEIGHT", sentence.partition(", but")[0])


@habit(
    PART,
    "load state saved in float32 under `state_dtype=torch.bfloat16`, or the other way",
    "It is rounded once, or widened, and training goes on.",
)
def other_state_dtype(recipe: str) -> Outcome:
    kinds: tuple[torch.dtype | None, ...] = (None, torch.bfloat16)
    for one, other in (kinds, kinds[::-1]):
        user, resumed = User(recipe, state_dtype=one).steps(0, 1), User(recipe, state_dtype=other)
        resumed.net.load_state_dict(user.net.state_dict())
        resumed.optimizer.load_state_dict(through_a_file(user.optimizer.state_dict()))
        mine = {k: v.float() for k, v in user.state().items() if "roundings" not in k}
        theirs = {k: v.float() for k, v in resumed.state().items() if "roundings" not in k}
        assert_near(theirs, mine, rtol=0.01, atol=1e-6)
        resumed.step(2)
        assert_finite(resumed)
    return None


def copied(recipe: str, copy_of: Callable[[object], object]) -> Outcome:
    user = User(recipe).steps(0, 1)
    net, optimizer = copy_of((user.net, user.optimizer))  # type: ignore[misc]
    other = User(recipe, Net())
    other.net, other.optimizer = net, optimizer
    other.optimizer.watch(net)
    before = user.everything()
    other.step(2)
    assert_same(user.everything(), before)
    assert_same(other.everything(), user.step(2).everything())
    return None


@habit(
    PART,
    "deepcopy network and optimizer together, then `watch(network)`",
    "Two runs that go on bit by bit alike, each with its own weights.",
)
def deepcopied(recipe: str) -> Outcome:
    return copied(recipe, copy.deepcopy)


@habit(
    PART,
    "pickle network and optimizer together, then `watch(network)`",
    "Two runs that go on bit by bit alike.",
)
def pickled(recipe: str) -> Outcome:
    return copied(recipe, lambda pair: pickle.loads(pickle.dumps(pair)))


@habit(
    PART,
    "save the whole network after the optimizer was made: `torch.save(model)`, `deepcopy(model)`",
    "It works, before and after a step, and the copy has the same weights.",
)
def network_saved(recipe: str) -> Outcome:
    user = User(recipe)
    for seed in range(2):
        file = io.BytesIO()
        torch.save(user.net, file)
        file.seek(0)
        loaded = torch.load(file, weights_only=False)
        for each in (loaded, copy.deepcopy(user.net)):
            assert_same(dict(each.state_dict()), user.net.state_dict())
            each(torch.arange(3)).sum().backward()
        user.step(seed)
    return None


@habit(
    PART,
    "call `.double()` or `.to(torch.bfloat16)` on the network after the optimizer was made",
    "State moves along and training goes on; or one sentence with the weight's name.",
)
def cast_later(recipe: str) -> Outcome:
    found = None
    for dtype in (torch.float64, torch.bfloat16):
        user = User(recipe).steps(0, 1)
        user.net.to(dtype)
        before = user.weights()
        sentence = refused(lambda user=user: user.step(2), r"\w+\.weight")
        if sentence is None:
            assert_finite(user)
            assert any(not torch.equal(x, before[n]) for n, x in user.weights().items())
            assert all(weight.dtype is dtype for weight in user.net.parameters())
        else:
            assert_same(user.weights(), before)
        found = found or sentence
    return found


@habit(
    PART,
    "clear state: `optimizer.state.clear()`, `optimizer.state = defaultdict(dict)`, `del "
    "optimizer.state[w]`",
    "It takes effect, as a fresh optimizer at the weights of now; or the next step refuses and "
    "says "
    "`optimizer.reset(...)`.",
)
def state_cleared(recipe: str) -> Outcome:
    def clear(user: User) -> None:
        user.optimizer.state.clear()

    def exchange(user: User) -> None:
        user.optimizer.state = defaultdict(dict)

    def delete(user: User) -> None:
        for weight in user.net.parameters():
            del user.optimizer.state[weight]

    found = None
    for act in (clear, exchange, delete):
        user = User(recipe).steps(0, 1)
        if not user.state():
            return None
        fresh = User(recipe, copy.deepcopy(user.net))
        act(user)
        before = user.weights()
        sentence = refused(lambda user=user: user.step(2), r"reset")
        if sentence is None:
            assert_same(user.everything(), fresh.step(2).everything())
        else:
            assert_same(user.weights(), before)
        found = found or sentence
    return found


@habit(
    PART,
    'put another tensor into state: `optimizer.state[w]["momentum"] = zeros`',
    "It takes effect, as if written in place; or the next step refuses and says what to call.",
)
def state_entry(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    weight = user.net.head.weight
    key = next((k for k, v in user.optimizer.state[weight].items() if v.numel() > 1), None)
    if key is None:
        return None
    other = user.twin()
    own = user.optimizer.state[weight]
    own[key] = torch.zeros_like(own[key])
    before = user.weights()
    sentence = refused(lambda: user.step(2), r"reset|copy_|in place")
    if sentence is not None:
        assert_same(user.weights(), before)
        return sentence
    other.optimizer.state[other.net.head.weight][key].zero_()
    assert_same(user.everything(), other.step(2).everything())
    return None


@habit(
    PART,
    "reset one weight: `optimizer.reset(w)`",
    "Its state is that of a fresh optimizer; the others keep theirs.",
)
def reset(recipe: str) -> Outcome:
    user = User(recipe).steps(0, 1)
    before = user.state()
    user.optimizer.reset(user.net.head.weight)
    fresh = User(recipe).state()
    for key, value in user.state().items():
        expected = fresh if key.endswith("head.weight") else before
        assert torch.equal(value, expected[key]), key
    user.step(2)
    assert_finite(user)
    return None


@habit(
    PART,
    "make one optimizer after another for the same network (30 of them)",
    "The network keeps the hooks of the last one alone, and none once that is dropped.",
)
def made_again(recipe: str) -> Outcome:
    net = Net()
    counts = []
    for _ in range(3):
        optimizer = RECIPES[recipe](net)
        counts.append(hooks(net))
    assert counts[0] == counts[-1], f"{counts} hooks"
    User(recipe, net).steps(0, 1)
    del optimizer
    if counts[0]:
        gc.collect()
        assert hooks(net) == 0
    return None


def hooks(net: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(each, kind)) for each in net.modules() for kind in kinds)
