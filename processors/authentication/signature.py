"""Tag lists, and the signatures written in them: DKIM-Signature, ARC-Message-Signature, ARC-Seal.

The grammar is RFC 6376 section 3.2; which tags a field needs and what they may hold is
3.5 there, 4.1.2 and 4.1.3 in RFC 8617. Parsing takes time linear in the field.

Diagnostics: parsers raise SignatureSyntaxError, which carries Exim's word for the fault
where Exim has one (arc.c); the verifiers turn it into a result. Nothing else is raised.
"""

from __future__ import annotations

import binascii
import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

from .body_hash import BodyHashRequest
from .canonicalization import Canonicalization
from .domain_names import a_label_domain

_TAG_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_USUAL_TAGS: Final = frozenset(b"a b bh c cv d h i k l p q s t v x".split())
_FWS: Final = b" \t\r\n"
_VT, _FF = b"\v\f"
_TIME_DIGITS: Final = 12
_INSTANCE: Final = re.compile(rb"[0-9]{1,9}")
_LENGTH: Final = re.compile(rb"[0-9]{1,76}")  # RFC 6376 3.5, l=
# Underscores stand in names of real senders; bytes above ASCII are U-labels (RFC 8616).
_LABEL: Final = rb"[A-Za-z0-9_\x80-\xff](?:[A-Za-z0-9_\x80-\xff-]{0,61}[A-Za-z0-9_\x80-\xff])?"
_DOMAIN: Final = re.compile(_LABEL + rb"(?:\." + _LABEL + rb")+")
_SELECTOR: Final = re.compile(_LABEL + rb"(?:\." + _LABEL + rb")*")
_DOMAIN_BYTES: Final = 253

#: RFC 6376 3.5, c=: one name alone is for the header, the body then simple.
_CANONICALIZATIONS: Final = {
    algorithm.value: (algorithm, BodyHashRequest(Canonicalization.SIMPLE)) for algorithm in Canonicalization
} | {
    header.value + b"/" + body.value: (header, BodyHashRequest(body))
    for header in Canonicalization
    for body in Canonicalization
}
#: How many domains, selectors and lists of names are kept between messages, and how long a list may be for that.
_KEPT: Final = 1024
_KEPT_LENGTH: Final = 1024
#: Algorithms that may pass. rsa-sha1 is historic (RFC 8301 section 3.1).
ALGORITHMS: Final = frozenset({b"rsa-sha256", b"ed25519-sha256"})


# The tags that are required: RFC 6376 3.5, RFC 8617 4.1.2 and 4.1.3.
_SEAL_TAGS: Final = frozenset({b"a", b"b", b"d", b"s"})
_AMS_TAGS: Final = _SEAL_TAGS | {b"bh", b"h"}
_DKIM_TAGS: Final = _AMS_TAGS | {b"v"}


class SignatureSyntaxError(ValueError):
    """A field that holds no usable signature; the argument says why, in Exim's words where it has them."""


class TagList(Struct, frozen=True):
    """A parsed tag list; the values are stripped of white space at both ends, folds inside are kept.

    unsigned is the text with the value of ``b=`` deleted, white space around that included.
    """

    tags: dict[bytes, bytes]
    unsigned: bytes


NO_TAGS: Final = TagList({}, b"")


def parse_tag_list(text: bytes) -> TagList:
    """Read ``name=value; name=value`` (RFC 6376 3.2); SignatureSyntaxError for anything else and for duplicates."""
    parts = text.split(b";")
    pairs = [part.partition(b"=") for part in parts]
    if len(parts) > 1 and not parts[-1].strip(_FWS):
        pairs.pop()  # one final semicolon is allowed
    # By itself strip() removes these two as well; where there are none it need not be told what to remove.
    space = _FWS if _VT in text or _FF in text else None
    tags = {name.strip(space): value.strip(space) for name, equals, value in pairs if equals}
    if len(tags) < len(pairs) or not _USUAL_TAGS.issuperset(tags):
        _check_names(pairs)
    if b"b" in tags:
        at = list(tags).index(b"b")
        parts[at] = pairs[at][0] + b"="
        text = b";".join(parts)
    return TagList(tags, text)


def _check_names(pairs: list[tuple[bytes, bytes, bytes]]) -> None:
    """SignatureSyntaxError for the first part that is no tag, or one too many."""
    seen: set[bytes] = set()
    for name, equals, _ in pairs:
        tag = name.strip(_FWS)
        if not equals:
            raise SignatureSyntaxError("a tag without '='" if tag else "an empty tag")
        if _TAG_NAME.fullmatch(tag) is None:
            raise SignatureSyntaxError("a bad tag name")
        if tag in seen:
            # RFC 6376 3.2: duplicates invalidate the whole list.
            raise SignatureSyntaxError(f"{tag[:16].decode()} tag dup")
        seen.add(tag)


class Signature(Struct, frozen=True, kw_only=True):
    """What the three signature fields have in common.

    unsigned_value is the field's value with that of ``b=`` deleted, which is what is
    hashed (RFC 6376 3.7). domain and selector are as DNS has them, in A-labels
    (RFC 8616 5). Times are Unix seconds; a seal has no expiry.
    """

    algorithm: bytes
    domain: str
    selector: str
    signature: bytes
    signed_at: int | None
    unsigned_value: bytes
    b_prefix: str  # the first 8 characters of b= (RFC 6008 section 4)
    expires_at: int | None = None


class MessageSignature(Signature, frozen=True, kw_only=True):
    """A DKIM-Signature or an ARC-Message-Signature: a signature over header fields and body.

    header_names are those of ``h=``, in lower case and in order. identity is ``i=`` of
    DKIM, as text; empty where it is absent and in ARC, where ``i=`` is the instance.
    has_c_tag is False where the canonicalisation is the default of RFC 6376.
    """

    header_canonicalization: Canonicalization
    header_names: tuple[bytes, ...]
    body_request: BodyHashRequest
    body_hash: bytes
    identity: str = ""
    has_c_tag: bool = True


def parse_dkim_signature(value: bytes) -> MessageSignature:
    """Read the value of a DKIM-Signature field (RFC 6376 3.5, 6.1.1)."""
    parsed = parse_tag_list(value)
    tags = parsed.tags
    if not tags.keys() >= _DKIM_TAGS:
        raise SignatureSyntaxError("required tag missing")
    if tags[b"v"] != b"1":
        raise SignatureSyntaxError("not version 1")
    if b"q" in tags and b"dns/txt" not in {_unfold(method).lower() for method in tags[b"q"].split(b":")}:
        raise SignatureSyntaxError("no known query method in q=")
    return _message_signature(parsed, identity=_identity(tags[b"i"]) if b"i" in tags else "")


def parse_arc_message_signature(parsed: TagList) -> MessageSignature:
    """Read the tags of an ARC-Message-Signature field (RFC 8617 4.1.2); ``v=`` and ``i=`` are not looked at."""
    if not parsed.tags.keys() >= _AMS_TAGS:
        raise SignatureSyntaxError("required tag missing")
    return _message_signature(parsed, identity="")


def parse_arc_seal(parsed: TagList) -> Signature:
    """Read the tags of an ARC-Seal field (RFC 8617 4.1.3); the instance and ``cv=`` are the chain's to judge."""
    tags = parsed.tags
    if not tags.keys() >= _SEAL_TAGS:
        raise SignatureSyntaxError("required tag missing")
    if b"h" in tags:
        raise SignatureSyntaxError("h tag in a seal")  # RFC 8617 4.1.3: MUST fail
    domain, selector, signature = _domain(tags[b"d"]), _selector(tags[b"s"]), _unfold(tags[b"b"])
    return Signature(
        algorithm=tags[b"a"][:64],
        domain=domain,
        selector=selector,
        signature=_decode_base64(signature, "b"),
        signed_at=_time(tags[b"t"], "t") if b"t" in tags else None,
        unsigned_value=parsed.unsigned,
        b_prefix=signature[:8].decode("ascii"),
    )


def parse_instance(tags: dict[bytes, bytes]) -> int:
    """The number in ``i=`` of an ARC field; SignatureSyntaxError where there is none above zero."""
    text = tags.get(b"i", b"")
    if _INSTANCE.fullmatch(text) is None or int(text) == 0:
        raise SignatureSyntaxError("instance find")
    return int(text)


def is_domain(name: bytes) -> bool:
    """True for a name of two or more labels that may stand in ``d=``."""
    return len(name) <= _DOMAIN_BYTES and _DOMAIN.fullmatch(name) is not None


def is_selector(name: bytes) -> bool:
    """True for one or more labels, as in ``s=``."""
    return len(name) <= _DOMAIN_BYTES and _SELECTOR.fullmatch(name) is not None


@lru_cache(maxsize=_KEPT)
def _domain(name: bytes) -> str:
    """``d=`` as text in lower case."""
    domain = _dns_name(name) if is_domain(name) else None
    if domain is None:
        raise SignatureSyntaxError("d= is not a domain name")
    return domain.lower()


@lru_cache(maxsize=_KEPT)
def _selector(name: bytes) -> str:
    """``s=`` as text."""
    selector = _dns_name(name) if is_selector(name) else None
    if selector is None:
        raise SignatureSyntaxError("s= is not a selector")
    return selector


def _dns_name(name: bytes) -> str | None:
    """As DNS has it; None for U-labels that have no A-labels."""
    return name.decode("ascii") if name.isascii() else a_label_domain(name)


def _message_signature(parsed: TagList, *, identity: str) -> MessageSignature:
    tags = parsed.tags
    domain, selector, signature = _domain(tags[b"d"]), _selector(tags[b"s"]), _unfold(tags[b"b"])
    decoded = _decode_base64(signature, "b")
    signed_at = _time(tags[b"t"], "t") if b"t" in tags else None
    expires_at = _time(tags[b"x"], "x") if b"x" in tags else None
    if signed_at is not None and expires_at is not None and expires_at <= signed_at:
        raise SignatureSyntaxError("x= is not after t=")  # RFC 6376 3.5, x=
    canonicalizations = _CANONICALIZATIONS.get(tags.get(b"c", b"simple"))
    if canonicalizations is None:
        raise SignatureSyntaxError("unknown canonicalization in c=")
    header_canonicalization, body_request = canonicalizations
    if b"l" in tags:
        if _LENGTH.fullmatch(tags[b"l"]) is None:
            raise SignatureSyntaxError("l= is not a number")
        body_request = BodyHashRequest(body_request.canonicalization, int(tags[b"l"]))
    names = tags[b"h"]
    return MessageSignature(
        algorithm=tags[b"a"][:64],
        domain=domain,
        selector=selector,
        signature=decoded,
        signed_at=signed_at,
        expires_at=expires_at,
        unsigned_value=parsed.unsigned,
        b_prefix=signature[:8].decode("ascii"),
        header_canonicalization=header_canonicalization,
        header_names=_kept_header_names(names) if len(names) <= _KEPT_LENGTH else _header_names(names),
        body_request=body_request,
        body_hash=_decode_base64(_unfold(tags[b"bh"]), "bh"),
        identity=identity,
        has_c_tag=b"c" in tags,
    )


def _header_names(text: bytes) -> tuple[bytes, ...]:
    """See MessageSignature."""
    return tuple([name.strip(_FWS) for name in text.lower().split(b":")])


#: A sender's messages have the same ``h=`` for as long as the same program signs them.
_kept_header_names: Final = lru_cache(maxsize=_KEPT)(_header_names)


def _time(text: bytes, name: str) -> int:
    if not text.isdigit() or len(text) > _TIME_DIGITS:
        raise SignatureSyntaxError(f"{name}= is not a time")
    return int(text)


def _identity(text: bytes) -> str:
    """The AUID of ``i=``: quoted-printable local part (possibly empty), ``@``, domain (RFC 6376 3.5)."""
    local, at, name = _unfold(text).rpartition(b"@")
    domain = _dns_name(name) if at and is_domain(name) else None
    if domain is None:
        raise SignatureSyntaxError("i= is not an identity")
    try:
        return binascii.a2b_qp(local).decode() + "@" + domain.lower()
    except UnicodeDecodeError:
        raise SignatureSyntaxError("i= is not UTF-8") from None


def _decode_base64(text: bytes, name: str) -> bytes:
    if not text:
        raise SignatureSyntaxError(f"no {name}= value")
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise SignatureSyntaxError(f"{name}= is not base64") from None


def _unfold(value: bytes) -> bytes:
    return b"".join(value.split())
