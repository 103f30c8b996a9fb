"""Where geometry meets arithmetic: rules, programs, plans, batches and certificates."""

from modula.duality import (
    general,
    hyperplane,
    natural,
    separable,
    tangent,
    transposed,
    unconstrained,
)
from modula.duality.certificate import Certificate, certify, gap_of
from modula.duality.compiler import Batch, batches
from modula.duality.momentum import Average, HeavyBall, Momentum, NoMomentum, QueryStore
from modula.duality.plan import Declaration, Plan, Row, plan_of, program_of
from modula.duality.potential import Clip, Potential, Sharp, ShortStep, Unit
from modula.duality.program import Line, Live, Program, line
from modula.duality.rules import Derived, NoRule, Setting, derive, derives

# The rule files register themselves when imported.
RULE_FILES = (unconstrained, tangent, separable, hyperplane, general, transposed, natural)

__all__ = [
    "RULE_FILES",
    "Average",
    "Batch",
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
    "Unit",
    "batches",
    "certify",
    "derive",
    "derives",
    "gap_of",
    "line",
    "plan_of",
    "program_of",
]
