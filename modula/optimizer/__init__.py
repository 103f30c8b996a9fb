"""SteepestDescent, the one optimizer, and the parts of its step."""
