"""A folder of training runs: one run, or several to compare, with their pictures."""

import json
import re
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from modula.errors import Diverged, UserError, suggest
from modula.recipes import RECIPES
from modula.training import report
from modula.training.config import Config, find_device, thread_count, to_toml
from modula.training.data import Text, load_text
from modula.training.files import COMPARISON, METRICS, replace_file
from modula.training.progress import show_sample, summary, train_with_progress
from modula.training.records import Record, read_records
from modula.training.run import CONFIG, Run, build, read_config

RUNS = Path("runs")

BETWEEN_CONTENDERS = re.compile(r",(?![^(]*\))")  # not the commas of (0.9, 0.95)

Configs = dict[str, Config]  # by name of the run; "" for a run that is the folder itself


def contenders(base: dict[str, Any], words: list[str]) -> Configs:
    """The runs of --compare: each word is a contender, a few words may be joined by commas."""
    names = [name for word in words for name in BETWEEN_CONTENDERS.split(word) if name]
    configs = {name: contender(base, name) for name in names} or {"": Config(**base)}
    return {name: settled(config) for name, config in configs.items()}


def settled(config: Config) -> Config:
    """The config with device and threads filled in, so that the run can be repeated."""
    return replace(config, device=str(find_device(config.device)), threads=thread_count(config))


def contender(base: dict[str, Any], name: str) -> Config:
    """The config of one run: `base` with NAME or NAME@LR, and more @OPTION=VALUE behind."""
    optimizer, *parts = name.split("@")
    if optimizer not in RECIPES:
        raise UserError(f"unknown optimizer {optimizer!r}: {suggest(optimizer, RECIPES)}")
    chosen: dict[str, Any] = {"optimizer": optimizer}
    for part in parts:
        if "=" in part:
            chosen["options"] = f"{chosen.get('options', '')} {part}".strip()
        else:
            chosen["lr"] = _rate(part, name)
    return Config(**{**base, **chosen})


def _rate(word: str, name: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise UserError(f"{name!r} is not NAME@LR: {word!r} is no number") from None


def new_folder(out: Path | None, configs: Configs) -> Path:
    """Make the folder of new runs and write down what they are: enough to resume from."""
    folder = out or RUNS / time.strftime("%Y-%m-%d_%H-%M-%S")
    if (folder / COMPARISON).exists() or (folder / CONFIG).exists():
        raise UserError(
            f"{folder} holds a run already: go on with it by --resume {folder}, "
            f"or choose another --out"
        )
    for config in configs.values():
        build(config, "cpu")  # what is refused is refused before there is a folder
    for name, config in configs.items():
        replace_file(folder / name / METRICS, b"")
        replace_file(folder / name / CONFIG, to_toml(config).encode())
    if "" not in configs:
        replace_file(folder / COMPARISON, json.dumps(list(configs)).encode())
    return folder


def folder_to_resume(words: list[str], out: Path | None) -> Path:
    """The folder to resume: the one named, or the newest below runs/."""
    named = [Path(word) for word in words] + ([out] if out else [])
    if len(named) > 1:
        raise UserError(f"one folder can be resumed, not {' and '.join(map(str, named))}")
    if named:
        return named[0]
    found = [p for p in RUNS.glob("*") if (p / COMPARISON).exists() or (p / CONFIG).exists()]
    if not found:
        raise UserError("there is no run below runs/ to resume: name its folder after --resume")
    return max(found, key=lambda path: path.stat().st_mtime)


def configs_in(folder: Path) -> Configs:
    """Configs of the runs in a folder, by name of the run."""
    path = folder / COMPARISON
    if not path.exists():
        return {"": read_config(folder)}
    try:
        return {name: read_config(folder / name) for name in json.loads(path.read_bytes())}
    except (ValueError, TypeError) as error:
        raise error if isinstance(error, UserError) else UserError(f"{path} is broken") from error


def text_for(configs: Configs) -> Text:
    """The text that all runs of a folder train on."""
    first = next(iter(configs.values()))
    text = load_text(first.data)
    text.require(first.context)
    return text


def run_all(folder: Path, configs: Configs, text: Text, console: Console) -> None:
    """Train every run of a folder, then draw and print what came out."""
    console.print(f"{text}\nresults go to {folder}", highlight=False)
    if "" in configs:
        run_one(configs[""], text, folder, console)
    else:
        runs = {n: run_contender(c, text, folder / n, console) for n, c in configs.items()}
        title = f"{len(runs)} optimizers, {size(next(iter(configs.values())))}"
        report.draw_comparison(runs, folder / "comparison.png", title)
        replace_file(folder / "comparison.md", report.comparison_markdown(runs).encode())
        console.print(report.comparison_table(runs))
    console.print(f"{folder} now has {', '.join(results(folder))}", highlight=False)


def run_contender(config: Config, text: Text, folder: Path, console: Console) -> list[Record]:
    """One run of a comparison: if it diverges, the others go on without it."""
    try:
        run_one(config, text, folder, console)
    except Diverged as error:
        console.print(f"{folder.name}: {error}", style="red", highlight=False)
    return read_records(folder / METRICS)


def run_one(config: Config, text: Text, folder: Path, console: Console) -> None:
    """One run: print the plan, train, draw curves, show a sample."""
    run = Run(config, text, folder)
    console.print(run.optimizer.plan.table())
    replace_file(folder / "plan.html", run.optimizer.plan.to_html().encode())
    if run.step:
        console.print(f"going on from step {run.step} of {config.steps}", highlight=False)
    try:
        train_with_progress(run, console)
    except (UserError, KeyboardInterrupt):
        with suppress(UserError):  # what stopped the run is what the user has to hear
            draw(folder, config)
        raise
    draw(folder, config)
    show_sample(run, console)
    console.print(summary(read_records(folder / METRICS)), highlight=False)


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
