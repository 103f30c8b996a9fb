"""Networks of normed modules, and declarations on any torch model."""
