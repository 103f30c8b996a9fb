"""Iterations for directions that have no closed form."""
