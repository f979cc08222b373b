"""A real Exim whose routers act on what respool's routing wrote."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from respool.lookups.table_build import build

from ..scripted_smtp import ScriptedSmtp
from ..unit.lookups.dccifd import FIELD, Dccifd
from .conftest import EximFactory
from .exim import Exim
from .queuefile import run_attempt
from .recipes import macros, sample
from .sidecar import Sidecar

pytestmark = pytest.mark.exim

MESSAGE = b"From: a@sender.example\r\nTo: b@file.example\r\nSubject: where to\r\n\r\nHello\r\n"


def table(directory: Path, name: str, lines: str) -> Path:
    (directory / f"{name}.txt").write_text(lines)
    build(str(directory / f"{name}.txt"), str(directory / f"{name}.mdb"))
    return directory / f"{name}.mdb"


def process(exim: Exim, sidecar: Sidecar, *recipients: str) -> tuple[str, ...]:
    message_id = exim.receive(MESSAGE, recipients=recipients)
    run_attempt(exim.spool, message_id, sidecar.export)
    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    return exim.pairs()


def test_manualroute_acts_on_the_table(exim: Exim, smtp_sink: ScriptedSmtp) -> None:
    routes = table(
        exim.directory,
        "routes",
        f"far.example: 127.0.0.1::{smtp_sink.port}\n*.box.example: route=mailbox; queue=\n"
        "old.example: to=*@new.example\ngone.example: discard=nobody\n",
    )
    sidecar = Sidecar(
        exim,
        processors=f"""
[[processor]]
use = "route"
config = {{ tables = [{{ by = "domain", table = "partial-lmdb;{routes}" }}] }}
""",
    )
    ids = process(
        exim, sidecar, "u@far.example", "v@deep.box.example", "w@old.example", "x@file.example", "y@gone.example"
    )
    assert len(ids) == 3
    for message_id in ids:
        exim.deliver(message_id)
    assert exim.ids() == ()
    (sent,) = smtp_sink.messages
    assert sent.recipients == (b"<u@far.example>",)
    found = {delivery.recipient: delivery for delivery in exim.deliveries()}
    assert {recipient: delivery.mailbox for recipient, delivery in found.items()} == {
        "v@deep.box.example": "routed", "w@new.example": "inbox", "x@file.example": "inbox",
    }  # fmt: skip
    assert found["v@deep.box.example"].variables["acl_m_route"] == "mailbox"
    assert "acl_m_route" not in found["x@file.example"].variables


def test_the_recipe_acts_on_the_table(start_exim: EximFactory, smtp_sink: ScriptedSmtp) -> None:
    """A route for one domain; whoever has none goes Exim's own way."""
    remote_smtp = "remote_smtp:\n  driver = smtp\n  allow_localhost\n  hosts_try_fastopen =\n"
    exim = start_exim(main=macros(), routers=sample("route-routers.conf"), transports=remote_smtp)
    routes = table(exim.directory, "routes", f"far.example: 127.0.0.1::{smtp_sink.port}\n")
    tables = f"""[{{ by = "domain", table = "lmdb;{routes}" }}]"""
    sidecar = Sidecar(exim, processors=f'[[processor]]\nuse = "route"\nconfig = {{ tables = {tables} }}\n')
    for message_id in process(exim, sidecar, "u@far.example", "x@file.example"):
        exim.deliver(message_id)
    assert exim.ids() == ()
    assert [sent.recipients for sent in smtp_sink.messages] == [(b"<u@far.example>",)]
    assert [recipient for _, recipient in exim.delivered()] == ["x@file.example"]
    assert "=> u@far.example R=respool_route T=remote_smtp H=127.0.0.1" in exim.log()


@pytest.mark.parametrize(("answer", "mailbox"), [(b"R\nRR\n", "junk"), (b"A\nAA\n", "inbox")])
def test_the_recipe_puts_bulk_mail_into_the_junk_folder(start_exim: EximFactory, answer: bytes, mailbox: str) -> None:
    """Of a local user: as that user; other recipients get theirs as always."""
    domains = "domainlist local_domains = local.example\n"
    exim = start_exim(
        main=macros(RESPOOL_JUNK="@DIRECTORY@/junk/.Junk") + domains,
        routers=sample("dcc-routers.conf"),
        transports=sample("dcc-transports.conf"),
    )
    user = pwd.getpwnam("daemon")
    junk = exim.directory / "junk"
    junk.mkdir()
    os.chown(junk, user.pw_uid, user.pw_gid)
    # Delivering as somebody else takes the rights that the harness's Exim otherwise drops.
    exim.configuration.write_text(exim.configuration.read_text().replace("\ndeliver_drop_privilege\n", "\n"))
    with Dccifd(answer=lambda _: answer + FIELD + b"\n") as dccifd:
        configured = f'[[processor]]\nuse = "dcc"\nconfig = {{ address = "{dccifd.address}" }}\n'
        sidecar = Sidecar(exim, processors=configured)
        (message_id,) = process(exim, sidecar, "daemon@local.example", "x@file.example")
    exim.deliver(message_id)
    assert exim.ids() == ()
    assert "x@file.example" in [recipient for _, recipient in exim.delivered()]
    kept = list(junk.glob(".Junk/new/*"))
    assert len(kept) == (1 if mailbox == "junk" else 0)
    for path in kept:
        assert path.stat().st_uid == user.pw_uid
        assert FIELD in path.read_bytes()
        assert b"Envelope-to: daemon@local.example\n" in path.read_bytes()


def test_a_released_message_goes_where_the_table_says(exim: Exim, smtp_sink: ScriptedSmtp) -> None:
    """Held for one recipient, with all others; after the release each gets what else is said of him."""
    routes = table(
        exim.directory,
        "routes",
        f"far.example: 127.0.0.1::{smtp_sink.port}\nheld@legal.example: hold=asked for by legal\n"
        "*@legal.example: mailbox\n",
    )
    tables = f"""[{{ by = "address", table = "lmdb*@;{routes}" }}, {{ by = "domain", table = "lmdb;{routes}" }}]"""
    sidecar = Sidecar(exim, processors=f'[[processor]]\nuse = "route"\nconfig = {{ tables = {tables} }}\n')
    message_id = exim.receive(MESSAGE, recipients=("u@far.example", "held@legal.example", "x@file.example"))
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 1
    assert exim.pairs() == ()
    released = sidecar.respool("held", "release", message_id)
    assert released.returncode == 0, released.stderr.decode()
    assert sidecar.once().returncode == 0
    for requeued in exim.pairs():
        exim.deliver(requeued)
    assert exim.ids() == ()
    assert [sent.recipients for sent in smtp_sink.messages] == [(b"<u@far.example>",)]
    mailboxes = {delivery.recipient: delivery.mailbox for delivery in exim.deliveries()}
    assert mailboxes == {"held@legal.example": "routed", "x@file.example": "inbox"}


def test_a_condition_divides_the_message(exim: Exim) -> None:
    forwarded = table(exim.directory, "forwarded", "forwarded.example\n")
    sidecar = Sidecar(
        exim,
        processors=f"""
[[processor]]
use = "headers"
when = {{ recipient_domains = "lmdb;{forwarded}" }}
split = true
config = {{ add = [{{ name = "X-Forwarded-For-Test", value = "yes" }}] }}
""",
    )
    ids = process(exim, sidecar, "a@forwarded.example", "b@file.example")
    assert len(ids) == 2
    for message_id in ids:
        exim.deliver(message_id)
    stamped = {d.recipient: d.content.startswith(b"X-Forwarded-For-Test: yes\n") for d in exim.deliveries()}
    assert stamped == {"a@forwarded.example": True, "b@file.example": False}


def test_destination_queue(start_exim: EximFactory) -> None:
    exim = start_exim()
    routes = table(exim.directory, "routes", "bulk@sender.example: queue=slow\nsender@sender.example: queue=slow\n")
    sidecar = Sidecar(
        exim,
        processors=f"""
[[processor]]
use = "route"
config = {{ tables = [{{ by = "sender", table = "lmdb;{routes}" }}] }}
""",
    )
    assert process(exim, sidecar, "a@file.example") == ()
    assert len(list((exim.spool / "slow" / "input").glob("*-H"))) == 1
