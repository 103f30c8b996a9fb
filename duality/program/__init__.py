"""Programs: named lines of arithmetic, and what runs them."""
