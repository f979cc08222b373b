"""The walk over MIME parts and the note that stands on it, for messages of any structure."""

from __future__ import annotations

import email
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respool import InsertIntoBody, Message, MimePart, Processor, UnreadableMimeError, mime_parts
from respool.processors import registry
from respool.testing import make_message, run

PLUGIN = Path(__file__).resolve().parents[2] / "samples" / "plugins" / "external_sender_note.py"
NOTE = "Beware: from outside."
SETTINGS: dict[str, Any] = {"our_domains": ["example.org"], "note": NOTE, "over_signatures": True}

lines = st.sampled_from(
    ["Hello", "", " ", "--", "--b", "--b0-", "-- ", "=", "<body>", "<!-- <body", "SGVsbG8K", "Content-Type: text/html"]
)  # fmt: skip
contents = st.lists(lines, max_size=4).map(lambda given: "".join(line + "\n" for line in given))
fields = st.sampled_from(
    [
        "", "Content-Type: text/plain\n", "Content-Type: text/plain; charset=utf-8\n", "Content-Type: text/html\n",
        "Content-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n", "Content-Type: application/pdf\n",
        "Content-Type: text/plain\nContent-Transfer-Encoding: base64\n", "Content-Disposition: attachment\n",
    ]
)  # fmt: skip


@st.composite
def parts(draw: st.DrawFn, depth: int = 3) -> str:
    """Header and content of a part; boundaries begin like each other and like lines of the contents."""
    kinds = ["leaf"] if depth == 0 else ["leaf", "multipart", "message"]
    match draw(st.sampled_from(kinds)):
        case "multipart":
            kind = draw(st.sampled_from(["mixed", "alternative", "related", "signed", "encrypted", "digest"]))
            boundary = f"b{depth}" * (4 - depth)
            inner = draw(st.lists(parts(depth - 1), max_size=3))
            # In a digest a part without header is a message, and so begins with a header of its own.
            header = "\n" if kind == "digest" else ""
            body = "".join(f"--{boundary}\n{header}{part}\n" for part in inner) + f"--{boundary}--\n"
            return f"Content-Type: multipart/{kind}; boundary={boundary}\n\n{draw(contents)}{body}{draw(contents)}"
        case "message":
            return f"Content-Type: message/rfc822\n\n{draw(parts(depth - 1))}"
        case _:
            return f"{draw(fields)}\n{draw(contents)}"


def mail(text: str, *, wireformat: bool) -> Message:
    header, _, body = ("\n" + text).partition("\n\n")
    fields = [field.encode() + b"\n" for field in header.strip("\n").split("\n") if field]
    content = body.encode() + (b"" if not body or body.endswith("\n") else b"\n")
    return make_message(
        [b"From: a@b.example\n", *fields],
        body=content.replace(b"\n", b"\r\n") if wireformat else content,
        wireformat=wireformat,
    )


def leaves(message: Message) -> list[tuple[str, bytes]]:
    header = b"".join(field.raw for field in message.sent_headers)
    parsed = email.message_from_bytes(header + b"\n" + b"".join(message.body.chunks()))
    # To it a multipart without parts is a leaf.
    found = [part for part in parsed.walk() if not part.is_multipart() and part.get_content_maintype() != "multipart"]
    return [(part.get_content_type(), str(part.get_payload()).encode()) for part in found]


class InPieces:
    """A body that comes a few bytes at a time."""

    def __init__(self, content: bytes, length: int, *, wireformat: bool) -> None:
        self._content, self._length = content, length
        self.size, self.wireformat = len(content), wireformat

    def chunks(self) -> Iterator[bytes]:
        return (self._content[at : at + self._length] for at in range(0, self.size, self._length))


@given(parts(), st.booleans(), st.integers(1, 9))
def test_it_does_not_matter_in_which_pieces_a_body_comes(text: str, wireformat: bool, length: int) -> None:
    whole = mail(text, wireformat=wireformat)
    content = b"".join(whole.body.chunks())
    assert walked(whole) == walked(Message(whole.envelope, InPieces(content, length, wireformat=wireformat)))


def walked(message: Message) -> list[MimePart] | str:
    try:
        return list(mime_parts(message))
    except UnreadableMimeError as error:
        return str(error)


tokens = st.sampled_from(
    [
        "Content-Type", "Content-Disposition", "Content-Transfer-Encoding", ":", " ", ";", "=", "*", "0", "1", "'", "''", '"', "\\",
        "\n", "\n ", "\r", "\0", "text/html", "multipart/mixed", "message/rfc822", "attachment", "filename", "name", "boundary", "b",
        "%41", "utf-8", "idna", "=?utf-8?B?", "?=", "(", "<", "\u00fc", "\u2028", "--b", "--",
    ]
)  # fmt: skip


@given(st.lists(tokens, max_size=30).map("".join), st.sampled_from(["Content-Type: ", "Content-Disposition: a;"]))
@settings(max_examples=400)
def test_any_field_gives_parts_or_the_one_error(field: str, begin: str) -> None:
    body = f"--b\n{begin}{field}\n\nx\n--b--\n".encode()
    found = walked(make_message([("Content-Type", "multipart/mixed; boundary=b")], body=body))
    assert isinstance(found, str) or all(
        part.start is None or body[part.start :].startswith(part.head) for part in found
    )


@given(parts(), st.booleans())
def test_the_leaves_are_those_of_the_email_package(text: str, wireformat: bool) -> None:
    message = mail(text, wireformat=wireformat)
    found = walked(message)
    if isinstance(found, str):
        return
    content = b"".join(message.body.chunks())
    for part in found:
        assert part.start is None or content[part.start :].startswith(part.head)
    expected = leaves(message)
    assert [(part.media_type, part.head.rstrip(b"\r\n")) for part in found] == [
        (kind, content.rstrip(b"\r\n")) for kind, content in expected
    ]


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> type[Processor[Any]]:
    # A copy: a checkout may be writable by a group, which respool refuses.
    path = tmp_path_factory.mktemp("plugins") / PLUGIN.name
    path.write_bytes(PLUGIN.read_bytes())
    path.chmod(0o644)
    return registry.find(f"{path}:ExternalSenderNote")


@given(parts(), st.booleans())
def test_without_the_note_the_message_is_what_it_was(plugin: type[Processor[Any]], text: str, wireformat: bool) -> None:
    message = mail(text, wireformat=wireformat)
    ran = run(plugin, message, config=SETTINGS)
    inserted = [edit for edit in getattr(ran.verdict, "edits", ()) if isinstance(edit, InsertIntoBody)]
    (field,) = ran.header("X-External-Sender")
    assert field.endswith("note=added") == bool(inserted)
    before, after = b"".join(message.body.chunks()), b"".join(ran.message.body.chunks())
    for edit in sorted(inserted, key=lambda edit: edit.position):
        assert after[edit.position : edit.position + len(edit.content)] == edit.content
        after = after[: edit.position] + after[edit.position + len(edit.content) :]
    assert after == before
    # The structure is the same, and as many leaves are others as there are notes.
    old, new = leaves(message), leaves(ran.message)
    assert [kind for kind, _ in old] == [kind for kind, _ in new]
    assert sum(one != other for one, other in zip(old, new, strict=True)) == len(inserted) <= 2
    # Once is enough.
    assert run(plugin, ran.message, config=SETTINGS).message.body is ran.message.body
