"""Named optimizers, each a declaration: norm, metric, potential, momentum for each weight.

Every recipe takes (model, lr, **options), a normed network or any torch model, and returns a
SteepestDescent.  RECIPES lists them by name.
"""

from collections.abc import Callable, Mapping

from modula.optimizer import SteepestDescent
from modula.recipes.bayesian import ivon
from modula.recipes.constrained import (
    hypersphere,
    manifold_muon,
    oblique,
    poet,
    spectral_sphere,
    unit_condition,
)
from modula.recipes.eigenbasis import eshampoo, kl_soap, soap, soap_muon
from modula.recipes.entrywise import (
    adagrad,
    adam,
    adamw,
    lion,
    rmsprop,
    root_free,
    sgd,
    sign,
    sophia,
)
from modula.recipes.inverse_free import if_shampoo, psgd, psgd_lra, psgd_pro, singd
from modula.recipes.kronecker import asgo, kl_shampoo, one_sided, shampoo, shampoo_squared
from modula.recipes.layers import ekfac, foof, kfac, newton_muon, newton_muon_sandwich
from modula.recipes.matrices import SCALES, adamuon, muon, normuon, scion
from modula.recipes.modular import agd, automatic, clipped, modular

Recipe = Callable[..., SteepestDescent]

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
    )
}

__all__ = ["RECIPES", "SCALES", "Recipe", *RECIPES]
