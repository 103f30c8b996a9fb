"""`python -m modula` is the command `modula`."""

from modula.cli import main

main()
