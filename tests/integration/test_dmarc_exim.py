"""DMARC in operation beside a private Exim: each policy action, the history file, failure reports."""

from __future__ import annotations

import email
import email.policy
from pathlib import Path

import pytest

from respool.processors.dmarc_history_file import read_lines
from respool.processors.dmarc_history_record import HistoryRecord, parse_records

from .conftest import EximFactory
from .exim import Exim
from .queuefile import run_attempt
from .sidecar import Sidecar

pytestmark = pytest.mark.exim

MESSAGE = b"""From: Boss <boss@bank.example>\r
To: a@file.example\r
Subject: transfer the money\r
Message-ID: <one@bank.example>\r
\r
Now.\r
"""

ZONE = """
sender.example. TXT "v=spf1 ip4:127.0.0.1 -all"
_dmarc.bank.example. TXT "v=DMARC1; p=reject; rua=mailto:a@bank.example; ruf=mailto:a@file.example"
bank.example._report._dmarc.file.example. TXT "v=DMARC1"
_dmarc.careful.example. TXT "v=DMARC1; p=quarantine"
"""


def start(exim: Exim, policy: str, *, reports: bool = False) -> Sidecar:
    """A sidecar with these settings of dmarc-policy."""
    (exim.directory / "dns.zone").write_text(ZONE)
    report = f"""
[[processor]]
use = "dmarc-failure-report"
config = {{ limit_file = "{exim.directory}/limit.mdb" }}
"""
    return Sidecar(
        exim,
        processors=f"""
[[processor]]
use = "auth"
{report if reports else ""}
[[processor]]
use = "dmarc-policy"
config = {{ history_file = "{exim.directory}/dmarc.dat", {policy} }}
[[processor]]
use = "dmarc-history"
config = {{ file = "{exim.directory}/dmarc.dat" }}
""",
    )


def process(exim: Exim, sidecar: Sidecar, message: bytes = MESSAGE, *recipients: str, failed: int = 0) -> str:
    message_id = exim.receive(message, recipients=recipients or ("a@file.example",))
    run_attempt(exim.spool, message_id, sidecar.export)
    result = sidecar.once()
    assert result.returncode == failed, result.stderr.decode()
    return message_id


def history(exim: Exim) -> list[HistoryRecord]:
    path: Path = exim.directory / "dmarc.dat"
    return list(parse_records(read_lines(str(path)))) if path.exists() else []


def test_annotate(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "annotate"')
    message_id = process(exim, sidecar)
    assert exim.pairs() == (message_id,)
    header = exim.spool_file(message_id, "-H").read_bytes()
    assert b"-aclm _dmarc_action 4\nnone\n" in header
    assert b"bank.example failed DMARC; bank.example asks for reject\n" in header
    (record,) = history(exim)
    assert (record.job, record.policy, record.action, record.align_spf) == (message_id, 16, 2, 5)
    assert (record.from_domain, record.mfrom, record.ipaddr) == ("bank.example", "sender.example", "127.0.0.1")


def test_mark_and_exims_router(start_exim: EximFactory) -> None:
    exim = start_exim(
        routers="""
dmarc_junk:
  driver = redirect
  condition = ${if inlist{$acl_m_dmarc_action}{quarantine:reject}}
  data = junk-$acl_m_dmarc_action@file.example
"""
    )
    sidecar = start(exim, 'reject = "mark", quarantine = "mark"')
    for message, word in ((MESSAGE, "reject"), (MESSAGE.replace(b"bank.example", b"careful.example"), "quarantine")):
        message_id = process(exim, sidecar, message)
        assert (
            b"-aclm _dmarc_action %d\n%b\n" % (len(word), word.encode())
            in exim.spool_file(message_id, "-H").read_bytes()
        )
        exim.deliver(message_id)
    assert {delivery.recipient for delivery in exim.deliveries()} == {
        "junk-reject@file.example", "junk-quarantine@file.example",
    }  # fmt: skip
    assert [record.action for record in history(exim)] == [0, 4]


def test_freeze(exim: Exim) -> None:
    message_id = process(exim, start(exim, 'reject = "freeze"'))
    exim.command("-q")
    assert exim.deliveries() == ()
    assert "*** frozen ***" in exim.command("-bp")
    exim.command("-Mt", message_id)
    exim.deliver(message_id)
    assert len(exim.deliveries()) == 1
    assert [record.action for record in history(exim)] == [4]


def test_hold_leaves_nothing_in_exim(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "hold"')
    message_id = process(exim, sidecar, failed=1)
    assert exim.ids() == ()
    (held,) = sidecar.in_state("held")
    assert held.startswith(message_id)
    assert history(exim) == []


def test_discard(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "discard"')
    message_id = process(exim, sidecar)
    assert exim.ids() == ()
    assert sidecar.in_state("held") == []
    assert [(record.job, record.action) for record in history(exim)] == [(message_id, 1)]


def test_bounce_goes_to_a_sender_that_spf_vouches_for(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "bounce"')
    message_id = exim.receive(MESSAGE, sender="a@file.example")
    (exim.directory / "dns.zone").write_text(ZONE + 'file.example. TXT "v=spf1 ip4:127.0.0.1 -all"\n')
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 0
    (notice,) = exim.pairs()
    assert notice != message_id
    exim.deliver(notice)
    (delivery,) = exim.deliveries()
    assert delivery.recipient == "a@file.example"
    assert b"bank.example asks for reject" in b" ".join(delivery.content.split())
    assert [record.action for record in history(exim)] == [0]


def test_a_bounce_to_a_forged_sender_is_held(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "bounce"')
    message_id = exim.receive(MESSAGE, sender="victim@elsewhere.example")
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 1
    assert exim.ids() == ()
    assert len(sidecar.in_state("held")) == 1
    assert history(exim) == []


def test_an_exception_by_recipient(exim: Exim) -> None:
    sidecar = start(
        exim, 'reject = "freeze", exceptions = [{ when = { recipients = ["b@file.example"] }, reason = "asked" }]'
    )
    process(exim, sidecar, MESSAGE, "a@file.example", "b@file.example")
    for message_id in exim.pairs():
        if b"-frozen" not in exim.spool_file(message_id, "-H").read_bytes():
            exim.deliver(message_id)
    assert [delivery.recipient for delivery in exim.deliveries()] == ["b@file.example"]
    assert len(exim.pairs()) == 1


def test_a_failure_report_is_delivered(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "discard"', reports=True)
    process(exim, sidecar)
    (report,) = exim.pairs()
    exim.deliver(report)
    (delivery,) = exim.deliveries()
    assert delivery.recipient == "a@file.example"
    parsed = email.message_from_bytes(delivery.content, policy=email.policy.default)
    assert parsed["Subject"] == "DMARC failure report for bank.example from 127.0.0.1"
    assert report in str(parsed["Message-ID"])
    assert parsed.get_content_type() == "multipart/report"
    assert delivery.sender == ""


def test_a_report_is_no_export_of_anybodys(exim: Exim) -> None:
    sidecar = start(exim, 'reject = "annotate"', reports=True)
    process(exim, sidecar)
    assert len(exim.pairs()) == 2
    for message_id in exim.pairs():
        # As a router that exports everything again would have it.
        run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 1
    assert exim.pairs() == ()
    assert len(sidecar.in_state("held")) == 2
