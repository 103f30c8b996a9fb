"""MLP, SelfAttention, GPT, ResNet: what they compute, their names, their copies."""

import copy
import pickle
from math import erf, exp, pi, sqrt

import pytest
import torch
from torch import Tensor, nn

from modula.network.algebra import Atom, Compose, Module
from modula.network.atoms import Linear
from modula.network.bonds import SiLU
from modula.network.compounds import (
    GPT,
    MLP,
    Compound,
    FeedForward,
    ResNet,
    SelfAttention,
    residual,
)
from modula.network.geometry import geometries

SMALL = {"vocab": 11, "context": 8, "width": 8, "depth": 2, "heads": 2}
TOKENS = torch.randint(0, 11, (2, 7), generator=torch.Generator().manual_seed(0))


def gpt_by_hand(weights: dict[str, Tensor], tokens: list[int], depth: int, heads: int) -> Tensor:
    """Logits of one sequence, one position and one head at a time."""
    stream = [weights["embedding.weight"][token] for token in tokens]
    share = 1 / (2 * depth)
    for layer in range(depth):
        w = {n.removeprefix(f"blocks.{layer}."): x for n, x in weights.items()}
        mixed = attend_by_hand(w, stream, heads)
        stream = [(1 - share) * x + share * y for x, y in zip(stream, mixed, strict=True)]
        mixed = [w["mlp.down.weight"] @ gelu_by_hand(w["mlp.up.weight"] @ x) for x in stream]
        stream = [(1 - share) * x + share * y for x, y in zip(stream, mixed, strict=True)]
    return torch.stack([weights["head.weight"] @ x for x in stream])


def attend_by_hand(w: dict[str, Tensor], stream: list[Tensor], heads: int) -> list[Tensor]:
    out = []
    for now, x in enumerate(stream):
        parts = []
        for head in range(heads):
            d = len(x) // heads
            rows = slice(head * d, (head + 1) * d)
            q = turned(w["attention.query.weight"][rows] @ x, now)
            keys = [turned(w["attention.key.weight"][rows] @ y, p) for p, y in enumerate(stream)]
            values = [w["attention.value.weight"][rows] @ y for y in stream]
            scores = torch.stack([q @ keys[p] / d for p in range(now + 1)]).softmax(0)
            parts.append(sum(scores[p] * values[p] for p in range(now + 1)))
        out.append(w["attention.output.weight"] @ torch.cat(parts) / 3)
    return out


def turned(x: Tensor, position: int) -> Tensor:
    half = len(x) // 2
    out = x.clone()
    for i in range(half):
        angle = torch.tensor(position * 10000.0 ** (-i / half), dtype=x.dtype)
        out[i] = x[i] * angle.cos() - x[i + half] * angle.sin()
        out[i + half] = x[i] * angle.sin() + x[i + half] * angle.cos()
    return out


def gelu_by_hand(x: Tensor) -> Tensor:
    slope = 0.5 * (1 + erf(1.0)) + sqrt(2) * exp(-1.0) / sqrt(2 * pi)
    return torch.stack([v * 0.5 * (1 + torch.erf(v / sqrt(2))) for v in x]) / slope


def test_gpt_computes_what_its_docstring_says() -> None:
    net = GPT(**SMALL).double()
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    out = net(TOKENS)
    assert out.shape == (2, 7, 11) and out.dtype == torch.float64
    for sequence, logits in zip(TOKENS.tolist(), out, strict=True):
        torch.testing.assert_close(logits, gpt_by_hand(weights, sequence, depth=2, heads=2))


def test_float32_is_near_float64() -> None:
    net = GPT(**SMALL)
    torch.testing.assert_close(net(TOKENS), copy.deepcopy(net).double()(TOKENS).float())


def test_gpt_names_every_weight_for_a_reader() -> None:
    names = [name for name, _ in GPT(**SMALL | {"depth": 1}).named_parameters()]
    assert names == [
        "embedding.weight",
        "blocks.0.attention.query.weight",
        "blocks.0.attention.key.weight",
        "blocks.0.attention.value.weight",
        "blocks.0.attention.output.weight",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight",
        "head.weight",
    ]


def test_gpt_declares_roles() -> None:
    roles = {name: geometry.role for name, geometry in geometries(GPT(**SMALL)).items()}
    assert roles["embedding.weight"] == "embedding" and roles["head.weight"] == "head"
    assert roles["blocks.1.attention.query.weight"] == "hidden"


def test_gpt_does_not_look_ahead() -> None:
    net, changed = GPT(**SMALL), TOKENS.clone()
    changed[:, 4:] = (changed[:, 4:] + 1) % 11
    torch.testing.assert_close(net(changed)[:, :4], net(TOKENS)[:, :4])
    assert not torch.allclose(net(changed)[:, 4:], net(TOKENS)[:, 4:])


def test_gpt_takes_one_sequence_without_a_batch_and_up_to_its_context() -> None:
    net = GPT(**SMALL)
    torch.testing.assert_close(net(TOKENS[0]), net(TOKENS)[0])
    assert net(torch.zeros(1, 8, dtype=torch.long)).shape == (1, 8, 11)
    with pytest.raises(ValueError, match="a sequence of 9 tokens is longer than the context of 8"):
        net(torch.zeros(1, 9, dtype=torch.long))


def test_a_token_no_larger_than_one_gives_scores_no_larger_than_one() -> None:
    assert GPT(**SMALL)(TOKENS).square().mean(-1).sqrt().max() <= 1


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ({"depth": 0}, "depth=0"),
        ({"vocab": -1}, "vocab=-1"),
        ({"context": 0}, "context=0"),
        ({"width": 9}, "width=9, heads=2; the next that fits is width=12"),
        ({"width": 6}, "width=6, heads=2; the next that fits is width=8"),
        ({"heads": 0}, "heads=0"),
    ],
)
def test_gpt_refuses_sizes_that_cannot_work(sizes: dict[str, int], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        GPT(**SMALL | sizes)


def test_mlp_alternates_layers_and_activations() -> None:
    net, x = MLP(2, 5, 4, 3), torch.randn(7, 3)
    first, second, third = net.parameters()
    assert [tuple(w.shape) for w in (first, second, third)] == [(4, 3), (5, 4), (2, 5)]
    torch.testing.assert_close(net(x), (x @ first.T).relu().matmul(second.T).relu() @ third.T)
    silu = MLP(2, 5, 3, activation=SiLU())
    first, second = silu.parameters()
    torch.testing.assert_close(silu(x), SiLU()(x @ first.T) @ second.T)
    assert MLP(2, 3)(x).shape == (7, 2)


def test_mlp_refuses_too_few_widths_and_empty_layers() -> None:
    with pytest.raises(ValueError, match="two widths or more"):
        MLP(3)
    with pytest.raises(ValueError, match="width 1=0"):
        MLP(3, 0, 2)


def test_residual_mixes_the_block_in() -> None:
    block, x = Linear(3, 3), torch.randn(2, 3)
    torch.testing.assert_close(residual(block, 0.25)(x), 0.75 * x + 0.25 * block(x))
    torch.testing.assert_close(residual(block, 1.0)(x), block(x))


def test_resnet_turns_images_into_scores() -> None:
    net = ResNet(classes=5, channels=3, widths=(4, 6, 8), depth=2)
    images = torch.randn(2, 3, 16, 16)
    assert net(images).shape == (2, 5)
    assert list(net.budgets()) == [name for name, _ in net.named_parameters()]
    assert [name for name in net.budgets() if not name.startswith("stages")] == [
        "stem.weight",
        "downs.0.weight",
        "downs.1.weight",
        "head.weight",
    ]
    assert "stages.2.1.second.weight" in net.budgets()
    torch.testing.assert_close(net(images)[1], net(images[1:])[0])
    with pytest.raises(ValueError, match=r"widths\[1\]=0"):
        ResNet(classes=5, channels=3, widths=(4, 0))
    with pytest.raises(ValueError, match="stages=0"):
        ResNet(classes=5, channels=3, widths=())


def test_resnet_computes_what_its_docstring_says() -> None:
    net = ResNet(classes=5, channels=3, widths=(4, 6), depth=1)
    w = dict(net.named_parameters())
    conv = torch.nn.functional.conv2d
    x = images = torch.randn(2, 3, 6, 6)
    x = conv(x, w["stem.weight"], padding=1)
    for stage in (0, 1):
        if stage:
            x = conv(x, w["downs.0.weight"], stride=2, padding=1)
        y = conv(x, w[f"stages.{stage}.0.first.weight"], padding=1).relu()
        x = (x + conv(y, w[f"stages.{stage}.0.second.weight"], padding=1)) / 2
    expected = x.relu().mean((2, 3)) @ w["head.weight"].T
    torch.testing.assert_close(net(images), expected)


COMPOUNDS = {
    "mlp": (lambda: MLP(3, 4, 5), torch.randn(2, 5)),
    "feed forward": (lambda: FeedForward(4), torch.randn(2, 4)),
    "attention": (lambda: SelfAttention(4, 2), torch.randn(2, 3, 4)),
    "gpt": (lambda: GPT(**SMALL), TOKENS),
    "resnet": (lambda: ResNet(classes=3, channels=2, widths=(2, 4)), torch.randn(2, 2, 4, 4)),
}
each_compound = pytest.mark.parametrize(("build", "x"), COMPOUNDS.values(), ids=COMPOUNDS.keys())


def atoms_of(net: Module) -> set[int]:
    return {id(module) for module in net.modules() if isinstance(module, Atom)}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@each_compound
def test_copies_keep_parts_and_expression_the_same_objects(build, x: Tensor, duplicate) -> None:
    net = build()
    before, twin = net(x), duplicate(net)
    assert {id(atom) for atom, _ in twin.allot(1.0)} == atoms_of(twin)
    assert not atoms_of(twin) & atoms_of(net)
    torch.testing.assert_close(twin(x), before)
    with torch.no_grad():
        for weight in twin.parameters():
            weight.zero_()
    assert not twin(x).any()
    torch.testing.assert_close(net(x), before)
    assert twin.budgets() == net.budgets() and geometries(twin) == geometries(net)


@each_compound
def test_no_weight_has_two_names(build, x: Tensor) -> None:
    net = build()
    assert list(net.state_dict()) == list(net.budgets()) == list(geometries(net))
    assert len(list(net.named_parameters(remove_duplicate=False))) == len(list(net.parameters()))


@each_compound
def test_weights_can_be_loaded_assigned_and_materialised(build, x: Tensor) -> None:
    net, other = build(), build()
    declared = geometries(net)
    state = {name: weight.clone() for name, weight in other.state_dict().items()}
    net.load_state_dict(state, assign=True)
    torch.testing.assert_close(net(x), other(x))
    with torch.device("meta"):
        empty = build()
    empty = empty.to_empty(device="cpu")
    empty.load_state_dict(state)
    torch.testing.assert_close(empty(x), other(x))
    assert geometries(empty) == geometries(net) == declared


@each_compound
def test_fresh_copies_by_power(build, x: Tensor) -> None:
    net = build()
    twin = (net**1).get_submodule("0")
    assert list(twin.state_dict()) == list(net.state_dict())
    assert not torch.allclose(twin(x), net(x))


def test_tare_reaches_every_weight_of_a_compound() -> None:
    net = MLP(3, 4, 5).tare(6.0)
    assert net.mass == 6.0 and [layer.mass for layer in net.get_submodule("layers")] == [3.0, 3.0]


def test_a_compound_composes_as_one_module() -> None:
    net = Linear(2, 3) @ MLP(3, 4, 5)
    assert isinstance(net, Compose) and len(net.parts) == 2
    assert list(net.budgets()) == ["0.layers.0.weight", "0.layers.1.weight", "1.weight"]


def test_parts_that_the_expression_does_not_use_are_refused() -> None:
    used, unused = Linear(3, 3), Linear(3, 3)
    with pytest.raises(ValueError, match="disagree about the weights of unused"):
        Compound(used, used=used, unused=unused)
    with pytest.raises(ValueError, match="disagree about a weight that is not its own"):
        Compound(used @ unused, used=used)


def test_a_replaced_part_is_noticed() -> None:
    net = GPT(**SMALL)
    net.head = Linear(11, 8)
    with pytest.raises(ValueError, match="disagree about the weights of head: they must hold"):
        net.budgets()


def test_gradients_reach_every_weight() -> None:
    net = GPT(**SMALL)
    nn.functional.cross_entropy(net(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
    for name, weight in net.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
