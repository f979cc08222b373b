"""The harness itself: that its Exim does what the end-to-end tests take for granted."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from ..scripted_smtp import ScriptedSmtp
from .conftest import EximFactory
from .exim import Exim
from .exim_configuration import EXIM
from .smtp_client import SmtpRefusedError

pytestmark = pytest.mark.exim

MESSAGE = b"From: a@sender.example\nSubject: hello\n\nfirst line\n.leading dot\nlast line\n"


def body(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n").partition(b"\n\n")[2]


@contextmanager
def lock_held(exim: Exim, message_id: str, queue: str = "") -> Generator[None]:
    """The message lock, taken by another process as Exim takes it, until the block ends."""
    program = (
        "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDWR);"
        "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, int(sys.argv[2]), 0, 0);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    path = exim.spool_file(message_id, "-D", queue)
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path), str(len(message_id) + 3)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"locked\n"
        yield
        holder.communicate()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("queue", ["", "scan"])
def test_received_mail_is_held_and_then_delivered(start_exim: EximFactory, split: bool, queue: str) -> None:
    exim = start_exim(split=split, queue=queue)
    message_id = exim.receive(MESSAGE, recipients=["a@file.example", "b@file.example"])

    assert exim.pairs(queue) == (message_id,)
    assert exim.deliveries() == ()
    assert exim.spool_file(message_id, "-H", queue).exists()
    status = exim.spool_file(message_id, "-D", queue).stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (exim.uid, exim.gid, 0o640)

    exim.deliver(message_id, queue=queue)
    assert exim.ids(queue) == ()
    assert exim.delivered() == [(message_id, "a@file.example"), (message_id, "b@file.example")]
    for delivery in exim.deliveries():
        assert body(delivery.content) == body(MESSAGE)
        assert delivery.queue == queue
        assert delivery.variables["acl_m_lines"] == "one\\ntwo"
    assert exim.panic_log() == ""


def test_a_queue_without_hold_is_delivered_at_once(start_exim: EximFactory) -> None:
    """Why an intake queue needs ``control = queue_only`` beside ``queue =``."""
    exim = start_exim(queue="scan", hold=False)
    message_id = exim.receive(MESSAGE)
    exim.wait_for(lambda exim: exim.delivered() == [(message_id, "a@file.example")])


@pytest.mark.parametrize(
    ("otherwise", "queue_of_second"), [("", "scan"), ("  warn !senders = scan@sender.example\n       queue =\n", "")]
)
def test_a_queue_sticks_to_the_session(start_exim: EximFactory, otherwise: str, queue_of_second: str) -> None:
    """4.96 doesn't reset the queue between the messages of a session: an ACL must name it for each."""
    exim = start_exim(mail_acl="  warn senders = scan@sender.example\n       queue = scan\n" + otherwise)
    with exim.client() as client:
        first = client.send(MESSAGE, sender="scan@sender.example")
        second = client.send(MESSAGE, sender="other@sender.example")
    assert first in exim.pairs("scan")
    assert second in exim.pairs(queue_of_second)


def test_runners_of_the_default_queue_leave_a_named_queue_alone(start_exim: EximFactory) -> None:
    exim = start_exim(queue="scan")
    message_id = exim.receive(MESSAGE)
    exim.run_queue(force=True)
    exim.deliver(message_id)
    assert exim.pairs("scan") == (message_id,)
    exim.run_queue("scan")
    assert exim.delivered() == [(message_id, "a@file.example")]


@pytest.mark.parametrize("split", [False, True])
def test_a_pair_moved_by_hand_to_the_default_queue_is_delivered_once(start_exim: EximFactory, split: bool) -> None:
    """The move that a queue source makes: ``-D`` first, then ``-H``, under the lock on ``-D``."""
    exim = start_exim(queue="scan", split=split)
    message_id = exim.receive(MESSAGE)
    target = exim.spool_file(message_id, "-D").parent
    for directory in (target.parent, target) if split else (target,):
        if not directory.exists():
            directory.mkdir()
            os.chown(directory, exim.uid, exim.gid)
    exim.spool_file(message_id, "-D", "scan").rename(target / f"{message_id}-D")
    # -D alone: with a young id Exim says so and touches nothing.
    exim.deliver(message_id)
    assert f"{message_id} Error reading spool file {message_id}-H: No such file or directory" in exim.log()
    assert exim.spool_file(message_id, "-D").exists()
    # The queue it left holds -H alone: listed, never delivered.
    exim.run_queue("scan", force=True)
    assert exim.deliveries() == ()
    exim.deliver(message_id, queue="scan")
    assert f"Spool Q=scan file {message_id}-D not found" in exim.log()

    exim.spool_file(message_id, "-H", "scan").rename(target / f"{message_id}-H")
    exim.deliver(message_id, queue="scan")
    assert exim.deliveries() == ()
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "a@file.example")]
    assert exim.ids() == exim.ids("scan") == ()


def test_a_locked_message_is_left_alone_and_the_log_says_so(exim: Exim) -> None:
    message_id = exim.receive(MESSAGE)
    with lock_held(exim, message_id):
        exim.deliver(message_id)
        assert exim.deliveries() == ()
        assert f"Spool file for {message_id} is locked (another process is handling this message)" in exim.log()
        exim.run_queue()
        assert exim.deliveries() == ()
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "a@file.example")]


def test_the_lock_belongs_to_the_inode_and_follows_a_rename(start_exim: EximFactory) -> None:
    exim = start_exim(queue="scan")
    message_id = exim.receive(MESSAGE)
    target = exim.make_directory("spool/input")
    with lock_held(exim, message_id, "scan"):
        for suffix in ("-D", "-H"):
            exim.spool_file(message_id, suffix, "scan").rename(target / f"{message_id}{suffix}")
        exim.deliver(message_id)
        assert f"Spool file for {message_id} is locked" in exim.log()
        assert exim.deliveries() == ()
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "a@file.example")]


def test_exim_takes_the_lock_while_it_delivers(exim: Exim) -> None:
    """A lock of ours on a message in delivery must fail: the sink keeps Exim waiting inside it."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        exim.write_configuration()
        text = exim.configuration.read_text().replace("127.0.0.1::1\n", f"127.0.0.1::{silent.getsockname()[1]}\n")
        exim.configuration.write_text(text)
        message_id = exim.receive(MESSAGE, recipients=["a@remote.example"])
        with subprocess.Popen(
            [EXIM, "-C", str(exim.configuration), "-M", message_id], start_new_session=True
        ) as delivery:
            connection, _ = silent.accept()
            data = os.open(exim.spool_file(message_id, "-D"), os.O_RDWR)
            with pytest.raises(BlockingIOError):
                fcntl.lockf(data, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, 0)
            connection.sendall(b"421 not now\r\n")
            connection.close()
            delivery.wait(60)
        fcntl.lockf(data, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, 0)
        os.close(data)
    assert exim.pairs() == (message_id,)


def test_wire_format(start_exim: EximFactory) -> None:
    exim = start_exim(wireformat=True)
    message_id = exim.receive(MESSAGE, chunking=True)
    assert b"-spool_file_wireformat\n" in exim.spool_file(message_id, "-H").read_bytes()
    data = exim.spool_file(message_id, "-D").read_bytes()
    assert data == f"{message_id}-D\n".encode() + body(MESSAGE).replace(b"\n", b"\r\n")
    exim.deliver(message_id)
    (delivery,) = exim.deliveries()
    assert body(delivery.content) == body(MESSAGE)


def test_dsn_parameters_reach_the_spool(exim: Exim) -> None:
    message_id = exim.receive(
        MESSAGE,
        recipients=["a@file.example", "b@file.example"],
        mail_options=["RET=HDRS", "ENVID=x+2B1"],
        rcpt_options={"b@file.example": ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;o@file.example"]},
    )
    lines = exim.spool_file(message_id, "-H").read_bytes().split(b"\n")
    assert {b"-dsn_envid x+2B1", b"-dsn_ret 2", b"a@file.example"} <= set(lines)
    assert b"b@file.example rfc822;o@file.example 21,20  0,-1#3" in lines


def test_a_utf8_envelope_reaches_the_spool(exim: Exim) -> None:
    sender, recipient, options = "sénder@sender.example", "ü@file.example", ["SMTPUTF8", "BODY=8BITMIME"]
    if not exim.has("I18N"):
        with pytest.raises(SmtpRefusedError):
            exim.receive(MESSAGE, sender=sender, recipients=[recipient], mail_options=options)
        return
    message_id = exim.receive(MESSAGE, sender=sender, recipients=[recipient], mail_options=options)
    lines = exim.spool_file(message_id, "-H").read_bytes().split(b"\n")
    assert {b"-smtputf8", f"<{sender}>".encode(), recipient.encode()} <= set(lines)
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, recipient)]


@pytest.mark.parametrize("chunking", [False, True])
def test_remote_delivery_ends_in_the_sink(start_exim: EximFactory, smtp_sink: ScriptedSmtp, chunking: bool) -> None:
    exim = start_exim(remote_port=smtp_sink.port, remote_chunking=chunking)
    message_id = exim.receive(
        MESSAGE, recipients=["a@remote.example", "b@remote.example"], rcpt_options=["NOTIFY=NEVER"]
    )
    exim.deliver(message_id)
    (message,) = smtp_sink.messages
    assert message.chunked == chunking
    assert message.mail.startswith(b"<sender@sender.example>")
    assert sorted(message.recipients) == [b"<a@remote.example> NOTIFY=NEVER", b"<b@remote.example> NOTIFY=NEVER"]
    assert message.content.endswith(b"\r\n\r\nfirst line\r\n.leading dot\r\nlast line\r\n")
    assert exim.ids() == ()


def test_one_exim_sends_to_another(start_exim: EximFactory) -> None:
    second = start_exim(hostname="second.example", hold=False)
    first = start_exim(remote_port=second.port)
    first.deliver(first.receive(MESSAGE, recipients=["a@remote.example"]))
    # The second has no route for the domain but its own: it defers what it can't connect to.
    assert first.ids() == ()
    assert len(second.pairs()) == 1


@pytest.mark.parametrize(
    ("variables", "mailbox"),
    [
        ("acl_m_route = archive", "routed"),
        ("acl_m_dmarc_status = quarantine", "quarantine"),
        ("acl_m_dmarc_status = accept", "inbox"),
        ("acl_m_respool = 1", "inbox"),
    ],
)
def test_routers_act_on_variables(start_exim: EximFactory, variables: str, mailbox: str) -> None:
    exim = start_exim(data_acl=f"  warn set {variables}\n")
    exim.deliver(exim.receive(MESSAGE))
    (delivery,) = exim.deliveries()
    assert delivery.mailbox == mailbox
    name, _, value = variables.partition(" = ")
    assert delivery.variables[name] == value


def test_a_route_that_names_a_host_is_sent_there(start_exim: EximFactory, smtp_sink: ScriptedSmtp) -> None:
    exim = start_exim(data_acl=f"  warn set acl_m_route = 127.0.0.1::{smtp_sink.port}\n")
    exim.deliver(exim.receive(MESSAGE))
    assert [message.recipients for message in smtp_sink.messages] == [(b"<a@file.example>",)]


def test_special_domains(exim: Exim) -> None:
    message_id = exim.receive(
        MESSAGE, recipients=["a@defer.example", "b@fail.example", "c@list.example", "d@file.example"]
    )
    exim.deliver(message_id)
    by_recipient = {delivery.recipient: delivery for delivery in exim.deliveries()}
    assert set(by_recipient) == {"x@file.example", "y@file.example", "d@file.example", "sender@sender.example"}
    assert by_recipient["sender@sender.example"].sender == ""
    assert b"b@fail.example" in by_recipient["sender@sender.example"].content
    # Deferred, so -H was written anew: one_time children, and the tree of those who are done.
    header_file = exim.spool_file(message_id, "-H").read_bytes()
    assert b"\nXX\n" not in header_file
    assert b"-deliver_firsttime" not in header_file
    assert b" d@file.example\n" in header_file


def test_local_submission_and_authentication(exim: Exim) -> None:
    local = exim.submit(MESSAGE)
    assert b"-received_protocol local\n" in exim.spool_file(local, "-H").read_bytes()
    authenticated = exim.receive(MESSAGE, authenticated="joe")
    assert b"--auth_id joe\n" in exim.spool_file(authenticated, "-H").read_bytes()


def test_a_refusal_is_an_error(start_exim: EximFactory) -> None:
    exim = start_exim(data_acl="  deny message = not today\n")
    with pytest.raises(SmtpRefusedError, match="not today"):
        exim.receive(MESSAGE)


def test_the_daemon_runs_its_queue(start_exim: EximFactory) -> None:
    exim = start_exim(run_interval="1s")
    message_id = exim.receive(MESSAGE)
    exim.wait_for(lambda exim: exim.delivered() == [(message_id, "a@file.example")])


def test_a_note_to_the_daemon_starts_a_delivery(start_exim: EximFactory) -> None:
    """Request 1, the id, NUL; 4.97 and later want the queue's name too. Only a daemon with an interval listens."""
    exim = start_exim(run_interval="1h")
    exim.wait_for(lambda exim: "End queue run" in exim.log())
    message_id = exim.receive(MESSAGE)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as note:
        payload = b"\x01" + message_id.encode() + b"\0" + (b"\0" if len(message_id) == 23 else b"")
        note.sendto(payload, exim.notifier_address)
    exim.wait_for(lambda exim: exim.delivered() == [(message_id, "a@file.example")])
    assert "notify triggered queue run" in exim.log()


def test_doubles_are_counted(exim: Exim) -> None:
    """The same files put back are delivered again, and the harness sees both."""
    message_id = exim.receive(MESSAGE)
    kept = {suffix: exim.spool_file(message_id, suffix) for suffix in ("-D", "-H")}
    for suffix, path in kept.items():
        os.link(path, exim.directory / f"kept{suffix}")
    exim.deliver(message_id)
    for suffix, path in kept.items():
        os.link(exim.directory / f"kept{suffix}", path)
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "a@file.example")] * 2
