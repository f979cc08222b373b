"""The walk over MIME parts: what tests of the sample plugins that use it don't show."""

from __future__ import annotations

import time

import pytest

from respool import Message, MimePart, UnreadableMimeError, mime_parts
from respool.testing import make_message


def message(content_type: str, body: str, *, wireformat: bool = False) -> Message:
    content = body.replace("\n", "\r\n") if wireformat else body
    return make_message([("Content-Type", content_type)], body=content.encode(), wireformat=wireformat)


@pytest.mark.parametrize("wireformat", [False, True])
def test_what_is_said_of_a_part(wireformat: bool) -> None:
    body = (
        "preamble\n--o\nContent-Type: Text/HTML; Charset=\"UTF-8\"; name*=utf-8''%61.htm\n"
        'Content-Disposition: INLINE; filename="=?utf-8?Q?b.htm?="\nContent-Transfer-Encoding: Base64 \n\nSGVs\nbG8=\n'
        "--o\nContent-Type: message/rfc822\n\nSubject: x\n\nHello\n--o-- \nepilogue\n--o\n"
    )
    given = message("multipart/mixed; boundary=o", body, wireformat=wireformat)
    page, text = mime_parts(given)
    stored = b"".join(given.body.chunks())
    assert page == MimePart(
        number=1,
        media_type="text/html",
        parameters=(("charset", "UTF-8"), ("name", "a.htm")),
        disposition="inline",
        file_names=("b.htm", "a.htm"),
        encoding="base64",
        inside=page.inside,
        start=stored.index(b"SGVs"),
        head=b"SGVs\r\nbG8=\r\n" if wireformat else b"SGVs\nbG8=\n",
        size=6,
    )
    assert page.parameter("charset") == ("UTF-8",)
    assert [part.media_type for part in page.inside] == ["multipart/mixed"]
    assert (text.number, text.media_type, text.encoding) == (3, "text/plain", "7bit")
    assert [part.is_message for part in text.inside] == [False, True]
    assert text.start == stored.index(b"Hello")


def test_a_message_without_parts_is_one() -> None:
    (part,) = mime_parts(make_message(body=b"x\n" * 20_000))
    assert (part.number, part.media_type, part.start, part.inside) == (0, "text/plain", 0, ())
    assert (part.size, part.head) == (40_000, b"x\n" * 8192)


def test_parts_of_a_digest_are_messages() -> None:
    (part,) = mime_parts(message("multipart/digest; boundary=b", "--b\n\nContent-Type: text/html\n\nHi\n--b--\n"))
    assert part.media_type == "text/html"
    assert part.inside[-1].is_message


def test_the_innermost_of_boundaries_that_are_alike_is_meant() -> None:
    body = "--b\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\none\n--b--\n--b\n\ntwo\n--b--\n"
    found = [(part.head, len(part.inside)) for part in mime_parts(message("multipart/mixed; boundary=b", body))]
    assert found == [(b"one\n", 2), (b"two\n", 1)]


def test_a_delimiter_of_an_outer_multipart_ends_the_inner_ones() -> None:
    inner = "Content-Type: multipart/mixed; boundary=i\n\n--i\n\none\n"
    found = list(mime_parts(message("multipart/mixed; boundary=o", f"--o\n{inner}--o\n\ntwo\n--i\n\n")))
    assert [(part.head, len(part.inside)) for part in found] == [(b"one\n", 2), (b"two\n--i\n\n", 1)]


@pytest.mark.parametrize(
    "body", ["--b\nContent-Type: text/html\n", "--b\nContent-Type: text/html\n--b--\n", "--b\nContent-Type: text/html\n--b\n\n"]
)  # fmt: skip
def test_a_header_that_no_empty_line_ends_has_no_content(body: str) -> None:
    part = next(mime_parts(message("multipart/mixed; boundary=b", body)))
    assert (part.media_type, part.start, part.head, part.size) == ("text/html", None, b"", 0)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("Content-Type: text/plain\n \nContent-Disposition: attachment; filename=a.exe\n", "line of blanks"),
        ("Content-Type : text/html\n", "not well formed"),
        ("Content-Type: text/plain\rContent-Type: text/html\n", "two content-type"),
        ("Content-Type: multipart/mixed; boundary=b; boundary=c\n", "without a boundary"),
        ('Content-Type: multipart/mixed; boundary="b\n c"\n', "without a boundary"),
        ("Content-Type: text/plain; name=a; name=b\n", "two file names"),
        ("Content-Disposition: attachment; filename*=a; filename*0=b\n", "not well formed"),
        ("Content-Type: text/plain; name*=\0''a\n", "not well formed"),
        ("Content-Type: text/plain; name*=idna''%ff\n", "not well formed"),
    ],
)
def test_a_header_that_can_be_read_in_two_ways(header: str, reason: str) -> None:
    with pytest.raises(UnreadableMimeError, match=reason):
        list(mime_parts(message("multipart/mixed; boundary=o", f"--o\n{header}\nx\n")))


def test_a_number_that_python_does_not_read() -> None:
    with pytest.raises(UnreadableMimeError, match="not well formed"):
        list(mime_parts(message(f"text/plain; name*{'9' * 5000}=a", "x\n")))


def test_a_file_name_without_a_disposition() -> None:
    (part,) = mime_parts(
        message("multipart/mixed; boundary=o", "--o\nContent-Disposition: filename=a.exe\n\nx\n--o--\n")
    )
    assert part.file_names == ("a.exe",)


def test_levels_do_not_multiply() -> None:
    """Neither in time nor in what a part prints as."""
    count = 100
    opened = "".join(
        f"--{n:0>200}\nContent-Type: multipart/mixed;\n boundary={n + 1:0>200}\n\n" for n in range(count - 1)
    )
    body = opened + f"--{count - 1:0>200}\n\nx\n" * 3000
    before = time.process_time()
    found = list(mime_parts(message(f"multipart/mixed; boundary={0:0>200}", body), deepest=count, most=5000))
    assert len(found) == 3000
    assert len(repr(found[0])) < 100_000
    assert time.process_time() - before < 20
