"""`python -m modula` is the command `modula`."""

from modula.cli.main import main

main()
