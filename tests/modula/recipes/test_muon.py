"""Muon and its kin against the packages that define them."""

import warnings

import pytest
import torch
from published_polynomials import JORDAN
from torch import Tensor, nn
from training_runs import assert_same_run

import modula
from modula import recipes
from plain_loops import hidden


@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_is_torchs_muon_for_1000_steps(adjust: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its polynomial, and both in float64: torch's rounds to bfloat16, which this undoes."""
    monkeypatch.setattr(Tensor, "bfloat16", lambda x: x.clone())
    monkeypatch.setattr("modula.kernels.spectral.polar.default_polynomials", lambda *_: JORDAN)
    assert_same_run(
        lambda net: modula.recipes.muon(net, 0.01, scale=adjust, weight_decay=0.1),
        lambda net: torch.optim.Muon(net.parameters(), 0.01, weight_decay=0.1, adjust_lr_fn=adjust),
        bias=False,
        rtol=1e-4,
        atol=1e-6,
    )


def test_lr_of_muon_is_the_norm_of_its_step() -> None:
    net = nn.Linear(8, 32, bias=False)
    before = net.weight.detach().clone()
    optimizer = modula.recipes.muon(net, lr=0.02)
    net(torch.randn(64, 8)).square().mean().backward()
    optimizer.step()
    length = modula.norms.RMSToRMS()(before - net.weight.detach())
    assert float(length) == pytest.approx(0.02, rel=0.15)


def test_adamuon_is_the_one_of_pytorch_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = pytest.importorskip("pytorch_optimizer").AdaMuon
        matrix = pytest.importorskip("pytorch_optimizer.optimizer.utils.matrix")
    polar = matrix.zero_power_via_newton_schulz_5  # in bfloat16, by its last default
    monkeypatch.setattr(polar, "__defaults__", (*polar.__defaults__[:-1], torch.float64))
    monkeypatch.setattr("modula.kernels.spectral.polar.default_polynomials", lambda *_: JORDAN)

    def other(net: nn.Module) -> torch.optim.Optimizer:
        group = {"params": [*net.parameters()], "use_muon": True}
        found: torch.optim.Optimizer = theirs([group], lr=1e-3, weight_decay=0.1)
        return found

    assert_same_run(
        lambda net: recipes.adamuon(
            hidden(net), 1e-3, momentum=0.9, nesterov=False, weight_decay=0.1
        ),
        other,
        steps=200,
        bias=False,
        rtol=1e-4,
        atol=1e-6,
    )
