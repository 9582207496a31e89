"""What a trained version knows of its records, in figures and pictures."""
