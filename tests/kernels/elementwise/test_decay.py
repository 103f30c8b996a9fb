"""Weight decay entry by entry: each op against its formula, both twins."""

import torch
from torch.testing import assert_close

from modula.kernels.elementwise import decay
from twins import LR, tensors


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_decay_in_both_twins() -> None:
    weights, others = [draw(3, 2), draw(4)], [draw(3, 2, seed=1), draw(4, seed=1)]
    scales = [1.0, 0.5]
    rows = list(zip(weights, others, scales, strict=True))
    added = [x + s * 0.2 * w for w, x, s in rows]
    assert decay.add_decay.foreach is not None and decay.cautious_decay.foreach is not None
    assert_close(decay.add_decay.foreach(others, weights, rate=0.2, scale=scales), added)
    assert_close([decay.add_decay(x, w, rate=0.2, scale=s) for w, x, s in rows], added)
    shrunk = [torch.where(w * x > 0, (1 - 0.3 * s * 0.2) * w, w) for w, x, s in rows]
    plain = [decay.cautious_decay(w, x, LR, rate=0.2, scale=s) for w, x, s in rows]
    assert_close(plain, shrunk)
    own = [w.clone() for w in weights]
    assert_close(decay.cautious_decay.foreach(own, others, LR, rate=0.2, scale=scales), shrunk)
    assert_close(own, shrunk)


def test_decoupled_decay_takes_one_scale_a_weight() -> None:
    weights, scales = tensors(3, 0), [1.0, 0.5, 0.25]
    decayed = [w * (1 - 0.3 * s * 0.1) for w, s in zip(weights, scales, strict=True)]
    assert_close(decay.decay(weights[1], LR, rate=0.1, scale=0.5), decayed[1])
    own = [w.clone() for w in weights]
    assert_close(decay.decay(own, LR, rate=0.1, scale=scales), decayed)
    assert_close(own, decayed)
