"""Declarations of single weights, and the programs they come to."""
