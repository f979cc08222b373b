"""Verifying DKIM signatures (RFC 6376, 8301, 8463): one result for each.

How the outcomes of RFC 6376 become the keywords of RFC 8601 section 2.7.1:

* neutral: the field has no usable syntax, so nothing can be said;
* permerror: well formed, but refused whatever the message says: From not signed, ``i=``
  outside ``d=``, expired, a historic algorithm, no key or one that does not fit;
* temperror: DNS gave no answer;
* fail: the body hash or the signature does not match;
* policy: it verifies, but with a key weaker than asked for; or it was one too many.

Diagnostics: raises nothing for what a message or DNS holds; OSError of the body goes through.
"""

from __future__ import annotations

from typing import Final

from ..results import AuthResult, Property, Result
from .keys import KeyLookup, KeyRecord, KeyType
from .message import AuthenticatedMessage, SentField
from .signature import ALGORITHMS, MessageSignature, SignatureSyntaxError, parse_dkim_signature
from .signature_check import Times, key_fault, signature_digest, time_fault

#: How many signatures of one message are looked at; the rest share one policy result.
MAX_SIGNATURES: Final = 10


class DkimResult(AuthResult, frozen=True, kw_only=True):
    """The outcome for one DKIM-Signature; without any there is one result ``none``.

    domain (``d=``), selector, identity (``i=``, or its default ``@d``), algorithm and
    b_prefix are empty where the field could not be read. testing is ``t=y`` of the key
    (RFC 6376 3.6.1): the result is what was found, and identifiers() in evaluation.py
    says what DMARC makes of it. body_length is
    ``l=``: what follows that many bytes is not signed.
    """

    method: str = "dkim"
    domain: str = ""
    selector: str = ""
    identity: str = ""
    algorithm: str = ""
    b_prefix: str = ""
    testing: bool = False
    body_length: int | None = None


class DkimSignatures:
    """The DKIM-Signature fields of a message, parsed; construction declares the body hashes they need."""

    def __init__(self, message: AuthenticatedMessage) -> None:
        self._message = message
        fields = message.named(b"dkim-signature")
        self._surplus = max(0, len(fields) - MAX_SIGNATURES)
        self._parsed = [(field, _parse(field.value)) for field in fields[:MAX_SIGNATURES]]
        message.will_need([parsed.body_request for _, parsed in self._parsed if isinstance(parsed, MessageSignature)])

    def verify(self, keys: KeyLookup, times: Times, *, minimum_rsa_bits: int = 1024) -> list[DkimResult]:
        """One result per signature, top to bottom."""
        results = [self._verify_one(field, parsed, keys, times, minimum_rsa_bits) for field, parsed in self._parsed]
        if self._surplus:
            reason = f"{self._surplus} more signatures not checked"
            results.append(DkimResult(result=Result.POLICY, reason=reason))
        return results or [DkimResult(result=Result.NONE)]

    def _verify_one(
        self, field: SentField, signature: MessageSignature | str, keys: KeyLookup, times: Times, minimum_rsa_bits: int
    ) -> DkimResult:
        if isinstance(signature, str):
            return DkimResult(result=Result.NEUTRAL, reason=signature)
        fault = _early_fault(signature, times)
        if fault is not None:
            return _result(signature, Result.PERMERROR, fault)
        key = keys.find(signature.domain, signature.selector)
        if not isinstance(key, KeyRecord):
            return _result(signature, key.result, key.reason)
        fault = key_fault(key, signature)
        if fault is None and key.strict and signature.identity.rpartition("@")[2] not in {"", signature.domain}:
            fault = "i= is in a subdomain, which the key forbids"  # RFC 6376 3.6.1, t=s
        if fault is not None:
            return _result(signature, Result.PERMERROR, fault, key)
        body_hash = self._message.body_hash(signature.body_request)
        if body_hash.digest != signature.body_hash:
            return _result(signature, Result.FAIL, "body hash did not verify", key)
        if not key.verify(signature.signature, signature_digest(self._message, field, signature)):
            return _result(signature, Result.FAIL, "signature did not verify", key)
        if body_hash.is_short:
            return _result(signature, Result.PERMERROR, "l= is larger than the body", key)  # RFC 6376 3.5, l=
        if key.key_type is KeyType.RSA and key.bits < minimum_rsa_bits:
            return _result(signature, Result.POLICY, f"RSA key of {key.bits} bits is weak", key)
        return _result(signature, Result.PASS, "", key)


def _parse(value: bytes) -> MessageSignature | str:
    try:
        return parse_dkim_signature(value)
    except SignatureSyntaxError as error:
        return f"signature syntax: {error}"


def _early_fault(signature: MessageSignature, times: Times) -> str | None:
    """What RFC 6376 6.1.1 refuses before any key is fetched."""
    if signature.algorithm not in ALGORITHMS:
        if signature.algorithm == b"rsa-sha1":
            return "rsa-sha1 is historic"  # RFC 8301 3.1
        return "unknown algorithm"
    if b"from" not in signature.header_names:
        return "From field not signed"
    if signature.identity:
        domain = signature.identity.rpartition("@")[2]
        if domain != signature.domain and not domain.endswith("." + signature.domain):
            return "domain mismatch: i= is not within d="
    return time_fault(signature, times)


def _result(signature: MessageSignature, result: Result, reason: str, key: KeyRecord | None = None) -> DkimResult:
    algorithm = signature.algorithm.decode("ascii", "replace")
    identity = signature.identity or "@" + signature.domain
    testing = key is not None and key.testing
    values = {
        "d": signature.domain, "i": identity, "s": signature.selector, "a": algorithm, "b": signature.b_prefix,
    }  # fmt: skip
    return DkimResult(
        result=result,
        reason=reason or ("key in test mode" if testing else ""),
        properties=tuple([Property("header", name, value) for name, value in values.items() if value.isprintable()]),
        domain=signature.domain,
        selector=signature.selector,
        identity=identity,
        algorithm=algorithm,
        b_prefix=signature.b_prefix,
        testing=testing,
        body_length=signature.body_request.length,
    )
