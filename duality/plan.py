"""From declarations to programs: one row a weight, readable before anything runs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import StringIO
from math import prod

from rich.console import Console
from rich.table import Table

from modula.duality.declaration.decay import Decay, as_decay, has_decay
from modula.duality.declaration.direction import proposed
from modula.duality.declaration.scalers import Graft, Scaler
from modula.duality.known_as import known_as
from modula.duality.metrics.coordinates import describe
from modula.duality.program.program import POINT, Line, Program, line
from modula.duality.rules.rotations import chart_shape, rotating
from modula.duality.setting.derive import Derived, Setting, rule_name
from modula.kernels.elementwise import averages
from modula.kernels.op import Shape
from modula.manifolds.euclidean import Euclidean
from modula.manifolds.isospectral import Isospectral
from modula.manifolds.rotations import Rotations
from modula.norms.checks import check_fields


@dataclass(frozen=True)
class Declaration:
    """Everything that decides the update of one weight, its name and shape apart.

    setting       norm, manifold, metric, potential, momentum
    role          what the weight is for, as printed
    budget        norm of one update at lr = 1
    weight_decay  rate of (1 - lr budget rate) w before the step; 1/rate is the radius of the
                  norm ball that the weight then stays in; a Decay puts it elsewhere; None leaves
                  decay out of the program
    scalers       what happens to the direction before the step, in this order
    """

    setting: Setting
    role: str = "hidden"
    budget: float = 1.0
    weight_decay: float | Decay | None = None
    scalers: tuple[Scaler, ...] = ()

    def __post_init__(self) -> None:
        check_fields(self)
        decay = as_decay(self.weight_decay)  # refuses what is no rate
        if decay is not None:
            decay.check(self.setting)
        kinds = [type(scaler).__name__ for scaler in self.scalers]
        if len({*kinds}) < len(kinds):
            raise ValueError(f"a weight takes one scaler of a kind; got {', '.join(kinds)}")

    @property
    def has_metric(self) -> bool:
        """Whether squares of the gradient are averaged."""
        grafts = [each.setting for each in self.scalers if isinstance(each, Graft)]
        return any(setting.metric is not None for setting in (self.setting, *grafts))


@dataclass(frozen=True)
class Row:
    """What is done to one weight, and why."""

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
    twin: str
    flops: float
    bytes: float
    state_bytes: int


def program_of(declaration: Declaration, shape: Shape, name: str = "weight") -> Program:
    """The whole update of one weight: momentum, direction, scalers, decay, step, retraction."""
    setting, decay = declaration.setting, as_decay(declaration.weight_decay)
    rotations = _rotations(setting)
    if rotations is not None:
        setting.manifold.check_shape(tuple(shape))
        free = replace(declaration, setting=replace(setting, manifold=Euclidean()))
        inner = program_of(free, chart_shape(rotations, shape), name)
        program = rotating(inner, rotations, shape)
        return replace(program, proposal=_counting(program.proposal))
    derived = proposed(setting, shape, name, decay)
    for scaler in declaration.scalers:
        derived = scaler.applied(derived, setting, shape)
    derived, query = _with_decayed_gradient(derived, setting.momentum.query, decay)
    scale = float(declaration.budget * derived.scale)
    shrink = decay and decay.shrink(derived.direction, declaration.budget, shape)
    return Program(
        proposal=_counting(derived.lines),
        update=(
            *((line(POINT, averages.copy, "weight"),) if _looks_back(derived) else ()),
            *((shrink,) if shrink else ()),
            line("weight", averages.step, "weight", derived.direction, "lr", scale=scale),
            *derived.after,
        ),
        direction=derived.direction,
        query=query,
        slots=derived.slots,
        draw=derived.draw,
    )


def _looks_back(derived: Derived) -> bool:
    return any(POINT in each.reads for each in derived.after)


def _with_decayed_gradient(
    derived: Derived, query: str, decay: Decay | None
) -> tuple[Derived, str]:
    """The derivation and its query, from a gradient that holds the decay if that is coupled."""
    first = decay and decay.into_gradient()
    if not first:
        return derived, query
    names = {"gradient": first.result}
    lines = (first, *(each.renamed(names) for each in derived.lines))
    direction = names.get(derived.direction, derived.direction)
    return replace(derived, lines=lines, direction=direction), names.get(query, query)


def _rotations(setting: Setting) -> Rotations | None:
    """How the weight is rotated, if that is how it moves."""
    return setting.manifold.rotations if isinstance(setting.manifold, Isospectral) else None


def rule_of(setting: Setting, shape: Shape) -> str:
    """The name of the rule that derives a weight's direction, as the plan prints it."""
    if _rotations(setting) is None:
        return rule_name(setting, shape)
    return f"{rule_name(replace(setting, manifold=Euclidean()), shape)}, rotating"


def _counting(lines: tuple[Line, ...]) -> tuple[Line, ...]:
    """The lines, after one that counts the steps if any of them wants to know."""
    asks = any("step" in each.reads or each.every > 1 for each in lines)
    return (line("step", averages.count, "step"), *lines) if asks else lines


def row_of(
    name: str, shape: Shape, declaration: Declaration, itemsize: int, kept: int | None = None
) -> Row:
    """The plan's row of one weight; kept: bytes an entry of weight-shaped state, if others."""
    setting = declaration.setting
    program = program_of(declaration, shape, name)
    cost = program.cost(shape, itemsize)
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
        known_as=known_as(setting, has_decay(declaration.weight_decay), declaration.scalers),
        program=program,
        twin="plain",
        flops=cost.flops,
        bytes=cost.bytes,
        state_bytes=program.state_bytes(shape, max(itemsize, 4), kept),
    )


_COLUMNS = (
    *("weight", "shape", "role", "norm", "manifold", "metric", "scalers"),
    *("budget", "rule", "known as"),
)


@dataclass(frozen=True)
class Plan:
    """What an optimizer does to each of its weights; print it."""

    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        """The row of the weight with this full name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"no weight is named {name!r}; the plan has {[r.name for r in self.rows]}")

    def table(self) -> Table:
        """A rich table: one line a weight, equal neighbours in full."""
        unused = [c for c in ("metric", "scalers") if not any(getattr(r, c) for r in self.rows)]
        columns = [c for c in _COLUMNS if c not in unused]
        flops = sum(row.flops for row in self.rows)
        moved = sum(row.bytes for row in self.rows)
        kept = sum(row.state_bytes for row in self.rows)
        share = kept / max(1, sum(prod(row.shape) for row in self.rows))
        caption = (
            f"{len(self.rows)} weights; a step costs {flops:.3g} FLOPs, {moved:.3g} bytes; "
            f"state: {share:.3g} bytes a weight entry"
        )
        table = Table(title="What is done to each weight, and why", caption=caption)
        for column in (*columns, "MFLOPs"):
            table.add_column(column, justify="right" if column == "MFLOPs" else "left")
        for row in self.rows:
            cells = _cells(row)
            table.add_row(*(cells[c] for c in columns), f"{row.flops / 1e6:.3g}")
        return table

    def __str__(self) -> str:
        # Wide enough that no cell is cut: a table in a log file has no terminal to fit.
        text = StringIO()
        Console(file=text, width=200, color_system=None).print(self.table())
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
