"""respool.testing: what tests of processors need; docs/plugins.md shows how."""

from .processors.testing import (
    Answer,
    Contract,
    Ran,
    ZoneResolver,
    check_contract,
    make_context,
    make_message,
    read_message,
    run,
)

__all__ = [
    "Answer",
    "Contract",
    "Ran",
    "ZoneResolver",
    "check_contract",
    "make_context",
    "make_message",
    "read_message",
    "run",
]
