"""Random networks, gradients and habits for `benchmarks/fuzz.py`, and what must hold of each."""
