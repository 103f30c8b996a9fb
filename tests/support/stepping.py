"""One weight under a declaration, stepped by hand."""

import torch
from torch import Tensor

from modula.duality import Batch, Declaration, program_of


class Stepper:
    """Feeds gradients to the program of a declaration, at lr unless another is given."""

    def __init__(self, declaration: Declaration, weight: Tensor, lr: float = 1.0) -> None:
        self.weight = weight.clone()
        self.program = program_of(declaration, weight.shape)
        self.batch = Batch([self.program], [self.weight])
        self.lr = lr

    def step(self, gradient: Tensor) -> Tensor:
        """What the weight moved by, with the sign of a gradient."""
        before = self.weight.clone()
        self.batch.propose([gradient], self.program.live)
        self.batch.update(torch.tensor(self.lr, dtype=torch.float64), self.program.live)
        return before - self.weight


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal entries in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
