"""What figures are of, a module each; ``base`` has what they share. A method names those that it is evaluated by."""
