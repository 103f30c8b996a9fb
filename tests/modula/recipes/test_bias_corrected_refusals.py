"""What bias_corrected refuses, and that nothing is changed then."""

from functools import partial
from typing import Any

import pytest
import torch
from microbatches import Words, backward, batches
from torch import Tensor

import modula
from metrics import program
from modula import recipes
from modula.duality import Average, Unbiased
from modula.norms import (
    CrossFitted,
    Diagonal,
    Kronecker,
    Max,
    Memory,
    SpikeAndFlat,
    Sum,
    VarianceCorrected,
)
from modula.recipes import bias_corrected


def states(optimizer: modula.SteepestDescent) -> list[Tensor]:
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    values = (value for w in weights for value in optimizer.state[w].values())
    return [x.detach().clone() for x in (*weights, *values)]


@pytest.mark.parametrize("name", ["adamw", "shampoo"])
@pytest.mark.parametrize("count", [0, 1])
def test_a_step_without_two_microbatches_is_refused_and_nothing_is_changed(
    name: str, count: int
) -> None:
    net = Words()
    optimizer = bias_corrected(name)(net, **({"every": 1} if name == "shampoo" else {}))
    first, second = batches(2)
    backward(net, first)
    optimizer.step()
    optimizer.zero_grad()
    before = states(optimizer)
    if count:
        backward(net, second[:1])
    else:
        for weight in net.parameters():
            weight.grad = torch.ones_like(weight)
    with pytest.raises(ValueError, match=rf"inner\.weight compares micro.* this step had {count}"):
        optimizer.step()
    for now, then in zip(states(optimizer), before, strict=True):
        assert torch.equal(now, then)
    optimizer.zero_grad()
    backward(net, second)
    optimizer.step()


def test_one_microbatch_at_sampled_labels_is_refused() -> None:
    net = Words()
    optimizer = bias_corrected("sophia")(net)
    (parts,) = batches(1)
    with optimizer.sampled():
        backward(net, parts[:1])
    backward(net, parts)
    with pytest.raises(ValueError, match="this step had 1 at sampled labels"):
        optimizer.step()


@pytest.mark.parametrize(
    "other",
    [recipes.muon, "lion", partial(recipes.adamw)],
    ids=["a recipe", "a name", "a partial"],
)
def test_other_recipes_are_refused(other: recipes.Recipe | str) -> None:
    with pytest.raises(ValueError, match="correct adamw, sophia, shampoo; got"):
        bias_corrected(other)


def test_metrics_that_nothing_corrects_are_refused() -> None:
    for metric in (Diagonal(Memory(1.0)), Diagonal(statistic="sampled_gradient")):
        with pytest.raises(ValueError, match="CrossFitted needs a Diagonal of gradients"):
            CrossFitted(metric)
    kronecker: Any = Kronecker()
    with pytest.raises(ValueError, match=r"CrossFitted needs a Diagonal for metric; got Kronecker"):
        CrossFitted(kronecker)
    for metric in (Diagonal(Memory(0.9, unbiased=False)), Kronecker()):
        with pytest.raises(ValueError, match="fit that is not coupled, or a Diagonal of sampled"):
            VarianceCorrected(metric)
    spiked = VarianceCorrected(Kronecker(SpikeAndFlat(2), fit=Sum()))
    with pytest.raises(ValueError, match="no metric of this kind keeps SpikeAndFlat"):
        program(spiked, (4, 6))


def test_cross_fitting_stands_under_the_frobenius_norm_behind_adams_momentum() -> None:
    for metric in (CrossFitted(Diagonal()), VarianceCorrected(Kronecker(fit=Sum()))):
        with pytest.raises(ValueError, match="gives a direction and no coordinates"):
            program(metric, (3, 4), norm=Max(2), momentum=Unbiased())
    with pytest.raises(ValueError, match=r"Unbiased momentum, as Adam does; got Average\(beta=0.5"):
        program(CrossFitted(Diagonal()), (3, 4), momentum=Average(0.5))
