"""Plots and tables of training runs."""

import io
import re
from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from rich.table import Table
from rich.text import Text

from modula.training.files import replace_file
from modula.training.records import Record

Runs = Mapping[str, Sequence[Record]]

LOSS = "loss (nats per byte)"
BLUE, RED = "#0072B2", "#D55E00"
STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "font.size": 10,
}
DASHES = ("-", "--", ":", "-.")
FEW = 20  # points that are marked each, as a line through one of them is nothing to see


def draw_curves(records: Sequence[Record], path: Path, title: str) -> None:
    """One run: loss against steps and seconds, learning rate, how far each weight moved."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 8), layout="constrained")
        (by_step, by_second), (rate, moved) = figure.subplots(2, 2)
        figure.suptitle(title, fontsize=13)
        _loss(by_step, records, [r.step for r in records])
        by_step.set(xlabel="step", ylabel=LOSS, title="Loss against steps")
        _loss(by_second, records, [r.seconds for r in records])
        by_second.set(xlabel="seconds of training", ylabel=LOSS, title="Loss against time")
        look: dict[str, Any] = {"color": BLUE, "marker": mark(records), "markersize": 3}
        rate.plot([r.step for r in records], [r.lr for r in records], **look)
        rate.set(xlabel="step", ylabel="learning rate", title="Learning rate used")
        rate.set_ylim(bottom=0)
        _update_norms(moved, records)
        save_figure(figure, path)


def _loss(axes: Axes, records: Sequence[Record], x: Sequence[float]) -> None:
    losses = [r.loss for r in records]
    look: dict[str, Any] = {"color": BLUE, "marker": mark(records), "markersize": 3}
    axes.plot(x, losses, **look, alpha=0.3, linewidth=0.8, label="training batch")
    axes.plot(x, smooth(losses), **look, label="its running mean")
    measured = _validations(records, x)
    if measured:
        axes.plot(*zip(*measured, strict=True), "o-", color=RED, markersize=4, label="validation")
        at, last = measured[-1]
        axes.annotate(
            loss_in_words(last, 3),
            (at, last),
            (0, 8),
            textcoords="offset points",
            ha="right",
            color=RED,
            annotation_clip=True,
        )
    seen = [*losses, *(loss for _, loss in measured)]
    top = 2 * losses[0]
    if max(seen) > top:
        axes.set_ylim(0.9 * min(seen), top)
        axes.plot([], [], " ", label=f"cut; it went up to {max(seen):.3g}")
    axes.legend()


def mark(points: Sequence[object]) -> str:
    """The marker of a line through these points: each is shown where there are few.

    >>> mark([1.0]), mark(range(100))
    ('o', '')
    """
    return "o" if len(points) <= FEW else ""


def _validations(records: Sequence[Record], x: Sequence[float]) -> list[tuple[float, float]]:
    """(place on the axis, validation loss) where one was measured."""
    return [(at, r.val_loss) for at, r in zip(x, records, strict=True) if r.val_loss is not None]


def smooth(values: Sequence[float]) -> list[float]:
    """Moving average over a twentieth of the run.

    >>> smooth([4.0, 2.0])
    [4.0, 2.0]
    """
    width = max(1, len(values) // 20)
    return [fmean(values[max(0, i + 1 - width) : i + 1]) for i in range(len(values))]


def _update_norms(axes: Axes, records: Sequence[Record]) -> None:
    axes.set(
        xlabel="step",
        ylabel="its declared norm",
        title="How far each weight moved in a step",
    )
    measured = [(r.step, r.update_norms) for r in records if r.update_norms]
    names = list(measured[0][1]) if measured else []
    kinds = list(dict.fromkeys(map(kind_of, names)))
    for name in names:
        points = [(step, norms[name]) for step, norms in measured if norms.get(name, 0) > 0]
        if points:
            look = _look_of_kind(kinds.index(kind_of(name)), len(kinds))
            axes.plot(*zip(*points, strict=True), **look, marker=mark(points))
    if not axes.lines:
        what = "no weight moved" if names else "not measured yet: see --norms-every"
        axes.text(0.5, 0.5, what, ha="center", transform=axes.transAxes)
    else:
        axes.set_yscale("log")
        lines = [Line2D([], [], **_look_of_kind(i, len(kinds))) for i in range(len(kinds))]
        axes.legend(lines, kinds, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))


def kind_of(name: str) -> str:
    """A weight's name without the index of its block: equal for the same part of every block.

    >>> kind_of("blocks.3.mlp.up.weight")
    'blocks.*.mlp.up.weight'
    """
    return re.sub(r"(?<![^.])\d+(?![^.])", "*", name)


def _look_of_kind(index: int, count: int) -> dict[str, Any]:
    # Equal curves are common (equal budgets): thinner ones on top leave those below visible.
    palette = mpl.colormaps["tab10" if count <= 10 else "viridis"]
    colour = palette(index) if count <= 10 else palette(index / count)
    return {"color": colour, "linewidth": 1 + 6 * (count - 1 - index) / count}


def draw_comparison(runs: Runs, steps: int, path: Path, title: str) -> None:
    """Several runs: validation loss and smoothed training loss, against steps and seconds.

    A run of fewer than `steps` has diverged; it ends in a cross, and the legend says where.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(13, 5.5), layout="constrained")
        by_step, by_second = figure.subplots(1, 2, sharey=True)
        figure.suptitle(title, fontsize=13)
        low, high = loss_limits(runs)
        for i, (name, records) in enumerate(runs.items()):
            look = {"color": f"C{i % 10}", "linestyle": DASHES[i // 10 % len(DASHES)]}
            end = divergence(records, steps)
            label = f"{name} ({end})" if end else name
            for axes, x in (
                (by_step, [float(r.step) for r in records]),
                (by_second, [r.seconds for r in records]),
            ):
                _contender(axes, label, records, x, look)
                if end and records:
                    at = min(max(records[-1].loss, low), high)
                    axes.plot(x[-1], at, "x", color=look["color"], markersize=9, clip_on=False)
        by_step.set_ylim(low, high)
        by_step.set(xlabel="step", ylabel=LOSS, title="Against steps")
        by_second.set(xlabel="seconds of training", title="Against time")
        by_step.legend(title="validation (line), training (faint)")
        save_figure(figure, path)


def divergence(records: Sequence[Record], steps: int) -> str:
    """Where a run of `steps` diverged, in words; "" for one that came to its end."""
    last = records[-1].step if records else 0
    return f"diverged at step {last + 1}" if last < steps else ""


def loss_limits(runs: Runs) -> tuple[float, float]:
    """Axis limits from below the lowest loss to above the first one; diverged runs are cut."""
    losses = [r.loss for records in runs.values() for r in records]
    first = [records[0].loss for records in runs.values() if records]
    return 0.9 * min(losses, default=0.0), 1.05 * max(first, default=1.0)


def _contender(
    axes: Axes, label: str, records: Sequence[Record], x: Sequence[float], look: dict[str, Any]
) -> None:
    axes.plot(x, smooth([r.loss for r in records]), **look, alpha=0.3, linewidth=1)
    measured = _validations(records, x)
    # Drawn without a validation too: the legend is of what is drawn.
    places, losses = zip(*measured, strict=True) if measured else ((), ())
    axes.plot(places, losses, **look, marker="o", markersize=4, label=label)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file atomically."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    replace_file(path, buffer.getvalue())


def comparison_rows(runs: Runs, steps: int) -> list[list[str]]:
    """Rows of the comparison: best validation loss first, then runs that diverged."""
    losses = {n: inf if divergence(r, steps) else final_loss(r) for n, r in runs.items()}
    ranked = [(name, runs[name]) for name in sorted(losses, key=lambda name: losses[name])]
    return [
        [
            name,
            divergence(records, steps) or loss_in_words(losses[name]),
            *(_numbers(records) if records else ["", "", "0", "", ""]),
        ]
        for name, records in ranked
    ]


def _numbers(records: Sequence[Record]) -> list[str]:
    return [
        loss_in_words(smooth([r.loss for r in records])[-1]),
        f"{max(r.lr for r in records):.4g}",
        f"{records[-1].step}",
        f"{records[-1].seconds:.1f}",
        f"{mean_speed(records):,.0f}",
    ]


def loss_in_words(loss: float, digits: int = 4) -> str:
    """A loss for a person to read.

    >>> loss_in_words(1.23456), loss_in_words(381052484774701039616.0)
    ('1.2346', '3.81e+20')
    """
    return f"{loss:.{digits}f}" if loss < 1e4 else f"{loss:.3g}"


COLUMNS = ("optimizer", "val loss", "train loss", "largest lr", "steps", "seconds", "tokens/s")


def comparison_table(runs: Runs, steps: int) -> Table:
    """The comparison as a rich table."""
    table = Table(*COLUMNS, title="validation loss in nats per byte, best first")
    for column in table.columns:
        column.overflow = "fold"  # no name and no number is cut short
    for column in table.columns[1:]:
        column.justify = "right"
    for row in comparison_rows(runs, steps):
        table.add_row(*map(Text, row))
    return table


def comparison_markdown(runs: Runs, steps: int) -> str:
    """The comparison as Markdown."""
    lines = [COLUMNS, ["---", *["---:"] * (len(COLUMNS) - 1)], *comparison_rows(runs, steps)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def final_loss(records: Sequence[Record]) -> float:
    """The last validation loss of a run; infinite where none was measured."""
    return next((r.val_loss for r in reversed(records) if r.val_loss is not None), inf)


def mean_speed(records: Sequence[Record]) -> float:
    """Tokens a second over a whole run: all its tokens by all its seconds."""
    tokens = sum(
        r.tokens_per_second * s for r, s in zip(records, step_seconds(records), strict=True)
    )
    return tokens / records[-1].seconds


def step_seconds(records: Sequence[Record]) -> list[float]:
    """Seconds of each step."""
    clock = [0.0, *(r.seconds for r in records)]
    return [after - before for before, after in zip(clock, clock[1:], strict=False)]
