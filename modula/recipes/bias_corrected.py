"""Recipes whose steps are corrected for the noise of the batch that their metric came from."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import nn

from modula.norms.metrics.bias_corrected import CrossFitted, VarianceCorrected
from modula.optimizer.steepest_descent import SteepestDescent
from modula.recipes.adam import adamw
from modula.recipes.common import Correction
from modula.recipes.options import checked
from modula.recipes.shampoo import shampoo
from modula.recipes.sophia import sophia

Recipe = Callable[..., SteepestDescent]

CORRECTIONS: dict[str, tuple[Recipe, Correction]] = {
    "adamw": (adamw, CrossFitted),
    "sophia": (sophia, VarianceCorrected),
    "shampoo": (shampoo, VarianceCorrected),
}


def bias_corrected(recipe: Recipe | str) -> Recipe:
    """The recipe adamw, sophia or shampoo, or the one of that name, with less biased steps.

        optimizer = bias_corrected(adamw)(model, lr=1e-3)

    adamw     u = mean_r m_r / x_r - Var_r(x) mean_r m_r / x_r^3: each microbatch r is divided by
              the denominator of the others, see `CrossFitted`
    sophia    1 / x becomes 1 / x - Var(x) / x^3, x = rho h + eps, at each pass at sampled labels
    shampoo   each eigenvalue's x^-1/4 becomes x^-1/4 - 5/32 x^-9/4 Var(x), when roots are renewed;
              for both see `VarianceCorrected`

    A step needs the gradients of two microbatches or more: call the model and loss.backward() on
    equal parts of the batch, the loss divided by their number, before `step()`; for sophia do so
    inside `optimizer.sampled()`.  `modula train` does.  A step with one raises ValueError: it says
    nothing of the noise.  The parts are kept until the step, as many gradients in memory.
    Gradients may be clipped or unscaled as ever: parts follow.

    Embeddings keep the plain metric, since few microbatches reach a row, and so do all weights
    that shampoo leaves to AdamW.

    Raises ValueError for any other recipe.
    Source: Nayak et al. 2026, arXiv:2605.20756.
    """
    name = recipe if isinstance(recipe, str) else getattr(recipe, "__name__", str(recipe))
    if name not in CORRECTIONS:
        raise ValueError(
            f"bias_corrected knows how to correct {', '.join(CORRECTIONS)}; got {name}"
        )
    plain, correction = CORRECTIONS[name]

    @checked(plain, without=("corrected",), name=f"bias_corrected_{name}")
    @wraps(plain)
    def corrected(model: nn.Module, *arguments: Any, **options: Any) -> SteepestDescent:
        return plain(model, *arguments, corrected=correction, **options)

    corrected.__name__ = f"bias_corrected_{name}"
    corrected.__doc__ = f"{name} with less biased steps: see `bias_corrected`."
    return corrected


bias_corrected_adamw = bias_corrected(adamw)
bias_corrected_sophia = bias_corrected(sophia)
bias_corrected_shampoo = bias_corrected(shampoo)
