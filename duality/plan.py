"""The plan: a table of what is done to each weight, readable before anything runs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass
from io import StringIO
from math import prod
from shutil import get_terminal_size

from rich.console import Console
from rich.table import Table

from modula.duality.declaration.declaration import Declaration, program_of, rule_of
from modula.duality.known_as import known_as
from modula.duality.metrics.coordinates import describe
from modula.duality.plan_table import fitting_table
from modula.duality.program.program import Program
from modula.kernels.op import Shape


@dataclass(frozen=True)
class Row:
    """What is done to one weight, and why.

    error, above  of its direction's singular values: see kernels.op.Error
    """

    name: str
    shape: tuple[int, ...]
    role: str
    norm: str
    manifold: str
    metric: str
    potential: str
    momentum: str
    scalers: str
    budget: float
    rule: str
    known_as: str
    program: Program
    error: float
    above: float
    twin: str
    flops: float
    bytes: float
    state_bytes: int


def row_of(
    name: str, shape: Shape, declaration: Declaration, itemsize: int, kept: int | None = None
) -> Row:
    """The plan's row of one weight; kept: bytes per entry of weight-shaped state, if rounded."""
    setting = declaration.setting
    program = program_of(declaration, shape, name)
    cost = program.cost(shape, itemsize)
    error, above = program.error(shape, max(itemsize, 4))
    return Row(
        name=name,
        shape=tuple(shape),
        role=declaration.role,
        norm=str(setting.norm),
        manifold=str(setting.manifold),
        metric="" if setting.metric is None else describe(setting.metric, shape),
        potential=str(setting.potential),
        momentum=str(setting.momentum),
        scalers=", ".join(map(str, declaration.scalers)),
        budget=declaration.budget,
        rule=rule_of(setting, shape),
        known_as=known_as(setting, declaration.decay is not None, declaration.scalers),
        program=program,
        error=error,
        above=above,
        twin="plain",
        flops=cost.flops,
        bytes=cost.bytes,
        state_bytes=program.state_bytes(shape, max(itemsize, 4), kept),
    )


_COLUMNS = (
    *("weight", "shape", "role", "norm", "manifold", "metric", "scalers"),
    *("budget", "rule", "known as", "MFLOPs"),
)
# What a narrow table may leave out, the most telling first.
_DISPENSABLE = ("metric", "manifold", "known as", "budget", "scalers", "role", "MFLOPs")
WIDE = 200  # columns where no terminal limits them: a log file, a notebook


@dataclass(frozen=True)
class Plan:
    """The table of what an optimizer does to each of its weights; print it."""

    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        """The row of the weight with this full name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no weight is named {name!r}; the plan has {[r.name for r in self.rows]}")

    def table(self, width: int = WIDE) -> Table:
        """A rich table of at most this many columns: one row a weight, equal neighbours in full.

        A narrow one leaves out columns, and says which, before it wraps what is left; the weights,
        their shapes, norms and rules are always there.
        """
        unused = [c for c in ("metric", "scalers") if not any(getattr(r, c) for r in self.rows)]
        rows = [_cells(row) for row in self.rows]
        columns = {c: [row[c] for row in rows] for c in _COLUMNS if c not in unused}
        flops = sum(row.flops for row in self.rows)
        moved = sum(row.bytes for row in self.rows)
        kept = sum(row.state_bytes for row in self.rows)
        share = kept / max(1, sum(prod(row.shape) for row in self.rows))
        caption = (
            f"{len(self.rows)} weights; a step costs {flops:.3g} FLOPs, {moved:.3g} bytes; "
            f"state: {share:.3g} bytes a weight entry" + self._errors()
        )
        title = "What is done to each weight, and why"
        return fitting_table(columns, width, _DISPENSABLE, title=title, caption=caption)

    def _errors(self) -> str:
        """A line of the caption on directions that miss more than rounding of the steepest."""
        found = [row for row in self.rows if row.error > 0]
        if not found:
            return ""
        error, above = (max(getattr(row, name) for row in found) for name in ("error", "above"))
        return (
            f"\nspectral directions (of {len(found)}): singular values within {error:.3g} of one, "
            f"less where below {above:.3g} of the largest; accuracy=Exact() has all at one"
        )

    def __str__(self) -> str:
        width = get_terminal_size((WIDE, 0)).columns
        text = StringIO()
        console = Console(file=text, width=width, color_system=None)
        console.print(self.table(width))
        return "\n".join(each.rstrip() for each in text.getvalue().splitlines())

    def programs(self) -> str:
        """Each distinct program once, under the weights that run it."""
        weights: dict[str, list[str]] = {}
        for row in self.rows:
            weights.setdefault(str(row.program), []).append(row.name)
        blocks = (f"{', '.join(names)}:\n{text}" for text, names in weights.items())
        return "\n\n".join(blocks)

    def to_dicts(self) -> list[dict[str, object]]:
        """The rows as plain data."""
        return [
            {**vars(row), "shape": list(row.shape), "program": str(row.program).splitlines()}
            for row in self.rows
        ]

    def to_json(self) -> str:
        """The rows as JSON."""
        return json.dumps(self.to_dicts(), indent=2)

    def to_html(self) -> str:
        """A page of its own: the table, and under each weight its program."""
        head = "".join(f"<th>{html.escape(c)}</th>" for c in (*_COLUMNS, "program"))
        body = "".join(_html_row(row) for row in self.rows)
        return _PAGE.format(head=head, body=body)


def _cells(row: Row) -> dict[str, str]:
    return dict(
        zip(
            _COLUMNS,
            (
                row.name,
                "x".join(map(str, row.shape)),
                row.role,
                row.norm,
                row.manifold,
                row.metric,
                row.scalers,
                f"{row.budget:.4g}",
                row.rule,
                row.known_as,
                f"{row.flops / 1e6:.3g}",
            ),
            strict=True,
        )
    )


def _html_row(row: Row) -> str:
    cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in _cells(row).values())
    return f"<tr>{cells}<td><pre>{html.escape(str(row.program))}</pre></td></tr>\n"


_PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>modula plan</title>
<style>body{{font:14px/1.4 system-ui,sans-serif;margin:2em}}table{{border-collapse:collapse}}
td,th{{border-bottom:1px solid #ddd;padding:.3em .7em;text-align:left;vertical-align:top}}
pre{{margin:0;font-size:12px}}th{{position:sticky;top:0;background:#fff}}</style>
<h1>What is done to each weight, and why</h1>
<table><thead><tr>{head}</tr></thead><tbody>
{body}</tbody></table></html>
"""


def plan_of(
    declarations: Sequence[tuple[str, Shape, Declaration, int]], kept: int | None = None
) -> Plan:
    """The plan of (name, shape, declaration, bytes an entry) for each weight; kept: see row_of."""
    return Plan(tuple(row_of(*each, kept) for each in declarations))
