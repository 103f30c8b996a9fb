"""What a run takes is what autograd saves, and what does not fit is refused with what does."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from modula.errors import UserError
from modula.training.config import VOCABULARY, Config
from modula.training.memory import FLOAT, available, estimate, require_memory
from modula.training.run import build_model

SMALL = Config(width=32, depth=1, heads=2, context=32, batch=4)


def saved_by_autograd(config: Config) -> int:
    """Bytes that the forward pass of a batch leaves for the backward pass."""
    model = build_model(config)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    tokens = torch.zeros(config.batch, config.context + 1, dtype=torch.int64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        scores = model(tokens[:, :-1])
        loss = F.cross_entropy(scores.flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.isfinite()
    return sum(t.untyped_storage().nbytes() for at, t in kept.items() if at not in weights)


@pytest.mark.parametrize(
    "options", [{}, {"depth": 3}, {"width": 64}, {"context": 128}, {"heads": 4}, {"batch": 9}]
)
def test_the_estimate_is_what_autograd_saves_and_three_scores_more(options: dict[str, int]) -> None:
    config = replace(SMALL, **options)
    more = replace(config, batch=2 * config.batch)
    a_batch_more = saved_by_autograd(more) - saved_by_autograd(config)
    positions = config.batch * config.context
    scores = 3 * FLOAT * VOCABULARY * positions
    windows = 16 * config.batch * (config.context + 1)
    assert estimate(more) - estimate(config) == pytest.approx(
        a_batch_more + scores + windows, rel=0.03
    )


def test_microbatches_share_the_memory_of_a_batch() -> None:
    config = replace(SMALL, batch=64)
    assert estimate(replace(config, microbatches=8)) < estimate(config) / 4


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"batch": 10**8}, "--batch "),
        ({"batch": 1, "context": 10**9}, "--context "),
        ({"depth": 10**9}, "--depth "),
        ({"width": 10**8}, "--width "),
    ],
)
def test_what_does_not_fit_is_refused_with_the_largest_that_does(
    options: dict[str, int], cure: str
) -> None:
    config, free = replace(SMALL, **options), 1e9
    with pytest.raises(UserError, match="would take about .* GB of memory, and 1 GB are free") as e:
        require_memory(config, free)
    said = str(e.value)
    assert cure in said
    name, number = said.rpartition("--")[2].split(" ")[:2]
    unit = 2 * config.heads if name == "width" else 1
    require_memory(replace(config, **{name: int(number)}), free)
    with pytest.raises(UserError):
        require_memory(replace(config, **{name: int(number) + unit}), free)


def test_where_nothing_alone_fits_it_is_said() -> None:
    with pytest.raises(UserError, match="take a smaller --width and a smaller --batch"):
        require_memory(replace(SMALL, width=10**8, batch=10**8), 1e9)


def test_this_machine_says_what_it_has() -> None:
    assert available(torch.device("cpu")) > 1e7
