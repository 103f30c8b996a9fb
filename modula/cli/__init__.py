"""The command `modula`."""
