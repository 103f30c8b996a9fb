"""Where geometry meets arithmetic: rules, programs, plans, batches and certificates."""

from importlib import import_module
from pkgutil import iter_modules

from modula.duality import metrics, rules
from modula.duality.certificate import Certificate, certify, gap_of
from modula.duality.declaration.decay import (
    BehindMetric,
    Cautious,
    Coupled,
    Decay,
    Decoupled,
    Independent,
    Scheduled,
)
from modula.duality.declaration.declaration import Declaration, program_of
from modula.duality.declaration.scalers.base import Scaler
from modula.duality.declaration.scalers.graft import Graft
from modula.duality.declaration.scalers.hyperball import Hyperball
from modula.duality.declaration.scalers.moments import EntryMoments, RowMoments
from modula.duality.declaration.scalers.rms import LimitRMS, MatchRMS
from modula.duality.plan import Plan, Row, plan_of
from modula.duality.program.batch import Batch, batches
from modula.duality.program.line import Line, Live, PerWeight, Role, line
from modula.duality.program.program import Program
from modula.duality.program.slot import Slot
from modula.duality.setting.accuracy import Accuracy, Exact, Fast
from modula.duality.setting.derive import Derived, NoRule, Setting, derive, derives
from modula.duality.setting.momentum import (
    Average,
    Behind,
    Between,
    HeavyBall,
    Momentum,
    NoMomentum,
    QueryStore,
    Unbiased,
)
from modula.duality.setting.potential import Clip, Potential, Sharp, ShortStep, Unit, Within

# Every file of these two rooms registers what it says when it is imported.
for room in (metrics, rules):
    for file in iter_modules(room.__path__, f"{room.__name__}."):
        import_module(file.name)

__all__ = [
    "Accuracy",
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
    "Exact",
    "Fast",
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
    "PerWeight",
    "Plan",
    "Potential",
    "Program",
    "QueryStore",
    "Role",
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
