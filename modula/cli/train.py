"""`modula train`: train a byte-level GPT, or compare optimizers on it."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from modula.cli.console import exit_on_user_error, option, screen
from modula.errors import UserError
from modula.recipes import RECIPES
from modula.training.config import Config, read_toml
from modula.training.contenders import configs_in, contenders
from modula.training.experiment import folder_to_resume, run_all, run_new, text_for
from modula.training.lock import locked

KEYS = tuple(field.name for field in fields(Config))

TRAIN_HELP = """Train a byte-level GPT, without choosing a learning rate.

[bold]Examples[/bold]

  modula train

  modula train --data book.txt --steps 1000 --out runs/book

  modula train --optimizer muon --lr 0.02

  modula train --compare adamw muon automatic

  modula train --compare automatic adamw@0.003 adamw@0.01

  modula train --compare kl_shampoo@0.04 soap@0.02@momentum=0.9

  modula train --resume runs/book
"""


def train(
    context: typer.Context,
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME|FOLDER", help="Goes with --compare, --resume."),
    ] = None,
    data: Annotated[
        str | None, option("Text file or folder; Python's library if left out.")
    ] = None,
    optimizer: Annotated[
        str | None, option(f"One of {', '.join(RECIPES)}.", key="optimizer")
    ] = None,
    lr: Annotated[
        float | None,
        option("Learning rate; if left out, the best for the default run, or the recipe's own."),
    ] = None,
    options: Annotated[
        str | None, option('Other options of the recipe: "momentum=0.9 every=5".')
    ] = None,
    compare: Annotated[
        list[str] | None,
        option("Run several optimizers: NAME, NAME@LR or NAME@LR@OPTION=VALUE."),
    ] = None,
    width: Annotated[int | None, option("Of the network.", key="width")] = None,
    depth: Annotated[int | None, option("Blocks.", key="depth")] = None,
    heads: Annotated[int | None, option("Attention heads a block.", key="heads")] = None,
    context_: Annotated[
        int | None, option("Bytes the network sees.", "--context", key="context")
    ] = None,
    batch: Annotated[int | None, option("Windows a step.", key="batch")] = None,
    microbatches: Annotated[
        int | None,
        option("Parts of a batch; if left out, 4 for an optimizer that compares them, else one."),
    ] = None,
    steps: Annotated[int | None, option("Training steps.", key="steps")] = None,
    seed: Annotated[int | None, option("Of weights and batches.", key="seed")] = None,
    device: Annotated[
        str | None, option("cpu, cuda, mps; auto takes a GPU if there is one.", key="device")
    ] = None,
    threads: Annotated[
        int | None, option("CPU threads; one for a small network, else all, if left out.")
    ] = None,
    validate_every: Annotated[
        int | None, option("Steps between validations.", key="validate_every")
    ] = None,
    checkpoint_every: Annotated[
        int | None, option("Steps between checkpoints.", key="checkpoint_every")
    ] = None,
    norms_every: Annotated[
        int | None, option("Steps between looks at update norms.", key="norms_every")
    ] = None,
    config: Annotated[
        Path | None, option("TOML file of these options; the command line wins over it.")
    ] = None,
    out: Annotated[Path | None, option("Folder for the results; runs/<time> if left out.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in a folder (the newest of runs/).")
    ] = False,
) -> None:
    """Train, and leave what was measured in a folder."""
    with exit_on_user_error():
        given = {key.rstrip("_"): value for key, value in context.params.items()}
        chosen = {key: given[key] for key in KEYS if given[key] is not None}
        names = [*(compare or []), *(words or [])]
        if resume:
            refuse_settings(chosen, "--compare" if compare else "--config" if config else "")
            folder = folder_to_resume(words or [], out)
            configs = configs_in(folder)
            with locked(folder):
                run_all(folder, configs, text_for(configs), screen())
        elif words and not compare:
            raise UserError(f"unexpected word {words[0]!r}: see modula train --help")
        else:
            configs = contenders({**(read_toml(config) if config else {}), **chosen}, names)
            run_new(out, configs, text_for(configs), screen())


def refuse_settings(chosen: dict[str, Any], other: str) -> None:
    """A resumed run keeps the settings it began with, or it would not be the same run."""
    options = [f"--{key.replace('_', '-')}" for key in chosen] + ([other] if other else [])
    if options:
        raise UserError(
            f"--resume goes on with the settings that the run began with: "
            f"leave out {', '.join(options)}"
        )
