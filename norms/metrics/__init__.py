"""Metrics: coordinates in which a norm is measured, estimated while training."""
