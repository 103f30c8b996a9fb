"""Where geometry meets arithmetic: rules, programs, plans, batches and certificates."""

from modula.duality import (
    diagonal,
    eigenbasis,
    general,
    hyperplane,
    inverse_free,
    kronecker,
    layer,
    low_rank,
    natural,
    posterior,
    psgd,
    separable,
    tangent,
    transposed,
    unconstrained,
)
from modula.duality.certificate import Certificate, certify, gap_of
from modula.duality.compiler import Batch, batches
from modula.duality.decay import (
    BehindMetric,
    Cautious,
    Coupled,
    Decay,
    Decoupled,
    Independent,
    Scheduled,
)
from modula.duality.momentum import (
    Average,
    Behind,
    Between,
    HeavyBall,
    Momentum,
    NoMomentum,
    QueryStore,
    Unbiased,
)
from modula.duality.plan import Declaration, Plan, Row, plan_of, program_of
from modula.duality.potential import Clip, Potential, Sharp, ShortStep, Unit, Within
from modula.duality.program import Line, Live, Program, Slot, line
from modula.duality.rules import Derived, NoRule, Setting, derive, derives
from modula.duality.scalers import (
    EntryMoments,
    Graft,
    Hyperball,
    LimitRMS,
    MatchRMS,
    RowMoments,
    Scaler,
)

# The rule files register themselves when imported.
RULE_FILES = (
    unconstrained,
    tangent,
    separable,
    hyperplane,
    general,
    transposed,
    natural,
    posterior,
)
# So do the files that say how a metric is kept.
METRIC_FILES = (diagonal, eigenbasis, inverse_free, kronecker, layer, low_rank, psgd)

__all__ = [
    "METRIC_FILES",
    "RULE_FILES",
    "Average",
    "Batch",
    "Behind",
    "BehindMetric",
    "Between",
    "Cautious",
    "Certificate",
    "Clip",
    "Coupled",
    "Decay",
    "Declaration",
    "Decoupled",
    "Derived",
    "EntryMoments",
    "Graft",
    "HeavyBall",
    "Hyperball",
    "Independent",
    "LimitRMS",
    "Line",
    "Live",
    "MatchRMS",
    "Momentum",
    "NoMomentum",
    "NoRule",
    "Plan",
    "Potential",
    "Program",
    "QueryStore",
    "Row",
    "RowMoments",
    "Scaler",
    "Scheduled",
    "Setting",
    "Sharp",
    "ShortStep",
    "Slot",
    "Unbiased",
    "Unit",
    "Within",
    "batches",
    "certify",
    "derive",
    "derives",
    "gap_of",
    "line",
    "plan_of",
    "program_of",
]
