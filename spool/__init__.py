"""spool: see README.md."""
