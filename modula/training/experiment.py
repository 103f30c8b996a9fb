"""A folder of training runs: one run, or several to compare, with their pictures."""

import json
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

from rich.console import Console

from modula.errors import Diverged, UserError, disk_errors_in_words
from modula.training import report
from modula.training.config import CONFIG, Config, to_toml
from modula.training.contenders import Configs
from modula.training.data import Text, load_text
from modula.training.files import COMPARISON, METRICS, replace_file
from modula.training.lock import locked
from modula.training.progress import show_sample, summary, train_with_progress
from modula.training.records import Record, read_records
from modula.training.run import Run, build

RUNS = Path("runs")


def run_new(out: Path | None, configs: Configs, text: Text, console: Console) -> None:
    """Train new runs, in a folder that has none: the one named, or runs/<time>."""
    if out:
        refuse_used(out)
    for config in configs.values():
        build(config, "cpu")  # what is refused is refused before there is a folder
    folder = out or folder_of_its_own()
    with locked(folder):
        refuse_used(folder)  # by another process that was quicker
        begin(folder, configs)
        run_all(folder, configs, text, console)


def holds_run(folder: Path) -> bool:
    """Whether runs were begun in a folder."""
    with disk_errors_in_words("read", folder):
        return (folder / COMPARISON).exists() or (folder / CONFIG).exists()


def refuse_used(folder: Path) -> None:
    """Raise UserError for a folder that holds a run."""
    if holds_run(folder):
        raise UserError(
            f"{folder} holds a run already: go on with it by --resume {folder}, "
            f"or choose another --out"
        )


def folder_of_its_own() -> Path:
    """A new folder runs/<time>; runs that begin in the same second get one each."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    for number in count(1):
        folder = RUNS / (now if number == 1 else f"{now}_{number}")
        with disk_errors_in_words("write", folder), suppress(FileExistsError):
            RUNS.mkdir(exist_ok=True)
            folder.mkdir()
            return folder
    raise AssertionError


def begin(folder: Path, configs: Configs) -> None:
    """Write down what the runs of a folder are: enough to resume from."""
    for name, config in configs.items():
        replace_file(folder / name / METRICS, b"")
        replace_file(folder / name / CONFIG, to_toml(config).encode())
    if "" not in configs:
        replace_file(folder / COMPARISON, json.dumps(list(configs)).encode())


def folder_to_resume(words: list[str], out: Path | None) -> Path:
    """The folder to resume: the one named, or the newest below runs/."""
    named = [Path(word) for word in words] + ([out] if out else [])
    if len(named) > 1:
        raise UserError(f"one folder can be resumed, not {' and '.join(map(str, named))}")
    if named:
        return named[0]
    found = [path for path in RUNS.glob("*") if holds_run(path)]
    if not found:
        raise UserError("there is no run below runs/ to resume: name its folder after --resume")
    return max(found, key=lambda path: path.stat().st_mtime)


def text_for(configs: Configs) -> Text:
    """The text that all runs of a folder train on."""
    first = next(iter(configs.values()))
    text = load_text(first.data)
    text.require(first.context)
    return text


def run_all(folder: Path, configs: Configs, text: Text, console: Console) -> None:
    """Train every run of a folder, then draw and print what came out.

    A KeyboardInterrupt is given the words how to go on.
    """
    console.print(f"{text}\nresults go to {folder}", highlight=False, markup=False)
    try:
        if "" in configs:
            run_one(configs[""], text, folder, console)
        else:
            compare(configs, text, folder, console)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"go on with modula train --resume {folder}") from None
    console.print(f"{folder} now has {', '.join(results(folder))}", highlight=False, markup=False)


def compare(configs: Configs, text: Text, folder: Path, console: Console) -> None:
    """The runs of a comparison, then their picture and their table."""
    runs = {n: run_contender(c, text, folder / n, console) for n, c in configs.items()}
    first = next(iter(configs.values()))
    title = f"{len(runs)} optimizers, {size(first)}"
    report.draw_comparison(runs, first.steps, folder / "comparison.png", title)
    replace_file(folder / "comparison.md", report.comparison_markdown(runs, first.steps).encode())
    console.print(report.comparison_table(runs, first.steps))


def run_contender(config: Config, text: Text, folder: Path, console: Console) -> list[Record]:
    """One run of a comparison: if it diverges, the others go on without it."""
    try:
        run_one(config, text, folder, console)
    except Diverged as error:
        console.print(f"{folder.name}: {error}", style="red", highlight=False, markup=False)
    return read_records(folder / METRICS)


def run_one(config: Config, text: Text, folder: Path, console: Console) -> None:
    """One run: print the plan, train, draw curves, show a sample."""
    run = Run(config, text, folder)
    console.print(run.optimizer.plan.table(console.width))
    replace_file(folder / "plan.html", run.optimizer.plan.to_html().encode())
    if run.step:
        console.print(
            f"going on from step {run.step} of {config.steps}", highlight=False, markup=False
        )
    try:
        train_with_progress(run, console)
    except (UserError, KeyboardInterrupt):
        with suppress(UserError):  # what stopped the run is what the user has to hear
            draw(folder, config)
        raise
    draw(folder, config)
    show_sample(run, console)
    console.print(summary(read_records(folder / METRICS)), highlight=False, markup=False)


def draw(folder: Path, config: Config) -> None:
    """Draw curves.png of what was measured so far."""
    records = read_records(folder / METRICS)
    if records:
        report.draw_curves(records, folder / "curves.png", f"{config.optimizer}, {size(config)}")


def size(config: Config) -> str:
    """Sizes of the network and the batch, as text."""
    return (
        f"GPT width {config.width}, depth {config.depth}, context {config.context}, "
        f"batch {config.batch}, seed {config.seed}"
    )


def results(folder: Path) -> list[str]:
    """Names of the files in a finished folder."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
