"""Norms on weights: `norm(x)`, `norm.dual(g)`, `norm.duality_map(g)`, any leading batch dims.

base              Norm, MatrixNorm, and what all norms have: a factor, blocks, a metric
vector            one long vector: L1, L2, RMS, Max
spectral          Spectral and Nuclear;  schatten, ky_fan, on singular_values: the others
operator          the largest stretch between two vector norms: rows and columns too
over_blocks       sums over blocks;  blocks: how a weight is cut into them
from_dual         a norm given by its dual;  lbfgs: the search for its value
in_coordinates    norms behind a linear map of maps/
modular           the norm of a whole network
metrics/          coordinates that are estimated while training
numerics, checks  arithmetic at every scale; whether arguments are of their kind
"""

if __name__ != "modula.norms":
    raise ImportError("this folder is the package modula.norms; import it by that name")

from modula.norms.base import Blocks, MatrixNorm, NoClosedForm, Norm, Scaled
from modula.norms.from_dual import FromDual
from modula.norms.in_coordinates import InCoordinates, Quadratic
from modula.norms.ky_fan import KyFan, KyFanDual
from modula.norms.maps.linear import Along, Elementwise, LinearChain, LinearMap, Rotation
from modula.norms.metrics.base import First, Memory, Metric, Then, Under
from modula.norms.metrics.bias_corrected import CrossFitted, VarianceCorrected
from modula.norms.metrics.diagonal import Diagonal, Scalar
from modula.norms.metrics.eigenbasis import Eigenbasis
from modula.norms.metrics.inverse_free import SINGD, InverseFree
from modula.norms.metrics.kronecker import (
    KL,
    BlockDiagonal,
    Dense,
    DenseIfShortest,
    DiagonalMode,
    Fit,
    Flat,
    Kronecker,
    Mode,
    SpikeAndFlat,
    Sum,
    TraceScaled,
    Triangular,
)
from modula.norms.metrics.layer import (
    Absolute,
    Balanced,
    Damping,
    Exact,
    LayerEigenvalues,
    LayerMoments,
    Relative,
)
from modula.norms.metrics.low_rank import LowRank
from modula.norms.metrics.posterior import Posterior
from modula.norms.metrics.psgd import EQ, PRO, PSGD, Solver
from modula.norms.modular import Composition, MaxOf, RootOf, SumOf
from modula.norms.operator import Columns, RMSToRMS, Rows, operator
from modula.norms.over_blocks import RootOverBlocks, SumOverBlocks
from modula.norms.schatten import Schatten
from modula.norms.singular_values import SingularValueNorm
from modula.norms.spectral import Nuclear, Spectral
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
    "CrossFitted",
    "VarianceCorrected",
    "Posterior",
    "Absolute",
    "Balanced",
    "Damping",
    "Exact",
    "LayerEigenvalues",
    "LayerMoments",
    "Relative",
    "Eigenbasis",
    "EQ",
    "PRO",
    "PSGD",
    "LowRank",
    "SINGD",
    "InverseFree",
    "Solver",
    "Under",
    "Then",
    "Scalar",
    "Memory",
    "First",
    "Sum",
    "TraceScaled",
    "Mode",
    "Kronecker",
    "Flat",
    "Fit",
    "DiagonalMode",
    "Dense",
    "DenseIfShortest",
    "BlockDiagonal",
    "SpikeAndFlat",
    "Triangular",
    "KL",
    "Along",
    "Elementwise",
    "Rotation",
    "LinearMap",
    "LinearChain",
    "InCoordinates",
    "Quadratic",
    "KyFan",
    "KyFanDual",
    "L1",
    "L2",
    "RMS",
    "Blocks",
    "Columns",
    "Composition",
    "Diagonal",
    "EuclideanLength",
    "FromDual",
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
    "RootOverBlocks",
    "Rows",
    "Scaled",
    "Schatten",
    "SingularValueNorm",
    "Spectral",
    "SumOf",
    "SumOverBlocks",
    "VectorNorm",
    "operator",
]
