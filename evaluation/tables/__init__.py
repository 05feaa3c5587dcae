"""Tables of measured figures beside published ones: rows, the runs that belong to them, what makes the rest, texts."""
