"""bias_corrected against naive loops of the whole algorithm."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from microbatches import (
    DECAY,
    LR,
    PARTS,
    Words,
    assert_same_weights,
    backward,
    batches,
    losses,
    moved,
    other_labels,
    own_gradients,
)
from torch import Tensor, nn
from torch.testing import assert_close

from metrics import Runner, draw
from modula import recipes
from modula.duality import Unbiased
from modula.norms import (
    CrossFitted,
    Dense,
    Diagonal,
    DiagonalMode,
    Kronecker,
    Memory,
    Sum,
    VarianceCorrected,
)
from modula.recipes import bias_corrected

# --- AdamW ----------------------------------------------------------------------------------


def naive_adamw(net: nn.Module, steps: int, b1: float, b2: float, eps: float) -> int:
    """Leave-one-out and Jensen by the paper's formulas; how many entries would turn around."""
    state = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in net.named_parameters()}
    turned = 0
    for t, parts in enumerate(batches(steps), 1):
        found = own_gradients(net, parts)
        for name, w in net.named_parameters():
            (m, v), gs = state[name], found[name]
            g, (c1, c2) = gs.mean(0), (1 - b1**t, 1 - b2**t)
            us, xs, thirds = [], [], []
            for r in range(PARTS):
                rest = (PARTS * g - gs[r]) / (PARTS - 1)
                x = ((b2 * v + (1 - b2) * rest**2) / c2).sqrt() + eps
                m_r = (b1 * m + (1 - b1) * gs[r]) / c1
                us, xs, thirds = [*us, m_r / x], [*xs, x], [*thirds, m_r / x**3]
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            u = torch.stack(us).mean(0)
            corrected = u - torch.stack(xs).var(0) * torch.stack(thirds).mean(0)
            turned += int((corrected * u < 0).sum())
            u = torch.where(
                corrected * u < 0, 0.0, u.sign() * torch.minimum(corrected.abs(), u.abs())
            )
            if name == "table.weight":
                u = (m / c1) / ((v / c2).sqrt() + eps)
            with torch.no_grad():
                w.mul_(1 - LR * DECAY).sub_(LR * u)
            state[name] = (m, v)
    return turned


def test_adamw_is_the_loop_over_microbatches_for_20_steps() -> None:
    net, twin, start = Words(), Words(), Words()
    options = {"betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": DECAY}
    optimizer = bias_corrected(recipes.adamw)(net, LR, **options)
    for parts in batches(20):
        optimizer.zero_grad()
        backward(net, parts)
        optimizer.step()
    assert naive_adamw(twin, 20, 0.9, 0.95, 1e-6) > 0
    assert_same_weights(net, twin)
    assert moved(net, start) > 0.1


def test_equal_microbatches_make_it_adamw() -> None:
    net, twin = Words(), Words()
    ours, plain = bias_corrected("adamw")(net, LR), recipes.adamw(twin, LR)
    for parts in batches(10):
        for model, optimizer in ((net, ours), (twin, plain)):
            optimizer.zero_grad()
            backward(model, [parts[0]] * 3)
            optimizer.step()
    assert_same_weights(net, twin)


def test_any_diagonal_is_the_plain_one_where_microbatches_agree() -> None:
    metric = Diagonal(Memory(0.9), floor=0.3, power=0.75, batch=7.0)
    found = Runner(CrossFitted(metric), (3, 2), momentum=Unbiased(0.8))
    plain = Runner(metric, (3, 2), momentum=Unbiased(0.8))
    for seed in range(4):
        gradient = draw(3, 2, seed=seed)
        mine = found.step(gradient, microbatch_gradients=gradient.expand(5, 3, 2))
        assert_close(mine, plain.step(gradient))


@pytest.mark.parametrize("modes", [Dense(), DiagonalMode(), (DiagonalMode(), Dense())], ids=str)
def test_any_kronecker_metric_is_the_plain_one_where_microbatches_agree(modes: Any) -> None:
    metric = Kronecker(modes, fit=Sum(), every=2, power=1.0, damping=0.1)
    found, plain = Runner(VarianceCorrected(metric), (4, 6)), Runner(metric, (4, 6))
    for seed in range(4):
        gradient = draw(4, 6, seed=seed)
        mine = found.step(gradient, microbatch_gradients=gradient.expand(3, 4, 6))
        assert_close(mine, plain.step(gradient))


def test_the_mean_step_is_nearer_to_the_preconditioned_mean_gradient() -> None:
    """Many entries, each with its own draw of the noise, on a metric that has settled."""
    mean, noise, beta, count = 1.0, 3.0, 0.9, 100_000
    settled = mean**2 + noise**2 / PARTS
    torch.manual_seed(0)
    parts = noise * torch.randn(PARTS, count, dtype=torch.float64)
    parts += mean - parts.mean()

    def mean_step(metric: Diagonal | CrossFitted) -> float:
        runner = Runner(metric, (count,), momentum=Unbiased(0.0))
        runner.state("square").fill_(settled)
        runner.state("step").fill_(1000)
        return runner.step(parts.mean(0), microbatch_gradients=parts).mean().item()

    adam = Diagonal(Memory(beta), floor=0.0)
    plain, corrected = (mean_step(m) - mean / settled**0.5 for m in (adam, CrossFitted(adam)))
    assert plain < -0.025  # about 5 % of the step
    assert abs(corrected) < -plain / 5


# --- Sophia ---------------------------------------------------------------------------------


def naive_sophia(net: nn.Module, steps: int, rho: float, terms: int, eps: float) -> int:
    """h from the squares of microbatches, its inverse kept between passes at sampled labels."""
    b1, b2 = 0.965, 0.9
    weights = dict(net.named_parameters())
    m = {name: torch.zeros_like(w) for name, w in weights.items()}
    h = dict(m)
    inverse = {name: torch.full_like(w, 1 / eps) for name, w in weights.items()}
    cut = 0
    for t, parts in enumerate(batches(steps)):
        found = own_gradients(net, parts)
        if t % 5 == 0:
            for name, gs in own_gradients(net, other_labels(parts)).items():
                squares = gs**2 / PARTS if name != "table.weight" else gs.mean(0, True) ** 2
                xs = rho * terms * (b2 * h[name] + (1 - b2) * squares) + eps
                h[name] = b2 * h[name] + (1 - b2) * squares.mean(0)
                x = rho * terms * h[name] + eps
                variance = 0.0 if len(xs) == 1 else xs.var(0) / PARTS
                inverse[name] = (1 / x - variance / x**3).clamp(min=0)
        for name, w in weights.items():
            m[name] = b1 * m[name] + (1 - b1) * found[name].mean(0)
            direction = m[name] * inverse[name]
            cut += int((direction.abs() > 1).sum())
            with torch.no_grad():
                w.mul_(1 - LR * DECAY).sub_(LR * direction.clamp(-1, 1))
    return cut


def test_sophia_is_the_loop_over_microbatches_for_20_steps() -> None:
    net, twin, start = Words(), Words(), Words()
    options = {"terms": 20, "rho": 0.4, "betas": (0.965, 0.9), "eps": 1e-4, "weight_decay": DECAY}
    optimizer = bias_corrected(recipes.sophia)(net, LR, **options)
    for t, parts in enumerate(batches(20)):
        optimizer.zero_grad()
        if t % 5 == 0:
            with optimizer.sampled():
                backward(net, other_labels(parts))
        backward(net, parts)
        optimizer.step()
    entries = sum(w.numel() for w in net.parameters())
    assert 0 < naive_sophia(twin, 20, 0.4, 20, 1e-4) < 20 * entries
    assert_same_weights(net, twin)
    assert moved(net, start) > 0.1


# --- Shampoo --------------------------------------------------------------------------------


def corrected_root(factor: Tensor, moments: list[Tensor], weight: float, damping: float) -> Tensor:
    """L^-1/4, each eigenvalue by the delta rule; moments: g g^T without each microbatch."""
    values, basis = torch.linalg.eigh(factor)
    x = values + damping * factor.trace() / len(factor)
    left_out = torch.stack([(basis.T @ (weight * each) @ basis).diagonal() for each in moments])
    variance = (PARTS - 1) * left_out.var(0, correction=0)
    roots = (x**-0.25 - 5 / 32 * x**-2.25 * variance).clamp(min=0)
    return basis @ roots.diag() @ basis.T


Loss = Callable[[Tensor, Tensor], Tensor]


def naive_shampoo(weight: Tensor, loss_of: Loss, every: int) -> Tensor:
    """(8, 4) as two blocks of 4 x 4, grafted to Adam as a whole; roots are renewed now and then."""
    b1, b2, b3, eps, damping = 0.9, 0.8, 0.99, 1e-8, 1e-3
    w = weight.clone()
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    left = right = torch.zeros(2, 4, 4, dtype=w.dtype)
    roots = [[torch.eye(4, dtype=w.dtype)] * 2 for _ in range(2)]
    for t, xs in enumerate(inputs(12), 1):
        gs = torch.stack([torch.func.grad(loss_of)(w, x) for x in xs])
        g = gs.mean(0)
        m, v = b1 * m + (1 - b1) * g, b3 * v + (1 - b3) * g**2
        m_hat = m / (1 - b1**t)
        blocks, rest = g.reshape(2, 4, 4), [(PARTS * g - gs[r]) / (PARTS - 1) for r in range(PARTS)]
        left = b2 * left + (1 - b2) * blocks @ blocks.mT
        right = b2 * right + (1 - b2) * blocks.mT @ blocks
        direction = []
        for k in range(2):
            mine, newest = [each.reshape(2, 4, 4)[k] for each in rest], (1 - b2) / (1 - b2**t)
            if t % every == 0 or t in (1, 2):
                grams = [each @ each.T for each in mine], [each.T @ each for each in mine]
                roots[k] = [
                    corrected_root(side[k] / (1 - b2**t), moments, newest, damping)
                    for side, moments in zip((left, right), grams, strict=True)
                ]
            direction.append(roots[k][0] @ m_hat.reshape(2, 4, 4)[k] @ roots[k][1])
        d = torch.cat(direction)
        adam = m_hat / ((v / (1 - b3**t)).sqrt() + eps)
        w = (1 - LR * DECAY) * w - LR * adam.norm() * d / d.norm()
    return w


def inputs(steps: int) -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(2)
    for _ in range(steps):
        yield torch.randn(PARTS, 6, 4, generator=generator, dtype=torch.float64)


def test_shampoo_is_the_loop_over_eigenvalues() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8, bias=False)).double()
    weight = net[0].weight.detach().clone()

    def loss_of(w: Tensor, x: Tensor) -> Tensor:
        return (F.linear(x, w) - torch.cat([x.sin(), x.cos()], -1)).square().mean()

    options = {"betas": (0.9, 0.8), "graft_beta": 0.99, "damping": 1e-3, "every": 3}
    optimizer = bias_corrected(recipes.shampoo)(net, LR, weight_decay=DECAY, **options)
    for xs in inputs(12):
        optimizer.zero_grad()
        for x in xs:
            target = torch.cat([x.sin(), x.cos()], -1)
            (F.mse_loss(net(x), target) / PARTS).backward()
        optimizer.step()
    assert_close(net[0].weight.detach(), naive_shampoo(weight, loss_of, 3), rtol=1e-8, atol=1e-10)
    assert (net[0].weight.detach() - weight).abs().max() > 0.1


# --- what is done to gradients, and to what ---------------------------------------------------


@pytest.mark.parametrize("name", ["adamw", "shampoo"])
def test_clipped_gradients_take_their_microbatches_along(name: str) -> None:
    """As if the loss itself had been so much smaller; with a maximum sought, so much negative."""
    net, twin = Words(), Words()
    clipped = bias_corrected(name)(net, LR)
    scaled = bias_corrected(name)(twin, LR, maximize=True)
    for t, parts in enumerate(batches(4)):
        clipped.zero_grad()
        backward(net, parts)
        most = 0.01 * (t + 1)
        factor = most / (nn.utils.clip_grad_norm_(net.parameters(), most) + 1e-6)
        clipped.step()
        assert factor < 1
        scaled.zero_grad()
        for loss in losses(twin, parts):
            (-factor * loss).backward()
        scaled.step()
    assert_same_weights(net, twin, rtol=1e-6)


def corrected_in(name: str, net: nn.Module) -> list[str]:
    rows = bias_corrected(name)(net).plan.rows
    return [row.name for row in rows if "bias-corrected" in row.known_as]


def test_embeddings_and_what_shampoo_leaves_to_adamw_keep_the_plain_metric() -> None:
    dense = ["inner.weight", "inner.bias", "head.weight"]
    assert [corrected_in(name, Words()) for name in ("adamw", "sophia")] == [dense, dense]
    assert corrected_in("shampoo", Words()) == ["inner.weight"]
    tied = Words()
    tied.head = nn.Linear(3, 9, bias=False)
    tied.head.weight = tied.table.weight
    assert corrected_in("adamw", tied) == ["inner.weight", "inner.bias"]


def test_the_plan_says_what_is_done() -> None:
    rows = [bias_corrected(n)(Words()).plan["inner.weight"] for n in ("adamw", "sophia", "shampoo")]
    assert [row.known_as for row in rows] == [
        "AdamW, bias-corrected",
        "Sophia, bias-corrected",
        "Shampoo, bias-corrected, grafted to Adam",
    ]
    assert rows[0].metric == "cross-fitted Diagonal()"
    assert rows[2].metric == "variance-corrected Sum: dense 4 x dense 6, power 0.5"


def test_microbatches_are_kept_in_steps_that_renew_roots_only() -> None:
    net = Words()
    optimizer = bias_corrected("shampoo")(net, every=3)
    kept = []
    for parts in batches(6):
        optimizer.zero_grad()
        backward(net, parts)
        taken = optimizer._network_statistics()._collector._microbatches[""].values(1.0)
        kept.append({name: len(gs) for name, gs in taken.items()})
        optimizer.step()
    due, not_due = {"inner.weight": PARTS}, {}
    assert kept == [due, due, due, not_due, not_due, due]
