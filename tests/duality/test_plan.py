"""The plan: what a row says, and its table, page and data."""

import json
import re
from io import StringIO

import pytest
from rich.console import Console

from modula.duality import (
    Average,
    Declaration,
    Exact,
    Plan,
    Setting,
    Sharp,
    Unbiased,
    plan_of,
    program_of,
)
from modula.manifolds import Stiefel
from modula.network.compounds import GPT
from modula.norms import L2, Diagonal, RMSToRMS
from modula.recipes import RECIPES

MUON = Declaration(Setting(RMSToRMS(), momentum=Average()), budget=0.5)
EXACT = Declaration(Setting(RMSToRMS(), accuracy=Exact()))
FUSED = Declaration(Setting(RMSToRMS().on("(b o) i -> b o i", b=2)))
ADAM = Declaration(
    Setting(L2(2), metric=Diagonal(), potential=Sharp(), momentum=Unbiased()), role="embedding"
)


@pytest.fixture
def plan() -> Plan:
    rows = [("a.weight", (8, 4), MUON, 4), ("b.weight", (8, 4), MUON, 4), ("e", (9, 3), ADAM, 4)]
    return plan_of(rows)


def test_a_row_says_what_is_done_and_what_it_costs(plan: Plan) -> None:
    row = plan["a.weight"]
    assert (row.known_as, row.rule, row.budget) == ("Muon", "muon", 0.5)
    assert row.program == program_of(MUON, (8, 4))
    cost = row.program.cost((8, 4), 4)
    assert (row.flops, row.bytes, row.state_bytes) == (cost.flops, cost.bytes, 4 * 32)
    assert plan["e"].state_bytes == 2 * 4 * 27 and plan["e"].role == "embedding"


def test_an_unknown_weight_is_told_the_known_ones(plan: Plan) -> None:
    with pytest.raises(KeyError, match="no weight is named 'c'.*a.weight"):
        plan["c"]


def test_the_table_shows_every_weight_and_no_column_that_nobody_fills(plan: Plan) -> None:
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as seen:
        console.print(plan.table())
    text = seen.get()
    assert all(name in text for name in ("a.weight", "b.weight", "Diagonal()", "3 weights"))
    assert "scalers" not in text


WIDTHS = (60, 80, 100, 130, 170)


def shown(plan: Plan, width: int) -> str:
    console = Console(width=width, file=StringIO(), color_system=None, record=True)
    console.print(plan.table(width))
    return console.export_text()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["automatic", "soap", "manifold_muon", "kfac"])
def test_the_table_fits_every_width_and_cuts_no_word(name: str, width: int) -> None:
    plan = RECIPES[name](GPT(vocab=9, context=4, width=8, depth=1, heads=2)).plan
    text = shown(plan, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    head = next(line for line in text.splitlines() if "weight" in line and "shape" in line)
    assert [c for c in ("weight", "shape", "norm", "rule") if c in head] == [
        "weight", "shape", "norm", "rule"
    ]  # fmt: skip
    if width >= 80:
        assert all(row.name in text and row.rule in text for row in plan.rows)
    caption = " ".join(text.split())
    assert width == 170 or "left out: " in caption


def test_a_narrow_table_leaves_out_what_is_the_same_everywhere_first(plan: Plan) -> None:
    wide = shown(plan, 170)
    assert "manifold" in wide and "left out" not in wide
    narrow = shown(plan, 100)
    assert "left out: " in narrow and "manifold (Euclidean())" in " ".join(narrow.split())
    assert "Diagonal()" in narrow


def test_names_are_shown_as_they_are() -> None:
    names = ("[/x].weight", ":corn:.weight", "[bold]w")
    text = shown(plan_of([(name, (8, 4), MUON, 4) for name in names]), 100)
    assert all(name in text for name in names)


@pytest.mark.parametrize(("columns", "longest"), [("80", 80), ("100", 100)])
def test_printed_on_a_terminal_it_fits(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, columns: str, longest: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert max(map(len, str(plan).splitlines())) <= longest
    monkeypatch.setenv("COLUMNS", "200")
    assert max(map(len, str(plan).splitlines())) > 100


def test_each_program_is_printed_once_under_the_weights_that_run_it(plan: Plan) -> None:
    text = plan.programs()
    assert text.count("direction = polar(active)") == 1
    assert text.count("square = unbiased_average_square") == 1


def test_data_and_page_hold_the_same_rows(plan: Plan) -> None:
    rows = json.loads(plan.to_json())
    assert [row["name"] for row in rows] == ["a.weight", "b.weight", "e"]
    assert rows == json.loads(json.dumps(plan.to_dicts()))
    page = plan.to_html()
    assert page.lstrip().lower().startswith("<!doctype html>") and "polar(active" in page


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("w", (8, 4), MUON, 4)], r"directions \(of 1\): singular values within 6.1e-05 of one"),
        (
            [("w", (768, 768), MUON, 8)],
            "within 1.18e-08 of one, less where below 0.00232 of the largest",
        ),
        (
            [("w", (768, 768), MUON, 4)],
            "within 0.0587 of one, less where below 0.00348 of the largest",
        ),
        ([("v", (8, 4), MUON, 4), ("w", (64, 40), MUON, 2)], r"\(of 2\).*0.0587.*0.0024 "),
        ([("w", (80, 40), FUSED, 4), ("e", (9, 3), ADAM, 4)], r"\(of 1\).*0.0587.*0.0024 "),
        ([("w", (768, 768), EXACT, 4)], ""),
        ([("e", (64, 64), ADAM, 4)], ""),
    ],
    ids=str,
)
def test_it_states_how_far_spectral_directions_are_off(rows, said: str) -> None:
    text = " ".join(str(plan_of(rows)).split())
    assert re.search(said, text) if said else "spectral directions" not in text


def test_rounded_state_is_counted_as_it_is_kept() -> None:
    (row,) = plan_of([("w", (8, 4), MUON, 4)], kept=2).rows
    assert row.state_bytes == 2 * 32
    (tall,) = plan_of([("w", (8, 4), Declaration(Setting(RMSToRMS(), Stiefel())), 4)]).rows
    assert tall.state_bytes == 0 and tall.known_as == "manifold Muon"


@pytest.mark.parametrize("name", [":corn:.weight", "[red]a[/].weight", "[/]", "[link=x]b"])
def test_names_are_printed_as_they_are(name: str) -> None:
    plan = plan_of([(name, (8, 4), MUON, 4)])
    assert name in str(plan)
    console = Console(width=200)
    with console.capture() as seen:
        console.print(plan.table())
    assert name in seen.get()
