"""The command `modula` run in this process, and the sentence it refuses with."""

from typer.testing import CliRunner, Result

from modula.cli.main import app


def modula(*words: str) -> Result:
    """What `modula *words` printed, and its exit code."""
    return CliRunner().invoke(app, list(words))


def refused(result: Result) -> str:
    """The sentence of a refusal: exit code 2, one line on stderr, no traceback."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("modula: ")
    assert result.stderr.count("\n") == 1
    assert "Traceback" not in result.stderr
    return result.stderr
