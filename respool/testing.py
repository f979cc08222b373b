"""respool.testing: what tests of processors need; docs/plugins.md shows how."""

from .processors.testing import Ran, ZoneResolver, make_context, make_message, read_message, run

__all__ = ["Ran", "ZoneResolver", "make_context", "make_message", "read_message", "run"]
