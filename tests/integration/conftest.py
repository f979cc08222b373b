"""Fixtures that bring up a private Exim.

Diagnostics: EximError (exim.py) when Exim doesn't start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ..scripted_smtp import ScriptedSmtp
from .exim import Exim

EximFactory = Callable[..., Exim]


@pytest.fixture
def start_exim() -> Iterator[EximFactory]:
    """A function that starts an Exim with the arguments of Exim(); all are stopped after the test."""
    with ExitStack() as stack:

        def start(**arguments: Any) -> Exim:
            return stack.enter_context(Exim(**arguments))

        yield start


@pytest.fixture
def exim(start_exim: EximFactory) -> Exim:
    """An Exim that receives over SMTP and holds what it got (``control = queue_only``)."""
    return start_exim()


@pytest.fixture
def smtp_sink() -> Iterator[ScriptedSmtp]:
    """An SMTP server that keeps what it is sent, to the byte."""
    with ScriptedSmtp() as sink:
        yield sink
