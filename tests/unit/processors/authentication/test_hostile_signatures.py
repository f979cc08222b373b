"""Fields, keys and bodies made to hurt: always results, never an exception, memory and time bounded."""

from __future__ import annotations

import contextlib
import os
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from respool.processors.authentication.authserv import parse_aar_instance, results_of
from respool.processors.authentication.body_hash import BodyHashRequest, body_hashes
from respool.processors.authentication.canonicalization import Canonicalization
from respool.processors.authentication.keys import KeyFault, KeyRecord, parse_key_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.signature import (
    SignatureSyntaxError,
    parse_arc_message_signature,
    parse_arc_seal,
    parse_dkim_signature,
    parse_tag_list,
)
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import Result
from respool.spool.body import BytesBody

from .signed_mail import BODY, FIELDS, NOW, KeyZone, zone

ALPHABET = st.sampled_from(
    [b"v=1", b"a=rsa-sha256", b"b=", b"bh=", b"AAAA", b"d=example.org", b"s=rsa", b"h=from", b"i=1", b"i=@example.org",
     b"cv=none", b"t=1", b"x=2", b"l=0", b"c=relaxed/simple", b"p=", b"k=ed25519", b";", b"; ", b"=", b" ", b"\n\t",
     b"(", b")", b'"', b"\\", b":", b"\xff", b"\0", b"\r", b"mx.example.net", b"none", b"arc=pass", b"a\xc3\xa9.example"]
)  # fmt: skip
TEXT = st.lists(ALPHABET, max_size=40).map(b"".join) | st.binary(max_size=60)


@given(TEXT)
@example(b"v=1;a=rsa-sha256;b=AAAA;bh=AAAA;d=example.org;s=rsa;h=from;i==3D=FF@example.org")
def test_parsers_say_what_is_wrong_and_nothing_else(text: bytes) -> None:
    with contextlib.suppress(SignatureSyntaxError):
        parse_dkim_signature(text)
    for parse in (parse_arc_message_signature, parse_arc_seal):
        with contextlib.suppress(SignatureSyntaxError):
            parse(parse_tag_list(text))
    assert isinstance(parse_key_record(text), KeyRecord | KeyFault)
    assert parse_aar_instance(text) >= 0
    results_of(text, b"mx.example.net")


@given(st.lists(st.tuples(st.sampled_from(
    [b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results", b"From", b"FROM ", b""]
), TEXT), max_size=12), TEXT)  # fmt: skip
def test_any_header_section(fields: list[tuple[bytes, bytes]], record: bytes) -> None:
    raw = [name + b":" + value.replace(b"\n", b"\n ") + b"\n" for name, value in fields]
    resolver = KeyZone({"rsa._domainkey.example.org": record})
    dkim, arc = verify_signatures(AuthenticatedMessage(raw, BytesBody(BODY)), resolver, now=NOW)
    assert all(result.result is not Result.PASS for result in dkim)
    assert arc.result in {Result.NONE, Result.FAIL}


@given(TEXT)
def test_any_file(raw: bytes) -> None:
    verify_signatures(AuthenticatedMessage.from_bytes(raw), zone(), now=NOW)


@pytest.mark.parametrize(
    "value",
    [
        b";" * 1_000_000,
        b"a=b;" * 250_000,
        b"".join(b"t%d=x;" % number for number in range(100_000)),
        b"h=" + b"from:" * 200_000,
        b"b=" + b"A\n\t" * 300_000,
        b"=" * 1_000_000,
        b" \n\t" * 300_000,
        b"i=1" + b"(" * 500_000,
        b"(" * 500_000 + b")" * 500_000,
        b'"' + b"\\" * 1_000_001,
        b"mx.example.net;" + b'"' * 500_001,
        b"mx.example.net;" + b"(a)" * 300_000 + b"(",
        b"mx.example.net" + b" (a)" * 250_000,
        b"smtp.remote-ip" + b" " * 1_000_000,
        b";smtp.remote-ip=" * 60_000,
    ],
    ids=range(15),
)
@pytest.mark.parametrize(
    "name", [b"DKIM-Signature", b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"]
)
def test_a_field_of_a_megabyte_is_linear(name: bytes, value: bytes) -> None:
    # Quadratic work on a megabyte would take hours: that this test ends is the proof.
    prefix = b"i=1; " if name == b"ARC-Authentication-Results" else b""
    message = AuthenticatedMessage((name + b": " + prefix + value + b"\n", *FIELDS), BytesBody(BODY))
    dkim, arc = verify_signatures(message, zone(), now=NOW)
    assert dkim[0].result in {Result.NONE, Result.NEUTRAL}
    assert arc.result in {Result.NONE, Result.FAIL}
    results_of(value, b"mx.example.net")


def test_thousands_of_fields() -> None:
    value = b" i=1; a=rsa-sha256; d=example.org; s=rsa; b=AAAA; bh=AAAA; h=" + b"received:" * 10_000 + b"from\n"
    fields = [b"ARC-Message-Signature:" + value] * 300 + [b"DKIM-Signature: v=1;" + value.replace(b"i=1;", b"")] * 300
    fields += [b"Received: x\n"] * 10_000
    resolver = zone()
    dkim, arc = verify_signatures(AuthenticatedMessage(fields, BytesBody(BODY)), resolver, now=NOW)
    assert len(dkim) == 11
    assert arc.result is Result.FAIL
    assert len(resolver.asked) <= 1


class EndlessBody:
    """A large body that is made while it is read."""

    def __init__(self, piece: bytes, count: int, last: bytes, *, wireformat: bool) -> None:
        self._piece, self._count, self._last = piece, count, last
        self.wireformat = wireformat
        self.size = len(piece) * count + len(last)

    def chunks(self) -> Iterator[bytes]:
        for _ in range(self._count):
            yield self._piece
        yield self._last


#: Of a quarter of a megabyte each: 50 MB, in the campaign 200.
PIECES = 800 if os.environ.get("RESPOOL_CAMPAIGN") else 200


@pytest.mark.parametrize("wire", [False, True])
@pytest.mark.parametrize("unit", [b"\n", b"\r\n", b" ", b"\r", b" \r\n", b"\t\n", b"text of a line\r\n"])
def test_large_bodies_in_bounded_memory(unit: bytes, wire: bool) -> None:
    piece = unit * (262_144 // len(unit))
    body = EndlessBody(piece, PIECES, b"x", wireformat=wire)
    tracemalloc.start()
    body_hashes(body, [BodyHashRequest(algorithm, length) for algorithm in Canonicalization for length in (None, 7)])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 1024 * 1024
