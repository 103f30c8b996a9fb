"""The command line: modula train | explain | verify | bench."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from modula.cli import bench as benchmarks
from modula.duality import Setting, derive
from modula.errors import UserError, refusals_in_words
from modula.laws import Law, broken_laws, manifold_laws, norm_laws
from modula.manifolds import Euclidean, Manifold
from modula.norms import Norm
from modula.recipes import RECIPES
from modula.training.config import Config, read_toml
from modula.training.experiment import begin, configs_in, contenders, find, run_all, text_for
from modula.training.files import replace_file
from modula.training.run import build_model
from modula.verify import (
    DTYPES,
    GRADIENTS,
    MANIFOLDS,
    NORMS,
    Verified,
    grade,
    parse,
    parse_shape,
    verify_pair,
    verify_table,
)
from modula.verify import verify as verified

app = typer.Typer(
    help="Declare the geometry of a network; the optimizer is derived.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
KEYS = tuple(field.name for field in fields(Config))


def option(text: str, *names: str, key: str = "") -> Any:
    """An option that is None unless given, so that a config file can fill it in."""
    default = f" \\[default: {getattr(Config, key)}]" if key else ""
    return typer.Option(*names, help=text + default, show_default=False)


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


@app.command(help=TRAIN_HELP)
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
    with told_in_one_sentence():
        given = {key.rstrip("_"): value for key, value in context.params.items()}
        chosen = {key: given[key] for key in KEYS if given[key] is not None}
        names = [*(compare or []), *(words or [])]
        if resume:
            refuse_settings(chosen, "--compare" if compare else "--config" if config else "")
            folder = find(words or [], out)
            configs = configs_in(folder)
            text = text_for(configs)
        elif words and not compare:
            raise UserError(f"unexpected word {words[0]!r}: see modula train --help")
        else:
            base = {**(read_toml(config) if config else {}), **chosen}
            configs = contenders(base, names)
            text = text_for(configs)
            folder = begin(out, configs)
        run_all(folder, configs, text, screen())


def refuse_settings(chosen: dict[str, Any], other: str) -> None:
    """A resumed run keeps the settings it began with, or it would not be the same run."""
    options = [f"--{key.replace('_', '-')}" for key in chosen] + ([other] if other else [])
    if options:
        raise UserError(
            f"--resume goes on with the settings that the run began with: "
            f"leave out {', '.join(options)}"
        )


@app.command()
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
    with told_in_one_sentence():
        config = Config(optimizer=recipe, width=width, depth=depth, heads=heads)
        with refusals_in_words():
            plan = RECIPES[recipe](build_model(config)).plan
        console = screen()
        console.print(plan.table())
        if programs:
            console.print(plan.programs(), highlight=False, markup=False)
        if save:
            if save.suffix not in (".html", ".json"):
                raise UserError(f"--save writes .html or .json, not {save.name!r}")
            content = plan.to_html() if save.suffix == ".html" else plan.to_json()
            replace_file(save, content.encode())


@app.command()
def verify(
    norm: Annotated[
        str | None, option('As "2 * RMSToRMS()" or FILE.py:NAME; all known ones if left out.')
    ] = None,
    manifold: Annotated[
        str | None,
        option('As "Stiefel()" or FILE.py:NAME; if left out, all, or Euclidean() beside --norm.'),
    ] = None,
    shape: Annotated[
        str | None,
        option("Of the weight, as 64x32; if left out, three shapes, or 64x32 of a pair."),
    ] = None,
    every: Annotated[
        bool,
        typer.Option("--all", help="All manifolds, all kinds of gradient, all precisions."),
    ] = False,
    seed: Annotated[int, option("Of the random weights and gradients.  \\[default: 0]")] = 0,
    tolerance: Annotated[float, option("What a certificate may miss.  \\[default: 0.1]")] = 0.1,
) -> None:
    """Prove every derived direction: on random gradients, is it feasible and the steepest?

    Examples

    modula verify

    modula verify --norm "RMSToRMS()" --manifold "Stiefel()" --shape 64x32

    modula verify --norm "mine.py:MyNorm()" --all
    """
    with told_in_one_sentence():
        norms = NORMS if norm is None else (on_matrices(parse(Norm, norm)),)
        manifolds = MANIFOLDS if norm is None or every else (Euclidean(),)
        if manifold is not None:
            manifolds = (parse(Manifold, manifold),)
        shapes = None if shape is None else (parse_shape(shape),)
        broken = [
            *(broken_in_words(norm, norm_laws(norms[0]), shapes, corners=True) if norm else ()),
            *(broken_in_words(manifold, manifold_laws(manifolds[0]), shapes) if manifold else ()),
        ]
        rows = [] if broken else proofs(norms, manifolds, shapes, seed, every)
        if rows:
            screen().print(verify_table(rows, tolerance))
        for law in broken:
            screen().print(law, highlight=False, markup=False, style="bold red")
    if broken or not all(grade(row, tolerance) != "FAIL" for row in rows):
        raise typer.Exit(1)


def on_matrices(norm: Norm) -> Norm:
    """The norm as it measures a matrix: RMS() over all entries, not row by row."""
    with refusals_in_words():
        return norm.over(2)


Shapes = Sequence[tuple[int, int]] | None


def broken_in_words(
    who: str, laws: dict[str, Law], shapes: Shapes, *, corners: bool = False
) -> list[str]:
    """The laws that a norm or manifold of the user's breaks, each with a counter-example."""
    shape = (shapes or ((64, 32),))[0]
    with refusals_in_words(f"{who}: "), Console(stderr=True).status(f"trying {escape(who)}"):
        found = broken_laws(laws, shape, corners=corners)
        return [f"broken law of {who}: {each}" for each in found]


def proofs(
    norms: Sequence[Norm], manifolds: Sequence[Manifold], shapes: Shapes, seed: int, every: bool
) -> list[Verified]:
    """The certificates; one pair is always tried on everything."""
    everything = (tuple(GRADIENTS), DTYPES)
    if len(norms) == len(manifolds) == 1:
        with refusals_in_words():
            (shape,) = shapes or ((64, 32),)
            return told(verify_pair(norms[0], manifolds[0], shape, *everything, seed))
    kinds, dtypes = everything if every else (("Gaussian",), DTYPES[:1])
    with refusals_in_words():
        rows = told(verified(norms, manifolds, shapes, kinds, dtypes, seed))
    if not rows:
        if len(manifolds) == 1:
            with refusals_in_words():
                derive(Setting(norms[0], manifolds[0]), (shapes or ((64, 32),))[0])
        raise UserError(f"no manifold here has points of shape {shapes and shapes[0]}: try 64x32")
    return rows


def told(rows: Iterator[Verified]) -> list[Verified]:
    """All of them; a terminal shows meanwhile how far it is, even while stdout goes to a file."""
    found = list[Verified]()
    with Console(stderr=True).status("the first proof") as status:
        for row in rows:
            found.append(row)
            last = f"{row.norm} on {row.manifold}, {row.gradient} gradient in {row.dtype}"
            status.update(f"{len(found)} proofs, the last: {escape(last)}")
    return found


@app.command(context_settings={"ignore_unknown_options": True})
def bench(
    name: Annotated[str | None, typer.Argument(help="Which one; a list if left out.")] = None,
    arguments: Annotated[list[str] | None, typer.Argument(help="Passed on to it.")] = None,
) -> None:
    """List the benchmarks of a clone of the repository, or run one."""
    with told_in_one_sentence():
        if name is None:
            for known, title in benchmarks.find_benchmarks(benchmarks.FOLDER).items():
                screen().print(f"{known:24} {title}", highlight=False, markup=False)
            return
        code = benchmarks.run_benchmark(benchmarks.FOLDER, name, arguments or [])
    raise typer.Exit(code)


def screen() -> Console:
    """Where to print: as wide as the terminal, wide enough for the plan in a pipe or a log file."""
    return Console() if sys.stdout.isatty() else Console(width=170)


@contextmanager
def told_in_one_sentence() -> Iterator[None]:
    """Say what only the user can put right on stderr, and leave with exit code 2."""
    try:
        yield
    except UserError as error:
        typer.echo(f"modula: {error}", err=True)
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        typer.echo("\nmodula: stopped; go on with modula train --resume", err=True)
        raise typer.Exit(130) from None


def main() -> None:
    """The command `modula`."""
    app()
