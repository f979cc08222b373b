"""The ARC header fields of a message, sorted into sets: structure only, no cryptography.

RFC 8617 sections 4.1 to 4.2 and steps 1 to 3 of 5.2.

Diagnostics: raises nothing; a fault of structure is ArcChain.fault, in Exim's words
(arc.c) where Exim has them.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from .authserv import parse_aar_instance
from .domain_names import a_label_domain
from .message import AuthenticatedMessage, SentField
from .signature import NO_TAGS, SignatureSyntaxError, TagList, parse_instance, parse_tag_list

#: RFC 8617 4.2.1: no message has more.
MAX_INSTANCE: Final = 50

AAR: Final = b"arc-authentication-results"
AMS: Final = b"arc-message-signature"
SEAL: Final = b"arc-seal"
#: Exim's words for the three.
_EXIM_NAMES: Final[dict[bytes, str]] = {AAR: "AAR", AMS: "AMS", SEAL: "AS"}
# One hostile header section must not cost more than three full sets of fields.
_MAX_FIELDS: Final = 4 * MAX_INSTANCE
_REMOTE_IP: Final = re.compile(rb"[;\s]smtp\.remote-ip\s{0,20}=\s{0,20}\"?([0-9A-Fa-f:.]{2,45})")


class ArcSet(Struct, frozen=True, kw_only=True):
    """One set: its fields, None for a missing one, and what is needed of them.

    ams_tags and seal_tags are the parsed tags of two of them. seal_cv is ``cv=`` of the
    seal; seal_domain and seal_selector its ``d=`` and ``s=`` as text; remote_ip is
    smtp.remote-ip of the AAR. Empty where absent.
    """

    instance: int
    aar: SentField | None = None
    ams: SentField | None = None
    seal: SentField | None = None
    ams_tags: TagList = NO_TAGS
    seal_tags: TagList = NO_TAGS
    seal_cv: bytes = b""
    seal_domain: str = ""
    seal_selector: str = ""
    remote_ip: str = ""

    @property
    def fields(self) -> tuple[SentField, ...]:
        """Those that are there, in the order in which seals cover them (RFC 8617 5.1.1)."""
        return tuple([field for field in (self.aar, self.ams, self.seal) if field is not None])

    @property
    def is_complete(self) -> bool:
        """True for a set of all three."""
        return self.aar is not None and self.ams is not None and self.seal is not None


class ArcChain(Struct, frozen=True, kw_only=True):
    """The sets of a message by ascending instance, as far as they could be read.

    fault is empty for a chain whose structure is right; is_collected says that the
    fault, if any, came after all fields were read. terminated: the newest seal says
    ``cv=fail``.
    """

    sets: tuple[ArcSet, ...] = ()
    fault: str = ""
    is_collected: bool = True
    terminated: bool = False

    @property
    def is_absent(self) -> bool:
        """True for a message without any ARC field."""
        return not self.sets and not self.fault

    @property
    def highest_instance(self) -> int:
        """The newest instance, 0 without sets."""
        return self.sets[-1].instance if self.sets else 0

    @property
    def domains(self) -> tuple[str, ...]:
        """``d=`` of the seals by instance; empty for a missing instance, seal or tag, as in Exim."""
        by_instance = {arc_set.instance: arc_set.seal_domain for arc_set in self.sets}
        return tuple([by_instance.get(instance, "") for instance in range(1, self.highest_instance + 1)])


_NO_CHAIN: Final = ArcChain()


def read_chain(message: AuthenticatedMessage) -> ArcChain:
    """Collect the sets and check their structure; AMS and seals are parsed in full by those who verify them."""
    fields = arc_fields(message)
    if not fields:
        return _NO_CHAIN
    sets: dict[int, _Members] = {}
    fault = ""
    for number, field in enumerate(fields):
        if number >= _MAX_FIELDS:
            fault = fault or "too many ARC header fields"
            break
        try:
            _insert(sets, field)
        except SignatureSyntaxError as error:
            fault = fault or f"collecting headers: inserting {_EXIM_NAMES[field.name]}: {error}"
    ordered = tuple([_arc_set(instance, sets[instance]) for instance in sorted(sets)])
    return ArcChain(
        sets=ordered,
        fault=fault or _structure_fault(ordered),
        is_collected=not fault,
        terminated=bool(ordered) and ordered[-1].seal_cv.lower() == b"fail",
    )


def arc_fields(message: AuthenticatedMessage) -> list[SentField]:
    """The ARC fields top to bottom."""
    if message.lacks(_EXIM_NAMES):
        return []
    return [field for field in message.sent if field.name in _EXIM_NAMES]


#: The fields of one set by name, with their tags; an AAR has none.
_Members = dict[bytes, tuple[SentField, TagList]]
_NOTHING: Final = (None, NO_TAGS)


def _insert(sets: dict[int, _Members], field: SentField) -> None:
    parsed = NO_TAGS
    if field.name == AAR:
        instance = parse_aar_instance(field.value)
        if instance == 0:
            raise SignatureSyntaxError("instance find")
    else:
        try:
            parsed = parse_tag_list(field.value)
        except SignatureSyntaxError as error:
            raise SignatureSyntaxError(f"line parse: {error}") from None
        instance = parse_instance(parsed.tags)
    if instance > MAX_INSTANCE:
        raise SignatureSyntaxError("overlarge instance number")
    members = sets.setdefault(instance, {})
    if field.name in members:
        raise SignatureSyntaxError("dup hdr")
    members[field.name] = field, parsed


def _arc_set(instance: int, members: _Members) -> ArcSet:
    (aar, _), (ams, ams_tags), (seal, seal_tags) = [members.get(name, _NOTHING) for name in (AAR, AMS, SEAL)]
    tags = seal_tags.tags
    remote_ip = ""
    if aar is not None and aar.value.find(b"remote-ip") >= 0 and (address := _REMOTE_IP.search(aar.value)):
        remote_ip = address.group(1).decode("ascii")
    return ArcSet(
        instance=instance,
        aar=aar,
        ams=ams,
        seal=seal,
        ams_tags=ams_tags,
        seal_tags=seal_tags,
        seal_cv=tags.get(b"cv", b""),
        seal_domain=_name(tags.get(b"d", b"")),
        seal_selector=_name(tags.get(b"s", b"")),
        remote_ip=remote_ip,
    )


def _name(text: bytes) -> str:
    """A name of a seal that nobody has verified yet: as DNS has it where it is one, else what can be read of it."""
    if not text.isascii() and (name := a_label_domain(text)) is not None:
        return name
    return text[:253].decode("ascii", "replace").lower()


def _structure_fault(sets: tuple[ArcSet, ...]) -> str:
    """RFC 8617 5.2 steps 2 and 3, from the newest set down, which is Exim's order."""
    expected = sets[-1].instance if sets else 0
    for arc_set in reversed(sets):
        if arc_set.instance != expected:
            return f"i={arc_set.instance} (sequence; expected {expected})"
        if not arc_set.is_complete:
            return f"i={arc_set.instance} (missing header)"
        if arc_set.seal_cv in {b"", b"fail"}:
            return f"i={arc_set.instance} (cv)"
        expected -= 1
    if expected:
        return f"(sequence; expected i={expected})"
    for arc_set in reversed(sets):
        if arc_set.seal_cv != (b"none" if arc_set.instance == 1 else b"pass"):
            return "seal cv state"
    return ""
