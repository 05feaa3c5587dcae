"""What evaluation scores, a module each; ``base`` has what they share."""
