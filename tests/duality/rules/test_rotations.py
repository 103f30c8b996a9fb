"""POET against a loop over torch.optim.Adam; merges that change nothing; any norm of rotations."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import modula
from modula.duality import Average, Setting, Sharp, certify, derive
from modula.duality.declaration.declaration import Declaration, program_of
from modula.manifolds import (
    Cayley,
    CayleyNeumann,
    Isospectral,
    Manifold,
    Rotations,
    Transposed,
)
from modula.norms import L2, Max, RMSToRMS, Spectral
from modula.norms.metrics.base import Memory
from modula.norms.metrics.diagonal import Diagonal
from modula.optimizer.param_groups import Group
from modula.optimizer.steepest_descent import SteepestDescent

EVERY, STEPS, LR = 4, 11, 0.05


def network(shape: tuple[int, int] = (7, 5)) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(shape[1], shape[0], bias=False, dtype=torch.float64)


def loss_of(weight: Tensor, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(weight.shape[1], 16, dtype=torch.float64, generator=generator)
    return (weight @ x - x.sum(0).sin()).square().mean()


def block_diagonal_rotation(x: Tensor, order: Tensor, size: int) -> Tensor:
    """The whole orthogonal matrix, permuted back and cut to size."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    blocks = [(eye + b) @ torch.linalg.inv(eye - b) for b in x]
    permutation = torch.eye(len(order), dtype=x.dtype)[order]
    return (permutation.T @ torch.block_diag(*blocks) @ permutation)[:size, :size]


def published(weight: Tensor, rotations: Rotations) -> Tensor:
    """The algorithm as a loop: Adam on the entries above the diagonals, by autograd, and merges."""
    shape, side = (weight.shape[0], weight.shape[1]), rotations.side(tuple(weight.shape))
    counts = rotations.counts(shape)
    above = torch.triu(torch.ones(side, side, dtype=torch.float64), 1)
    current = weight.clone()
    for step in range(1, STEPS + 1):
        if step == 1 or step % EVERY == 0:
            base = current.clone()
            rows, columns = rotations.shuffle(shape, step).split([c * side for c in counts])
            upper = torch.zeros(sum(counts), side, side, dtype=torch.float64, requires_grad=True)
            adam = torch.optim.Adam([upper], LR, betas=(0.9, 0.999), eps=1e-8)
        x = (upper * above) - (upper * above).mT
        left = block_diagonal_rotation(x[: counts[0]], rows, shape[0])
        right = block_diagonal_rotation(x[counts[0] :], columns, shape[1])
        adam.zero_grad()
        loss_of(left @ base @ right.T, step).backward()
        adam.step()
        with torch.no_grad():
            x = (upper * above) - (upper * above).mT
            left = block_diagonal_rotation(x[: counts[0]], rows, shape[0])
            right = block_diagonal_rotation(x[counts[0] :], columns, shape[1])
            current = left @ base @ right.T
    return current


def descend(net: nn.Linear, optimizer: SteepestDescent, steps: range) -> list[float]:
    losses = []
    for step in steps:
        loss = loss_of(net.weight, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("block", [3, 256])
def test_poet_is_the_published_loop(block: int) -> None:
    net = network()
    expected = published(net.weight.detach(), Rotations(block, EVERY))
    optimizer = modula.recipes.poet(net, LR, block=block, every=EVERY)
    descend(net, optimizer, range(1, STEPS + 1))
    assert_close(net.weight.detach(), expected, rtol=0, atol=1e-9)


def test_singular_values_stay_and_the_truncated_chart_says_how_far() -> None:
    drift = {}
    for chart in (Cayley(), CayleyNeumann(4), CayleyNeumann(2)):
        net = network()
        before = torch.linalg.svdvals(net.weight.detach())
        optimizer = modula.recipes.poet(net, LR / 10, every=EVERY, chart=chart)
        losses = descend(net, optimizer, range(1, 60))
        assert losses[-1] < losses[0]
        drift[str(chart)] = float((torch.linalg.svdvals(net.weight.detach()) - before).abs().max())
    exact, fourth, second = drift.values()
    assert exact < 1e-13 < fourth < second < 0.1


def test_a_merge_changes_neither_the_weight_nor_the_network_and_forgets_the_momentum() -> None:
    net = network()
    optimizer = modula.recipes.poet(net, LR, block=3, every=EVERY)
    descend(net, optimizer, range(1, EVERY))
    before, state = net.weight.detach().clone(), optimizer.state[net.weight]
    order = state["order"].clone()
    assert state["chart"].abs().max() > 0.01
    net.weight.grad = torch.zeros_like(net.weight)
    optimizer.step()  # the merge; with a zero gradient there is no step
    assert_close(net.weight.detach(), before, rtol=0, atol=1e-15)
    assert torch.equal(state["base"], before)
    assert not torch.equal(state["order"], order)
    assert {n: float(state[n].abs().max()) for n in ("chart", "momentum", "square", "since")} == {
        "chart": 0.0,
        "momentum": 0.0,
        "square": 0.0,
        "since": 1.0,
    }


def test_a_run_goes_on_across_a_merge_as_if_never_stopped() -> None:
    net = network()
    optimizer = modula.recipes.poet(net, LR, block=3, every=EVERY)
    descend(net, optimizer, range(1, 6))
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    other = network()
    other.load_state_dict(saved[0])
    resumed = modula.recipes.poet(other, LR, block=3, every=EVERY)
    resumed.load_state_dict(saved[1])
    for owner, each in ((net, optimizer), (other, resumed)):
        descend(owner, each, range(6, STEPS))
    assert torch.equal(net.weight, other.weight)


def test_merges_in_half_precision_do_not_add_up() -> None:
    """Two hundred of them leave the singular values as near as rounding the weight once does."""
    torch.manual_seed(0)
    net = nn.Linear(24, 32, bias=False, dtype=torch.bfloat16)
    before = torch.linalg.svdvals(net.weight.detach().double())
    optimizer = modula.recipes.poet(net, 0.02, block=8, every=1)
    for _ in range(200):
        net.weight.grad = torch.randn(32, 24).bfloat16()
        optimizer.step()
    after = torch.linalg.svdvals(net.weight.detach().double())
    assert (after - before).norm() < 1e-3 * before.norm()


@pytest.mark.parametrize("norm", [L2(3), Max(3), Spectral()], ids=str)
def test_any_norm_measures_the_rotations(norm: modula.norms.Norm) -> None:
    net = network((6, 6))
    before = torch.linalg.svdvals(net.weight.detach())
    setting = Setting(norm, Isospectral(rotations=Rotations(3, EVERY)), momentum=Average(0.5))
    optimizer = SteepestDescent(net, 0.05, groups=[Group({"weight": Declaration(setting)})])
    losses = descend(net, optimizer, range(1, 40))
    assert sum(losses[-5:]) < sum(losses[:5])
    assert_close(torch.linalg.svdvals(net.weight.detach()), before, rtol=0, atol=1e-12)
    assert optimizer.plan["weight"].known_as == "isospectral descent by rotations"


def test_two_weights_in_a_batch_go_their_own_ways() -> None:
    torch.manual_seed(0)
    twins = nn.Sequential(*(nn.Linear(5, 5, bias=False, dtype=torch.float64) for _ in range(2)))
    starts = [layer.weight.detach().clone() for layer in twins]
    optimizer = modula.recipes.poet(twins, LR, every=1000)
    for step in range(1, 4):
        for layer in twins:
            layer.weight.grad = None
            loss_of(layer.weight, step).backward()
        optimizer.step()
    for start, layer in zip(starts, twins, strict=True):
        alone = nn.Linear(5, 5, bias=False, dtype=torch.float64)
        alone.load_state_dict({"weight": start})
        descend(alone, modula.recipes.poet(alone, LR, every=1000), range(1, 4))
        assert_close(layer.weight, alone.weight)


def test_a_metric_that_reads_more_than_gradients_is_refused() -> None:
    metric = Diagonal(Memory(0.9), statistic="sampled_gradient")
    setting = Setting(L2(3), Isospectral(rotations=Rotations(3)), metric, Sharp())
    with pytest.raises(ValueError, match="gradients alone, and this metric reads sampled_grad"):
        program_of(Declaration(setting), (7, 5))


def test_the_program_reads_as_the_algorithm() -> None:
    rotations = Rotations(3, 200)
    setting = Setting(L2(3), Isospectral(rotations=rotations))
    program = program_of(Declaration(setting), (7, 5))
    assert str(program).splitlines() == [
        "step = count(step)",
        "base = merge(base, order, chart, weight, step)    every 200 steps",
        "order = shuffle(order, step)    every 200 steps",
        "chart = reset(chart)    every 200 steps",
        "chart_gradient = pull_back(gradient, base, order, chart)",
        "direction = normalise(chart_gradient, ndim=3)",
        "chart = step(chart, direction, lr, scale=1)",
        "weight = turn[block=3, Cayley()](base, order, chart)",
    ]


@pytest.mark.parametrize("shape", [(5, 5), (6, 3)], ids=str)
def test_without_rotations_the_direction_is_the_steepest_tangent(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, gradient = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
    for norm in (RMSToRMS(), Max(2), L2(2)):
        derived = derive(Setting(norm, Isospectral()), shape)
        direction = derived.first_direction(weight, gradient)
        proof = certify(norm, Isospectral(), weight, gradient, direction)
        assert proof.tangency < 1e-9
        assert proof.norm <= 1 + 1e-9
        assert -1e-12 <= proof.gap < 0.02


@pytest.mark.parametrize("within", [lambda m: m, Transposed], ids=["itself", "transposed"])
def test_rotations_have_no_direction_along_tangents(within: Callable[[Manifold], Manifold]) -> None:
    manifold = within(Isospectral(rotations=Rotations(2)))
    with pytest.raises(ValueError, match="coordinates have a direction.*Isospectral\\(\\) does"):
        derive(Setting(RMSToRMS(), manifold), (6, 4))
