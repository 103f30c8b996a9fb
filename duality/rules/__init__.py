"""Rules: from a setting to the lines of the steepest direction."""
