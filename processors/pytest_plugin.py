"""Fixtures for tests of processors, which pytest finds where respool is installed.

Diagnostics: those of testing.py, whose functions the fixtures are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ..spool.message import Message
    from .testing import Ran


@pytest.fixture
def run_processor() -> Callable[..., Ran]:
    """``respool.testing.run``: a processor on a message."""
    # Imported when first asked for: pytest loads this module in every project.
    from .testing import run

    return run


@pytest.fixture
def make_spool_message() -> Callable[..., Message]:
    """``respool.testing.make_message``: a message as Exim would have received it."""
    from .testing import make_message

    return make_message
