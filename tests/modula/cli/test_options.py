"""The names of all commands and options: a new one, or one that goes, is a conscious edit here."""

from typer.main import get_group

from modula.cli.main import app

OPTIONS = {
    "train": """words --data --optimizer --lr --options --compare --width --depth --heads --context
        --batch --microbatches --steps --seed --device --threads --validate-every
        --checkpoint-every --norms-every --config --out --resume""",
    "explain": "recipe --width --depth --heads --save --programs",
    "verify": "--norm --manifold --shape --all --seed --tolerance",
}


def test_commands_and_options_are_these() -> None:
    commands = get_group(app).commands
    found = {name: [opt for p in each.params for opt in p.opts] for name, each in commands.items()}
    assert found == {name: names.split() for name, names in OPTIONS.items()}
