"""Declare the geometry of a network; its optimizer is derived.

import modula
net = modula.Linear(10, 64) @ modula.ReLU() @ modula.Linear(64, 784)
optimizer = modula.SteepestDescent(net, lr=0.1)
print(optimizer.plan)
"""

from modula import duality, manifolds, norms, recipes
from modula.network.algebra import Add, Bond, Compose, Identity, Module, Parallel, Scale
from modula.network.atoms import Bias, Conv2d, Embedding, Gain, Linear
from modula.network.bonds import (
    GELU,
    Apply,
    Attention,
    AttentionQK,
    AvgPool,
    Context,
    Flatten,
    Mask,
    Mean,
    MergeHeads,
    ReLU,
    RMSNorm,
    Rope,
    SiLU,
    Softmax,
    SplitHeads,
)
from modula.network.compounds import GPT, MLP, Compound, ResNet
from modula.network.declare import declare
from modula.network.geometry import Geometry, geometries
from modula.network.modular_norm import modular_norm, product_manifold
from modula.optimizer.automatic import Automatic
from modula.optimizer.gradients import NonFiniteGradient
from modula.optimizer.param_groups import Group
from modula.optimizer.steepest_descent import SteepestDescent

__version__ = "0.1.0"

__all__ = [
    "GELU",
    "GPT",
    "MLP",
    "Add",
    "Apply",
    "Attention",
    "AttentionQK",
    "Automatic",
    "AvgPool",
    "Bias",
    "Bond",
    "Compose",
    "Compound",
    "Context",
    "Conv2d",
    "Embedding",
    "Flatten",
    "Gain",
    "Geometry",
    "Group",
    "Identity",
    "Linear",
    "Mask",
    "Mean",
    "MergeHeads",
    "Module",
    "NonFiniteGradient",
    "Parallel",
    "RMSNorm",
    "ReLU",
    "ResNet",
    "Rope",
    "Scale",
    "SiLU",
    "Softmax",
    "SplitHeads",
    "SteepestDescent",
    "declare",
    "duality",
    "geometries",
    "manifolds",
    "modular_norm",
    "norms",
    "product_manifold",
    "recipes",
]
