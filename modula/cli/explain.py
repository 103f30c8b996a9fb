"""`modula explain`: the plan of an optimizer for the GPT that `modula train` trains."""

from pathlib import Path
from typing import Annotated

import typer

from modula.cli.console import exit_on_user_error, option, screen
from modula.errors import UserError
from modula.recipes import RECIPES
from modula.training.config import Config
from modula.training.files import replace_file
from modula.training.run import build


def explain(
    recipe: Annotated[str, typer.Argument(help=f"One of {', '.join(RECIPES)}.")] = Config.optimizer,
    width: Annotated[int, option("Of the network.")] = Config.width,
    depth: Annotated[int, option("Blocks.")] = Config.depth,
    heads: Annotated[int, option("Attention heads a block.")] = Config.heads,
    save: Annotated[Path | None, option("Also write the plan: .html or .json.")] = None,
    programs: Annotated[
        bool, typer.Option("--programs", help="Also print the derived programs.")
    ] = False,
) -> None:
    """Show what an optimizer does to each weight of the GPT, and why."""
    with exit_on_user_error():
        config = Config(optimizer=recipe, width=width, depth=depth, heads=heads)
        plan = build(config, "cpu")[1].plan
        console = screen()
        console.print(plan.table(console.width))
        if programs:
            console.print(plan.programs(), highlight=False, markup=False)
        if save:
            if save.suffix not in (".html", ".json"):
                raise UserError(f"--save writes .html or .json, not {save.name!r}")
            content = plan.to_html() if save.suffix == ".html" else plan.to_json()
            replace_file(save, content.encode())
