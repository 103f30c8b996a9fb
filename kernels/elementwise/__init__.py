"""Elementwise ops (averages, steps, decay), and lengths of rows and weights."""
