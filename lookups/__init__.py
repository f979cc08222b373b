"""lookups: see README.md."""
