"""The command line: modula train | explain | verify."""

import typer

from modula.cli.console import exit_on_user_error, prepare_streams
from modula.cli.explain import explain
from modula.cli.train import TRAIN_HELP, train
from modula.cli.verify import verify

app = typer.Typer(
    help="Declare the geometry of a network; the optimizer is derived.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
app.command(help=TRAIN_HELP)(train)
app.command()(explain)
app.command()(verify)


def main() -> None:
    """The command `modula`."""
    prepare_streams()
    with exit_on_user_error():
        app()
