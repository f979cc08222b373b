"""processors/authentication: see README.md."""
