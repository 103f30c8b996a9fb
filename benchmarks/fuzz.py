"""Every recipe under random networks, options, gradients and habits.

python benchmarks/fuzz.py [--cases 100000] [--seed 0] [--recipe muon] [--case 17] [--keep]

A case is one optimizer with random options on one to four random layers or parameters, of 0 to 4
dims and of sizes from 0 to 8, in one of four precisions.  It takes up to six steps under gradients
of every kind (zero, missing, tiny, huge, no number), between which a user does something: saves
and resumes, copies, edits param_groups, meets an error in the middle of a step.

Held to after each step: weights and state are finite; a weight without a gradient, one whose
gradients were all zero, one under Unit() whose gradient is zero, and every weight at lr = 0 is bit
by bit where it was, unless it decays; an error is one that the docstrings tell of, in one sentence,
and leaves weights and state bit by bit what they were.

Exits with 1 if a case failed.  `--case K` runs that one again.
--keep writes the counts to benchmarks/results/fuzz.md.
"""

import argparse
import io
import logging
import re
import sys
import time
from datetime import date
from functools import partial
from multiprocessing import Pool
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress
from rich.table import Table

import modula
from fuzzing.trial import Trial, run
from modula.recipes import RECIPES

RESULTS = Path(__file__).parent / "results" / "fuzz.md"
SHOWN = 20  # failures that are printed


def summary(trials: list[Trial], seconds: float) -> str:
    """Counts by recipe, as text."""
    table = Table(title=f"{len(trials)} cases")
    for column in ("recipe", "cases", "refused", "weight-steps", "errors told", "failed"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for name in (*RECIPES, "all"):
        own = [each for each in trials if name in ("all", each.recipe)]
        numbers = (
            len(own),
            sum(bool(each.refused) for each in own),
            sum(each.steps for each in own),
            sum(each.told for each in own),
            sum(bool(each.wrong) for each in own),
        )
        if own:
            table.add_section() if name == "all" else None
            table.add_row(name, *(f"{number:,}" for number in numbers))
    text = io.StringIO()
    console = Console(file=text, width=100)
    console.print(
        f"{date.today()}; torch {torch.__version__}; modula {modula.__version__}; {seconds:.0f} s"
    )
    console.print(table)
    return text.getvalue()


def told(trials: list[Trial]) -> str:
    """Failures, the most frequent kind first, each with its smallest case."""
    kinds: dict[str, list[Trial]] = {}
    for each in trials:
        for wrong in each.wrong[:1]:
            kinds.setdefault(kind_of(wrong), []).append(each)
    most = sorted(kinds.values(), key=len, reverse=True)[:SHOWN]
    smallest = [min(own, key=lambda each: len(str(each))) for own in most]
    return "\n".join(
        f"{len(own)} x {each.wrong[0]}\n    {each}"
        for own, each in zip(most, smallest, strict=True)
    )


def kind_of(wrong: str) -> str:
    """What went wrong, whatever the step, the weight, the line and the numbers."""
    what = re.sub(r"^step \d+[^:]*: ", "", wrong)
    what = re.sub(r"an error in .* left", "an error in a line left", what)
    return re.sub(r"parts\.[\w.]+|[-\d.]+(e-?\d+)?", "#", what)[:90]


def quiet() -> None:
    """Of a process: one thread, and errors alone are logged."""
    logging.getLogger("modula").setLevel(logging.ERROR)
    torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--recipe", choices=[*RECIPES])
    parser.add_argument("--case", type=int, help="run this one alone")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help=f"write {RESULTS.name}")
    arguments = parser.parse_args()
    start = time.perf_counter()
    chosen = range(arguments.cases) if arguments.case is None else [arguments.case]
    one = partial(run, arguments.seed, recipe=arguments.recipe)
    bar = Progress(*Progress.get_default_columns(), MofNCompleteColumn())
    with bar, Pool(arguments.workers, quiet) as pool:
        found = pool.imap(one, chosen, chunksize=20)
        trials = [*bar.track(found, total=len(chosen), description="cases")]
    text = summary(trials, time.perf_counter() - start)
    print(text)
    if failures := told(trials):
        print(failures, file=sys.stderr)
    if arguments.keep:
        RESULTS.write_text(
            "# Fuzz\n\nPrinted by `python benchmarks/fuzz.py --cases "
            f"{arguments.cases} --seed {arguments.seed}`, which says what is held to.\n\n"
            f"```text\n{text}```\n"
        )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
