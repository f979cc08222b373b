"""requeue: see README.md."""
