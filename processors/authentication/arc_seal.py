"""Adding a set to an Authenticated Received Chain (RFC 8617 section 5.1).

What Exim's arc_sign gets wrong is done by the RFC here: all Authentication-Results of
the authserv-id go into the set, ``cv`` is the verified state, nothing is added to a
chain that has failed before or is full.

Diagnostics: seal() returns NotSealed with a reason where RFC 8617 forbids a set or there
is nothing to vouch for; OSError of reading the body goes through.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from msgspec import Struct

from ...spool.envelope import Header
from ..results import Result
from .arc_chain import AAR, AMS, MAX_INSTANCE, SEAL, arc_fields, read_chain
from .arc_verify import ArcResult
from .authserv import method_result, results_of
from .body_hash import SIGNING_REQUEST
from .canonicalization import relaxed_field
from .keys import SigningKey
from .message import AuthenticatedMessage
from .signature_text import encode_base64, fold_tags, unfolded
from .signing import DEFAULT_SIGNED_HEADERS, signed_fields

AAR_NAME: Final = b"ARC-Authentication-Results"
AMS_NAME: Final = b"ARC-Message-Signature"
SEAL_NAME: Final = b"ARC-Seal"

#: RFC 8617 4.1.2: a message signature should cover the DKIM signatures.
DEFAULT_SEALED_HEADERS: Final = ("DKIM-Signature", *DEFAULT_SIGNED_HEADERS)
#: RFC 8617 4.1.2: what it must not cover.
FORBIDDEN_HEADERS: Final = frozenset(
    {"authentication-results", "arc-authentication-results", "arc-message-signature", "arc-seal"}
)

_TOKEN: Final = re.compile(r'[^\x00-\x20\x7f-\uffff()<>@,;:\\"/\[\]?=]+')
#: ``cv=`` by the state of the chain; whatever is neither of these is a failure.
_VALIDATION: Final = {Result.NONE: "none", Result.PASS: "pass"}
_LINE_LENGTH: Final = 72
#: Results that are longer were not written by an honest verifier.
_MAX_RESULTS_LENGTH: Final = 32 * 1024


class Sealer(Struct, frozen=True, kw_only=True):
    """Who seals and how.

    authserv_id is whose Authentication-Results are vouched for; domain and selector name
    the key in DNS. timestamps adds ``t=``; expire_seconds ``x=`` that much later, to the
    message signature; expires_at is ``x=`` as a Unix time instead. fold_base64 = False
    leaves ``b=`` on one line, as the public ARC test suite expects it.
    """

    authserv_id: str
    domain: str
    selector: str
    key: SigningKey
    headers: tuple[str, ...] = DEFAULT_SEALED_HEADERS
    timestamps: bool = True
    expire_seconds: int | None = None
    expires_at: int | None = None
    fold_base64: bool = True

    def expiry(self, now: int) -> int | None:
        """``x=`` of a message signature made at now."""
        return self.expires_at if self.expire_seconds is None else now + self.expire_seconds


class ArcSetFields(Struct, frozen=True, kw_only=True):
    """A new set. The seal goes topmost, then the message signature, then the results."""

    instance: int
    seal: Header
    message_signature: Header
    results: Header

    @property
    def headers(self) -> tuple[Header, Header, Header]:
        """The three, top to bottom."""
        return self.seal, self.message_signature, self.results


class NotSealed(Struct, frozen=True):
    """No set was made, for this reason."""

    reason: str


def seal(
    message: AuthenticatedMessage, verified: ArcResult, sealer: Sealer, *, now: float, client_address: str = ""
) -> ArcSetFields | NotSealed:
    """Make the next set for message.

    verified is the state of the chain as it was before anything was changed; now is Unix
    time. client_address is recorded beside an ``arc=`` result where the
    Authentication-Results have none.
    """
    if not _is_verified_chain(message, verified):
        return NotSealed("the ARC sets are not those that were verified")
    if verified.terminated:
        return NotSealed("the chain has failed before")  # RFC 8617 5.1 step 2
    instance = verified.instance + 1
    if instance > MAX_INSTANCE:
        return NotSealed(f"the chain is full, with {MAX_INSTANCE} sets")
    expiry = sealer.expiry(int(now))
    if expiry is not None and expiry <= now:
        return NotSealed("expire= is in the past")
    results = _own_results(message, sealer.authserv_id)
    if results is None:
        return NotSealed(f"no Authentication-Results of {sealer.authserv_id}")
    validation = _VALIDATION.get(verified.result, "fail")
    if method_result(results, b"arc") is None:
        results.append(_arc_result(validation, client_address))
    covered = hashlib.sha256()
    if validation != "fail":  # RFC 8617 5.1.2: the seal of a failed chain covers the new set alone
        covered.update(b"".join([field.relaxed for arc_set in verified.sets for field in arc_set.fields]))
    aar = _results_value(instance, sealer.authserv_id, results)
    if len(aar) > _MAX_RESULTS_LENGTH:
        return NotSealed(f"Authentication-Results of {len(aar)} bytes")
    covered.update(relaxed_field(AAR, aar) + b"\r\n")
    ams = _sign_message(message, sealer, instance, int(now))
    covered.update(b"%b:%b\r\n" % (AMS, unfolded(ams)))
    arc_seal = _sign_sets(covered, sealer, instance, validation, int(now))
    return ArcSetFields(
        instance=instance,
        seal=Header.make(SEAL_NAME, arc_seal),
        message_signature=Header.make(AMS_NAME, ams),
        results=Header.make(AAR_NAME, aar),
    )


def _is_verified_chain(message: AuthenticatedMessage, verified: ArcResult) -> bool:
    """True if the sets of message are those that verified is about."""
    if verified.result is Result.FAIL:  # not all of its fields need have found a place in a set
        return read_chain(message).highest_instance == verified.instance
    seen = [field.raw for arc_set in verified.sets for field in arc_set.fields]
    present = [field.raw for field in arc_fields(message)]
    return len(verified.sets) == verified.instance and sorted(present) == sorted(seen)


def _own_results(message: AuthenticatedMessage, authserv_id: str) -> list[bytes] | None:
    """All results of our own, in the order of the fields (RFC 8617 4.1.1); None where no field is ours."""
    own = authserv_id.encode()
    found = [results_of(value, own) for value in message.values(b"authentication-results")]
    ours = [results for results in found if results is not None]
    return [result for results in ours for result in results] if ours else None


def _arc_result(validation: str, client_address: str) -> bytes:
    if not client_address:
        return f"arc={validation}".encode()
    return f"arc={validation} smtp.remote-ip={_value(client_address)}".encode()


def _value(text: str) -> str:
    """A token as it is, anything else as a quoted string (RFC 8601 2.2)."""
    if _TOKEN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _results_value(instance: int, authserv_id: str, results: list[bytes]) -> bytes:
    """The value of the new ARC-Authentication-Results field, one result a line."""
    lines = [f"i={instance}; {_value(authserv_id)};".encode()]
    for number, result in enumerate(results):
        line = result + (b";" if number < len(results) - 1 else b"")
        while len(line) > _LINE_LENGTH:
            # At the last space that leaves the line short enough, else at the first there is.
            space = line.rfind(b" ", 1, _LINE_LENGTH + 1)
            if space < 0 and (space := line.find(b" ", 1)) < 0:
                break
            lines.append(line[:space])
            line = line[space + 1 :]
        lines.append(line)
    return b"\n ".join(lines)


def _sign_message(message: AuthenticatedMessage, sealer: Sealer, instance: int, now: int) -> bytes:
    """The value of the new ARC-Message-Signature; its tags in the order that the public test suite fixes."""
    fields = signed_fields(message, sealer.headers)
    tags = [
        (b"bh", encode_base64(message.body_hash(SIGNING_REQUEST).digest)),
        (b"c", b"relaxed/relaxed"),
        (b"d", sealer.domain.encode()),
        (b"h", b":".join([field.name for field in fields])),
        (b"i", b"%d" % instance),
        (b"s", sealer.selector.encode()),
    ]
    if sealer.timestamps:
        tags.append((b"t", b"%d" % now))
    expiry = sealer.expiry(now)
    if expiry is not None:
        tags.append((b"x", b"%d" % expiry))
    text = fold_tags(AMS_NAME, ((b"a", sealer.key.algorithm),), tags)
    covered = b"%b%b:%b" % (b"".join([field.relaxed for field in fields]), AMS, unfolded(text.value))
    signature = sealer.key.sign(hashlib.sha256(covered).digest())
    return text.with_signature(signature, fold_base64=sealer.fold_base64)


def _sign_sets(covered: hashlib._Hash, sealer: Sealer, instance: int, validation: str, now: int) -> bytes:
    """The value of the new ARC-Seal; covered has taken in all that comes before the seal itself."""
    tags = [
        (b"cv", validation.encode()),
        (b"d", sealer.domain.encode()),
        (b"i", b"%d" % instance),
        (b"s", sealer.selector.encode()),
    ]
    if sealer.timestamps:
        tags.append((b"t", b"%d" % now))
    text = fold_tags(SEAL_NAME, ((b"a", sealer.key.algorithm),), tags)
    covered.update(b"%b:%b" % (SEAL, unfolded(text.value)))
    return text.with_signature(sealer.key.sign(covered.digest()), fold_base64=sealer.fold_base64)
