"""A norm and a manifold that nobody has named, a line each: verified, then trained with.

python examples/08_write_your_own.py      # the laws they keep, their certificates, their plan
"""

import torch
from rich.console import Console

import modula
from modula.laws import broken_laws, manifold_laws, norm_laws
from modula.manifolds import Euclidean, Implicit
from modula.norms import Frobenius, FromDual
from modula.verify import verify_pair, verify_table

KINDS, DOUBLE = ("Gaussian", "low rank"), (torch.float64,)


def between(g: torch.Tensor) -> torch.Tensor:
    """Mean of the dual norms of sign descent and Muon: so is, then, the direction."""
    return 0.5 * g.abs().sum() / g.numel() ** 0.5 + 0.5 * torch.linalg.svdvals(g).sum()


def superellipses(w: torch.Tensor) -> torch.Tensor:
    """Zero where every row has L4 norm one: between the sphere and the cube."""
    return w.pow(4).sum(-1) - 1


def wrong(g: torch.Tensor) -> torch.Tensor:
    """No norm at all: twice as long a tensor is four times as long."""
    return g.square().sum()


def main(steps: int = 60) -> float:
    """Verify both, train a linear map under them; returns the last loss."""
    norm, manifold, shape = FromDual(between), Implicit(superellipses), (6, 4)
    laws = {"between": norm_laws(norm), "superellipses": manifold_laws(manifold)}
    for name, own in {**laws, "wrong": norm_laws(FromDual(wrong))}.items():
        print(f"{name} breaks:", *map(str, broken_laws(own, shape)), "- no more", sep="\n  ")
    rows = [*verify_pair(norm, Euclidean(), shape, kinds=KINDS, dtypes=DOUBLE)]
    rows += verify_pair(Frobenius(), manifold, shape, kinds=KINDS, dtypes=DOUBLE)
    Console(width=150).print(verify_table(rows, 0.1, width=150))

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(8, 6, bias=False), torch.nn.Linear(6, 4, bias=False))
    on_manifold = modula.Geometry(Frobenius(), manifold)
    optimizer = modula.SteepestDescent(modula.declare(net, {"0.*": norm, "1.*": on_manifold}))
    x = torch.randn(256, 8)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.3 * (1 - step / steps)
        loss = (net(x) - x[:, :4]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"\n{optimizer.plan}\n\n{optimizer.plan.programs()}\n\nloss {loss.item():.5f}")
    return loss.item()


if __name__ == "__main__":
    main()
