"""The verdict ``bounce``: a notice where somebody vouches for the sender, else a hold."""

from __future__ import annotations

from typing import Any

import pytest
import structlog

from respool import Bounce, Part, Processor, ProcessorConfig, Verdict, bounce, proceed, split
from respool.lookups.zone import ZoneResolver
from respool.processors.api import Context
from respool.processors.results import AuthResult, Property, Result
from respool.requeue.plan import Hold, Requeue
from respool.sidecar.pipeline import Outcome, Pipeline
from respool.sidecar.step import Step
from respool.spool.envelope import DSN_NEVER, Recipient
from respool.spool.message import Message

from ..processors.processor_kit import make_message


class Says(Processor[ProcessorConfig]):
    def __init__(self, *verdicts: Verdict) -> None:
        super().__init__(ProcessorConfig())
        self.verdicts = list(verdicts)

    def process(self, message: Message, context: Context) -> Verdict:
        return self.verdicts.pop(0)


def run(message: Message, *verdicts: Verdict, results: tuple[AuthResult, ...] = (), **options: Any) -> Outcome:
    first = Step("first", Says(proceed(results=results)))
    steps = (first, Step("second", Says(*verdicts)), *options.pop("steps", ()))
    pipeline = Pipeline(
        steps, hostname="mx.example", authserv_id="example", resolver=ZoneResolver.from_text(""), clock=lambda: 1e9
    )
    return pipeline.run(message, log=structlog.get_logger(), **options)


def result(method: str, ptype: str, name: str, value: str, word: Result = Result.PASS) -> AuthResult:
    return AuthResult(method=method, result=word, properties=(Property(ptype, name, value),))


FROM_OUTSIDE = make_message(recipients=(b"a@one.example", b"b@two.example"), sender=b"s@example.com")
SPF = result("spf", "smtp", "mailfrom", "example.com")


@pytest.mark.parametrize(
    ("message", "results"),
    [
        (make_message(recipients=(b"a@x",), host=None), ()),
        (make_message(recipients=(b"a@x",), host_auth=b"plain"), ()),
        (FROM_OUTSIDE, (SPF,)),
        (FROM_OUTSIDE, (result("spf", "smtp", "mailfrom", "s@EXAMPLE.com"),)),
        (FROM_OUTSIDE, (result("dmarc", "header", "from", "example.com"),)),
        (FROM_OUTSIDE, (result("dmarc", "header", "from", "news.example.com"),)),
    ],
)
def test_a_notice(message: Message, results: tuple[AuthResult, ...]) -> None:
    plan = run(message, bounce("unwanted"), results=results).plan
    assert isinstance(plan, Requeue)
    assert plan.reason == "second: bounced: unwanted"
    (output,) = plan.outputs
    assert (output.is_notice, output.original_body) == (True, False)
    assert output.message.sender == b""
    assert [r.address for r in output.message.envelope.recipients] == [message.sender]


@pytest.mark.parametrize(
    "results",
    [
        (),
        (result("spf", "smtp", "mailfrom", "example.com", Result.SOFTFAIL),),
        (result("spf", "smtp", "helo", "example.com"),),
        (result("spf", "smtp", "mailfrom", "example.org"),),
        (result("dkim", "header", "d", "example.com"),),
        (result("dmarc", "header", "from", "example.org"),),
        (result("dmarc", "header", "from", "ample.com"),),
        (result("dmarc", "header", "from", "example.com", Result.FAIL),),
    ],
)
def test_held_where_nobody_vouches(results: tuple[AuthResult, ...]) -> None:
    plan = run(FROM_OUTSIDE, bounce("unwanted"), results=results).plan
    assert isinstance(plan, Hold)
    assert plan.processor == "second"
    assert plan.reason.startswith("unwanted (not bounced: its sender is neither")


def test_held_for_a_null_sender() -> None:
    plan = run(make_message(recipients=(b"a@x",), sender=b"", host=None), bounce("unwanted")).plan
    assert plan == Hold(reason="unwanted (not bounced: its sender is empty)", processor="second")


def test_a_released_message_goes_on() -> None:
    plan = run(FROM_OUTSIDE, bounce("unwanted"), released=("second",)).plan
    assert isinstance(plan, Requeue)
    assert [output.is_notice for output in plan.outputs] == [False]


def test_nobody_wants_it() -> None:
    recipients = (Recipient.make(b"a@x", dsn_flags=DSN_NEVER),)
    message = Message(FROM_OUTSIDE.envelope.replace(recipients=recipients), FROM_OUTSIDE.body)
    assert run(message, bounce("unwanted"), results=(SPF,)).plan == Requeue(reason="second: bounced: unwanted")


def test_a_bounced_part_leaves_the_others() -> None:
    steps = (Step("third", Says(bounce("not b", status="5.7.26"), proceed())),)
    verdict = split(Part((b"b@two.example",)), Part((b"a@one.example",)))
    plan = run(FROM_OUTSIDE, verdict, results=(SPF,), steps=steps).plan
    assert isinstance(plan, Requeue)
    kept, notice = plan.outputs
    # The message comes first, since the first output may keep the id.
    assert (kept.is_notice, notice.is_notice) == (False, True)
    body = b"".join(notice.message.body.chunks())
    gone = {r.address for r in FROM_OUTSIDE.envelope.recipients} - {r.address for r in kept.message.undelivered}
    assert len(gone) == 1
    assert b"Final-Recipient: rfc822;%b\nStatus: 5.7.26\n" % gone.pop() in body


def test_the_verdict_is_printable() -> None:
    (_, traced) = run(FROM_OUTSIDE, bounce("unwanted"), results=(SPF,)).trace
    assert traced.verdict == Bounce(reason="unwanted", status="5.7.1")
