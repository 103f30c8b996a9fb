"""Entry by entry, or one length for many entries: averages, steps, decay."""
