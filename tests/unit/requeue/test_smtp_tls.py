"""What each TLS level demands, and what a TLSA record matches."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from respool.errors import ConfigError
from respool.lookups.dane import DaneStatus, HostDane
from respool.lookups.dns import TlsaRecord
from respool.requeue.smtp_tls import Level, TlsError, make_context, matches, plan_tls

from ...integration.certificates import Authority, tlsa

HOST = "mx.example"


def der(certificate: object) -> bytes:
    return certificate.public_bytes(Encoding.DER)  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(
    ("level", "used", "required", "verify"),
    [
        ("none", False, False, False), ("may", True, False, False), ("encrypt", True, True, False),
        ("verify", True, True, True),
    ],
)  # fmt: skip
def test_levels(level: Level, *, used: bool, required: bool, verify: bool) -> None:
    plan = plan_tls(level, HOST, None)
    assert (plan.offered_is_used, plan.required, plan.verify, plan.name) == (used, required, verify, HOST)


@pytest.mark.parametrize("status", [DaneStatus.TEMPERROR, DaneStatus.BOGUS])
@pytest.mark.parametrize("level", ["dane", "dane-only"])
def test_trouble_never_weakens(level: Level, status: DaneStatus) -> None:
    with pytest.raises(TlsError):
        plan_tls(level, HOST, HostDane(host=HOST, preference=0, status=status))


@pytest.mark.parametrize(
    ("status", "required"), [(DaneStatus.NONE, False), (DaneStatus.INSECURE, False), (DaneStatus.UNUSABLE, True)]
)
def test_without_usable_records(status: DaneStatus, *, required: bool) -> None:
    dane = HostDane(host=HOST, preference=0, status=status)
    assert plan_tls("dane", HOST, dane).required is required
    with pytest.raises(TlsError):
        plan_tls("dane-only", HOST, dane)


@pytest.mark.parametrize("usage", [2, 3])
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_each_kind_of_record(tmp_path: Path, usage: int, selector: int, matching: int) -> None:
    authority = Authority()
    own, _, _ = authority.issue(tmp_path, HOST)
    chain = [der(own), der(authority.certificate)]
    named = own if usage == 3 else authority.certificate
    record = TlsaRecord(*tlsa(named, usage=usage, selector=selector, matching=matching))
    assert matches(chain, [record], HOST)
    assert not matches([], [record], HOST)
    assert matches(chain, [record], "other.example") == (usage == 3)
    other = Authority()
    stranger, _, _ = other.issue(tmp_path, HOST)
    # One that shows the authority it was not issued by.
    assert not matches([der(stranger), der(authority.certificate)], [record], HOST)
    # A full certificate in the record need not be shown (RFC 7671 5.2.2).
    assert matches(chain[:1], [record], HOST) == (usage == 3 or (selector, matching) == (0, 0))


@pytest.mark.parametrize("garbage", [b"", b"x", b"\x30\x00"])
def test_garbage_matches_nothing(tmp_path: Path, garbage: bytes) -> None:
    own, _, _ = Authority().issue(tmp_path, HOST)
    for usage in (2, 3):
        for selector in (0, 1):
            record = TlsaRecord(usage, selector, 0, der(own))
            assert not matches([garbage, garbage], [record], HOST)
            assert not matches([der(own), garbage], [TlsaRecord(usage, selector, 0, garbage)], HOST)


def test_a_ca_file_that_is_not_there() -> None:
    with pytest.raises(ConfigError):
        make_context(verify=True, ca_file="/nonexistent")
