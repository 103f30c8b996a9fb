"""Steepest unit tangents of manifolds of matrices, and bounds on them."""
