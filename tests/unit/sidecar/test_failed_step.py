"""What a processor that failed had in its hands is given back at once: the next message needs the memory."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from respool.lookups.zone import ZoneResolver
from respool.processors.api import Context, Effect, Processor, Verdict
from respool.requeue.plan import Hold
from respool.sidecar.pipeline import Pipeline
from respool.sidecar.step import Step, run_effect
from respool.spool.ids import MessageId
from respool.spool.message import Message

from ..processors.processor_kit import make_message
from .test_worker_watching import Events

LOG: Any = Events()


class Large:
    """As much as a worker may take."""


class Hog(Processor[Any]):
    def __init__(self) -> None:
        super().__init__(None)
        self.taken: weakref.ref[Large] | None = None

    def process(self, message: Message, context: Context) -> Verdict:
        self._fail()
        raise AssertionError

    def run_effect(self, effect: Effect, log: Any) -> None:
        self._fail()

    def _fail(self) -> None:
        large = Large()
        self.taken = weakref.ref(large)
        raise MemoryError


@pytest.fixture(autouse=True)
def no_collector() -> Iterator[None]:
    """It comes when it comes, perhaps many messages later."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_after_a_message() -> None:
    hog = Hog()
    pipeline = Pipeline((Step("hog", hog, "hold"),), hostname="h", authserv_id="h", resolver=ZoneResolver({}))
    outcome = pipeline.run(make_message(), log=LOG)
    assert isinstance(outcome.plan, Hold)
    assert "MemoryError" in outcome.plan.reason
    assert hog.taken is not None
    assert hog.taken() is None


def test_after_an_effect() -> None:
    hog = Hog()
    effect = Effect(id=MessageId("1xV9Vo-000000-2c"), claim=1, processor="hog", number=0, kind="kind", payload=b"")
    run_effect(Step("hog", hog), effect, LOG)
    assert hog.taken is not None
    assert hog.taken() is None
