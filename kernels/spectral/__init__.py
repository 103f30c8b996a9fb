"""Functions of singular values by matrix products: polar factors, clips, bounds."""
