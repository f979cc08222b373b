"""What a released message gets: everything but the hold that an operator overrode."""

from __future__ import annotations

import pytest
import structlog

from respool import Processor, ProcessorConfig, Verdict, add_header, hold, proceed
from respool.errors import PermanentError
from respool.lookups.zone import ZoneResolver
from respool.processors.api import Context
from respool.requeue.plan import Hold, Plan, Requeue
from respool.sidecar.pipeline import Pipeline
from respool.sidecar.step import OnError, Step
from respool.spool.message import Message

from ..processors.processor_kit import make_message


class Suspects(Processor[ProcessorConfig]):
    """Holds every message, and has something to say of a released one."""

    def process(self, message: Message, context: Context) -> Verdict:
        return proceed(add_header("X-Suspect", "yes")) if context.released else hold("suspect")


class Holds(Processor[ProcessorConfig]):
    """Knows nothing of releases."""

    def process(self, message: Message, context: Context) -> Verdict:
        return hold("whatever it is")


class Fails(Processor[ProcessorConfig]):
    def __init__(self, error: Exception) -> None:
        super().__init__(ProcessorConfig())
        self.error = error

    def process(self, message: Message, context: Context) -> Verdict:
        raise self.error


class Stamps(Processor[ProcessorConfig]):
    def process(self, message: Message, context: Context) -> Verdict:
        assert not context.released
        return proceed(add_header("X-Stamped", "yes"))


def run(*steps: Step, released: tuple[str, ...] = ()) -> Plan:
    pipeline = Pipeline(steps, hostname="mx.example", authserv_id="example", resolver=ZoneResolver.from_text(""))
    return pipeline.run(make_message(recipients=(b"a@x",)), log=structlog.get_logger(), released=released).plan


def names(plan: Plan) -> list[bytes]:
    assert isinstance(plan, Requeue), plan
    (output,) = plan.outputs
    return [field.name for field in output.message.sent_headers]


STAMPS = Step("stamps", Stamps(ProcessorConfig()))


def test_it_continues_behind_the_step_that_held_it() -> None:
    step = Step("holds", Holds(ProcessorConfig()))
    assert run(step, STAMPS) == Hold(reason="whatever it is", processor="holds")
    assert names(run(step, STAMPS, released=("holds",))) == [b"X-Stamped", b"From"]


def test_the_step_that_held_it_says_what_else_it_has_to_say() -> None:
    step = Step("suspects", Suspects(ProcessorConfig()))
    assert names(run(step, STAMPS, released=("suspects",))) == [b"X-Stamped", b"X-Suspect", b"From"]


def test_a_second_step_of_the_same_name_has_its_own_hold() -> None:
    steps = (Step("holds", Holds(ProcessorConfig())), Step("holds", Suspects(ProcessorConfig())))
    assert run(*steps) == Hold(reason="whatever it is", processor="holds")
    assert run(*steps, released=("holds",)) == Hold(reason="suspect", processor="holds#2")
    assert names(run(*steps, released=("holds", "holds#2"))) == [b"X-Suspect", b"From"]


@pytest.mark.parametrize(
    ("error", "on_error", "reason"),
    [
        (PermanentError("no such key"), "defer", "fails: no such key"),
        (ValueError("a bug"), "hold", "processor fails failed: ValueError: a bug"),
    ],
)
def test_a_step_that_fails_holds_it_again(error: Exception, on_error: OnError, reason: str) -> None:
    """A failure is no verdict: its hold names no processor, so that a release overrides none."""
    step = Step("fails", Fails(error), on_error=on_error)
    assert run(step, STAMPS) == run(step, STAMPS, released=("fails",)) == Hold(reason=reason)
