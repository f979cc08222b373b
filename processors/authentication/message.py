"""The message as signatures see it: sent header fields and the body, parsed once, shared by all verifiers.

What is made of a field (its canonical form) stays with the field, and what is made of a
body with the Body: a sealer that comes after the verifier, perhaps on another Message
value with the same fields and body, finds it done.

Diagnostics: raises nothing of its own; OSError of reading the body goes through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Final
from weakref import WeakKeyDictionary

from msgspec import Struct

from ...spool.body import Body, BytesBody
from ...spool.message import Message
from .body_hash import BodyHash, BodyHashRequest, body_hashes
from .canonicalization import Canonicalization, relaxed_value, simple_field


class SentField(Struct, frozen=True, gc=False):
    """A header field as it is sent.

    raw has LF line ends and the final LF; name is in lower case, without white space
    before the colon; value is what follows the colon, folds kept, without the final LF;
    relaxed is the field in relaxed form with its CRLF (RFC 6376 3.4.2).
    """

    raw: bytes
    name: bytes
    value: bytes
    relaxed: bytes

    @classmethod
    def read(cls, raw: bytes) -> SentField:
        """The field that is written so."""
        name, colon, value = raw.partition(b":")
        if colon:  # as Header.name; a line without one bears no name that anybody could ask for
            name = name.rstrip().lower()
        value = value.removesuffix(b"\n")
        return cls(raw, name, value, b"%b:%b\r\n" % (name, relaxed_value(value)))

    @property
    def raw_name(self) -> bytes:
        """The name as written, with what stands before the colon."""
        return self.raw.partition(b":")[0]

    @property
    def simple(self) -> bytes:
        """The field in simple form with its CRLF (RFC 6376 3.4.1)."""
        return simple_field(self.raw)


#: The fields of messages that are being worked on, by body and raw text.
_fields_of: Final[WeakKeyDictionary[Body, dict[bytes, SentField]]] = WeakKeyDictionary()


class AuthenticatedMessage:
    """Header fields that are sent, top to bottom, and a body. Immutable in effect; one per message and thread."""

    __slots__ = ("_body_hashes", "_body_requests", "_named", "body", "sent")

    def __init__(self, fields: Iterable[bytes], body: Body) -> None:
        self._take(tuple([SentField.read(raw) for raw in fields]), body)

    def _take(self, sent: tuple[SentField, ...], body: Body) -> None:
        self.sent = sent
        self.body = body
        self._body_requests: set[BodyHashRequest] = set()
        self._body_hashes: dict[BodyHashRequest, BodyHash] = {}
        self._named: dict[bytes, list[SentField]] = {}
        named = self._named
        for field in sent:
            name = field.name
            if name in named:
                named[name].append(field)
            else:
                named[name] = [field]

    @classmethod
    def from_message(cls, message: Message) -> AuthenticatedMessage:
        """The message as it would be sent now: ``*`` header records are left out."""
        known = _fields_of.setdefault(message.body, {})
        sent: list[SentField] = []
        for header in message.envelope.headers:
            if header.flag != "*":
                field = known.get(header.raw)
                if field is None:
                    field = known[header.raw] = SentField.read(header.raw)
                sent.append(field)
        made = cls.__new__(cls)
        made._take(tuple(sent), message.body)
        return made

    def with_top(self, *fields: bytes) -> AuthenticatedMessage:
        """The same message with fields above all others, the first of them topmost."""
        added = [SentField.read(raw) for raw in fields]
        made = type(self).__new__(type(self))
        made.sent = (*added, *self.sent)
        made.body = self.body
        made._body_requests = set()
        made._body_hashes = self._body_hashes
        made._named = self._named.copy()
        for field in reversed(added):
            made._named[field.name] = [field, *made._named.get(field.name, ())]
        return made

    @classmethod
    def from_bytes(cls, raw: bytes) -> AuthenticatedMessage:
        """A message file (``.eml``) with LF or CRLF line ends, decided by its first line.

        The header section ends at the first empty line, or before the first line that is
        no header field.
        """
        first_end = raw.find(b"\n")
        wire = first_end > 0 and raw[first_end - 1 : first_end] == b"\r"
        line_end = b"\r\n" if wire else b"\n"
        if raw.startswith(line_end):
            header_section, body = b"", raw[len(line_end) :]
        else:
            header_section, _, body = raw.partition(line_end + line_end)
        fields: list[list[bytes]] = []
        lines = header_section.split(line_end)
        for number, line in enumerate(lines):
            if line[:1] in {b" ", b"\t"} and fields:
                fields[-1].append(line)
            elif b":" in line:
                fields.append([line])
            elif line:
                rest = line_end.join(lines[number:])
                body = rest + line_end + line_end + body if body else rest
                break
        # An LF inside a line of a CRLF message would look like a fold or a new field: there it is a space.
        return cls(
            [b"\n".join([line.replace(b"\n", b" ") for line in field]) + b"\n" for field in fields],
            BytesBody(body, wireformat=wire),
        )

    @property
    def fields(self) -> tuple[bytes, ...]:
        """The raw fields, top to bottom."""
        return tuple([field.raw for field in self.sent])

    def named(self, name: bytes) -> Sequence[SentField]:
        """The fields of this lower-case name, top to bottom."""
        return self._named.get(name, ())

    def lacks(self, names: Collection[bytes]) -> bool:
        """True if there is no field of any of these lower-case names."""
        return self._named.keys().isdisjoint(names)

    def groups(self, names: Iterable[bytes]) -> list[list[SentField]]:
        """For each of these names that the message has, in their order, its fields top to bottom."""
        named = self._named
        return [group for name in names if (group := named.get(name))]

    def values(self, name: bytes) -> list[bytes]:
        """The values of the fields of this lower-case name, top to bottom."""
        return [field.value for field in self._named.get(name, ())]

    def select(self, names: Iterable[bytes]) -> list[SentField]:
        """The fields that ``h=`` names, in its order: of several with one name the lowest first (RFC 6376 5.4.2).

        Names that have no field left stand for nothing, which is how oversigning works.
        """
        named = self._named
        names = tuple(names)
        if len(set(names)) == len(names):
            return [named[name][-1] for name in names if name in named]
        left: dict[bytes, int] = {}
        selected: list[SentField] = []
        for name in names:
            if name in named:
                fields = named[name]
                below = left[name] = left.get(name, len(fields)) - 1
                if below >= 0:
                    selected.append(fields[below])
        return selected

    def will_need(self, requests: Iterable[BodyHashRequest]) -> None:
        """Declare body hashes, so that the one pass, made when the first is asked for, computes them all."""
        self._body_requests.update(requests)

    def body_hash(self, request: BodyHashRequest) -> BodyHash:
        """The hash of the body for one signature."""
        found = self._body_hashes.get(request)
        if found is None:
            self._body_requests.add(request)
            self._body_hashes = body_hashes(self.body, self._body_requests)
            found = self._body_hashes[request]
        return found

    def header_data(self, names: Iterable[bytes], algorithm: Canonicalization) -> bytes:
        """The canonical fields that names selects, joined: what a signature over them covers first."""
        if algorithm is Canonicalization.RELAXED:
            return b"".join([field.relaxed for field in self.select(names)])
        return b"".join([field.simple for field in self.select(names)])
