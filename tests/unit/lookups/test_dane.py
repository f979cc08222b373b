"""The DANE preflight on zones that are signed, unsigned, broken and half of each."""

from __future__ import annotations

import time

import pytest

from respool.lookups.dane import DaneStatus, preflight, why_unusable
from respool.lookups.dns import TlsaRecord
from respool.lookups.zone import ZoneResolver

GOOD = "3 1 1 " + "ab" * 32
BASE = """
example.org MX 10 mx1.example.org.
example.org MX 20 mx2.example.org.
mx1.example.org A 192.0.2.1
mx2.example.org AAAA 2001:db8::1
"""


def look(text: str, domain: str = "example.org", **keywords: object) -> tuple[DaneStatus, list[tuple[str, DaneStatus]]]:
    found = preflight(ZoneResolver.from_text(text, **keywords), domain)  # type: ignore[arg-type]
    return found.status, [(host.host, host.status) for host in found.hosts]


def test_usable() -> None:
    zone = (
        BASE
        + f"""
;! secure example.org
_25._tcp.mx1.example.org TLSA {GOOD}
_25._tcp.mx1.example.org TLSA 0 0 1 {"ab" * 32}
_25._tcp.mx2.example.org TLSA 2 0 2 {"cd" * 64}
"""
    )
    found = preflight(ZoneResolver.from_text(zone), "Example.ORG.")
    assert found.status is DaneStatus.USABLE
    assert found.mx_secure
    assert [host.status for host in found.hosts] == [DaneStatus.USABLE] * 2
    assert found.hosts[0].usable == (TlsaRecord(3, 1, 1, b"\xab" * 32),)
    assert found.hosts[0].unusable == ("0 0 1: PKIX usages do not apply to SMTP",)
    assert found.hosts[0].base == "mx1.example.org"


def test_other_port() -> None:
    zone = BASE + f";! secure example.org\n_587._tcp.mx1.example.org TLSA {GOOD}\n"
    hosts = preflight(ZoneResolver.from_text(zone), "example.org", port=587).hosts
    assert [host.status for host in hosts] == [DaneStatus.USABLE, DaneStatus.NONE]


@pytest.mark.parametrize(
    ("notes", "first", "whole"),
    [
        (";! secure example.org\n_25._tcp.mx1.example.org TLSA 1 0 1 " + "ab" * 32, "unusable", "none"),
        (";! secure example.org\n", "none", "none"),
        (";! insecure example.org\n_25._tcp.mx1.example.org TLSA " + GOOD, "insecure", "insecure"),
        ("_25._tcp.mx1.example.org TLSA " + GOOD, "insecure", "insecure"),
        (
            ";! secure example.org\n;! insecure mx1.example.org\n_25._tcp.mx1.example.org TLSA " + GOOD,
            "insecure",
            "insecure",
        ),
        (
            ";! secure example.org\n;! insecure _25._tcp.mx1.example.org\n_25._tcp.mx1.example.org TLSA " + GOOD,
            "insecure",
            "insecure",
        ),
        (";! secure example.org\n;! bogus _25._tcp.mx1.example.org\n", "bogus", "bogus"),
        (";! secure example.org\n;! fail TLSA _25._tcp.mx1.example.org\n", "temperror", "temperror"),
        (";! secure example.org\n;! fail AAAA mx1.example.org\n", "temperror", "temperror"),
        (";! secure example.org\n;! bogus mx1.example.org\n", "temperror", "temperror"),
    ],
)
def test_one_host_of_two(notes: str, first: str, whole: str) -> None:
    status, hosts = look(BASE + notes)
    assert hosts[0] == ("mx1.example.org", DaneStatus(first))
    assert status is DaneStatus(whole)


def test_all_unusable() -> None:
    zone = "example.org MX 1 mx.example.org\nmx.example.org A 192.0.2.1\n;! secure org\n"
    status, _ = look(zone + "_25._tcp.mx.example.org TLSA 3 1 3 00\n")
    assert status is DaneStatus.UNUSABLE


def test_without_mx_the_domain_is_the_host() -> None:
    zone = f"example.org A 192.0.2.1\n_25._tcp.example.org TLSA {GOOD}\n;! secure example.org"
    assert look(zone) == (DaneStatus.USABLE, [("example.org", DaneStatus.USABLE)])
    assert look(";! secure example.org") == (DaneStatus.NONE, [("example.org", DaneStatus.NONE)])


def test_null_mx_and_trouble() -> None:
    found = preflight(ZoneResolver.from_text("example.org MX 0 .\n;! secure org"), "example.org")
    assert (found.null_mx, found.status, found.hosts) == (True, DaneStatus.NONE, ())
    found = preflight(ZoneResolver.from_text("", fail=["MX example.org"]), "example.org")
    assert found.status is DaneStatus.TEMPERROR
    assert "SERVFAIL" in found.reason
    found = preflight(ZoneResolver.from_text(BASE), "example.org", deadline=time.monotonic())
    assert found.status is DaneStatus.TEMPERROR


def test_aliases() -> None:
    """RFC 7671 section 7: below the end of the alias first, then below the host's own name."""
    zone = "example.org MX 1 mx.example.org\nmx.example.org CNAME real.example.net\nreal.example.net A 192.0.2.1\n"
    signed = ";! secure example.org\n;! secure example.net\n"
    found = preflight(ZoneResolver.from_text(f"{zone}{signed}_25._tcp.real.example.net TLSA {GOOD}"), "example.org")
    assert (found.status, found.hosts[0].base) == (DaneStatus.USABLE, "real.example.net")
    found = preflight(ZoneResolver.from_text(f"{zone}{signed}_25._tcp.mx.example.org TLSA {GOOD}"), "example.org")
    assert (found.status, found.hosts[0].base) == (DaneStatus.USABLE, "mx.example.org")
    assert look(f"{zone};! secure example.org\n_25._tcp.mx.example.org TLSA {GOOD}")[0] is DaneStatus.INSECURE


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (TlsaRecord(3, 1, 1, bytes(32)), ""),
        (TlsaRecord(2, 0, 2, bytes(64)), ""),
        (TlsaRecord(3, 0, 0, b"\x30\x03abc"), ""),
        (TlsaRecord(3, 0, 0, b"\x30\x82\x01\x00" + bytes(256)), ""),
        (TlsaRecord(0, 1, 1, bytes(32)), "PKIX"),
        (TlsaRecord(1, 1, 1, bytes(32)), "PKIX"),
        (TlsaRecord(4, 1, 1, bytes(32)), "usage"),
        (TlsaRecord(3, 2, 1, bytes(32)), "selector"),
        (TlsaRecord(3, 1, 3, bytes(32)), "matching"),
        (TlsaRecord(3, 1, 1, bytes(31)), "31 bytes instead of 32"),
        (TlsaRecord(3, 1, 2, bytes(32)), "32 bytes instead of 64"),
        (TlsaRecord(3, 1, 0, b""), "not DER"),
        (TlsaRecord(3, 1, 0, b"\x30\x80"), "not DER"),
        (TlsaRecord(3, 1, 0, b"\x30\x84\x01"), "not DER"),
        (TlsaRecord(3, 1, 0, b"\x30\x02a"), "cut off"),
    ],
)
def test_records(record: TlsaRecord, reason: str) -> None:
    complaint = why_unusable(record)
    assert (complaint == "") if reason == "" else (reason in complaint)
