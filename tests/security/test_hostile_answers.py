"""DNS answers made to cost as much as they can: refused, not worked through."""

from __future__ import annotations

import base64
import struct

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicNumbers

from respool.lookups.dns_wire import MalformedReply, RecordType, name_to_wire, parse_reply
from respool.processors.authentication.keys import KeyFault, parse_key_record

NAME = b"\1a\0"


def reply(answers: int, records: bytes, *, authorities: int = 0) -> bytes:
    header = struct.pack("!6H", 1, 0x8180, 1, answers, authorities, 0)
    return header + NAME + struct.pack("!2H", RecordType.TXT, 1) + records


def record(owner: bytes, data: bytes, kind: int = RecordType.TXT) -> bytes:
    return owner + struct.pack("!HHIH", kind, 1, 60, len(data)) + data


def chain(hops: int) -> bytes:
    """One record whose data are pointers, each to the one before; then one that is named by the last of them."""
    start = 12 + len(NAME) + 4 + len(NAME) + 10
    pointers = b"".join(struct.pack("!H", 0xC000 | (12 if hop == 0 else start + 2 * (hop - 1))) for hop in range(hops))
    last = struct.pack("!H", 0xC000 | (start + 2 * (hops - 1)))
    return record(NAME, pointers, kind=99) + record(last, b"\2hi")


def test_a_short_chain_of_pointers_is_a_name() -> None:
    assert parse_reply(reply(2, chain(100)), NAME, RecordType.TXT).records == (b"hi",)


def test_a_long_chain_of_pointers_is_refused() -> None:
    with pytest.raises(MalformedReply, match="too many compression pointers"):
        parse_reply(reply(2, chain(6000)), NAME, RecordType.TXT)


@pytest.mark.parametrize(("answers", "authorities"), [(4097, 0), (65535, 65535), (0, 4097)])
def test_counts_that_nobody_sends_are_refused(answers: int, authorities: int) -> None:
    with pytest.raises(MalformedReply, match="impossible counts"):
        parse_reply(reply(answers, record(NAME, b"\2hi"), authorities=authorities), NAME, RecordType.TXT)


def test_as_many_records_as_are_taken() -> None:
    answer = parse_reply(reply(4000, record(NAME, b"\2hi") * 4000), NAME, RecordType.TXT)
    assert len(answer.records) == 4000
    assert name_to_wire("a") == NAME


@pytest.mark.parametrize(("bits", "exponent"), [(16_384, 65_537), (2048, 2**80 + 1)])
def test_a_key_that_would_cost_too_much_is_refused(bits: int, exponent: int) -> None:
    key = RSAPublicNumbers(exponent, 2 ** (bits - 1) + 1).public_key()
    data = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert isinstance(parse_key_record(b"v=DKIM1; p=" + base64.b64encode(data)), KeyFault)
