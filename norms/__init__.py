"""Norms on weights: `norm(x)`, `norm.dual(g)`, `norm.duality_map(g)`, any leading batch dims."""

if __name__ != "modula.norms":
    raise ImportError("this folder is the package modula.norms; import it by that name")

from modula.norms.base import Blocks, MatrixNorm, Norm, Scaled
from modula.norms.metric import Diagonal, Metric
from modula.norms.modular import Composition, MaxOf, RootOf, SumOf
from modula.norms.operator import (
    Columns,
    NoClosedForm,
    RMSToRMS,
    Rows,
    Spectral,
    operator,
)
from modula.norms.schatten import Nuclear
from modula.norms.vector import (
    L1,
    L2,
    RMS,
    EuclideanLength,
    Frobenius,
    Max,
    RMSDual,
    VectorNorm,
)

__all__ = [
    "L1",
    "L2",
    "RMS",
    "Blocks",
    "Columns",
    "Composition",
    "Diagonal",
    "EuclideanLength",
    "Frobenius",
    "MatrixNorm",
    "Max",
    "MaxOf",
    "Metric",
    "NoClosedForm",
    "Norm",
    "Nuclear",
    "RMSDual",
    "RMSToRMS",
    "RootOf",
    "Rows",
    "Scaled",
    "Spectral",
    "SumOf",
    "VectorNorm",
    "operator",
]
