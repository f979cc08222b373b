"""Notices that respool makes: delivered by Exim, read by Python's email and by a Perl bounce parser."""

from __future__ import annotations

import subprocess
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest

from .exim import Delivery, Exim
from .queuefile import run_attempt
from .sidecar import Sidecar

pytestmark = [pytest.mark.exim, pytest.mark.system("perl:Mail::DeliveryStatus::BounceParser")]

PARSER = Path(__file__).parent / "bounce_parser.pl"
PLUGIN = '''
from respool import Context, Message, Processor, ProcessorConfig, Verdict, bounce

class Refuse(Processor[ProcessorConfig]):
    """Bounces everything."""

    phase = "verify"

    def process(self, message: Message, context: Context) -> Verdict:
        return bounce("This list is closed", status="5.1.1")
'''
MESSAGE = b"From: a@sender.example\r\nSubject: hello\r\nMessage-ID: <one@sender.example>\r\n\r\nH\xc3\xa9llo\r\n"


def refusing(exim: Exim) -> Sidecar:
    plugin = exim.directory / "refuse.py"
    plugin.write_text(PLUGIN)
    return Sidecar(exim, processors=f'[[processor]]\nuse = "{plugin}:Refuse"\n')


def bounced(exim: Exim, sidecar: Sidecar, message_id: str) -> tuple[Delivery, ...]:
    """What is delivered once message_id was exported, bounced and requeued."""
    run_attempt(exim.spool, message_id, sidecar.export)
    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    (notice,) = exim.pairs()
    assert notice != message_id
    exim.deliver(notice)
    assert exim.ids() == (), exim.log()
    assert exim.panic_log() == ""
    (delivery,) = exim.deliveries()
    assert (delivery.id, delivery.sender, delivery.variables["acl_m_respool"]) == (notice, "", "1")
    assert f"{notice} Completed" in exim.log()
    return (delivery,)


def payload(email: Any) -> list[Any]:
    parts: list[Any] = email.get_payload()
    return parts


def by_perl(content: bytes) -> list[str]:
    result = subprocess.run(["perl", str(PARSER)], input=content, capture_output=True, check=True)
    return result.stdout.decode().splitlines()


def test_delivered_and_parsed(exim: Exim) -> None:
    sidecar = refusing(exim)
    message_id = exim.receive(
        MESSAGE, authenticated="alice", sender="a@file.example", recipients=("x@one.example", "y@two.example"),
        mail_options=("RET=HDRS", "ENVID=my+2Bid"),
        rcpt_options={"x@one.example": ("NOTIFY=FAILURE", "ORCPT=rfc822;o+2Bx@one.example"),
                      "y@two.example": ("NOTIFY=NEVER",)},
    )  # fmt: skip
    (delivery,) = bounced(exim, sidecar, message_id)
    assert delivery.recipient == "a@file.example"
    email = message_from_bytes(delivery.content)
    assert email["Auto-Submitted"] == "auto-replied"
    assert email["X-Failed-Recipients"] == "x@one.example"
    assert delivery.id in email["Received"]
    assert email["Message-Id"] == f"<E{delivery.id}@mx.example.org>"
    text, status, returned = payload(email)
    assert "This list is closed" in text.get_payload()
    per_message, per_recipient = payload(status)
    assert per_message["Original-Envelope-Id"] == "my+id"
    assert per_recipient["Original-Recipient"] == "rfc822;o+x@one.example"
    assert per_recipient["Status"] == "5.1.1"
    assert returned.get_content_type() == "text/rfc822-headers"
    assert by_perl(delivery.content) == [
        "bounce=1 original=<one@sender.example>", "o+x@one.example user_unknown",
    ]  # fmt: skip


@pytest.mark.exim("I18N")
def test_returned_whole_and_smtputf8(exim: Exim) -> None:
    sidecar = refusing(exim)
    message_id = exim.receive(
        MESSAGE, authenticated="alice", sender="a@file.example", recipients=("bücher@one.example",),
        mail_options=("SMTPUTF8", "BODY=8BITMIME"),
    )  # fmt: skip
    (delivery,) = bounced(exim, sidecar, message_id)
    email = message_from_bytes(delivery.content)
    assert [part.get_content_type() for part in payload(email)] == [
        "text/plain", "message/global-delivery-status", "message/global",
    ]  # fmt: skip
    assert b"\nFinal-Recipient: utf-8;b\xc3\xbccher@one.example\n" in delivery.content
    assert b"\n\nH\xc3\xa9llo\n" in delivery.content


def test_a_stranger_gets_no_notice(exim: Exim) -> None:
    sidecar = refusing(exim)
    message_id = exim.receive(MESSAGE, recipients=("x@one.example",))
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 1
    assert exim.ids() == ()
    (held,) = sidecar.in_state("held")
    assert held.startswith(message_id)
