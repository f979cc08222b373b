"""samples: see README.md."""
