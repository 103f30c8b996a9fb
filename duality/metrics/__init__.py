"""How each metric is estimated, as lines of a program."""
