"""modula verify, as a person uses it: certificates with marks, broken laws, refusals."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from commands import modula, refused
from rich.console import Console

from modula import verify
from modula.cli import verify as cli
from modula.laws import norm_laws
from modula.manifolds import Sphere
from modula.norms import Frobenius


def test_verify_certifies_every_pair_and_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "SHAPES", ((7, 4),))
    passed = modula("verify")
    assert passed.exit_code == 0, passed.stdout
    assert "Stiefel()" in passed.stdout and "FAIL" not in passed.stdout
    assert "Implicit(unit_rows)" in passed.stdout and "FromDual(spectral_" in passed.stdout
    assert passed.stdout.count("exact") > 20
    one = ("--norm", "Max()", "--manifold", "Stiefel()", "--shape", "5x4")
    failed = modula("verify", *one, "--tolerance", "1e-9")
    assert failed.exit_code == 1 and "FAIL" in failed.stdout  # of an iteration that is cut short


def test_verify_tries_one_pair_on_every_kind_of_gradient() -> None:
    shown = modula(
        "verify", "--norm", "Rows(L2())", "--manifold", "Oblique('rows')", "--shape", "5x4"
    )
    assert shown.exit_code == 0
    for word in ("Gaussian", "low rank", "ill-conditioned", "tiny", "huge", "zero", "bfloat16"):
        assert word in shown.output


def test_verify_tells_which_law_a_norm_of_ones_own_breaks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from modula.norms import L2\n"
        "@dataclass(frozen=True, repr=False)\n"
        "class Half(L2):\n"
        "    def dual(self, g):\n"
        "        return super().dual(g) / 2\n"
    )
    shown = modula("verify", "--norm", f"{tmp_path}/mine.py:Half(2)", "--shape", "4x3")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    assert (
        "<g, duality_map(g)> == dual(g) is missed by 0.5, 1 on the left and 0.5 on the right"
        in said
    )


def test_verify_tells_what_is_no_norm_with_the_smallest_counter_example() -> None:
    shown = modula("verify", "--norm", "FromDual(lambda g: g.square().sum())", "--shape", "4x3")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    sides = "4 on the left and 2 on the right"
    assert f"f(-2 g) == 2 f(g) is missed by 0.5, {sides}, for example on 1x1 g = [[1]]" in said
    assert "f(g + h) <= f(g) + f(h) is missed by 0.5, " in said


def test_verify_tells_which_law_a_manifold_of_ones_own_breaks(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from modula.manifolds import Stiefel\n"
        "@dataclass(frozen=True, repr=False)\n"
        "class Narrow(Stiefel):\n"
        "    def to_tangent(self, x, v):\n"
        "        return v - x @ (x.mT @ v)\n"
    )
    shown = modula("verify", "--manifold", f"{tmp_path}/mine.py:Narrow()", "--shape", "64x32")
    assert shown.exit_code == 1
    said = " ".join(shown.output.split())
    assert "to_tangent(x, u) == u for u along the manifold is missed by" in said
    assert "for example on 2x2 x = [[" in said
    assert "residual" not in said  # the other laws hold


def test_verify_all_tries_a_norm_on_every_manifold_in_every_precision() -> None:
    shown = modula("verify", "--norm", "RMS()", "--all", "--shape", "5x4")
    assert shown.exit_code == 0, shown.output
    assert "RMS()" in shown.output and "Rows" not in shown.output
    for word in ("Euclidean()", "Stiefel()", "bfloat16", "huge"):
        assert word in shown.output
    assert "SPD" not in shown.output  # which has square points only


def test_verify_shows_what_a_direction_and_its_proof_cost() -> None:
    shown = modula("verify", "--norm", "Frobenius()", "--manifold", "Sphere(ndim=2)")
    assert "MFLOPs" in shown.output and "proof ms" in shown.output
    (row,) = verify.verify([Frobenius()], [Sphere(ndim=2)], [(64, 32)])
    assert f"{row.cost.flops / 1e6:.3g}" in shown.output
    assert row.certificate.seconds > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--norm", "Spectrul()"), "name 'Spectrul' is not defined"),
        (("--norm", "Stiefel()"), "is no norm; write for example 'RMSToRMS()'"),
        (("--norm", "RMSToRMS()", "--shape", "64"), "a shape is written like 64x32"),
        (("--manifold", "Stiefel()", "--shape", "3x5"), "or declare Transposed(Stiefel())"),
        (("--norm", "RMSToRMS()", "--manifold", "Stiefel()", "--shape", "3x5"), "Transposed("),
        (("--norm", "FromDual(lambda g: g.abs().sum().item())"), "f is to give one number"),
        (("--norm", "FromDual(lambda g: g.sing())"), "no attribute 'sing'"),
        (("--norm", "FromDual(lambda g: g @ torch.ones(30))"), "cannot be tried on 64x32"),
        (("--norm", "KyFan(40)", "--shape", "64x32"), "use k = 32 or less"),
        (("--manifold", "Implicit(lambda w: w.sum() ** 2 + 1)", "--shape", "2x1"), "has no point"),
        (("--norm", "exit(0)"), "cannot make a norm of 'exit(0)': SystemExit: 0"),
        (("--norm", "exit(3)"), "SystemExit: 3"),
        (("--manifold", "__import__('sys').exit('bye')"), "cannot make a manifold of"),
        (("--norm", "mine.py:Mine()"), "cannot make a norm of 'mine.py:Mine()': FileNotFoundErr"),
        (("--norm", "FromDual(lambda g: exit(5))", "--shape", "3x2"), "SystemExit: 5"),
        (("--norm", "FromDual(lambda g: {}[g])", "--shape", "3x2"), "cannot be tried on 3x2: Key"),
        (("--tolerance", "nan"), "--tolerance is a number between 0 and 1, such as 0.1; got nan"),
        (("--tolerance", "-1"), "between 0 and 1, such as 0.1; got -1.0"),
        (("--tolerance", "0"), "between 0 and 1, such as 0.1; got 0.0"),
        (("--tolerance", "inf"), "between 0 and 1, such as 0.1; got inf"),
        (("--seed", "99999999999999999999"), "--seed is a whole number below 2**64; got 99999"),
        (("--norm", "L2()", "--shape", "\N{SUPERSCRIPT TWO}x3"), "a shape is written like 64x32"),
    ],
)
def test_verify_refuses_in_one_sentence(arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(modula("verify", *arguments))


def test_a_terminal_shows_how_far_the_proofs_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = io.StringIO()
    monkeypatch.setattr(
        cli,
        "Console",
        lambda **_: Console(file=seen, force_terminal=True, width=150),
    )
    rows = verify.verify_pair(Frobenius(), Sphere(ndim=2), (3, 2))
    assert len(cli.told(rows)) == 18
    words = " ".join(seen.getvalue().split())
    assert (
        "18 proofs, the last: Frobenius() on Sphere(ndim=2), zero gradient in torch.bfloat16"
        in words
    )
    assert not cli.broken_in_words("[mine] :corn:", norm_laws(Frobenius()), ((3, 2),))
    assert "trying [mine] :corn:" in seen.getvalue()


@pytest.mark.parametrize("norm", [(), ("--norm", "L2()")], ids=["every norm", "one norm"])
def test_rotations_have_no_direction_of_the_weight_to_certify(norm: tuple[str, ...]) -> None:
    arguments = (*norm, "--manifold", "Isospectral(rotations=Rotations(4))")
    assert "moves weights by rotations" in refused(modula("verify", *arguments))


OWN = """
from dataclasses import dataclass
from modula.manifolds import Manifold, Sphere
from modula.norms import L2

class Own(Manifold):
    ndim = 2
    right = Sphere(2.0, ndim=2)
    def __init__(self, name):
        self.name = name
    def residual(self, x):
        return self.right.residual(x)
    def project(self, x):
        return self.right.project(x)
    def tangent_constraint(self, x):
        return self.right.tangent_constraint(x)
    def sample(self, shape, *, dtype=None):
        return self.right.sample(shape, dtype=dtype)

@dataclass(frozen=True, repr=False)
class Named(L2):
    name: str = ""
    wrong: bool = False
    def __repr__(self):
        return self.name
    def dual(self, g):
        return super().dual(g) * (2 if self.wrong and g.shape[-2] > 8 else 1)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own.py").write_text(OWN)
    return f"{tmp_path}/own.py"


@pytest.mark.parametrize("name", [":corn:", "[red]x[/]", "[/]", "a[1]", ":x: [bold]"])
def test_names_are_printed_as_they_are(name: str, own: str) -> None:
    """A manifold that is no dataclass, and names that read as markup or emoji."""
    pair = ("--norm", f"{own}:Named(2, {name!r})", "--manifold", f"{own}:Own({name!r})")
    shown = modula("verify", *pair, "--shape", "4x3")
    assert shown.exit_code == 0, shown.output
    printed = "".join(shown.stdout.split())
    assert printed.count(name.replace(" ", "")) == 2 * 3  # both, in three precisions
    assert f"Own(name={name!r})".replace(" ", "") in printed
    broken = modula("verify", "--norm", f"{own}:Named(2, {name!r}, wrong=True)", "--shape", "16x12")
    assert broken.exit_code == 1
    words = (
        f"own.py:Named(2, {name!r}, wrong=True): <g, duality_map(g)> == dual(g) is missed by 0.5"
    )
    assert words.replace(" ", "") in "".join(broken.output.split())


def test_a_shape_that_is_large_is_noted() -> None:
    shown = modula("verify", "--norm", "Max()", "--shape", "1x40000")
    assert shown.exit_code == 0
    assert "1x40000 is large: laws of Max() are tried on one draw of it" in shown.stderr


def test_laws_are_tried_on_every_shape_that_is_proved(own: str) -> None:
    """--all without a shape: 16x16, 21x8 and 8x21."""
    shown = modula("verify", "--norm", f"{own}:Named(2, 'mine', wrong=True)", "--all")
    assert shown.exit_code == 1 and "for example on 16x16 g drawn at random" in shown.output


def test_help_says_that_python_is_run() -> None:
    said = " ".join(modula("verify", "--help").output.split())
    assert "--norm and --manifold are Python that is run" in said


def test_a_contradiction_is_told_with_its_pair() -> None:
    (row, *_) = verify.verify_pair(Frobenius(), Sphere(ndim=2), (3, 2))
    wrong = replace(row.certificate, gap=-0.2, excess=0.7)
    (said,) = verify.contradictions([row, *2 * [replace(row, certificate=wrong)]])
    assert said.startswith(
        "Frobenius() on Sphere(ndim=2): <g, t> <= dual(g) norm(t) is broken: 1.2"
    )
