"""``dcc``: header, variable, thresholds and verdicts, with a dccifd on loopback."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from respool.errors import ConfigError, TemporaryError
from respool.lookups.zone import ZoneResolver
from respool.processors.api import Discard, Freeze, Hold, Proceed, Verdict
from respool.processors.edits import AddHeader, RemoveHeader, apply
from respool.processors.registry import build
from respool.requeue.plan import Requeue
from respool.sidecar.pipeline import Pipeline
from respool.sidecar.step import Step

from ..lookups.dccifd import FIELD, Dccifd
from .processor_kit import make_context, make_message

A, B, C = b"a@one.example", b"b@two.example", b"c@three.example"
BULK = b"X-DCC-x-Metrics: host 1; Body=200 Fuz1=many\n\n"


@pytest.fixture
def daemon() -> Iterator[Dccifd]:
    with Dccifd() as started:
        yield started


def make(daemon: Dccifd, **config: Any) -> Any:
    return build("dcc", {"address": daemon.address, **config})


def run(processor: Any, *recipients: bytes, **message: Any) -> Verdict:
    return processor.process(make_message(recipients=recipients or (A, B), **message), make_context())  # type: ignore[no-any-return]


def applied(verdict: Verdict, **message: Any) -> tuple[list[bytes], bytes | None]:
    """Names of header fields, and the variable."""
    assert isinstance(verdict, (Proceed, Freeze))
    after = apply(make_message(recipients=(A, B), **message), verdict.edits).message
    return [field.name for field in after.sent_headers], after.envelope.variables.get("acl_m_dcc_result")


def test_accepted(daemon: Dccifd) -> None:
    assert applied(run(make(daemon))) == ([b"X-DCC-test-Metrics", b"From"], b"A")
    (request,) = daemon.requests
    assert (request.client_address, request.helo) == (b"192.0.2.1", b"mail.example.com")
    assert request.message == b"From: A <a@example.com>\r\n\r\nHello\r\n"
    assert request.recipients == (A, B)


@pytest.mark.parametrize(
    ("said", "asked"),
    [(b"198.51.100.7", b"198.51.100.7"), (b"2001:DB8::1", b"2001:db8::1"), (b"not an address\nHELO", b"192.0.2.1")],
)
def test_exims_acl_may_name_another_client(daemon: Dccifd, said: bytes, asked: bytes) -> None:
    run(make(daemon), variables={"acl_m_dcc_override_client_ip": said}, host_name=b"relay.example.com")
    (request,) = daemon.requests
    assert request.client_address == asked
    # The name is that of the host that connected.
    assert request.client_name == (b"relay.example.com" if asked == b"192.0.2.1" else b"")


def test_deleted_fields_and_delivered_recipients_are_not_told(daemon: Dccifd) -> None:
    run(make(daemon), A, B, C, delivered=(B,), deleted=(b"Secret: x\n",))
    (request,) = daemon.requests
    assert request.recipients == (A, C)
    assert b"Secret" not in request.message


def test_fields_that_came_in_are_removed(daemon: Dccifd) -> None:
    headers = [(b"X-DCC-Forged-Metrics", b"x; Body=0"), (b"From", b"a@b.example"), (b"x-dcc-other", b"y")]
    assert applied(run(make(daemon), headers=headers), headers=headers) == ([b"X-DCC-test-Metrics", b"From"], b"A")
    assert applied(run(make(daemon, header=False), headers=headers), headers=headers)[0] == [
        b"X-DCC-Forged-Metrics", b"From", b"x-dcc-other",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("on_bulk", "expected"), [("proceed", Proceed), ("freeze", Freeze), ("hold", Hold), ("discard", Discard)]
)
def test_bulk(daemon: Dccifd, on_bulk: str, expected: type[Verdict]) -> None:
    daemon.answer = lambda _: b"R\nRR\n" + BULK
    verdict = run(make(daemon, on_bulk=on_bulk))
    assert type(verdict) is expected
    if isinstance(verdict, (Proceed, Freeze)):
        assert applied(verdict) == ([b"X-DCC-x-Metrics", b"From"], b"R")
    if not isinstance(verdict, Proceed):
        assert verdict.reason == "bulk, says DCC: Body=200 Fuz1=many"


def test_a_released_message_gets_all_but_the_hold(daemon: Dccifd) -> None:
    daemon.answer = lambda _: b"R\nRR\n" + BULK
    processor, context = make(daemon, on_bulk="hold"), make_context(released=True)
    verdict = processor.process(make_message(recipients=(A, B)), context)
    assert applied(verdict) == ([b"X-DCC-x-Metrics", b"From"], b"R")
    daemon.answer = lambda _: b"A\nRA\n" + BULK
    verdict = processor.process(make_message(recipients=(A, B)), context)
    assert [part.recipients for part in verdict.parts] == [(A,), (B,)]
    daemon.answer = lambda _: b"R\nR\n" + BULK
    discarding = make(daemon, on_bulk="discard").process(make_message(recipients=(A,)), context)
    assert isinstance(discarding, Discard), "only a hold is overridden"


@pytest.mark.parametrize(
    ("thresholds", "bulk"),
    [
        ({"Body": 200}, True), ({"Body": 201}, False), ({"body": 1}, True), ({"Fuz1": "many"}, True),
        ({"Body": "many"}, False), ({"Fuz2": 1}, False), ({}, False),
    ],
)  # fmt: skip
def test_thresholds(daemon: Dccifd, thresholds: dict[str, Any], bulk: bool) -> None:
    daemon.answer = lambda _: b"A\nAA\n" + BULK
    verdict = run(make(daemon, thresholds=thresholds, on_bulk="freeze"))
    assert isinstance(verdict, Freeze if bulk else Proceed)
    assert applied(verdict)[1] == (b"R" if bulk else b"A")


def parts(processor: Any, *recipients: bytes) -> list[tuple[list[bytes], bytes | None, bool]]:
    pipeline = Pipeline((Step("dcc", processor),), hostname="h", authserv_id="h", resolver=ZoneResolver({}))
    plan = pipeline.run(make_message(recipients=recipients), log=structlog.get_logger()).plan
    assert isinstance(plan, Requeue), plan
    found: list[tuple[list[bytes], bytes | None, bool]] = []
    for output in plan.outputs:
        envelope = output.message.envelope
        assert output.message.sent_headers[0].raw == FIELD
        found.append(
            (
                [recipient.address for recipient in envelope.recipients],
                envelope.variables.get("acl_m_dcc_result"),
                envelope.is_frozen,
            )
        )
    return found


def test_white_lists_of_recipients_divide(daemon: Dccifd) -> None:
    daemon.answer = lambda _: b"A\nRAR\n" + FIELD + b"\n"
    assert parts(make(daemon), A, B, C) == [([A, C], b"R", False), ([B], b"A", False)]
    assert parts(make(daemon, on_bulk="freeze"), A, B, C) == [([A, C], b"R", True), ([B], b"A", False)]
    assert parts(make(daemon, on_bulk="discard"), A, B, C) == [([B], b"A", False)]
    assert isinstance(run(make(daemon, on_bulk="hold"), A, B, C), Hold)
    daemon.answer = lambda _: b"A\nRAG\n" + FIELD + b"\n"
    assert parts(make(daemon, on_bulk="discard"), A, B, C) == [([B], b"A", False), ([C], b"G", False)]


def test_no_answer_is_neutral(daemon: Dccifd) -> None:
    daemon.answer = lambda _: b"nonsense"
    assert applied(run(make(daemon, on_bulk="discard"))) == ([b"From"], b"T")
    with pytest.raises(TemporaryError, match="protocol"):
        run(make(daemon, on_failure="defer"))


def test_the_deadline_of_the_message_counts(daemon: Dccifd) -> None:
    daemon.answer = lambda _: None
    started = time.monotonic()
    assert applied(run(make(daemon, timeout_seconds=0.2)))[1] == b"T"
    assert time.monotonic() - started < 10


def test_submission_is_not_asked_about(daemon: Dccifd) -> None:
    processor = make(daemon)
    assert run(processor, host=None) == Proceed()
    assert run(processor, host_auth=b"login") == Proceed()
    assert daemon.requests == []
    assert applied(run(make(daemon, submission=True), host=None))[1] == b"A"
    assert daemon.requests[0].client_address == b"127.0.0.1"


def test_edits_are_of_known_kinds(daemon: Dccifd) -> None:
    verdict = run(make(daemon), headers=[(b"X-DCC-a", b"b")])
    assert isinstance(verdict, Proceed)
    assert [type(edit) for edit in verdict.edits[:2]] == [RemoveHeader, AddHeader]


@pytest.mark.parametrize(
    ("config", "key", "reason"),
    [
        ({"address": "nowhere"}, "config.address", "expected"),
        ({"options": ["headers"]}, "config.options", 'did you mean "header"'),
        ({"options": ["header\nx"]}, "config.options", "no option"),
        ({"on_bulk": "reject"}, "config", "reject"),
        ({"thresholds": {"Body": "lots"}}, "config", "lots"),
    ],
)
def test_refused_at_load(config: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("dcc", config)
    assert caught.value.key.startswith(key)
    assert reason in caught.value.reason
