"""The message as signatures see it: sent header fields and the body, parsed once, shared by all verifiers.

Diagnostics: raises nothing of its own; OSError of reading the body goes through.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...spool.body import Body, BytesBody
from ...spool.message import Message
from .body_hash import BodyHash, BodyHashRequest, body_hashes
from .canonicalization import Canonicalization, relaxed_value, simple_field


class AuthenticatedMessage:
    """Header fields that are sent, and a body; canonical forms are made when first asked for, and kept.

    fields are raw, top to bottom, with LF line ends and the final LF; names are theirs in
    lower case, without white space before the colon. Immutable in effect; one per
    message and thread.
    """

    __slots__ = ("_body_hashes", "_body_requests", "_positions", "_relaxed", "body", "fields", "names")

    def __init__(self, fields: Iterable[bytes], body: Body) -> None:
        self.fields: tuple[bytes, ...] = tuple(fields)
        self.names: tuple[bytes, ...] = tuple(
            [field.partition(b":")[0].rstrip(b" \t").lower() for field in self.fields]
        )
        self.body = body
        self._body_requests: set[BodyHashRequest] = set()
        self._body_hashes: dict[BodyHashRequest, BodyHash] = {}
        self._relaxed: list[bytes | None] = [None] * len(self.fields)
        self._positions: dict[bytes, list[int]] = {}
        for index, name in enumerate(self.names):
            self._positions.setdefault(name, []).append(index)

    @classmethod
    def from_message(cls, message: Message) -> AuthenticatedMessage:
        """The message as it would be sent now: ``*`` header records are left out."""
        return cls([header.raw for header in message.envelope.headers if header.flag != "*"], message.body)

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

    def positions(self, name: bytes) -> Sequence[int]:
        """Where the fields of this lower-case name stand in fields, top to bottom."""
        return self._positions.get(name, ())

    def value(self, index: int) -> bytes:
        """What follows the colon of a field, folds kept, without the final LF."""
        return self.fields[index].partition(b":")[2].removesuffix(b"\n")

    def canonical_field(self, index: int, algorithm: Canonicalization) -> bytes:
        """One field in canonical form with its CRLF."""
        if algorithm is Canonicalization.SIMPLE:
            return simple_field(self.fields[index])
        relaxed = self._relaxed[index]
        if relaxed is None:
            value = relaxed_value(self.fields[index].partition(b":")[2])
            relaxed = self._relaxed[index] = b"%b:%b\r\n" % (self.names[index], value)
        return relaxed

    def select(self, names: Iterable[bytes]) -> list[int]:
        """The fields that ``h=`` names, in its order: of several with one name the lowest first (RFC 6376 5.4.2).

        Names that have no field left stand for nothing, which is how oversigning works.
        """
        used: dict[bytes, int] = {}
        selected: list[int] = []
        for name in names:
            if name in self._positions:
                positions = self._positions[name]
                count = used[name] = used.get(name, 0) + 1
                if count <= len(positions):
                    selected.append(positions[-count])
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
        return b"".join([self.canonical_field(index, algorithm) for index in self.select(names)])
