"""Exponential families: densities as points of a manifold."""
