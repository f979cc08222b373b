"""sidecar: see README.md."""
