"""Named optimizers, each a declaration: norm, metric, potential, momentum for each weight.

Every recipe takes (model, lr, **options), a normed network or any torch model, and returns a
SteepestDescent.  RECIPES lists them by name.  `bias_corrected` makes a recipe out of another.
"""

from collections.abc import Mapping

from modula.recipes.adam import adagrad, adam, adamw, rmsprop, root_free
from modula.recipes.automatic import agd, automatic
from modula.recipes.bias_corrected import (
    Recipe,
    bias_corrected,
    bias_corrected_adamw,
    bias_corrected_shampoo,
    bias_corrected_sophia,
)
from modula.recipes.inverse_free import if_shampoo, singd
from modula.recipes.ivon import ivon
from modula.recipes.kfac import ekfac, foof, kfac
from modula.recipes.lion import lion, sign
from modula.recipes.manifolds import (
    hypersphere,
    manifold_muon,
    oblique,
    spectral_sphere,
    unit_condition,
)
from modula.recipes.modular import clipped, modular
from modula.recipes.muon import SCALES, adamuon, muon, normuon
from modula.recipes.newton_muon import newton_muon, newton_muon_sandwich
from modula.recipes.poet import poet
from modula.recipes.psgd import psgd, psgd_lra, psgd_pro
from modula.recipes.scion import scion
from modula.recipes.sgd import sgd
from modula.recipes.shampoo import asgo, kl_shampoo, one_sided, shampoo, shampoo_squared
from modula.recipes.soap import eshampoo, kl_soap, soap, soap_muon
from modula.recipes.sophia import sophia

RECIPES: Mapping[str, Recipe] = {
    recipe.__name__: recipe
    for recipe in (
        sgd,
        sign,
        lion,
        muon,
        normuon,
        adamuon,
        scion,
        adamw,
        adam,
        rmsprop,
        adagrad,
        root_free,
        modular,
        clipped,
        agd,
        automatic,
        hypersphere,
        oblique,
        manifold_muon,
        unit_condition,
        spectral_sphere,
        poet,
        kl_shampoo,
        kfac,
        ekfac,
        foof,
        newton_muon,
        newton_muon_sandwich,
        sophia,
        ivon,
        soap,
        kl_soap,
        eshampoo,
        soap_muon,
        psgd_pro,
        psgd,
        psgd_lra,
        if_shampoo,
        singd,
        shampoo,
        shampoo_squared,
        one_sided,
        asgo,
        bias_corrected_adamw,
        bias_corrected_sophia,
        bias_corrected_shampoo,
    )
}

__all__ = ["RECIPES", "SCALES", "Recipe", "bias_corrected", *RECIPES]
