"""The one boundary around a processor."""

from __future__ import annotations

import gc
import weakref
from typing import NoReturn

import pytest

from respool.errors import ProcessorError
from respool.processors.api import Context, Processor, ProcessorConfig, Verdict
from respool.processors.testing import make_context
from respool.sidecar.step import Part, Step, call
from respool.spool.message import Message

from ..processors.processor_kit import make_message


class Taken:
    """What a processor has in its hands when it fails."""


class Failing(Processor[ProcessorConfig]):
    """Fails with something large in its hands; a handler of its own may fail, too."""

    def __init__(self, *, twice: bool) -> None:
        super().__init__(ProcessorConfig())
        self._twice = twice
        self.taken: list[weakref.ref[Taken]] = []

    def process(self, message: Message, context: Context) -> Verdict:
        """See the class."""
        try:
            self._take()
        except MemoryError as error:
            if self._twice:
                raise RuntimeError("no way out") from error
            raise

    def _take(self) -> NoReturn:
        taken = Taken()
        self.taken.append(weakref.ref(taken))
        raise MemoryError


@pytest.mark.parametrize("twice", [False, True])
def test_what_a_failed_processor_had_in_its_hands_is_given_back_at_once(*, twice: bool) -> None:
    # Else the messages after it find no memory until Python happens to collect its garbage.
    processor = Failing(twice=twice)
    part = Part(message=make_message(recipients=(b"a@one.example",)), position=0)
    gc.disable()
    try:
        traced, _ = call(Step("failing", processor), part, make_context())
        assert isinstance(traced.error, ProcessorError)
        assert isinstance(traced.error.cause, RuntimeError if twice else MemoryError)
        del traced
        (taken,) = processor.taken
        assert taken() is None
    finally:
        gc.enable()
