"""Shared by all commands: options left out, standard output, errors in one sentence."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console

from modula.errors import UserError
from modula.training.config import Config


def option(text: str, *names: str, key: str = "") -> Any:
    """An option that is None unless given, so that a config file can fill it in."""
    default = f" \\[default: {getattr(Config, key)}]" if key else ""
    return typer.Option(*names, help=text + default, show_default=False)


def screen() -> Console:
    """Standard output: as wide as the terminal, or as the plan needs in a pipe or a log file."""
    return Console() if sys.stdout.isatty() else Console(width=170)


@contextmanager
def exit_on_user_error() -> Iterator[None]:
    """Print a UserError to stderr as one sentence and exit with code 2."""
    try:
        yield
    except UserError as error:
        typer.echo(f"modula: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nmodula: stopped; go on with modula train --resume", err=True)
        raise typer.Exit(130) from None
