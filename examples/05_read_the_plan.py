"""Read what is done to each weight of your own torch model, and change it by name, role or type.

python examples/05_read_the_plan.py      # the same model under four declarations
"""

import torch
from torch import nn

import modula
from modula.manifolds import Oblique
from modula.norms import RMSToRMS


class Transformer(nn.Module):
    """A small encoder as one finds it: nothing in it knows of modula."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(100, 32)
        self.layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
        self.lm_head = nn.Linear(32, 100)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens: (batch, time) -> logits: (batch, time, 100)"""
        logits: torch.Tensor = self.lm_head(self.layer(self.embedding(tokens)))
        return logits


OVERRIDES = {
    "layer.self_attn.in_proj_weight": RMSToRMS().on("(s h d) i -> s h d i", s=3, h=4),  # per head
    "embedding": Oblique("rows", radius=32**0.5),  # every token vector keeps RMS 1
    "head": RMSToRMS(),
}


def main(steps: int = 30) -> float:
    """Print four plans; train under the declared one and return its last loss."""
    torch.manual_seed(0)
    for recipe in (modula.recipes.adamw, modula.recipes.muon, modula.recipes.scion):
        print(f"\n{recipe.__name__}\n{recipe(Transformer()).plan}")
    model = modula.declare(Transformer(), OVERRIDES)
    optimizer = modula.SteepestDescent(model, lr=0.02)
    print(f"\ndeclared\n{optimizer.plan}\n\n{optimizer.plan.programs()}")
    tokens = torch.randint(0, 100, (16, 17))
    for _ in range(steps):
        logits = model(tokens[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"\nloss after {steps} steps: {loss.item():.3f}")
    return loss.item()


if __name__ == "__main__":
    main()
