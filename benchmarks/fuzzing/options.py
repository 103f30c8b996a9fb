"""Values of options that a user might give, by the option's name."""

from __future__ import annotations

from random import Random
from typing import Any

import torch

from modula import Automatic
from modula.duality import Clip, MatchRMS, Sharp, ShortStep, Unit
from modula.norms import Absolute, Balanced, Dense, DiagonalMode, Flat, Relative
from modula.norms.checks import is_kind
from modula.recipes.options import OPTIONS

VALUES: dict[str, tuple[Any, ...]] = {
    "lr": (0.0, 1e-4, 0.01, 0.1, 0.5, Automatic()),
    "adamw_lr": (0.0, 1e-3, 0.1),
    # A first average that outlives the second divides old gradients by almost nothing.
    "betas": ((0.9, 0.999), (0.0, 0.5), (0.5, 0.5), (0.9, 0.9)),
    "adamw_betas": ((0.9, 0.95), (0.0, 0.0), (0.99, 0.999)),
    "eps": (1e-8, 1e-3, 0.0),
    "momentum": (0.0, 0.5, 0.95, 0.999),
    "alpha": (0.0, 0.9, 0.99),
    "beta": (0.0, 0.5, 0.95),
    "weight_decay": (0.0, 0.0, 0.01, 1.0),
    "adamw_weight_decay": (0.0, 0.0, 0.1),
    "nesterov": (False, True),
    "maximize": (False, True),
    "on_nonfinite": ("raise", "skip"),
    "certify_every": (None, None, None, 2),
    "state_dtype": (None, torch.bfloat16),
    "potential": (Unit(), Sharp(), Clip(1.0), ShortStep(0.5)),
    "radius": (None, 0.5, 8.0),
    "head_radius": (1.0, 64.0),
    "constrained": (False, True),
    "scalers": ((), (MatchRMS(),)),
    "modes": (Dense(), DiagonalMode(), Flat(), (Dense(), DiagonalMode())),
    "every": (1, 2, 10),
    "sample_every": (1, 2),
    "max_dim": (1, 3, 2048),
    "damping": (1e-6, 1e-2, Absolute(1e-3), Balanced(1e-2), Relative(0.1)),
    "sampled": (False, True),
    "instant": (False, True),
    "cross": (False, True),
    "scale": ("rms", "original"),
    "block": (2, 3, 256),
    "rank": (1, 2, 10),
    "first": (0.1, 1.0),
    "prior": (0.0, 1e-4, 1.0),
    "ess": (1.0, 1e5),
    "rate": (0.01, 0.5),
    "rho": (0.04, 1.0),
    "batch": (1, 8),
    "terms": (1, 64),
}
SHARE = 0.3  # of the options that are given


def options(draw: Random, recipe: str) -> dict[str, Any]:
    """Some options of a recipe, mostly with values of their kind."""
    found = {}
    for key, option in OPTIONS[recipe].items():
        if key in VALUES and draw.random() < SHARE:
            is_any = draw.random() < 0.02  # what is refused must be so in one sentence
            values = [x for x in VALUES[key] if is_any or is_kind(x, option.kind)]
            found[key] = draw.choice(values or [option.default])
    return found
