"""Sending to real servers: Postfix with XCLIENT, Exim, TLS with WebPKI and with DANE over signed zones."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from respool.sidecar import log
from respool.sidecar.config import DnsSection
from respool.spool.ids import MessageId

from ..scripted_smtp import ScriptedSmtp, Taken
from ..smtp_setup import SmtpSetup
from .certificates import Authority, server_context, tlsa_text
from .exim import Exim
from .postfix import MASTER, Postfix
from .signed_zones import SignedZones

CLIENT: dict[bytes, bytes | None] = {
    b"helo_name": b"helo.example", b"host_address": b"[192.0.2.77]:4711", b"host_name": b"client.example",
    b"received_protocol": b"esmtpa", b"auth_id": b"al+ice",
}  # fmt: skip


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that Postfix's user may enter; pytest's own are for root alone."""
    with tempfile.TemporaryDirectory(prefix="postfix.") as name:
        path = Path(name)
        path.chmod(0o755)
        yield path


@pytest.mark.system(MASTER)
@pytest.mark.parametrize(
    ("address", "seen"),
    [(b"[192.0.2.77]:4711", b"[192.0.2.77]"), (b"[2001:db8::77]:4711", b"[IPv6:2001:db8::77]")],
)
def test_postfix_sees_the_original_client(tmp_path: Path, open_directory: Path, address: bytes, seen: bytes) -> None:
    options = "smtpd_authorized_xclient_hosts = 127.0.0.1\nsmtpd_client_port_logging = yes\nsmtpd_sasl_authenticated_header = yes\n"
    with ScriptedSmtp() as behind, Postfix(open_directory, behind=behind.port, options=options) as postfix:
        setup = SmtpSetup(tmp_path, postfix.port, xclient="auto")
        setup.write(b"a@one.example", b"b@two.example", directives={**CLIENT, b"host_address": address}, body=b".\nx\n")
        assert setup.once() == 0, postfix.log()
        (taken,) = behind.messages
        assert taken.recipients == (b"<a@one.example>", b"<b@two.example>")
        assert taken.content.endswith(b"\r\n\r\n.\r\nx\r\n")
        received = taken.content.partition(b"Subject:")[0]
        assert b"from helo.example (client.example " + seen + b")" in received.replace(b"\r\n\t", b" ")
        assert b"Authenticated sender: al+ice" in received
        assert f"client=client.example[{seen.decode().strip('[]').removeprefix('IPv6:')}]:4711" in postfix.log()


@pytest.mark.system(MASTER)
def test_postfix_without_xclient_for_us_gets_nothing(tmp_path: Path, open_directory: Path) -> None:
    with ScriptedSmtp() as behind, Postfix(open_directory, behind=behind.port) as postfix:
        setup = SmtpSetup(tmp_path, postfix.port, xclient="postfix")
        setup.write(b"a@one.example", directives=CLIENT)
        assert setup.once() == 1
        assert "does not offer XCLIENT" in setup.reason("deferred")
        assert behind.messages == ()


@pytest.mark.system(MASTER)
def test_postfix_with_tls_and_many_messages(tmp_path: Path, open_directory: Path) -> None:
    authority = Authority()
    _, chain, key = authority.issue(open_directory, "localhost")
    options = f"smtpd_tls_security_level = encrypt\nsmtpd_tls_cert_file = {chain}\nsmtpd_tls_key_file = {key}\n"
    with ScriptedSmtp() as behind, Postfix(open_directory, behind=behind.port, options=options) as postfix:
        ca_file = str(authority.write(tmp_path / "ca.pem"))
        setup = SmtpSetup(tmp_path, postfix.port, host="localhost", tls="verify", ca_file=ca_file)
        for number in range(5):
            setup.write(b"a@one.example", message_id=_id(number))
        with (tmp_path / "log").open("wb") as file:
            assert setup.once(log.to_file(file)) == 0, postfix.log()
        assert len(behind.messages) == 5
        # As Exim's PS= says it: EHLO, STARTTLS, EHLO again.
        assert (tmp_path / "log").read_text().count('"protocol":"ese"') == 5


def _id(number: int) -> MessageId:
    return MessageId(f"1xV9Vo-0000z{number}-2c")


@pytest.mark.exim("I18N")
def test_exim_takes_it(exim: Exim, tmp_path: Path) -> None:
    setup = SmtpSetup(tmp_path, exim.port, source="queue")
    setup.write(
        b"a@file.example", "ü@file.example".encode(), body="fünf\n..\n".encode(), directives={b"smtputf8": None}
    )
    setup.write(b"c@file.example", sender=b"", message_id=_id(1), body=b"x\r\n" * 200_000, wireformat=True)
    assert setup.once() == 0
    exim.run_queue(force=True)
    by_recipient = {delivery.recipient: delivery for delivery in exim.deliveries()}
    assert set(by_recipient) == {"a@file.example", "ü@file.example", "c@file.example"}
    assert by_recipient["a@file.example"].content.endswith("\n\nfünf\n..\n".encode())
    assert by_recipient["c@file.example"].content.endswith(b"\n\n" + b"x\n" * 200_000)
    assert by_recipient["c@file.example"].sender == ""


def sent_with_tls(tmp_path: Path, server: ScriptedSmtp, **options: Any) -> tuple[Taken | None, str]:
    """What the server took, and why the message waits where it took nothing."""
    zones = options.pop("zones", None)
    setup = SmtpSetup(tmp_path, server.port, **options)
    if zones is not None:
        dns = DnsSection(nameservers=(zones.address,))
        setup.config = msgspec.structs.replace(setup.config, dns=dns)
    setup.write(b"a@one.example")
    code = setup.once()
    if code == 0:
        (taken,) = server.messages
        return taken, ""
    assert server.messages == ()
    return None, setup.reason("deferred")


@pytest.mark.parametrize(
    ("level", "name", "days", "trusted", "sent"),
    [
        ("verify", "localhost", 10, True, True),
        ("verify", "localhost", 10, False, False),
        ("verify", "elsewhere.example", 10, True, False),
        ("verify", "localhost", -1, True, False),
        ("encrypt", "elsewhere.example", -1, False, True),
        ("may", "elsewhere.example", -1, False, True),
    ],
)
def test_webpki(tmp_path: Path, level: str, name: str, days: int, *, trusted: bool, sent: bool) -> None:
    authority = Authority()
    _, chain, key = authority.issue(tmp_path, name, days=days)
    ca_file = str((authority if trusted else Authority()).write(tmp_path / "ca.pem"))
    with ScriptedSmtp(context=server_context(chain, key)) as server:
        taken, reason = sent_with_tls(tmp_path, server, host="localhost", tls=level, ca_file=ca_file)
        assert (taken is not None) == sent, reason
        assert taken is None or taken.over_tls
        assert sent or reason.startswith("a@one.example: TLS: ")


@pytest.mark.parametrize(("level", "sent"), [("may", True), ("none", True), ("encrypt", False), ("verify", False)])
def test_a_server_without_tls(tmp_path: Path, level: str, *, sent: bool) -> None:
    with ScriptedSmtp() as server:
        taken, reason = sent_with_tls(tmp_path, server, host="localhost", tls=level)
        assert (taken is not None) == sent
        assert sent or "does not offer STARTTLS" in reason


HOSTS = ("ee", "ta", "wrong", "unusable", "none", "expired", "othername")


@pytest.mark.system("unbound", "nsd", "ldns-signzone", "ldns-keygen")
def test_dane(tmp_path: Path) -> None:
    authority = Authority()
    own, chain, key = authority.issue(tmp_path, "ta.signed.example")
    expired, expired_chain, expired_key = authority.issue(tmp_path, "expired.signed.example", days=-1)
    other = Authority().certificate
    with (
        ScriptedSmtp(context=server_context(chain, key)) as server,
        ScriptedSmtp(context=server_context(expired_chain, expired_key)) as late,
        ScriptedSmtp() as without_tls,
    ):
        port = server.port
        zone = "".join(f"{host} A 127.0.0.1\n" for host in (*HOSTS, "bare", "lateee", "latetata", "full"))
        zone += f"_{port}._tcp.ee {tlsa_text(own, usage=3)}\n"
        zone += f"_{port}._tcp.ta {tlsa_text(other, usage=2)}\n_{port}._tcp.ta {tlsa_text(authority.certificate, usage=2, selector=0, matching=2)}\n"
        zone += f"_{port}._tcp.wrong {tlsa_text(other, usage=3)}\n"
        zone += f"_{port}._tcp.unusable {tlsa_text(own, usage=1)}\n"
        zone += f"_{port}._tcp.othername {tlsa_text(authority.certificate, usage=2)}\n"
        zone += f"_{late.port}._tcp.lateee {tlsa_text(expired, usage=3)}\n"
        zone += f"_{late.port}._tcp.latetata {tlsa_text(authority.certificate, usage=2)}\n"
        zone += f"_{without_tls.port}._tcp.bare {tlsa_text(own, usage=3)}\n"
        zones = {
            "signed.example": zone,
            "plain.example": f"ee A 127.0.0.1\n_{port}._tcp.ee {tlsa_text(other, usage=3)}\n",
            "forged.example": f"ee A 127.0.0.1\n_{port}._tcp.ee {tlsa_text(own, usage=3)}\n",
        }
        digest = tlsa_text(own, usage=3).rpartition(" ")[2]
        directory = tmp_path / "zones"
        directory.mkdir()
        with SignedZones(
            directory, zones, unsigned=frozenset({"plain.example"}),
            tampered={"forged.example": (digest, tlsa_text(other, usage=3).rpartition(" ")[2])},
        ) as signed:  # fmt: skip
            cases: list[tuple[str, ScriptedSmtp, str, str]] = [
                # host, server, level, what stands in the reason ("" for sent)
                ("ee.signed.example", server, "dane", ""),
                ("ee.signed.example", server, "dane-only", ""),
                ("ta.signed.example", server, "dane-only", ""),
                ("wrong.signed.example", server, "dane", "no TLSA record of wrong.signed.example matches"),
                ("othername.signed.example", server, "dane", "no TLSA record of othername"),
                ("unusable.signed.example", server, "dane", ""),
                ("unusable.signed.example", server, "dane-only", "DANE is required"),
                ("none.signed.example", server, "dane", ""),
                ("none.signed.example", server, "dane-only", "DANE is required"),
                # RFC 7671 5.1: DANE-EE does not look at dates, DANE-TA does.
                ("lateee.signed.example", late, "dane-only", ""),
                ("latetata.signed.example", late, "dane-only", "no TLSA record of latetata"),
                ("bare.signed.example", without_tls, "dane", "does not offer STARTTLS"),
                ("ee.plain.example", server, "dane", ""),
                ("ee.plain.example", server, "dane-only", "DANE is required"),
                ("ee.forged.example", server, "dane", "TLSA records do not validate"),
            ]
            for number, (host, target, level, expected) in enumerate(cases):
                target.server.messages.clear()
                taken, reason = sent_with_tls(
                    tmp_path / str(number), target, host=host, tls=level, zones=signed
                )  # fmt: skip
                assert (taken is not None) == (not expected), (host, level, reason)
                assert expected in reason, (host, level, reason)
                assert taken is None or taken.over_tls
