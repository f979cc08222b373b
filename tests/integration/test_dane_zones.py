"""DANE over real DNSSEC: zones signed by ldns, served by nsd, validated by unbound; and Exim's transport."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.lookups.dane import DaneStatus, preflight
from respool.lookups.dns import DnssecStatus
from respool.lookups.resolver import DnsResolver
from respool.processors.registry import build

from ..scripted_smtp import ScriptedSmtp
from ..unit.processors.processor_kit import make_context, make_message
from .conftest import EximFactory
from .queuefile import run_attempt
from .recipes import macros, sample
from .sidecar import Sidecar
from .signed_zones import SignedZones

pytestmark = pytest.mark.system("unbound", "nsd", "ldns-signzone", "ldns-keygen")

DIGEST = "ab" * 32
MAIL = "@ MX 10 mx\nmx A 192.0.2.1\n"
ZONES = {
    "usable.example": f"{MAIL}_25._tcp.mx TLSA 3 1 1 {DIGEST}\n",
    "unusable.example": f"{MAIL}_25._tcp.mx TLSA 0 0 1 {DIGEST}\n",
    "without.example": MAIL,
    "plain.example": f"{MAIL}_25._tcp.mx TLSA 3 1 1 {DIGEST}\n",
    "forged.example": f"{MAIL}_25._tcp.mx TLSA 3 1 1 {DIGEST}\n",
    "elsewhere.example": "@ MX 10 mx.plain.example.\n",
    "mixed.example": f"@ MX 10 mx\n@ MX 20 other\nmx A 192.0.2.1\nother A 192.0.2.2\n_25._tcp.mx TLSA 2 0 2 {DIGEST * 2}\n",
    "alias.example": f"@ MX 10 mx\nmx CNAME real\nreal A 192.0.2.1\n_25._tcp.real TLSA 3 1 1 {DIGEST}\n",
    "hosted.example": "@ MX 10 mx.usable.example.\n",
}
EXPECTED = {
    "usable.example": DaneStatus.USABLE,
    "unusable.example": DaneStatus.UNUSABLE,
    "without.example": DaneStatus.NONE,
    "plain.example": DaneStatus.INSECURE,
    "forged.example": DaneStatus.BOGUS,
    "elsewhere.example": DaneStatus.INSECURE,
    "mixed.example": DaneStatus.NONE,
    "alias.example": DaneStatus.USABLE,
    "hosted.example": DaneStatus.USABLE,
}


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedZones]:
    directory: Path = tmp_path_factory.mktemp("zones")
    with SignedZones(
        directory,
        ZONES,
        unsigned=frozenset({"plain.example"}),
        tampered={"forged.example": (DIGEST, "cd" * 32)},
    ) as started:
        yield started


def test_every_kind_of_domain(zones: SignedZones) -> None:
    resolver = DnsResolver([zones.address], timeout=60)
    found = {domain: preflight(resolver, domain) for domain in ZONES}
    assert {domain: result.status for domain, result in found.items()} == EXPECTED
    assert found["usable.example"].hosts[0].usable[0].data == bytes.fromhex(DIGEST)
    assert found["alias.example"].hosts[0].base == "real.alias.example"
    assert [host.status for host in found["mixed.example"].hosts] == [DaneStatus.USABLE, DaneStatus.NONE]


def test_absence_is_proven(zones: SignedZones) -> None:
    resolver = DnsResolver([zones.address], timeout=60)
    answer = resolver.tlsa("_25._tcp.mx.without.example")
    assert (answer.records, answer.exists, answer.dnssec) == ((), False, DnssecStatus.SECURE)


def test_processor(zones: SignedZones) -> None:
    recipients = tuple(b"a@" + domain.encode() for domain in ZONES)
    resolver = DnsResolver([zones.address], timeout=60)
    verdict = build("dane", {}).process(make_message(recipients=recipients), make_context(resolver))  # type: ignore[arg-type]
    (edit,) = verdict.edits  # type: ignore[union-attr]
    assert edit.directive.value.decode() == " ".join(  # type: ignore[union-attr]
        f"{domain}={EXPECTED[domain].value}" for domain in ZONES
    )


@pytest.mark.exim("DANE")
def test_an_exim_transport_acts_on_it(zones: SignedZones, start_exim: EximFactory, smtp_sink: ScriptedSmtp) -> None:
    """The recipe's transport refuses a host without DANE or TLS for the domains that have them, and for no other."""
    routers = f"""
dane_known:
  driver = manualroute
  domains = usable.example : unusable.example : plain.example
  route_list = * 127.0.0.1::{smtp_sink.port}
  self = send
  transport = dane_smtp
"""
    transports = """
dane_smtp:
  driver = smtp
  hosts_try_dane =
""" + sample("dane-options.conf")
    exim = start_exim(main=macros(), routers=routers, transports=transports)
    sidecar = Sidecar(exim, processors='[[processor]]\nuse = "dane"\n')
    text = sidecar.configuration.read_text()
    sidecar.configuration.write_text(
        text.replace(f'zone_file = "{exim.directory / "dns.zone"}"', f'nameservers = ["{zones.address}"]')
    )
    message = b"From: a@sender.example\r\nSubject: x\r\n\r\nHello\r\n"
    message_id = exim.receive(message, recipients=("a@usable.example", "b@plain.example", "c@unusable.example"))
    run_attempt(exim.spool, message_id, sidecar.export)
    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    (requeued,) = exim.pairs()
    exim.deliver(requeued)
    assert [sent.recipients for sent in smtp_sink.messages] == [(b"<b@plain.example>",)]
    log = exim.log()
    assert re.search("a@usable.example .*DANE error", log), log
    assert re.search("c@unusable.example .*TLS", log), log
