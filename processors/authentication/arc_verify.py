"""Verifying an Authenticated Received Chain (RFC 8617 section 5.2).

DNS trouble makes the chain ``fail``: RFC 8617 5.2.1 makes every failure permanent, and
ARC knows no temperror. But a daemon beside the queue has time that an SMTP receiver has
not, so ArcResult.temporary tells the two apart; whoever seals should defer a message
rather than put ``cv=fail`` on it for ever because a name server did not answer.

Diagnostics: raises nothing for what a message or DNS holds; OSError of the body goes through.
"""

from __future__ import annotations

import hashlib

from msgspec.structs import replace

from ..results import AuthResult, Property, Result
from .arc_chain import ArcChain, ArcSet, read_chain
from .body_hash import BodyHashRequest
from .canonicalization import Canonicalization, relaxed_field
from .keys import KeyFault, KeyLookup, KeyRecord
from .message import AuthenticatedMessage, SentField
from .signature import (
    ALGORITHMS,
    MessageSignature,
    Signature,
    SignatureSyntaxError,
    TagList,
    parse_arc_message_signature,
    parse_arc_seal,
)
from .signature_check import Times, key_fault, signature_digest, time_fault


class ArcResult(AuthResult, frozen=True, kw_only=True):
    """The state of a chain: none, pass or fail.

    instance is the newest set, 0 without any. oldest_pass is the oldest instance from
    which on all message signatures verify, 0 if that is all of them (RFC 8617 5.2 step
    5); None unless the result is pass. domains are those of the seals by instance,
    ``$arc_domains`` in Exim. sets are the sets as read, for who judges sealers.
    temporary: a failure of DNS and nothing else. terminated: the newest seal already
    says ``cv=fail``, so that no set may be added (5.1 step 2).
    """

    method: str = "arc"
    instance: int = 0
    oldest_pass: int | None = None
    domains: tuple[str, ...] = ()
    sets: tuple[ArcSet, ...] = ()
    temporary: bool = False
    terminated: bool = False


class _ChainError(Exception):
    """The chain does not verify; never leaves this module."""

    def __init__(self, reason: str, *, temporary: bool = False) -> None:
        self.reason, self.temporary = reason, temporary
        super().__init__(reason)


class ArcSignatures:
    """The chain of a message, parsed; construction declares the body hashes it needs."""

    def __init__(self, message: AuthenticatedMessage) -> None:
        self._message = message
        self.chain: ArcChain = read_chain(message)
        self._message_signatures: dict[int, MessageSignature | str] = {}
        if not self.chain.fault:
            for arc_set in self.chain.sets:
                self._message_signatures[arc_set.instance] = _parse_ams(arc_set.ams_tags)
            for ams in self._message_signatures.values():
                if isinstance(ams, MessageSignature):
                    message.will_need([reading.body_request for reading in _readings(ams)])

    def verify(self, keys: KeyLookup, times: Times, *, client_address: str = "") -> ArcResult:
        """The state of the chain; client_address goes into smtp.remote-ip."""
        chain = self.chain
        if chain.is_absent:
            return ArcResult(result=Result.NONE)
        selector = self._newest_selector()
        remote_ip = (Property("smtp", "remote-ip", client_address),) if client_address else ()
        try:
            oldest_pass = self._verify_all(keys, times)
        except _ChainError as failure:
            return ArcResult(
                result=Result.FAIL,
                reason=failure.reason,
                properties=selector + remote_ip,
                instance=chain.highest_instance,
                domains=chain.domains,
                sets=chain.sets,
                temporary=failure.temporary,
                terminated=chain.terminated,
            )
        oldest = str(oldest_pass)
        return ArcResult(
            result=Result.PASS,
            # RFC 8617 10.2 registers header.oldest-pass; arc.oldest-pass is what Exim writes and reads.
            properties=(
                *selector,
                Property("header", "oldest-pass", oldest),
                Property("arc", "oldest-pass", oldest),
                *remote_ip,
            ),
            instance=chain.highest_instance,
            oldest_pass=oldest_pass,
            domains=chain.domains,
            sets=chain.sets,
        )

    def _verify_all(self, keys: KeyLookup, times: Times) -> int:
        """The oldest-pass of a chain that passes."""
        if self.chain.fault:
            raise _ChainError(self.chain.fault)
        oldest_pass = self._verify_message_signatures(keys, times)
        self._verify_seals(keys, times)
        return oldest_pass

    def _newest_selector(self) -> tuple[Property, ...]:
        newest = self._message_signatures.get(self.chain.highest_instance)
        if isinstance(newest, MessageSignature) and newest.selector.isprintable():
            return (Property("header", "s", newest.selector),)
        return ()

    def _verify_message_signatures(self, keys: KeyLookup, times: Times) -> int:
        """RFC 8617 5.2 steps 4 and 5: the newest AMS must verify; how far down the others do is oldest-pass."""
        newest, *older = reversed(self.chain.sets)
        self._verify_ams(newest, keys, times)
        for arc_set in older:
            try:
                self._verify_ams(arc_set, keys, times)
            except _ChainError:
                return arc_set.instance + 1
        return 0

    def _verify_ams(self, arc_set: ArcSet, keys: KeyLookup, times: Times) -> None:
        signature = self._message_signatures[arc_set.instance]
        if isinstance(signature, str) or arc_set.ams is None:
            raise _ChainError(str(signature))
        if b"arc-seal" in signature.header_names:
            raise _ChainError("AMS signs a seal")  # RFC 8617 4.1.2
        if signature.algorithm not in ALGORITHMS:
            raise _ChainError("AMS unknown algorithm")
        fault = time_fault(signature, times)
        if fault is not None:
            raise _ChainError(f"AMS {fault}")
        key = keys.find(signature.domain, signature.selector)
        if not isinstance(key, KeyRecord):
            raise _ChainError(_with_detail("pubkey dns lookup fail (AMS)", key), temporary=_is_temporary(key))
        fault = key_fault(key, signature)
        if fault is not None:
            raise _ChainError(f"no usable sig for this pubkey hash list (AMS): {fault}")
        faults = [self._content_fault(arc_set.ams, reading, key) for reading in _readings(signature)]
        if all(faults):
            raise _ChainError(faults[0])

    def _content_fault(self, field: SentField, signature: MessageSignature, key: KeyRecord) -> str:
        """Empty if body hash and signature verify."""
        body_hash = self._message.body_hash(signature.body_request)
        if body_hash.digest != signature.body_hash or body_hash.is_short:
            return "AMS body hash miscompare"
        if not key.verify(signature.signature, signature_digest(self._message, field, signature)):
            return "AMS sig nonverify"
        return ""

    def _verify_seals(self, keys: KeyLookup, times: Times) -> None:
        """RFC 8617 5.2 step 6: every seal, over all sets up to its own (5.1.1)."""
        for seal, digest in reversed(self._seal_digests()):
            fault = time_fault(seal, times)
            if fault is not None:
                raise _ChainError(f"seal {fault}")
            key = keys.find(seal.domain, seal.selector)
            if not isinstance(key, KeyRecord):
                raise _ChainError(_with_detail("pubkey dns lookup fail (AS)", key), temporary=_is_temporary(key))
            fault = key_fault(key, seal)
            if fault is not None:
                raise _ChainError(f"no usable sig for this pubkey hash list (AS): {fault}")
            if not key.verify(seal.signature, digest):
                raise _ChainError("seal sigverify error")

    def _seal_digests(self) -> list[tuple[Signature, bytes]]:
        """Each seal and the SHA-256 it signs, by ascending instance; the common beginning is hashed once."""
        sha256 = hashlib.sha256()
        digests: list[tuple[Signature, bytes]] = []
        for arc_set in self.chain.sets:
            aar, ams, field = arc_set.fields
            try:
                seal = parse_arc_seal(arc_set.seal_tags)
            except SignatureSyntaxError as error:
                raise _ChainError(f"seal: {error}") from None
            if seal.algorithm not in ALGORITHMS:
                raise _ChainError("seal unknown algorithm")
            sha256.update(aar.relaxed + ams.relaxed)
            own = sha256.copy()
            own.update(relaxed_field(b"arc-seal", seal.unsigned_value))
            digests.append((seal, own.digest()))
            sha256.update(field.relaxed)
        return digests


def _parse_ams(tags: TagList) -> MessageSignature | str:
    try:
        return parse_arc_message_signature(tags)
    except SignatureSyntaxError as error:
        reason = str(error)
        return reason if reason == "required tag missing" else f"AMS: {reason}"


def _readings(signature: MessageSignature) -> tuple[MessageSignature, ...]:
    """The ways in which an AMS may be meant.

    Without ``c=``, RFC 8617 4.1.2 inherits simple/simple from RFC 6376 3.5; the public
    test suite, and signers made after it, mean relaxed/relaxed. Either proof will do.
    """
    if signature.has_c_tag:
        return (signature,)
    relaxed = Canonicalization.RELAXED
    request = BodyHashRequest(relaxed, signature.body_request.length)
    return signature, replace(signature, header_canonicalization=relaxed, body_request=request)


def _is_temporary(fault: KeyFault) -> bool:
    return fault.result is Result.TEMPERROR


def _with_detail(exim_reason: str, fault: KeyFault) -> str:
    """Exim's sentence, as it stands where DNS had no record, with ours where there is more to say."""
    is_plain_absence = fault.is_lookup and fault.result is Result.PERMERROR
    return exim_reason if is_plain_absence else f"{exim_reason}: {fault.reason}"
