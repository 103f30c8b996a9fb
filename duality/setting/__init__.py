"""Settings (norm, manifold, metric, potential, momentum) and the table of rules."""
