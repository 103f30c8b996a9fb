"""`modula verify`: certify derived directions, and try the laws of a user's norm or manifold."""

import ast
import runpy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.status import Status
from rich.text import Text

import modula.manifolds
import modula.norms
import modula.verify
from modula.cli.console import exit_on_user_error, option, screen
from modula.duality import Setting, derive
from modula.errors import UserError, refusals_in_words
from modula.laws import AT_SHAPE, Broken, Law, broken_laws, draws_at, manifold_laws, norm_laws
from modula.manifolds import Euclidean, Manifold
from modula.norms import Frobenius, Norm
from modula.verify import (
    DTYPES,
    GRADIENTS,
    MANIFOLDS,
    NORMS,
    Verified,
    contradictions,
    grade,
    verify_pair,
    verify_table,
)


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
    tolerance: Annotated[
        float, option("What a certificate may miss, between 0 and 1.  \\[default: 0.1]")
    ] = 0.1,
) -> None:
    """Prove every derived direction: on random gradients, is it feasible and the steepest?

    Laws of a norm or manifold that is given are tried first, on small shapes and the one asked for.

    --norm and --manifold are Python that is run: give only what you would run yourself.

    Examples

    modula verify

    modula verify --norm "RMSToRMS()" --manifold "Stiefel()" --shape 64x32

    modula verify --norm "mine.py:MyNorm()" --all
    """
    with exit_on_user_error():
        if not 0 < tolerance < 1:
            raise UserError(
                f"--tolerance is a number between 0 and 1, such as 0.1; got {tolerance}"
            )
        if not -(2**63) <= seed < 2**64:
            raise UserError(f"--seed is a whole number below 2**64; got {seed}")
        norms = NORMS if norm is None else (on_matrices(parse(Norm, norm)),)
        manifolds = MANIFOLDS if norm is None or every else (Euclidean(),)
        if manifold is not None:
            manifolds = (parse(Manifold, manifold),)
        shapes = None if shape is None else (parse_shape(shape),)
        with in_words():
            broken = broken_laws_of(norms, manifolds, norm, manifold, shapes)
            rows = [] if broken else proofs(norms, manifolds, shapes, seed, every)
            broken += contradictions(rows)
            console = screen()
            table = verify_table(rows, tolerance, console.width) if rows else ""
        if rows:
            console.print(table)
        for law in broken:
            console.print(law, highlight=False, markup=False, style="bold red")
    if broken or not all(grade(row, tolerance) != "FAIL" for row in rows):
        raise typer.Exit(1)


@contextmanager
def in_words(beginning: str = "") -> Iterator[None]:
    """Turn whatever the user's own code raises, an exit too, into a UserError of one line."""
    try:
        with refusals_in_words(beginning):
            yield
    except (UserError, KeyboardInterrupt, MemoryError):  # for which the command has words
        raise
    except BaseException as error:
        said = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise UserError(beginning + said) from error


def parse(kind: type[Any], text: str) -> Any:
    """The norm or manifold that an expression makes: "2 * RMSToRMS()", or "FILE.py:EXPRESSION".

    The names of modula.norms, modula.manifolds and torch are known, after ":" those of the file.
    Raises UserError if it makes anything else.
    """
    names: dict[str, Any] = {**vars(modula.norms), **vars(modula.manifolds), "torch": torch}
    file, colon, expression = text.rpartition(".py:")
    with in_words(f"cannot make a {kind.__name__.lower()} of {text!r}: "):
        if colon:
            names |= runpy.run_path(str(Path(f"{file}.py")))
        made = eval(compile(ast.parse(expression, mode="eval"), "<command line>", "eval"), names)
    if not isinstance(made, kind):
        example = "RMSToRMS()" if kind is Norm else "Stiefel()"
        raise UserError(f"{text!r} is no {kind.__name__.lower()}; write for example {example!r}")
    return made


def parse_shape(text: str) -> tuple[int, int]:
    """(64, 32) of "64x32"."""
    extents = text.lower().split("x")
    if len(extents) != 2 or not all(extent.isdecimal() and int(extent) for extent in extents):
        raise UserError(f"a shape is written like 64x32, not {text!r}")
    return int(extents[0]), int(extents[1])


def on_matrices(norm: Norm) -> Norm:
    """The norm as it measures a matrix: RMS() over all entries, not row by row."""
    with in_words():
        return norm.over(2)


Shapes = Sequence[tuple[int, int]] | None
PAIR_SHAPE = (64, 32)


def broken_laws_of(
    norms: Sequence[Norm],
    manifolds: Sequence[Manifold],
    norm: str | None,
    manifold: str | None,
    shapes: Shapes,
) -> list[str]:
    """The laws that a norm or manifold of the user's breaks, at every shape that will be proved."""
    if shapes is None:
        shapes = (PAIR_SHAPE,) if len(norms) == len(manifolds) == 1 else modula.verify.SHAPES
    broken = list[str]()
    if norm:
        fitting = with_points(norms[0], Euclidean(), shapes)
        broken += broken_in_words(norm, norm_laws(norms[0]), fitting, corners=True)
    if manifold:
        fitting = with_points(Frobenius(), manifolds[0], shapes)
        broken += broken_in_words(manifold, manifold_laws(manifolds[0]), fitting)
    return broken


def with_points(
    norm: Norm, manifold: Manifold, shapes: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """The shapes that both have; raises ValueError, the refusal of the first, if there are none."""
    found, refused = list[tuple[int, int]](), list[ValueError]()
    for shape in shapes:
        try:
            derive(Setting(norm, manifold), shape)
            found.append(shape)
        except ValueError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    return found


def broken_in_words(
    who: str, laws: dict[str, Law], shapes: Sequence[tuple[int, int]], *, corners: bool = False
) -> list[str]:
    """The laws that a norm or manifold of the user's breaks, each with a counter-example."""
    found = dict[str, Broken]()
    with in_words(f"{who}: "), status(f"trying {who}"):
        for shape in shapes:
            for each in broken_laws(laws, shape, corners=corners):
                found.setdefault(each.law, each)
            if draws_at(shape) < AT_SHAPE:
                size = "x".join(map(str, shape))
                typer.echo(f"{size} is large: laws of {who} are tried on one draw of it", err=True)
    return [f"broken law of {who}: {each}" for each in found.values()]


def status(text: str) -> Status:
    """What is going on, on a terminal, even while stdout goes to a file."""
    return Console(stderr=True).status(Text(text))  # not read as markup, nor for emoji


def proofs(
    norms: Sequence[Norm], manifolds: Sequence[Manifold], shapes: Shapes, seed: int, every: bool
) -> list[Verified]:
    """The certificates; one pair is always tried on everything."""
    everything = (tuple(GRADIENTS), DTYPES)
    if len(norms) == len(manifolds) == 1:
        (shape,) = shapes or (PAIR_SHAPE,)
        return told(verify_pair(norms[0], manifolds[0], shape, *everything, seed))
    kinds, dtypes = everything if every else (("Gaussian",), DTYPES[:1])
    rows = told(modula.verify.verify(norms, manifolds, shapes, kinds, dtypes, seed))
    if not rows:
        if len(manifolds) == 1:
            derive(Setting(norms[0], manifolds[0]), (shapes or (PAIR_SHAPE,))[0])
        raise UserError(f"no manifold here has points of shape {shapes and shapes[0]}: try 64x32")
    return rows


def told(rows: Iterator[Verified]) -> list[Verified]:
    """All of them; a terminal shows meanwhile how far it is."""
    found = list[Verified]()
    with status("the first proof") as shown:
        for row in rows:
            found.append(row)
            last = f"{row.norm} on {row.manifold}, {row.gradient} gradient in {row.dtype}"
            shown.update(Text(f"{len(found)} proofs, the last: {last}"))
    return found
