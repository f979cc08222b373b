"""The one boundary around a processor."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any, NoReturn, cast

import pytest
from structlog.typing import FilteringBoundLogger

from respool.errors import ProcessorError
from respool.processors.api import Context, Effect, Processor, ProcessorConfig, Verdict
from respool.processors.testing import make_context
from respool.sidecar.step import Part, Step, call, run_effect
from respool.spool.ids import MessageId
from respool.spool.message import Message

from ..processors.processor_kit import make_message
from .test_worker_watching import Events


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

    def run_effect(self, effect: Effect, log: Any) -> None:
        """See the class."""
        self._take()

    def _take(self) -> NoReturn:
        taken = Taken()
        self.taken.append(weakref.ref(taken))
        raise MemoryError


def _refuse(*_: object) -> NoReturn:
    raise AttributeError


#: Lets nobody see what it holds, nor have its way.
Secretive: type[Exception] = type(
    "Secretive",
    (Exception,),
    {"__traceback__": property(_refuse), "__cause__": property(_refuse), "with_traceback": _refuse},
)


class Odd(Failing):
    def process(self, message: Message, context: Context) -> Verdict:
        """See the class."""
        try:
            self._take()
        except MemoryError:
            raise Secretive from None


@pytest.fixture
def no_collector() -> Iterator[None]:
    """It comes when it comes, perhaps many messages later."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    ("processor", "error"),
    [(Failing(twice=False), MemoryError), (Failing(twice=True), RuntimeError), (Odd(twice=True), Secretive)],
)
def test_what_a_failed_processor_had_in_its_hands_is_given_back_at_once(
    processor: Failing, error: type[Exception]
) -> None:
    # Else the messages after it find no memory until Python happens to collect its garbage.
    part = Part(message=make_message(recipients=(b"a@one.example",)), position=0)
    traced, _ = call(Step("failing", processor), part, make_context())
    assert isinstance(traced.error, ProcessorError)
    assert isinstance(traced.error.cause, error)
    del traced
    (taken,) = processor.taken
    assert taken() is None


@pytest.mark.usefixtures("no_collector")
def test_so_is_what_an_effect_had() -> None:
    processor, log = Failing(twice=False), cast("FilteringBoundLogger", Events())
    effect = Effect(
        id=MessageId("1xV9Vo-000000-2c"), claim=1, processor="failing", number=0, kind="kind", payload=b""
    )  # fmt: skip
    run_effect(Step("failing", processor), effect, log)
    (taken,) = processor.taken
    assert taken() is None
