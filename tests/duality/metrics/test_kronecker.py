"""Structures of factors: rows, columns, blocks, triangles, against what each of them is to be."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from devices import remote
from metrics import DTYPE, STRUCTURED, Runner, draw, kronecker_samples, program
from modula.duality import Batch, Setting, Sharp
from modula.duality.known_as import known_as
from modula.duality.metrics.coordinates import coordinates, describe
from modula.kernels.moments.root import inverse_root_blocks
from modula.norms import (
    EQ,
    KL,
    L2,
    PSGD,
    SINGD,
    BlockDiagonal,
    Dense,
    DiagonalMode,
    Eigenbasis,
    Fit,
    Flat,
    InverseFree,
    Kronecker,
    Memory,
    Metric,
    Mode,
    SpikeAndFlat,
    Sum,
    TraceScaled,
    Triangular,
)

BLOCKS = Kronecker(BlockDiagonal(2))
EXACT: dict[str, Any] = {"damping": 0.0, "every": 1, "square": False}
PURE: dict[str, Any] = {"damping": 0.0, "square": False}


def kl(modes: Mode | tuple[Mode, ...], **options: Any) -> Kronecker:
    return Kronecker(modes, memory=Memory(0.5, unbiased=False), **{**EXACT, **options})


@pytest.mark.parametrize(
    ("modes", "name"),
    [
        ((DiagonalMode(), Flat()), "diagonal one-sided Shampoo"),
        ((DiagonalMode(), DiagonalMode()), "KL-Adafactor"),
        ((DiagonalMode(), Dense()), "KL-Shampoo"),
        (SpikeAndFlat(2), "KL-Shampoo"),
    ],
    ids=str,
)
def test_the_plan_knows_their_names(modes: Any, name: str) -> None:
    assert known_as(Setting(L2(2), metric=kl(modes), potential=Sharp()), False) == name


def block_diagonal(x: Tensor, size: int) -> Tensor:
    """The blocks on the diagonal of x, zeros elsewhere."""
    ones = torch.ones(size, size, dtype=DTYPE)
    return x * torch.block_diag(*[ones] * (len(x) // size))


def test_rows_or_columns_alone_are_declared_by_a_diagonal_and_nothing() -> None:
    """S = diag(r) x I with r_i = E mean_j G_ij^2, the KL projection; columns likewise."""
    gradients = [draw(3, 4, seed=i) for i in range(5)]
    mean = sum(0.5 ** (5 - i) * g**2 for i, g in enumerate(gradients))
    for modes, size in (((DiagonalMode(), Flat()), 1), ((Flat(), DiagonalMode()), 0)):
        direction = Runner(kl(modes), (3, 4)).steps(gradients)
        alone = mean.mean(size, keepdim=True)
        assert_close(direction, gradients[-1] / alone.sqrt())


@pytest.mark.parametrize("metric", [kl, InverseFree, PSGD], ids=["KL", "InverseFree", "PSGD"])
def test_blocks_come_to_rest_at_their_kl_projection(metric: Any) -> None:
    """S_1 = blocks of E[G S_2^-1 G^T] / n, S_2 = E[G^T S_1^-1 G] / m, iterated in a plain loop."""
    samples = draw(60, 4, 3) * draw(3, seed=1).exp()
    samples = torch.einsum("ij,bjk->bik", draw(4, 4, seed=2), samples)
    rows, columns = torch.eye(4, dtype=DTYPE), torch.eye(3, dtype=DTYPE)
    for _ in range(60):
        rows = block_diagonal(
            torch.einsum("bij,jk,blk->il", samples, torch.linalg.inv(columns), samples) / 180, 2
        )
        columns = torch.einsum("bji,jk,bkl->il", samples, torch.linalg.inv(rows), samples) / 240
    modes = (Flat(), BlockDiagonal(2), Dense())
    fast: dict[Any, dict[str, Any]] = {
        kl: {},
        InverseFree: {**PURE, "rate": 0.3},
        PSGD: {**PURE, "rate": 0.3, "last_rate": 0.3},
    }
    runner = Runner(metric(modes, **fast[metric]), (60, 4, 3))
    found = runner.steps([samples] * 150)
    power = -1.0 if metric is InverseFree else -0.5
    left, right = (power_of(x, power) for x in (rows, columns))
    assert_close(found, left @ samples @ right, rtol=1e-6, atol=1e-6)


def power_of(x: Tensor, power: float) -> Tensor:
    values, basis = torch.linalg.eigh(x)
    return (basis * values**power) @ basis.mT


def test_blocks_with_nothing_beside_them_are_weights_of_their_own() -> None:
    gradients = [draw(6, 4, seed=i) for i in range(4)]
    how: dict[str, Any] = {"damping": 1e-3, "every": 1, "memory": Memory(0.9)}
    together = Runner(Kronecker((BlockDiagonal(2), Flat()), **how), (6, 4)).steps(gradients)
    alone = [
        Runner(Kronecker((Dense(), Flat()), **how), (2, 4)).steps([g[i : i + 2] for g in gradients])
        for i in (0, 2, 4)
    ]
    # Both begin at the size of their own first gradient, which an unbiased average forgets.
    assert_close(together, torch.cat(alone))


@pytest.mark.parametrize("shape", [(6, 4), (4, 6)], ids=str)
def test_blocks_of_one_are_a_diagonal_and_those_as_large_as_it_gets_dense(
    shape: tuple[int, int],
) -> None:
    gradients = [draw(*shape, seed=i) for i in range(4)]
    for size, mode in ((1, DiagonalMode()), (12, Dense())):
        found = Runner(kl(BlockDiagonal(size)), shape).steps(gradients)
        assert torch.equal(found, Runner(kl(mode), shape).steps(gradients))


def test_blocks_of_shampoo_squared_share_one_trace() -> None:
    gradients = [draw(4, 3, seed=i) for i in range(3)]
    metric = kl((BlockDiagonal(2), Dense()), fit=TraceScaled())
    found = Runner(metric, (4, 3)).steps(gradients)
    weights = [0.5 ** (3 - i) for i in range(3)]
    rows = sum(w * g @ g.mT for w, g in zip(weights, gradients, strict=True))
    columns = sum(w * g.mT @ g for w, g in zip(weights, gradients, strict=True))
    rows = block_diagonal(rows, 2)
    left, right = (power_of(x / x.trace() ** 0.5, -0.5) for x in (rows, columns))
    assert_close(found, left @ gradients[-1] @ right, rtol=1e-6, atol=1e-6)


def positive(d: int, seed: int) -> Tensor:
    x = draw(d, 2 * d, seed=seed)
    return x @ x.mT / (2 * d)


@pytest.mark.parametrize("modes", [(BlockDiagonal(2), Dense()), (Dense(), Triangular())], ids=str)
@pytest.mark.parametrize("cross", [True, False])
def test_singd_comes_to_rest_at_its_part_of_the_layers_fisher(modes: Any, cross: bool) -> None:
    outputs, inputs, gradient = positive(4, 0), positive(3, 1), draw(4, 3)
    runner = Runner(SINGD(modes, rate=0.2, damping=0.0, cross=cross), (4, 3))
    for _ in range(150):
        direction = runner.step(gradient, output_moment=outputs, input_moment=inputs)
    if isinstance(modes[0], BlockDiagonal):
        outputs = block_diagonal(outputs, 2)
    expected = torch.linalg.solve(outputs, gradient) @ torch.linalg.inv(inputs)
    assert_close(direction, expected, rtol=1e-6, atol=1e-7)


def moment_of(runner: Runner, i: int) -> Tensor:
    """S_i = (K K^T)^-1."""
    root = runner.state(f"root_{i}")
    return torch.linalg.inv(root @ root.mT)


def test_triangular_factors_stay_so_and_rest_where_dense_ones_do() -> None:
    samples = draw(60, 3, 4) * draw(4, seed=1).exp()
    found = {}
    for mode in (Triangular(), Dense()):
        runner = Runner(InverseFree((Flat(), mode, mode), rate=0.3, **PURE), (60, 3, 4))
        found[mode] = runner.steps([samples] * 200)
        root = runner.state("root_1")
        assert torch.equal(root, root.tril()) is isinstance(mode, Triangular)
    assert_close(found[Triangular()], found[Dense()], rtol=1e-6, atol=1e-7)


def test_a_triangular_step_moves_s_as_a_dense_one_to_second_order() -> None:
    """From the same S, whose roots differ by a rotation: the difference falls as rate^2."""
    factors = [torch.linalg.cholesky(positive(d, d)) for d in (3, 4)]
    turns = [torch.linalg.qr(draw(d, d, seed=9))[0] for d in (3, 4)]

    def distance(rate: float) -> float:
        found = []
        for mode in (Triangular(), Dense()):
            metric = InverseFree(mode, rate, momentum=0.0, size_beta=1.0, **PURE)
            runner = Runner(metric, (3, 4))
            runner.step(draw(3, 4))
            for i, (factor, turn) in enumerate(zip(factors, turns, strict=True)):
                start = factor if isinstance(mode, Triangular) else factor @ turn
                runner.state(f"root_{i}").copy_(start)
            runner.step(draw(3, 4, seed=1))
            found.append([moment_of(runner, i) for i in (0, 1)])
        return max(float((a - b).norm()) for a, b in zip(*found, strict=True))

    far, near = distance(1e-2), distance(1e-3)
    assert far / near == pytest.approx(100, rel=0.2)


@pytest.mark.parametrize("metric", STRUCTURED, ids=str)
def test_a_batch_of_weights_moves_as_each_alone_and_the_plain_program_agrees(
    metric: Metric,
) -> None:
    """O36."""
    shape, one = (4, 6), torch.ones((), dtype=DTYPE)
    what = program(metric, shape)
    batch = Batch([what] * 2, [torch.zeros(shape, dtype=DTYPE) for _ in range(2)])
    alone = [Runner(metric, shape) for _ in range(2)]
    tensors = {name: alone[0].state(name).clone() for name in what.state}
    tensors["weight"] = torch.zeros(shape, dtype=DTYPE)
    for i in range(5):
        gradients = [draw(*shape, seed=i), draw(*shape, seed=100 + i)]
        batch.propose(gradients, {})
        batch.update(one, {})
        for runner, gradient in zip(alone, gradients, strict=True):
            runner.step(gradient)
        tensors = what.run(**{**tensors, "gradient": gradients[0], "lr": one})
    for weight, runner in zip(batch.weights, alone, strict=True):
        assert_close(weight, runner.weight)
    assert_close(tensors["weight"], alone[0].weight)


@pytest.mark.parametrize("metric", STRUCTURED, ids=str)
def test_from_its_state_a_run_goes_on_bit_by_bit(metric: Metric) -> None:
    """O34."""
    first, second = Runner(metric, (4, 6)), Runner(metric, (4, 6))
    first.steps([draw(4, 6, seed=i) for i in range(5)])
    for name in first.program.state:
        second.state(name).copy_(first.state(name))
    for i in range(5, 12):
        gradient = draw(4, 6, seed=i)
        first.weight.zero_()
        second.weight.zero_()
        assert torch.equal(first.step(gradient), second.step(gradient))


@pytest.mark.parametrize("metric", STRUCTURED, ids=str)
def test_its_cost_is_counted_and_its_state_is_of_the_size_it_says(metric: Metric) -> None:
    what, runner = program(metric, (4, 6)), Runner(metric, (4, 6))
    assert what.cost((4, 6), 4).flops > 0
    names = [name for name in what.state if name != "step"]
    assert what.state_bytes((4, 6), 8) == sum(runner.state(name).numel() for name in names) * 8


def test_blocks_cost_what_they_save() -> None:
    """Of d entries a row b are kept, of d^3 operations d b^2."""
    dense, blocks = (program(InverseFree(mode), (64, 64)) for mode in (Dense(), BlockDiagonal(8)))
    assert blocks.state_bytes((64, 64), 4) < dense.state_bytes((64, 64), 4) / 7
    assert blocks.cost((64, 64), 4).flops < dense.cost((64, 64), 4).flops / 4


def test_they_say_what_they_are() -> None:
    text = "KL: 768 in blocks of 24 x dense 768, power 0.5"
    assert describe(Kronecker((BlockDiagonal(30), Dense())), (768, 768)) == text
    assert "triangular 8 x triangular 8" in describe(InverseFree(Triangular()), (8, 8))
    with pytest.raises(ValueError, match="size >= 1; got 0"):
        BlockDiagonal(0)
    assert "48 with 8 spikes x dense 6" in describe(Kronecker((SpikeAndFlat(8), Dense())), (48, 6))
    with pytest.raises(ValueError, match="rank >= 1; got 0"):
        SpikeAndFlat(0)


@pytest.mark.parametrize(
    "metric",
    [
        Kronecker(Triangular()),
        PSGD(Triangular()),
        InverseFree(SpikeAndFlat(2)),
        Eigenbasis(Kronecker(BlockDiagonal(2))),
    ],
    ids=str,
)
def test_metrics_refuse_what_they_cannot_keep(metric: Metric) -> None:
    with pytest.raises(ValueError, match="no metric of this kind keeps .* give it Dense"):
        coordinates(metric, (8, 8), True)


def spiked(d: int, spikes: list[float], flat: float, seed: int) -> Tensor:
    """A matrix with these eigenvalues, and `flat` for the rest."""
    basis = torch.linalg.qr(draw(d, d, seed=seed))[0]
    values = torch.full((d,), flat, dtype=DTYPE)
    values[: len(spikes)] = torch.tensor(spikes, dtype=DTYPE)
    return (basis * values) @ basis.mT


def test_a_planted_spectrum_is_found() -> None:
    """S_1 with two spikes, any S_2: from their samples the factors come out as they are."""
    rows, columns = spiked(8, [9.0, 4.0], 0.5, seed=0), positive(3, 1)
    samples = kronecker_samples(power_of(rows, 0.5), power_of(columns, 0.5)) * 24**0.5
    runner = Runner(kl((Flat(), SpikeAndFlat(2), Dense())), (24, 8, 3))
    direction = runner.steps([samples] * 60)
    expected = power_of(rows, -0.5) @ samples @ power_of(columns, -0.5)
    assert_close(direction, expected, rtol=1e-6, atol=1e-6)
    spikes, basis = runner.state("factor_1"), runner.state("basis_1")
    assert_close(spikes / spikes[-1], torch.tensor([18.0, 8.0, 1.0], dtype=DTYPE))
    assert_close(rows @ basis, basis * torch.tensor([9.0, 4.0], dtype=DTYPE), atol=1e-6, rtol=0)


@pytest.mark.parametrize("rank", [3, 4, 9])
def test_with_all_directions_but_one_tracked_it_is_the_dense_factor(rank: int) -> None:
    samples = draw(60, 4, 3) * draw(3, seed=1).exp()
    samples = torch.einsum("ij,bjk->bik", spiked(4, [8.0, 4.0, 2.0], 1.0, seed=2), samples)
    directions = [
        Runner(kl((Flat(), mode, Dense())), (60, 4, 3)).steps([samples] * 100)
        for mode in (SpikeAndFlat(rank), Dense())
    ]
    assert_close(*directions, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("fit", [KL(), Sum(), TraceScaled()], ids=str)
def test_a_stream_of_noise_is_followed(fit: Fit) -> None:
    """One gradient a step, subspace renewed now and then: the leading directions are tracked."""
    rows = spiked(24, [400.0, 200.0, 100.0], 1.0, seed=3)
    root = power_of(rows, 0.5)
    metric = Kronecker((SpikeAndFlat(3), Flat()), fit, Memory(0.95), square=False)
    runner = Runner(metric, (24, 6))
    for seed in range(120):
        runner.step(root @ draw(24, 6, seed=seed))
    leading, found = torch.linalg.eigh(rows)[1][:, -3:], runner.state("basis_0")
    assert torch.linalg.svdvals(leading.mT @ found).min() > 0.99
    values = runner.state("factor_0")
    assert 0.5 < values[-1] * 200 / values[1] < 2


def test_spikes_cost_what_they_save() -> None:
    dense, spikes = (
        program(Kronecker((Flat(), mode)), (64, 256)) for mode in (Dense(), SpikeAndFlat(4))
    )
    assert spikes.state_bytes((64, 256), 4) < dense.state_bytes((64, 256), 4) / 20
    assert spikes.cost((64, 256), 4).flops < dense.cost((64, 256), 4).flops / 20


def test_after_a_silent_second_step_the_size_of_the_first_gradient_is_remembered() -> None:
    first, second, silent = 1e-4 * draw(4, 3), 1e-4 * draw(4, 3, seed=1), torch.zeros(4, 3)
    for mode in (Dense(), DiagonalMode(), BlockDiagonal(2), SpikeAndFlat(2)):
        metric = Kronecker(mode, every=1)
        expected = Runner(metric, (4, 3)).steps([first, second])
        assert_close(Runner(metric, (4, 3)).steps([first, silent.double(), second]), expected)


def test_triangular_blocks_of_eq_rest_at_the_inverse_roots() -> None:
    """PSGD's original, whose factors are triangular, block by block; where S is a product."""
    rows, columns = block_diagonal(positive(4, 0), 2), positive(3, 1)
    samples = kronecker_samples(power_of(rows, 0.5), power_of(columns, 0.5)) * 12**0.5
    metric = PSGD((Flat(), BlockDiagonal(2), Dense()), EQ(), rate=0.3, last_rate=0.3, **PURE)
    direction = Runner(metric, (12, 4, 3)).steps([samples] * 300)
    expected = power_of(rows, -0.5) @ samples @ power_of(columns, -0.5)
    assert_close(direction, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("metric", [m for m in STRUCTURED if m != BLOCKS], ids=str)
def test_no_step_waits_for_the_device(metric: Metric) -> None:
    """All but the roots of blocks, which have a twin for devices."""
    what, runner = program(metric, (4, 6)), Runner(metric, (4, 6))
    tensors = {name: runner.state(name).clone() for name in what.state}
    tensors |= {"weight": torch.zeros(4, 6, dtype=DTYPE), "lr": torch.ones((), dtype=DTYPE)}
    for seed in range(3):
        counted = {name: tensors[name] for name in ("step",) if name in tensors}
        far = {name: remote(x) for name, x in tensors.items() if name not in counted}
        tensors = what.run(**{**far, **counted, "gradient": remote(draw(4, 6, seed=seed))})
        runner.step(draw(4, 6, seed=seed))
    assert_close(tensors["weight"].as_subclass(Tensor), runner.weight)


def test_blocks_have_the_same_roots_on_a_device() -> None:
    blocks = torch.stack([positive(4, seed) for seed in range(6)]).view(2, 3, 4, 4)
    how = {"power": 0.5, "damping": 1e-2, "trace_power": 0.5}
    there = inverse_root_blocks(remote(blocks), remote(blocks), **how)
    assert_close(there.as_subclass(Tensor), inverse_root_blocks(blocks, blocks, **how))


@pytest.mark.parametrize("metric", STRUCTURED, ids=str)
def test_a_number_has_a_metric_too(metric: Metric) -> None:
    assert Runner(metric, ()).steps([torch.ones((), dtype=DTYPE)] * 3).isfinite()
