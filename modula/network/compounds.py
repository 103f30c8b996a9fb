"""Ready networks, as named parts and one expression of the algebra: MLP, GPT, ResNet."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import Any

from torch import nn

from modula.network.algebra import Atom, Bond, Identity, Module, check_sizes
from modula.network.atoms import Conv2d, Embedding, Linear
from modula.network.bonds import GELU, Attention, Context, Mean, ReLU


class Compound(Module):
    """Named parts, and an expression of the algebra that is built from the same modules.

    The parts give the weights their names; the expression alone gives forward, mass, sensitivity
    and budgets.  It is kept out of torch's registry, so that no weight has two names.

    >>> up, down = Linear(8, 4), Linear(4, 8)
    >>> list(Compound(down @ ReLU() @ up, up=up, down=down).budgets())
    ['up.weight', 'down.weight']
    """

    expression: Module

    def __init__(self, expression: Module, **parts: nn.Module) -> None:
        super().__init__()
        # Past nn.Module.__setattr__, which would register it and name every weight twice.
        self.__dict__["expression"] = expression
        for name, part in parts.items():
            self.add_module(name, part)
        self.budgets()  # raises if parts and expression do not hold the same weights

    @property
    def mass(self) -> float:
        return self.expression.mass

    @property
    def sensitivity(self) -> float:
        return self.expression.sensitivity

    def allot(self, budget: float) -> Iterator[tuple[Atom, float]]:
        return self.expression.allot(budget)

    def forward(self, x: Any) -> Any:
        return self.expression(x)


def residual(block: Module, share: float) -> Module:
    """(1 - share) x + share block(x), of sensitivity 1 if the block's is 1.

    With share = 1 / L, the sharpness of a stack of L stays bounded as L grows.

    Source: Large et al. 2024, arXiv:2405.14813.
    """
    return block if share == 1 else (1 - share) * Identity() + share * block


class MLP(Compound):
    """Linear layers with an activation between them, widths written as in Linear: output first.

    >>> MLP(10, 256, 784).budgets()
    {'layers.0.weight': 0.5, 'layers.1.weight': 0.5}
    """

    def __init__(self, *widths: int, activation: Bond | None = None) -> None:
        if len(widths) < 2:
            raise ValueError(f"MLP needs two widths or more, output first; got {widths}")
        check_sizes("MLP", **{f"width {place}": width for place, width in enumerate(widths)})
        activation = activation or ReLU()
        layers = [Linear(fan_out, fan_in) for fan_out, fan_in in pairwise(widths)][::-1]
        rest = [layer @ activation for layer in layers[1:]]
        super().__init__(_stack(layers[0], *rest), layers=nn.ModuleList(layers))


class FeedForward(Compound):
    """down(activation(up(x))), `expand` times as wide inside: the second half of a GPT block."""

    def __init__(self, width: int, *, expand: int = 4, activation: Bond | None = None) -> None:
        check_sizes("FeedForward", width=width, expand=expand)
        up, down = Linear(expand * width, width), Linear(width, expand * width)
        super().__init__(down @ (activation or GELU()) @ up, up=up, down=down)


class SelfAttention(Compound):
    """output(1/3 attention(query(x), key(x), value(x))), of sensitivity 1."""

    def __init__(self, width: int, heads: int, *, causal: bool = True) -> None:
        check_sizes("SelfAttention", width=width, heads=heads)
        if width % heads or width // heads % 2:
            raise ValueError(
                f"SelfAttention needs a width of heads * an even number, got width={width}, "
                f"heads={heads}; the next that fits is width={-(-width // (2 * heads)) * 2 * heads}"
            )
        query, key, value, output = (Linear(width, width) for _ in range(4))
        super().__init__(
            output @ (1 / 3 * Attention(heads, causal=causal)) @ (query, key, value),
            query=query,
            key=key,
            value=value,
            output=output,
        )


class Block(Compound):
    """Attention, then a feed-forward network, each mixed into the stream with weight `share`."""

    def __init__(self, width: int, heads: int, *, share: float) -> None:
        attention, mlp = SelfAttention(width, heads), FeedForward(width)
        expression = residual(mlp, share) @ residual(attention, share)
        super().__init__(expression, attention=attention, mlp=mlp)


class GPT(Compound):
    """A causal language model: tokens (..., positions) to scores (..., positions, vocab).

        head @ block ** depth @ embedding,   a block's halves mixed in with weight 1 / (2 depth)

    Sensitivity 1.  Mass 7: the blocks 5 together, embedding and head 1 each.  At any depth the
    budgets are 1/7 for embedding and head; 5/7 for query, key, value; 5/21 for output, up, down.

    Source: Large et al. 2024, arXiv:2405.14813; masses of github.com/modula-systems/modula.
    """

    def __init__(self, *, vocab: int, context: int, width: int, depth: int, heads: int) -> None:
        check_sizes("GPT", vocab=vocab, context=context, width=width, depth=depth, heads=heads)
        embedding, head = Embedding(width, vocab), Linear(vocab, width, role="head")
        blocks = [Block(width, heads, share=1 / (2 * depth)) for _ in range(depth)]
        body = _stack(*blocks).tare(5.0)
        super().__init__(
            head @ body @ embedding @ Context(context),
            embedding=embedding,
            blocks=nn.ModuleList(blocks),
            head=head,
        )
        self.context = context


class ConvBlock(Compound):
    """second(relu(first(x))), two convolutions that keep the size of the image."""

    def __init__(self, channels: int, kernel: int = 3) -> None:
        first, second = (Conv2d(channels, channels, kernel, padding=kernel // 2) for _ in range(2))
        super().__init__(second @ ReLU() @ first, first=first, second=second)


class ResNet(Compound):
    """Images (batch, channels, h, w) to scores (batch, classes), without any normalisation layer.

    A stage for each width: `depth` residual blocks, each mixed in with weight 1 / (number of all
    blocks); a convolution of stride 2 leads from a stage to the next.  Sensitivity 1.  Mass: the
    blocks 5 together, every other layer 1.

    Source: Large et al. 2024, arXiv:2405.14813.
    """

    def __init__(
        self, *, classes: int, channels: int, widths: tuple[int, ...] = (32, 64), depth: int = 2
    ) -> None:
        check_sizes("ResNet", classes=classes, channels=channels, depth=depth, stages=len(widths))
        check_sizes("ResNet", **{f"widths[{place}]": width for place, width in enumerate(widths)})
        stem = Conv2d(widths[0], channels, 3, padding=1)
        head = Linear(classes, widths[-1], role="head")
        downs = [Conv2d(wide, thin, 3, stride=2, padding=1) for thin, wide in pairwise(widths)]
        count = depth * len(widths)
        stages = [[ConvBlock(width).tare(5 / count) for _ in range(depth)] for width in widths]
        body = [_stack(*(residual(block, 1 / count) for block in stage)) for stage in stages]
        rest = [stage @ down for stage, down in zip(body[1:], downs, strict=True)]
        super().__init__(
            head @ Mean() @ ReLU() @ _stack(body[0], *rest) @ stem,
            stem=stem,
            stages=nn.ModuleList(nn.ModuleList(stage) for stage in stages),
            downs=nn.ModuleList(downs),
            head=head,
        )


def _stack(*modules: Module) -> Module:
    """The modules composed, the first applied first."""
    return reduce(lambda before, after: after @ before, modules)
