"""Post-scalers: changes of a direction before the step."""
