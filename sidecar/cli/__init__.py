"""sidecar/cli: see README.md."""
