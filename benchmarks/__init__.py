"""Programs that make a table of the paper."""
