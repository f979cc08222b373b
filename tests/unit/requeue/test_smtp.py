"""Sending to a server, end to end in one process: what is said, what becomes of each recipient."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from respool.sidecar import log
from respool.spool.envelope import DSN_DELAY, DSN_FAILURE, DSN_NEVER, Recipient
from respool.spool.ids import MessageId

from ...scripted_smtp import EXTENSIONS, Answer, ScriptedSmtp
from ...smtp_setup import SmtpSetup

A, B, C = b"a@one.example", b"b@two.example", b"c@three.example"
CLIENT: dict[bytes, bytes | None] = {
    b"helo_name": b"client.example", b"host_address": b"[2001:db8::1]:4711", b"host_name": b"client.example",
    b"interface_address": b"[192.0.2.1]:25", b"received_protocol": b"esmtpsa", b"auth_id": b"al+ice",
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[ScriptedSmtp]:
    with ScriptedSmtp() as server:
        yield server


def refuse(**replies: bytes) -> Answer:
    """By what the command contains."""

    def answer(command: bytes) -> bytes | None:
        return next((reply for text, reply in replies.items() if text.encode() in command), None)

    return answer


def test_one_message(server: ScriptedSmtp, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A, b"b\xc3\xbc@two.example", body=b".dot\n\nf\xc3\xbcnf\nend\n", directives={b"smtputf8": None})
    assert setup.once() == 0
    (taken,) = server.messages
    content = b"Subject: hello\r\n\r\n.dot\r\n\r\nf\xc3\xbcnf\r\nend\r\n"
    assert taken.mail == b"<alice@sender.example> SIZE=%d BODY=8BITMIME SMTPUTF8" % len(content)
    assert taken.recipients == (b"<a@one.example>", b"<b\xc3\xbc@two.example>")
    assert (taken.content, taken.chunked) == (content, True)
    assert setup.states() == {"work": [], "deferred": [], "held": [], "corrupt": []}


def test_plain_data(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.extensions = ()
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A, B, body=b".\n..\n.dot\nno\r.cr\n")
    assert setup.once() == 0
    (taken,) = server.messages
    assert taken.mail == b"<alice@sender.example>"
    assert taken.content == b"Subject: hello\r\n\r\n.\r\n..\r\n.dot\r\nno .cr\r\n"


@pytest.mark.parametrize(("chunking", "expected"), [(True, b"a\n.\nb\r.\r\nc"), (False, b"a\r\n.\r\nb .\r\nc\r\n")])
def test_nothing_is_smuggled(server: ScriptedSmtp, tmp_path: Path, *, chunking: bool, expected: bytes) -> None:
    if not chunking:
        server.server.extensions = ()
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A, body=b"a\n.\nb\r.\r\nc", wireformat=True)
    assert setup.once() == 0
    (taken,) = server.messages
    assert taken.content == b"Subject: hello\r\n\r\n" + expected
    assert len([line for line in server.commands if line.startswith(b"MAIL")]) == 1


def test_dsn_parameters(server: ScriptedSmtp, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, server.port)
    recipients = (
        Recipient.make(A, orcpt=b"rfc822;x+2By@z", dsn_flags=DSN_FAILURE | DSN_DELAY | 1),
        Recipient.make(B, dsn_flags=DSN_NEVER),
        Recipient.make(C, orcpt=b"rfc822;x y", dsn_flags=DSN_FAILURE),
    )
    setup.write(*recipients, directives={b"dsn_envid": b"id+2B", b"dsn_ret": b"2"})
    assert setup.once() == 0
    (taken,) = server.messages
    assert taken.mail.endswith(b" RET=HDRS ENVID=id+2B")
    assert taken.recipients == (
        b"<a@one.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;x+2By@z", b"<b@two.example> NOTIFY=NEVER",
        b"<c@three.example> NOTIFY=FAILURE",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("offered", "dialect", "said"),
    [
        (b"ADDR NAME PORT LOGIN DESTADDR DESTPORT", "auto",
         b"ADDR=2001:db8::1 PORT=4711 NAME=client.example LOGIN=al+2Bice DESTADDR=192.0.2.1 DESTPORT=25"),
        (b"NAME ADDR PORT PROTO HELO LOGIN", "auto",
         b"ADDR=IPV6:2001:db8::1 PORT=4711 NAME=client.example LOGIN=al+2Bice HELO=client.example PROTO=ESMTP"),
        (b"NAME ADDR PORT", "postfix", b"ADDR=IPV6:2001:db8::1 PORT=4711 NAME=client.example"),
    ],
)  # fmt: skip
def test_xclient(server: ScriptedSmtp, tmp_path: Path, offered: bytes, dialect: str, said: bytes) -> None:
    server.server.extensions = (*EXTENSIONS, b"XCLIENT " + offered)
    setup = SmtpSetup(tmp_path, server.port, xclient=dialect)
    setup.write(A, directives=CLIENT)
    setup.write(B, message_id=MessageId("1xV9Vo-0000zD-2c"), directives={b"host_address": b"[192.0.2.9]:1"})
    setup.write(C, message_id=MessageId("1xV9Vo-0000zE-2c"))
    assert setup.once() == 0
    by_recipient = {taken.recipients[0]: taken for taken in server.messages}
    assert by_recipient[b"<%b>" % A].xclient == said
    assert by_recipient[b"<%b>" % A].helo == b"client.example"
    other = by_recipient[b"<%b>" % B].xclient
    assert b"192.0.2.9" in other
    assert b"NAME=[UNAVAILABLE]" in other
    # What was made on this host is never sent as another client's.
    assert by_recipient[b"<%b>" % C].xclient == b""


@pytest.mark.parametrize(("xclient", "actions"), [("off", "e"), ("auto", "ex")])
def test_the_log_says_how_the_session_began(server: ScriptedSmtp, tmp_path: Path, xclient: str, actions: str) -> None:
    server.server.extensions = (*EXTENSIONS, b"XCLIENT NAME ADDR PORT")
    setup = SmtpSetup(tmp_path, server.port, xclient=xclient)
    setup.write(A, directives=CLIENT)
    with (tmp_path / "log").open("wb") as file:
        assert setup.once(log.to_file(file)) == 0
    events = map(json.loads, (tmp_path / "log").read_text().splitlines())
    (sent,) = (event for event in events if event["event"] == "smtp.sent")
    assert (sent["protocol"], sent["recipients"]) == (actions, 1)


def test_xclient_not_offered(server: ScriptedSmtp, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, server.port, xclient="auto")
    setup.write(A, directives=CLIENT)
    setup.once()
    assert server.messages == ()
    assert "does not offer XCLIENT" in setup.reason("deferred")


def test_retry_is_for_those_that_failed(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.answer = refuse(two=b"450 4.2.1 mailbox busy")
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A, B, C)
    assert setup.once() == 1
    assert setup.reason("deferred") == "b@two.example: 450 4.2.1 mailbox busy"
    assert setup.make_due() == 1
    server.server.answer = None
    assert setup.once() == 0
    assert [taken.recipients for taken in server.messages] == [
        (b"<a@one.example>", b"<c@three.example>"), (b"<b@two.example>",),
    ]  # fmt: skip
    assert setup.states()["deferred"] == []


def test_refused_for_good_is_held(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.answer = refuse(two=b"550 5.1.1 no such user")
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A, B)
    assert setup.once() == 1
    assert setup.reason("held") == "b@two.example: 550 5.1.1 no such user"
    assert [taken.recipients for taken in server.messages] == [(b"<a@one.example>",)]


def test_refused_for_good_is_bounced(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.answer = refuse(two=b"550 5.1.1 no such user", three=b"451 4.3.0 later")
    setup = SmtpSetup(tmp_path, server.port, refused="bounce")
    setup.write(A, B, C)
    assert setup.once() == 1
    assert setup.reason("deferred") == "c@three.example: 451 4.3.0 later"
    message, notice = server.messages
    assert message.recipients == (b"<a@one.example>",)
    assert notice.mail.startswith(b"<>")
    assert notice.recipients == (b"<alice@sender.example>",)
    assert (
        b"\r\nFinal-Recipient: rfc822;b@two.example\r\nStatus: 5.1.1\r\nRemote-MTA: dns; 127.0.0.1\r\n"
        in notice.content
    )
    assert b"\r\nX-Remote-MTA-smtp-greeting: X-str; 220 scripted ESMTP\r\n" in notice.content
    assert b"\r\nDiagnostic-Code: smtp; 550 5.1.1 no such user\r\n" in notice.content
    assert b"three" not in notice.content.partition(b"Content-Type: message/rfc822")[0]
    setup.make_due()
    server.server.answer = None
    assert setup.once() == 0
    assert [taken.recipients for taken in server.messages[2:]] == [(b"<c@three.example>",)]


def test_no_notice_to_a_stranger(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.answer = refuse(two=b"550 5.1.1 no such user")
    setup = SmtpSetup(tmp_path, server.port, refused="bounce")
    setup.write(B, directives={b"host_address": b"[192.0.2.9]:1"})
    setup.once()
    assert server.messages == ()
    assert len(setup.states()["held"]) == 1


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (refuse(MAIL=b"550 5.7.1 not you"), "held"),
        (refuse(MAIL=b"451 4.7.1 greylisted"), "deferred"),
        (refuse(BDAT=b"554 5.7.1 spam"), "held"),
        (refuse(BDAT=b"452 4.3.1 disk full"), "deferred"),
        (refuse(MAIL=b"421 4.3.2 going down"), "deferred"),
        (refuse(BDAT=b"421 4.3.2 going down"), "deferred"),
        (refuse(RCPT=b"gibberish"), "deferred"),
        (refuse(RCPT=b"354 odd"), "deferred"),
        (refuse(EHLO=b"250-" + b"x" * 5000 + b"\r\n250 x"), "deferred"),
        (refuse(EHLO=b"250-x\r\n" * 300 + b"250 x"), "deferred"),
        (lambda command: b"554 no" if not command else None, "deferred"),
    ],
)  # fmt: skip
def test_refusals(server: ScriptedSmtp, tmp_path: Path, answer: Callable[[bytes], bytes | None], state: str) -> None:
    server.server.answer = answer
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A)
    assert setup.once() == 1
    assert len(setup.states()[state]) == 1
    assert server.messages == ()


def test_more_recipients_than_one_transaction_takes(server: ScriptedSmtp, tmp_path: Path) -> None:
    count = 0

    def answer(command: bytes) -> bytes | None:
        nonlocal count
        if command.startswith(b"MAIL"):
            count = 0
        if command.startswith(b"RCPT"):
            count += 1
            return b"452 4.5.3 too many" if count > 3 else None
        return None

    server.server.answer = answer
    setup = SmtpSetup(tmp_path, server.port, recipients_per_message=5)
    setup.write(*(b"r%d@one.example" % number for number in range(12)))
    assert setup.once() == 0
    given = [recipient for taken in server.messages for recipient in taken.recipients]
    assert sorted(given) == sorted(b"<r%d@one.example>" % number for number in range(12))
    assert max(len(taken.recipients) for taken in server.messages) == 3


def test_a_connection_is_used_again(server: ScriptedSmtp, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, server.port, messages_per_connection=4)
    for number in range(6):
        setup.write(A, message_id=MessageId(f"1xV9Vo-0000z{number}-2c"))
    assert setup.once() == 0
    assert len(server.messages) == 6
    assert server.server.sessions == 2


def test_a_session_that_the_server_had_enough_of(server: ScriptedSmtp, tmp_path: Path) -> None:
    mails = 0

    def answer(command: bytes) -> bytes | None:
        nonlocal mails
        mails += command.startswith(b"MAIL")
        return b"421 4.7.0 enough" if command.startswith(b"MAIL") and mails == 2 else None

    server.server.answer = answer
    setup = SmtpSetup(tmp_path, server.port)
    for number in range(3):
        setup.write(A, message_id=MessageId(f"1xV9Vo-0000z{number}-2c"))
    assert setup.once() == 0
    assert len(server.messages) == 3


@pytest.mark.parametrize(
    ("address", "reason"),
    [(b"a@b> SIZE=1", "not an address"), (b"b\xff@one.example", "neither ASCII"), (b"a\r@b.example", "not an address")],
)
def test_addresses_that_no_command_holds(server: ScriptedSmtp, tmp_path: Path, address: bytes, reason: str) -> None:
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(address, A)
    assert setup.once() == 1
    assert reason in setup.reason("held")
    assert [taken.recipients for taken in server.messages] == [(b"<a@one.example>",)]


def test_without_smtputf8_the_others_get_it(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.extensions = (b"PIPELINING",)
    setup = SmtpSetup(tmp_path, server.port)
    setup.write("b\xfc@two.example".encode(), A)
    assert setup.once() == 1
    assert "SMTPUTF8" in setup.reason("held")
    assert [taken.recipients for taken in server.messages] == [(b"<a@one.example>",)]


def test_too_large(server: ScriptedSmtp, tmp_path: Path) -> None:
    server.server.extensions = (b"SIZE 10",)
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A)
    setup.once()
    assert "the server takes 10" in setup.reason("held")


def test_frozen_is_held_and_faked_is_not_sent(server: ScriptedSmtp, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, server.port)
    setup.write(A, directives={b"frozen": b"1795361392"})
    setup.write(B, message_id=MessageId("1xV9Vo-0000zD-2c"), directives={b"N": None})
    setup.once()
    assert "frozen" in setup.reason("held")
    assert server.messages == ()
    assert setup.states()["deferred"] == []


def test_nobody_listens(tmp_path: Path) -> None:
    with ScriptedSmtp() as server:
        port = server.port
    setup = SmtpSetup(tmp_path, port)
    setup.write(A)
    assert setup.once() == 1
    assert f"no connection to 127.0.0.1:{port}" in setup.reason("deferred")


def test_a_large_message_in_chunks(server: ScriptedSmtp, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, server.port)
    body = b"0123456789abcdef\n" * 60_000
    setup.write(A, body=body)
    assert setup.once() == 0
    (taken,) = server.messages
    assert taken.content.partition(b"\r\n\r\n")[2] == body.replace(b"\n", b"\r\n")
    assert len([line for line in server.commands if line.startswith(b"BDAT")]) == 4
