"""Hashes of a body for any number of signatures, in one pass over it.

All signatures that share an algorithm of canonicalisation share one running SHA-256;
one with ``l=`` takes a copy of it when that many bytes have gone by. So a message costs
at most two hashes of its body, however many signatures it bears.

What was computed stays with the Body, for as long as that lives: a sealer that comes
after the verifier, perhaps on another Message value with the same body, asks and finds.

Diagnostics: OSError of Body.chunks() goes through; nothing else is raised.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from typing import Final
from weakref import WeakKeyDictionary

from msgspec import Struct

from ...spool.body import Body
from .canonicalization import BodyCanonicalizer, Canonicalization


class BodyHashRequest(Struct, frozen=True):
    """One hash that a signature needs: SHA-256 of the first length bytes of the canonical body, None for all."""

    canonicalization: Canonicalization
    length: int | None = None


class BodyHash(Struct, frozen=True, gc=False):
    """A hash made; is_short where the canonical body had fewer bytes than were asked for."""

    digest: bytes
    is_short: bool = False


#: What the signers here ask for unless told otherwise: pass it to the verifier, and the body is read once.
SIGNING_REQUEST: Final = BodyHashRequest(Canonicalization.RELAXED)

_known: WeakKeyDictionary[Body, dict[BodyHashRequest, BodyHash]] = WeakKeyDictionary()


def body_hashes(body: Body, requests: Collection[BodyHashRequest]) -> dict[BodyHashRequest, BodyHash]:
    """The hashes for requests; reads body once if any of them is not known yet, else not at all."""
    known = _known.setdefault(body, {})
    missing = [request for request in requests if request not in known]
    if missing:
        known.update(_read(body, missing))
    return known


def _read(body: Body, requests: Iterable[BodyHashRequest]) -> dict[BodyHashRequest, BodyHash]:
    wanted: dict[Canonicalization, list[BodyHashRequest]] = {}
    for request in requests:
        wanted.setdefault(request.canonicalization, []).append(request)
    hashers = [_hasher(asked) for asked in wanted.values()]
    canonicalizers = [
        BodyCanonicalizer(algorithm, hasher.update, wire=body.wireformat)
        for algorithm, hasher in zip(wanted, hashers, strict=True)
    ]
    for chunk in body.chunks():
        for canonicalizer in canonicalizers:
            canonicalizer.update(chunk)
    made: dict[BodyHashRequest, BodyHash] = {}
    for canonicalizer, hasher in zip(canonicalizers, hashers, strict=True):
        canonicalizer.finish()
        made.update(hasher.finish())
    return made


def _hasher(requests: list[BodyHashRequest]) -> _WholeHasher | _LimitedHasher:
    """What serves these requests, all of one canonicalisation."""
    if len(requests) == 1 and requests[0].length is None:
        return _WholeHasher(requests[0])
    return _LimitedHasher(requests)


class _WholeHasher:
    """A SHA-256 of everything: what nearly all signatures ask for."""

    def __init__(self, request: BodyHashRequest) -> None:
        sha256 = hashlib.sha256()
        self.update: Callable[[bytes], object] = sha256.update
        self._sha256, self._request = sha256, request

    def finish(self) -> dict[BodyHashRequest, BodyHash]:
        return {self._request: BodyHash(self._sha256.digest())}


class _LimitedHasher:
    """A running SHA-256 that notes its value at certain lengths."""

    def __init__(self, requests: list[BodyHashRequest]) -> None:
        self._sha256 = hashlib.sha256()
        self._count = 0
        self._requests = requests
        self._limits = sorted({request.length for request in requests if request.length is not None}, reverse=True)
        self._made: dict[int | None, BodyHash] = {}
        self._wants_all = any(request.length is None for request in requests)

    def update(self, data: bytes) -> None:
        if not self._limits:
            if self._wants_all:
                self._sha256.update(data)
            return
        start = 0
        while self._limits and self._limits[-1] <= self._count + len(data) - start:
            limit = self._limits.pop()
            self._sha256.update(data[start : start + limit - self._count])
            start += limit - self._count
            self._count = limit
            self._made[limit] = BodyHash(self._sha256.digest())
        self._sha256.update(data[start:])
        self._count += len(data) - start

    def finish(self) -> dict[BodyHashRequest, BodyHash]:
        self.update(b"")  # for l=0 of an empty body
        digest = self._sha256.digest()
        for limit in self._limits:
            self._made[limit] = BodyHash(digest, is_short=True)
        if self._wants_all:
            self._made[None] = BodyHash(digest)
        return {request: self._made[request.length] for request in self._requests}
