"""Linear maps of a weight: what coordinates are made of."""
