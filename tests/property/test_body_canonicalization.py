"""Streamed canonicalisation of bodies against a naive one over the whole buffer, and against dkimpy's."""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from respool.processors.authentication.body_hash import BodyHash, BodyHashRequest, body_hashes
from respool.processors.authentication.canonicalization import BodyCanonicalizer, Canonicalization, relaxed_value

dkimpy: Any = importlib.import_module("dkim.canonicalization")

# What canonicalisation looks at, and two bytes that it does not.
TEXT = st.lists(
    st.sampled_from([b" ", b"\t", b"\r", b"\n", b"\r\n", b"a", b"=", b"\v", b"\r\n\r\n", b"   ", b" \r\n", b"\0"])
).map(b"".join)
ALGORITHMS = st.sampled_from(Canonicalization)


class ChunkedBody:
    """A body that comes in the given pieces."""

    def __init__(self, pieces: list[bytes], *, wireformat: bool) -> None:
        self.pieces = pieces
        self.wireformat = wireformat
        self.size = sum(map(len, pieces))
        self.readings = 0

    def chunks(self) -> Iterator[bytes]:
        self.readings += 1
        yield from self.pieces


def naive(text: bytes, algorithm: Canonicalization) -> bytes:
    """RFC 6376 3.4.3 and 3.4.4 word for word, over a body with CRLF line ends."""
    *lines, rest = text.split(b"\r\n")
    if rest:
        lines.append(rest)
    if algorithm is Canonicalization.RELAXED:
        lines = [re.sub(rb"[ \t]+", b" ", re.sub(rb"[ \t]+\Z", b"", line)) for line in lines]
    while lines and lines[-1] == b"":
        lines.pop()
    if not lines:
        return b"\r\n" if algorithm is Canonicalization.SIMPLE else b""
    return b"".join(line + b"\r\n" for line in lines)


def cut(text: bytes, places: list[int]) -> list[bytes]:
    borders = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(borders)]


def streamed(pieces: list[bytes], algorithm: Canonicalization, *, wire: bool) -> bytes:
    output: list[bytes] = []
    canonicalizer = BodyCanonicalizer(algorithm, output.append, wire=wire)
    for piece in pieces:
        canonicalizer.update(piece)
    canonicalizer.finish()
    return b"".join(output)


@given(TEXT, st.lists(st.integers(0, 200), max_size=8), ALGORITHMS)
def test_wire_bodies_in_any_pieces(text: bytes, places: list[int], algorithm: Canonicalization) -> None:
    assert streamed(cut(text, places), algorithm, wire=True) == naive(text, algorithm)


@given(TEXT, st.lists(st.integers(0, 200), max_size=8), ALGORITHMS)
def test_local_bodies_in_any_pieces(text: bytes, places: list[int], algorithm: Canonicalization) -> None:
    assert streamed(cut(text, places), algorithm, wire=False) == naive(text.replace(b"\n", b"\r\n"), algorithm)


@given(TEXT)
def test_as_dkimpy(text: bytes) -> None:
    # dkimpy keeps white space at the end of a body that lacks its last line end, which SMTP can't carry.
    text += b"\r\n"
    peers = {Canonicalization.SIMPLE: dkimpy.Simple, Canonicalization.RELAXED: dkimpy.Relaxed}
    for algorithm, peer in peers.items():
        assert streamed([text], algorithm, wire=True) == peer.canonicalize_body(text)


@given(TEXT, st.lists(st.tuples(ALGORITHMS, st.none() | st.integers(0, 60)), max_size=8), st.lists(st.integers(0, 200)))
def test_all_hashes_come_from_one_reading(
    text: bytes, wanted: list[tuple[Canonicalization, int | None]], places: list[int]
) -> None:
    body = ChunkedBody(cut(text, places), wireformat=True)
    requests = [BodyHashRequest(algorithm, length) for algorithm, length in wanted]
    found = body_hashes(body, requests)
    for request in requests:
        canonical = naive(text, request.canonicalization)
        is_short = request.length is not None and request.length > len(canonical)
        assert found[request] == BodyHash(hashlib.sha256(canonical[: request.length]).digest(), is_short)
    body_hashes(body, requests)
    assert body.readings == (1 if requests else 0)


@given(st.lists(st.sampled_from([b" ", b"\t", b"\n ", b"\n\t", b"x", b"\v", b"\f", b"\r", b"\xa0", b"\x85", b"\x1c"])))
def test_relaxed_value(parts: list[bytes]) -> None:
    value = b"".join(parts)
    assert relaxed_value(value) == re.sub(rb"[ \t]+", b" ", value.replace(b"\n", b"")).strip(b" ")
