"""A gradient without its zeros moves a weight, and its state, as the same one with them."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.testing import assert_close

from modula import NonFiniteGradient
from modula.duality.program.names import SAMPLED
from modula.recipes import RECIPES


class Net(nn.Module):
    """Classes of words."""

    def __init__(self, sparse: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(7, 4, sparse=sparse), nn.Linear(4, 3)
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(self.words(x).tanh())
        return y


class Run:
    """A network whose words have sparse gradients, or dense ones."""

    def __init__(self, recipe: str, sparse: bool, **options: bool) -> None:
        self.net = Net(sparse)
        self.optimizer = RECIPES[recipe](self.net, **options)
        self.scaler = GradScaler("cpu", enabled=False)

    def backward(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.optimizer.zero_grad()
        x = torch.tensor([[1, 2, 2, 5], [1, 6, 5, 3]]) if seed % 2 else torch.tensor([[4], [4]])
        with self.optimizer.perturbed():
            self._passes(x)
        if self.optimizer.asks_for(*SAMPLED):
            with self.optimizer.sampled():
                self._passes(x)

    def _passes(self, x: Tensor) -> None:
        for some in x:
            loss = F.cross_entropy(self.net(some), some % 3) / len(x)
            self.scaler.scale(loss).backward()

    def step(self, seed: int) -> None:
        self.backward(seed)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def all(self) -> dict[str, Tensor]:
        """Weights and state, by name."""
        found = {name: weight.detach() for name, weight in self.net.named_parameters()}
        names = {weight: name for name, weight in self.net.named_parameters()}
        for weight, state in self.optimizer.state.items():
            found |= {f"{names[weight]} {key}": value for key, value in state.items()}
        return found


@pytest.mark.parametrize("recipe", [*RECIPES])
def test_steps_are_those_of_dense_gradients(recipe: str) -> None:
    sparse, dense = Run(recipe, True), Run(recipe, False)
    start = sparse.net.words.weight.detach().clone()
    for seed in range(4):
        for each in (sparse, dense):
            each.step(seed)
    assert sparse.net.words.weight.grad is not None
    assert sparse.net.words.weight.grad.is_sparse
    assert_close(sparse.all(), dense.all())
    assert not torch.equal(sparse.net.words.weight, start)


@pytest.mark.parametrize("recipe", ["adamw", "scion", "bias_corrected_adamw"])
@pytest.mark.parametrize("maximize", [False, True])
def test_under_a_grad_scaler(recipe: str, maximize: bool) -> None:
    runs = [Run(recipe, sparse, maximize=maximize) for sparse in (True, False)]
    for each in runs:
        each.scaler = GradScaler("cpu", init_scale=2.0**10)
        for seed in range(3):
            each.step(seed)
    assert_close(runs[0].all(), runs[1].all())


def test_what_is_not_finite_is_found_in_it() -> None:
    run = Run("adamw", True)
    run.backward(1)
    assert run.net.words.weight.grad is not None
    run.net.words.weight.grad._values()[0, 0] = float("nan")
    before = {name: value.clone() for name, value in run.all().items()}
    with pytest.raises(NonFiniteGradient, match="words.weight"):
        run.optimizer.step()
    assert_close(run.all(), before, rtol=0, atol=0)


def test_a_row_without_a_gradient_rests_and_its_average_decays() -> None:
    run = Run("modular", True)
    run.step(1)  # words 1, 2, 3, 5 and 6
    before = {name: value.clone() for name, value in run.all().items()}
    run.step(0)  # word 4
    after = run.all()
    still = [0, 1, 2, 3, 5, 6]
    assert_close(after["words.weight"][still], before["words.weight"][still], rtol=0, atol=0)
    momentum = before["words.weight momentum"]
    assert_close(after["words.weight momentum"][still], 0.95 * momentum[still])
    assert not torch.equal(after["words.weight"][4], before["words.weight"][4])
