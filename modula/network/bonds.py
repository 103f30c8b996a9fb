"""Bonds: maps without weights, with their Lipschitz constants.

One convention for all sensitivities: the worst case, over inputs of norm at most one.  (The other
one in use, an average over random inputs, gives ReLU 1 / sqrt(2).)  Norms of activations:

    vectors         RMS over the features
    sequences       the largest RMS of a position; of a position and a head where heads are apart
    images          the largest RMS of a pixel, over its channels
    scores          the largest |entry|
    probabilities   the largest L1 norm of a row
    tuples          the sum of their norms

Source: Large et al. 2024, arXiv:2405.14813.
"""

from math import erf, exp, inf, pi, sqrt

import torch
import torch.nn.functional as F
from torch import Tensor

from modula.network.algebra import Bond, check_sizes

GELU_SLOPE = (1 + erf(1)) / 2 + exp(-1) / sqrt(pi)
"""The largest derivative of gelu, 1.1289..., at x = sqrt(2)."""

SILU_SLOPE = (2 + 2.3993572805154677) / 4
"""The largest derivative of silu, 1.0998...: (2 + x) / 4 where x tanh(x / 2) = 2."""


class ReLU(Bond):
    """max(x, 0), of sensitivity 1: where every entry is positive it changes nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class GELU(Bond):
    """gelu(x) / 1.1289..., of sensitivity 1: gelu divided by its largest slope.

    gelu(x) = x Phi(x), with Phi the normal distribution function.
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(x).mul_(1 / GELU_SLOPE)  # in place on its own output: one buffer less


class SiLU(Bond):
    """silu(x) / 1.0998..., of sensitivity 1: silu divided by its largest slope.

    silu(x) = x sigmoid(x)
    """

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x).mul_(1 / SILU_SLOPE)


class RMSNorm(Bond):
    """x / ||x||_RMS over the last dim; 0 for 0.

    Its sensitivity is declared 1, which is true where ||x||_RMS >= 1.  In the worst case it is
    1 / ||x||_RMS, without bound as x goes to 0: no finite number would be honest for all inputs.
    """

    def forward(self, x: Tensor) -> Tensor:
        # The largest entry is divided out first: squares of 1e-30 vanish in float32.  It cancels
        # in the result, so no gradient flows through it.
        largest = x.detach().abs().amax(-1, keepdim=True)
        unit = x / torch.where(largest > 0, largest, 1)
        mean_square = unit.square().mean(-1, keepdim=True)
        return unit * torch.where(mean_square > 0, mean_square, 1).rsqrt()


class Rope(Bond):
    """Rotate pairs of features by angles that grow with the position, in each tensor of a tuple.

        (x_i, x_{i + d/2})  at position p turns by  p base^(-2i/d)      x: (..., positions, d)

    Orthogonal at every position, so its sensitivity is 1; <q_p, k_s> then depends on p - s only.

    Source: Su et al. 2021, arXiv:2104.09864.
    """

    def __init__(self, base: float = 10000.0) -> None:
        super().__init__()
        self.base = base

    def forward(self, xs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        cos, sin = rotation(xs[0], xs[0].shape[-2], self.base)
        return tuple(rotate(x, cos, sin) for x in xs)


class AttentionQK(Bond):
    """scores_ps = <q_p, k_s> / d of a pair (q, k), each (..., positions, d).

    |<q, k>| / d <= ||q||_RMS ||k||_RMS, so 1 / d, not 1 / sqrt(d), gives sensitivity 1.
    """

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        query, key = pair
        return query @ key.mT / query.shape[-1]


class Mask(Bond):
    """Scores of later positions become -inf: (..., positions, positions), causal."""

    def forward(self, scores: Tensor) -> Tensor:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        return scores.masked_fill(later, -inf)


class Softmax(Bond):
    """softmax(scale * scores) over the last dim, of sensitivity `scale` (largest entry to L1)."""

    def __init__(self, scale: float = 1.0) -> None:
        if not 0 < scale < inf:
            raise ValueError(f"Softmax needs a positive finite scale, got {scale}")
        super().__init__(sensitivity=scale)
        self.scale = scale

    def forward(self, scores: Tensor) -> Tensor:
        return torch.softmax(self.scale * scores, dim=-1)


class Apply(Bond):
    """probabilities @ v of a pair (v, probabilities): (..., s, d), (..., p, s) to (..., p, d)."""

    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        value, probabilities = pair
        return probabilities @ value


class SplitHeads(Bond):
    """(..., positions, heads * d) to (..., heads, positions, d).

    Sensitivity 1 is the custom of the field.  It is true if features are measured head by head
    from the start; from RMS over all features the worst case is sqrt(heads), reached when one
    head holds everything.
    """

    def __init__(self, heads: int) -> None:
        check_sizes("SplitHeads", heads=heads)
        super().__init__()
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        return split_heads(x, self.heads).transpose(-2, -3)


class MergeHeads(Bond):
    """(..., heads, positions, d) to (..., positions, heads * d)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(-2, -3).flatten(-2)


class Attention(Bond):
    """Multi-head attention of a tuple (q, k, v), each (..., positions, heads * d), in one kernel.

        head:  softmax(rope(q) rope(k)^T / d) v

    The same map as the bonds above, one after the other: SplitHeads, Rope, AttentionQK, Mask,
    Softmax(1), Apply, MergeHeads.  For q, k, v of norm <= 1, head by head,
        ||d out|| <= ||dq|| + ||dk|| + ||dv||
    so its sensitivity is 1, and 1/3 * Attention(heads) @ (query, key, value) has sensitivity 1.
    About heads, see SplitHeads.
    """

    def __init__(self, heads: int, *, causal: bool = True, base: float = 10000.0) -> None:
        check_sizes("Attention", heads=heads)
        super().__init__()
        self.heads, self.causal, self.base = heads, causal, base

    def extra_repr(self) -> str:
        return f"{self.heads}, causal={self.causal}"

    def forward(self, qkv: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        # Heads stay behind positions until the kernel: on the CPU it then returns them in that
        # order, and merging them again copies nothing.
        query, key, value = (split_heads(x, self.heads) for x in qkv)
        cos, sin = (x.unsqueeze(-2) for x in rotation(query, query.shape[-3], self.base))
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        heads = F.scaled_dot_product_attention(
            query.transpose(-2, -3),
            key.transpose(-2, -3),
            value.transpose(-2, -3),
            is_causal=self.causal,
            scale=1 / query.shape[-1],
        )
        return heads.transpose(-2, -3).flatten(-2)


class Context(Bond):
    """The identity on sequences of at most `longest` positions, an error for longer ones."""

    def __init__(self, longest: int) -> None:
        check_sizes("Context", longest=longest)
        super().__init__()
        self.longest = longest

    def extra_repr(self) -> str:
        return f"{self.longest}"

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.shape[-1] > self.longest:
            raise ValueError(
                f"a sequence of {tokens.shape[-1]} tokens is longer than the context of "
                f"{self.longest}: pass tokens[..., -{self.longest}:], or build a longer context"
            )
        return tokens


class Flatten(Bond):
    """(batch, ...) to (batch, features).  The RMS of all features is at most that of any part."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


class AvgPool(Bond):
    """The mean over windows of size x size pixels: (..., channels, h, w)."""

    def __init__(self, size: int) -> None:
        check_sizes("AvgPool", size=size)
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.size)


class Mean(Bond):
    """The mean over all pixels: (..., channels, h, w) to (..., channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((-2, -1))


def split_heads(x: Tensor, heads: int) -> Tensor:
    """(..., heads * d) to (..., heads, d)"""
    if x.shape[-1] % heads:
        raise ValueError(f"{x.shape[-1]} features do not divide into {heads} heads")
    return x.unflatten(-1, (heads, -1))


def rotation(like: Tensor, positions: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines of every angle, each (positions, d) for `like`: (..., d).

    Made anew at each call: a table kept as a buffer would be garbage after `to_empty`.
    """
    dim = like.shape[-1]
    if dim % 2:
        raise ValueError(f"rope turns pairs of features: it needs an even number, got {dim}")
    work = torch.promote_types(like.dtype, torch.float32)
    place = torch.arange(positions, device=like.device, dtype=work)
    speed = base ** (-torch.arange(0, dim, 2, device=like.device, dtype=work) / dim)
    angle = torch.outer(place, speed)
    cos, sin = angle.cos().to(like.dtype), angle.sin().to(like.dtype)
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x cos + (x with its halves swapped) sin"""
    return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), sin)
