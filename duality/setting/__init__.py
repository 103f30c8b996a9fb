"""What an update depends on: norm, manifold, metric, potential, momentum; and the rules."""
