"""Pages of what was found: ``seen`` keeps what an evaluation shows it, ``report`` writes the page and its tables."""
