"""The one optimizer, and what its step is made of."""
