"""Where geometry meets arithmetic: rules, programs, plans, batches and certificates."""

from modula.duality import (
    diagonal,
    eigenbasis,
    general,
    hyperplane,
    inverse_free,
    kronecker,
    natural,
    psgd,
    separable,
    tangent,
    transposed,
    unconstrained,
)
from modula.duality.certificate import Certificate, certify, gap_of
from modula.duality.compiler import Batch, batches
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

# The rule files register themselves when imported.
RULE_FILES = (unconstrained, tangent, separable, hyperplane, general, transposed, natural)
# So do the files that say how a metric is kept.
METRIC_FILES = (diagonal, eigenbasis, inverse_free, kronecker, psgd)

__all__ = [
    "METRIC_FILES",
    "RULE_FILES",
    "Average",
    "Batch",
    "Behind",
    "Between",
    "Certificate",
    "Clip",
    "Declaration",
    "Derived",
    "HeavyBall",
    "Line",
    "Live",
    "Momentum",
    "NoMomentum",
    "NoRule",
    "Plan",
    "Potential",
    "Program",
    "QueryStore",
    "Row",
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
