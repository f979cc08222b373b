"""What becomes of mail that fails DMARC, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from respool.errors import ConfigError
from respool.processors.api import Bounce, Discard, Freeze, Hold, Proceed, Split, Verdict
from respool.processors.authentication.dmarc import DmarcResult, override_dmarc
from respool.processors.dmarc_history_record import parse_records
from respool.processors.dmarc_policy import Config, DmarcPolicy, is_sampled
from respool.processors.edits import apply, divide
from respool.spool.editing import with_id
from respool.spool.ids import MessageId
from respool.spool.message import Message

from .authentication.fake_dns import TROUBLE
from .dmarc_results import results_for
from .processor_kit import make_context, make_message

FORGED = b"[203.0.113.9]:25"


def mail(author: bytes = b"a@example.com", **arguments: Any) -> Message:
    """A message from a client that may not send for example.com."""
    arguments.setdefault("host", FORGED)
    arguments.setdefault("recipients", [b"r@local.example"])
    headers = [(b"From", author), *arguments.pop("more", ())]
    return make_message(headers, **arguments)


def judge(message: Message, **config: Any) -> Verdict:
    decoded = msgspec.convert(config, Config)
    return DmarcPolicy(decoded).process(message, make_context(results=results_for(message)))


def told(message: Message, verdict: Verdict) -> tuple[str, str]:
    assert isinstance(verdict, Proceed | Freeze)
    variables = apply(message, verdict.edits).message.envelope.variables
    return variables["acl_m_dmarc_action"].decode(), variables["acl_m_dmarc_reason"].decode()


ALL_ENFORCED = {"quarantine": "freeze", "reject": "hold"}


def test_by_itself_it_only_says_what_it_would_do() -> None:
    message = mail()
    verdict = judge(message)
    assert told(message, verdict) == ("none", "example.com failed DMARC; example.com asks for reject")
    assert isinstance(verdict, Proceed)
    assert apply(message, verdict.edits).message.headers == message.headers


@pytest.mark.parametrize(
    ("action", "kind"),
    [("freeze", Freeze), ("hold", Hold), ("bounce", Bounce), ("discard", Discard)],
)
def test_each_action(action: str, kind: type[Freeze | Hold | Bounce | Discard]) -> None:
    for message, config in ((mail(), {"reject": action}), (mail(b"x@careful.example"), {"quarantine": action})):
        verdict = judge(message, **config)
        assert isinstance(verdict, kind)
        assert "failed DMARC" in verdict.reason
        assert isinstance(judge(message), Proceed)


@pytest.mark.parametrize("action", ["hold", "bounce"])
def test_a_released_message_is_annotated(action: str) -> None:
    message = mail()
    context = make_context(results=results_for(message), released=True)
    verdict = DmarcPolicy(msgspec.convert({"reject": action}, Config)).process(message, context)
    assert told(message, verdict) == (
        "none", "example.com failed DMARC; example.com asks for reject; released by an operator",
    )  # fmt: skip
    discarding = DmarcPolicy(msgspec.convert({"reject": "discard"}, Config))
    assert isinstance(discarding.process(message, context), Discard), "only what holds is overridden"


def test_marked_for_routers() -> None:
    message = mail()
    assert told(message, judge(message, reject="mark"))[0] == "reject"
    message = mail(b"x@careful.example")
    assert told(message, judge(message, quarantine="mark", reject="discard"))[0] == "quarantine"


def test_a_frozen_message_says_so() -> None:
    message = mail()
    assert told(message, judge(message, reject="freeze"))[0] == "freeze"


def test_mail_that_passes_goes_on() -> None:
    message = mail(host=b"[192.0.2.1]:25")
    assert told(message, judge(message, **ALL_ENFORCED)) == ("none", "example.com passed")


@pytest.mark.parametrize(
    ("author", "reason"),
    [
        (b"x@watching.example", "watching.example failed DMARC; watching.example asks for nothing"),
        (b"x@nothing.example", "nothing.example has no policy"),
    ],
)
def test_mail_that_nobody_asks_about_goes_on(author: bytes, reason: str) -> None:
    message = mail(author)
    assert told(message, judge(message, **ALL_ENFORCED)) == ("none", reason)


def test_test_mode_is_one_level_lower() -> None:
    verdict = judge(mail(b"x@testing.example"), **ALL_ENFORCED)
    assert isinstance(verdict, Freeze)
    assert "asks for quarantine (one level lower, t=y)" in verdict.reason


@pytest.mark.parametrize("headers", [[(b"From", b"b@example.org")], []])
def test_a_from_of_several_authors_is_treated_as_a_fail(headers: list[tuple[bytes, bytes]]) -> None:
    author = b"a@example.com" if headers else b"a@example.com, b@example.org"
    message = mail(author, more=headers)
    assert isinstance(judge(message, reject="discard"), Discard)
    assert isinstance(judge(message, reject="discard", unreadable_from="freeze"), Freeze)
    assert isinstance(judge(message), Proceed)


def test_dns_trouble_is_no_fail() -> None:
    message = mail()
    results = results_for(message, {"_dmarc.example.com": {"TXT": TROUBLE}})
    verdict = DmarcPolicy(Config(reject="discard")).process(message, make_context(results=results))
    assert told(message, verdict)[1].startswith("DNS trouble")


def test_nothing_is_decided_without_evaluation() -> None:
    message = mail(host_auth=b"plain")
    assert told(message, judge(message, **ALL_ENFORCED)) == ("none", "not evaluated")


def test_a_trusted_sealer_is_recorded() -> None:
    message = mail()
    results = [
        override_dmarc(result, kind="trusted_forwarder", reason="sealed by f.example")
        if isinstance(result, DmarcResult)
        else result
        for result in results_for(message)
    ]
    verdict = DmarcPolicy(Config(reject="discard")).process(message, make_context(results=tuple(results)))
    assert told(message, verdict) == ("none", "sealed by f.example")


EXCEPTIONS: list[dict[str, Any]] = [
    {"hosts": ["203.0.113.0/24"]},
    {"senders": ["bounce@example.com"]},
    {"from_domains": ["example.com"]},
    {"variables": {"acl_m_dmarc_disable_verify": "1"}},
]


@pytest.mark.parametrize("when", EXCEPTIONS)
def test_exceptions(when: dict[str, Any]) -> None:
    message = mail(variables={"acl_m_dmarc_disable_verify": b"1"})
    exceptions = [{"when": when, "reason": "ours"}]
    verdict = judge(message, reject="discard", exceptions=exceptions)
    assert told(message, verdict) == (
        "none",
        "example.com failed DMARC; example.com asks for reject; let through: ours",
    )
    other = mail(b"x@careful.example", host=b"[198.51.100.1]:25", sender=b"z@z.example")
    assert isinstance(judge(other, quarantine="discard", exceptions=exceptions), Discard)


def test_an_exception_by_recipient_divides_the_message() -> None:
    message = mail(recipients=[b"a@local.example", b"b@local.example", b"c@local.example"])
    exceptions = [{"when": {"recipients": ["b@local.example"]}, "reason": "asked for it"}]
    for action in ("freeze", "mark"):
        verdict = judge(message, reject=action, exceptions=exceptions)
        assert isinstance(verdict, Split)
        parts = divide(message, tuple(part.recipients for part in verdict.parts))
        assert [{each.address for each in part.undelivered} for part in parts if part] == [
            {b"b@local.example"},
            {b"a@local.example", b"c@local.example"},
        ]
        assert [bool(part.frozen) for part in verdict.parts] == [False, action == "freeze"]
        words = [
            apply(part, piece.edits).message.envelope.variables["acl_m_dmarc_action"]
            for part, piece in zip(parts, verdict.parts, strict=True)
            if part
        ]
        assert words == [b"none", b"freeze" if action == "freeze" else b"reject"]
    verdict = judge(message, reject="discard", exceptions=exceptions)
    assert isinstance(verdict, Proceed)
    assert [each.address for each in apply(message, verdict.edits).message.undelivered] == [b"b@local.example"]


def test_an_exception_for_all_recipients_together() -> None:
    message = mail(recipients=[b"a@local.example", b"b@local.example"])
    exceptions = [{"when": {"recipients": [f"{name}@local.example"]}, "reason": name} for name in "ab"]
    verdict = judge(message, reject="discard", exceptions=exceptions)
    assert told(message, verdict)[1].endswith("let through: a")
    both = [{"when": {"recipient_domains": ["local.example"]}, "reason": "all"}]
    assert told(message, judge(message, reject="discard", exceptions=both))[1].endswith("let through: all")


@pytest.mark.parametrize("action", ["hold", "bounce"])
def test_what_concerns_all_recipients_takes_no_exception_by_recipient(action: str) -> None:
    exceptions = [{"when": {"recipients": ["a@local.example"]}, "reason": "x"}]
    with pytest.raises(ConfigError, match="split = true"):
        judge(mail(), reject=action, exceptions=exceptions)


def test_a_mailing_list_must_prove_itself() -> None:
    listed: dict[str, Any] = {"reject": "discard", "mailing_lists": ["lists.example.net"]}
    more = [(b"List-Id", b"<l.lists.example.net>")]
    message = mail(sender=b"l-bounces@lists.example.net", more=more)
    assert told(message, judge(message, **listed))[1].endswith("let through: mailing list at lists.example.net")
    assert isinstance(judge(mail(sender=b"l-bounces@lists.example.net"), **listed), Discard)
    assert isinstance(judge(mail(sender=b"l@other.example.net", more=more), **listed), Discard)
    assert isinstance(judge(message, reject="discard", mailing_lists=["example.net"]), Discard)


def test_the_sample_is_as_large_as_asked_for_and_stays() -> None:
    messages = [mail() for _ in range(1)]
    envelope = messages[0].envelope
    ids = [MessageId(f"1abcde-{number:06d}-00") for number in range(2000)]
    many = [Message(with_id(envelope, each), messages[0].body) for each in ids]
    chosen = [is_sampled(message, 25) for message in many]
    assert 400 < sum(chosen) < 600
    assert chosen == [is_sampled(message, 25) for message in many]
    # Who was chosen at 25 % stays chosen at 50 %: enforcement only grows.
    assert all(is_sampled(message, 50) for message, was in zip(many, chosen, strict=True) if was)
    assert not any(is_sampled(message, 0) for message in many)
    assert all(is_sampled(message, 100) for message in many)


def test_what_is_not_sampled_is_annotated() -> None:
    message = mail()
    assert told(message, judge(message, reject="discard", enforce_percent=0))[1].endswith(
        "not among the 0 % that are enforced"
    )
    assert isinstance(judge(message, reject="discard", enforce_percent=100), Discard)


def test_what_ends_here_is_recorded_here(tmp_path: Path) -> None:
    file = str(tmp_path / "dmarc.dat")
    message = mail()
    for action, code in (("discard", 1), ("bounce", 0)):
        context = make_context(results=results_for(message))
        processor = DmarcPolicy(Config(reject=action, history_file=file))  # type: ignore[arg-type]
        processor.process(message, context)
        ((kind, payload),) = context.effects.declared
        assert kind == "record"
        (record,) = parse_records(payload.splitlines(keepends=True))
        assert (record.action, record.job) == (code, str(message.id))
    for action in ("freeze", "annotate", "hold"):
        context = make_context(results=results_for(message))
        DmarcPolicy(Config(reject=action, history_file=file)).process(message, context)  # type: ignore[arg-type]
        assert context.effects.declared == []


def test_hostile_reasons_fit_a_line() -> None:
    message = make_message([b"From: a@example.com, \x00\r\x1b[2J" + b"\xff" * 3000 + b"\n"], host=FORGED)
    verdict = judge(message, reject="mark")
    reason = told(message, verdict)[1]
    assert len(reason) <= 400
    assert reason.isprintable()


@pytest.mark.parametrize(
    "config",
    [
        {"exceptions": [{"when": {}, "reason": "x"}]},
        {"mailing_lists": ["a b"]},
        {"history_file": "relative"},
        {"history_file": "/nonexistent/x/y"},
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        DmarcPolicy(msgspec.convert(config, Config))
    assert caught.value.key.startswith("config.")
