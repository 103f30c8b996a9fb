"""Declare a geometry, read the optimizer that follows from it, train with it.

python examples/01_derive_muon.py      # a table, three programs, a falling loss
"""

import torch

import modula
from modula.norms import RMS, Frobenius, Max, RMSToRMS, operator

GEOMETRIES = {
    "how much it stretches (Muon)": RMSToRMS(),
    "its largest entry (sign descent)": Max(ndim=2),
    "its entries' length (normalised SGD)": Frobenius(),
}


def main(steps: int = 60) -> float:
    """Train one linear map under three norms; returns the last loss of the first."""
    assert operator(RMS(), RMS()) == RMSToRMS()  # the induced norm *is* Muon's geometry
    torch.manual_seed(0)
    x, truth = torch.randn(256, 32), torch.randn(16, 32)
    first = None
    for words, norm in GEOMETRIES.items():
        torch.manual_seed(0)
        net = modula.declare(torch.nn.Linear(32, 16, bias=False), {"weight": norm})
        optimizer = modula.SteepestDescent(net, lr=norm(truth).item() / 20)
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=60)
        for _ in range(steps):
            loss = (net(x) - x @ truth.T).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()
        print(f"\nA weight is as long as {words}:\n\n{optimizer.plan}\n")
        print(f"{optimizer.plan.programs()}\n\nloss after {steps} steps: {loss.item():.4f}")
        first = loss.item() if first is None else first
    assert first is not None
    return first


if __name__ == "__main__":
    main()
