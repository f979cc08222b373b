"""samples/plugins/external_sender_note.py, with the email package as judge of what readers get."""

from __future__ import annotations

import email
import re
import time
import tracemalloc
from base64 import encodebytes
from collections.abc import Iterator
from pathlib import Path
from quopri import encodestring
from typing import Any

import pytest

from respool import ConfigError, Context, InsertIntoBody, Message, Proceed, Processor
from respool.processors import registry
from respool.testing import check_contract, make_context, make_message, read_message, run

from .authentication.signed_mail import dkimpy, dkimpy_lookup, ed25519_private_key, pem, wire, zone

SAMPLES = Path(__file__).resolve().parents[3] / "samples"

OURS: dict[str, Any] = {"our_domains": ["example.org"]}
NOTE = "CAUTION: this message\ncomes from outside."
NOTING: dict[str, Any] = {**OURS, "note": NOTE}


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> type[Processor[Any]]:
    # A copy: a checkout may be writable by a group, which respool refuses.
    path = tmp_path_factory.mktemp("plugins") / "external_sender_note.py"
    path.write_bytes((SAMPLES / "plugins" / path.name).read_bytes())
    path.chmod(0o644)
    return registry.find(f"{path}:ExternalSenderNote")


def results(domain: str, zone: str) -> Context:
    """A context with the results of auth for a message from that domain."""
    found = run(registry.find("auth"), author(domain), zone=zone).results
    return make_context(results=found)


def author(domain: str) -> Message:
    return make_message([("From", f"a@{domain}")], sender=f"a@{domain}")


ZONE = """
example.org. TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.example.org. TXT "v=DMARC1; p=none"
other.example. TXT "v=spf1 ip4:192.0.2.1 -all"
_dmarc.other.example. TXT "v=DMARC1; p=none"
"""


def test_mail_from_outside_is_marked(plugin: type[Processor[Any]]) -> None:
    ran = run(plugin, author("other.example"), config=OURS, context=results("other.example", ZONE))
    assert ran.header("X-External-Sender") == ("yes; domain=other.example",)


def test_our_own_mail_is_not(plugin: type[Processor[Any]]) -> None:
    ours = run(plugin, author("example.org"), config=OURS, context=results("example.org", ZONE))
    submitted = run(plugin, make_message(authenticated="bob"), config=OURS)
    local = run(plugin, make_message(client_address=None), config=OURS)
    for ran in (ours, submitted, local):
        assert ran.header("X-External-Sender") == ()


def test_who_only_says_to_be_of_us_is_marked(plugin: type[Processor[Any]]) -> None:
    forged = run(plugin, author("example.org"), config=OURS, context=results("example.org", ""))
    assert forged.header("X-External-Sender") == ("yes; domain=example.org",)


def test_a_field_that_came_in_is_removed(plugin: type[Processor[Any]]) -> None:
    forged = make_message([("X-External-Sender", "no"), ("From", "a@other.example"), ("x-external-sender", "no")])
    assert run(plugin, forged, config=OURS).header("X-External-Sender") == ("yes; domain=sender.example",)


@pytest.mark.parametrize("sender", ["", "a@\u00fc.example", '"a\\r b"@x.example'])
def test_odd_senders_make_no_odd_header(plugin: type[Processor[Any]], sender: str) -> None:
    (value,) = run(plugin, make_message(sender=sender), config=OURS).header("X-External-Sender")
    assert value.isprintable()


def test_it_needs_to_know_our_domains(plugin: type[Processor[Any]]) -> None:
    with pytest.raises(ConfigError, match="our_domains") as caught:
        run(plugin, config={})
    assert caught.value.key == "config.our_domains"


# The note in the text

_DECODED_NOTE = re.compile(
    rb"(\r?\n)?(<p><b>\r?\n)?CAUTION: this message(<br>)?\r?\ncomes from outside\.(<br>)?(\r?\n</b></p>)?(\r?\n){1,4}"
)


def mail(text: str | bytes, *, wireformat: bool = False) -> Message:
    """A message from outside, of header and body as they would stand in a file."""
    header, _, body = (text.encode() if isinstance(text, str) else text).partition(b"\n\n")
    body += b"" if not body or body.endswith(b"\n") else b"\n"
    fields = [field + b"\n" for field in re.split(rb"\n(?![ \t])", b"From: a@other.example\n" + header)]
    return make_message(fields, body=body.replace(b"\n", b"\r\n") if wireformat else body, wireformat=wireformat)


def leaves(message: Message) -> list[tuple[str, bytes]]:
    """Type and decoded content of every part, as the email package reads them."""
    header = b"".join(field.raw for field in message.sent_headers)
    parsed = email.message_from_bytes(header + b"\n" + b"".join(message.body.chunks()))
    found = [part for part in parsed.walk() if not part.is_multipart()]
    return [(part.get_content_type(), bytes(part.get_payload(decode=True))) for part in found]


def is_noted(before: bytes, after: bytes) -> bool:
    """Whether after is before with the note somewhere in it."""
    length = len(after) - len(before)
    return any(
        after[:at] + after[at + length :] == before and _DECODED_NOTE.fullmatch(after, at, at + length)
        for at in range(len(before) + 1)
    )


def check(plugin: type[Processor[Any]], message: Message, word: str, noted: set[int], **config: Any) -> Message:
    """The message after it: those leaves have the note, all else is the same, and the field says word."""
    ran = run(plugin, message, config={**NOTING, **config})
    (field,) = ran.header("X-External-Sender")
    assert field == f"yes; domain=sender.example; note={word}"
    before, after = leaves(message), leaves(ran.message)
    assert [kind for kind, _ in after] == [kind for kind, _ in before]
    changed = {number for number, pair in enumerate(zip(before, after, strict=True)) if pair[0] != pair[1]}
    assert changed == noted
    assert all(is_noted(before[number][1], after[number][1]) for number in noted)
    if message.body.wireformat:
        assert b"\n" not in b"".join(ran.message.body.chunks()).replace(b"\r\n", b"")
    if not noted:
        assert ran.message.body is message.body
    return ran.message


def typed(content_type: str, content: str, encoding: str = "7bit") -> str:
    return f"Content-Type: {content_type}\nContent-Transfer-Encoding: {encoding}\n\n{content}"


def parted(kind: str, *parts: str, boundary: str = "b") -> str:
    between = "".join(f"--{boundary}\n{part}\n" for part in parts)
    return f"Content-Type: multipart/{kind}; boundary={boundary}\n\npreamble\n{between}--{boundary}--\nepilogue\n"


def base64(content: bytes) -> str:
    return encodebytes(content).decode()


def quoted(content: bytes) -> str:
    return encodestring(content).decode()


PLAIN = typed("text/plain; charset=utf-8", "Hello,\n\nworld.\n")
HTML = typed("text/html", "<html><body lang='en'>Hello</body></html>\n")
PDF = typed("application/pdf; name=x.pdf", base64(b"%PDF" * 30), "base64")
PAGE = '<!DOCTYPE html>\n<html><head><title>a = b</title></head>\n<body dir="auto" class="x">Gr\u00fc\u00dfe</body></html>\n'.encode()
SIGNATURE = typed("application/pgp-signature", "-----BEGIN PGP SIGNATURE-----\n")

NOTED = {
    "no MIME": ("Subject: x\n\nHello\n", {0}),
    "nothing in it": ("Subject: x\n\n", {0}),
    "text": (PLAIN + "-- \nsignature\n", {0}),
    "8bit": (typed("text/plain; charset=ISO-8859-1", "Gr\u00fc\u00dfe\n", "8BIT"), {0}),
    "page": (HTML, {0}),
    "page without body": (typed("text/html", "Hello\n"), {0}),
    "page, its tag in a comment": (typed("text/html", "<!-- <body> --><p>Hello</p>\n"), {0}),
    "quoted-printable": (typed("text/plain; charset=utf-8", quoted("Gr\u00fc\u00dfe =\n".encode()), "Quoted-Printable"), {0}),
    "quoted-printable page": (typed("text/html; charset=utf-8", quoted(PAGE), "quoted-printable"), {0}),
    "base64": (typed("text/plain", base64(b"Hello\n"), "base64"), {0}),
    "base64, CRLF": (typed("text/plain", base64(b"Hello\r\nworld\r\n"), "base64"), {0}),
    "base64 page": (typed("text/html; charset=utf-8", base64(PAGE * 9), "BASE64"), {0}),
    "base64, nothing in it": (typed("text/plain", "", "base64"), {0}),
    "alternative": (parted("alternative", PLAIN, HTML), {0, 1}),
    "alternative and a file": (parted("mixed", parted("alternative", PLAIN, HTML, boundary="bb"), PDF), {0, 1}),
    "page with images": (
        parted("alternative", PLAIN, parted("related", HTML, PDF, boundary="b2"), boundary="b 1".replace(" ", "-")), {0, 1}
    ),
    "first text of a mixed": (parted("mixed", PLAIN, HTML, PLAIN), {0}),
    "alternative, then a footer": (parted("mixed", parted("alternative", PLAIN, HTML, boundary="i"), PLAIN), {0, 1}),
    "text between pages": (
        parted("alternative", PLAIN, parted("mixed", HTML, PDF, HTML, boundary="m"), typed("text/calendar", "x")), {0, 1}
    ),
    "attached text before it": (parted("mixed", typed("text/plain; name=a.txt", "x"), PLAIN), {1}),
    "attached text beside it": (parted("mixed", "Content-Disposition: attachment\n" + PLAIN, HTML), {1}),
    "forwarded message after it": (parted("mixed", PLAIN, "Content-Type: message/rfc822\n\n" + PLAIN), {0}),
    "forwarded signed message after it": (
        parted("mixed", PLAIN, "Content-Type: message/rfc822\n\n" + parted("signed", PLAIN, SIGNATURE, boundary="s")), {0}
    ),
    "part without header": (parted("mixed", "\nHello\n"), {0}),
    "part with nothing in it": (parted("mixed", "\n"), {0}),
    "not ended": ("Content-Type: multipart/mixed; boundary=b\n\n--b\n\nHello\n", {0}),
}  # fmt: skip


@pytest.mark.parametrize("wireformat", [False, True])
@pytest.mark.parametrize("name", NOTED)
def test_the_note_stands_above_the_text_and_all_else_stays(
    plugin: type[Processor[Any]], name: str, wireformat: bool
) -> None:
    text, noted = NOTED[name]
    once = check(plugin, mail(text, wireformat=wireformat), "added", noted)
    # The second time it stands there already. The first field is gone, as if it were forged.
    assert b"".join(check(plugin, once, "added", set()).body.chunks()) == b"".join(once.body.chunks())


FORWARDED = parted("mixed", "Content-Type: message/rfc822\n\n" + PLAIN)

LEFT_ALONE = {
    "PGP/MIME, signed": (parted("signed", PLAIN, SIGNATURE), "signed"),
    "signed within a list's mixed": (parted("mixed", parted("signed", PLAIN, SIGNATURE, boundary="s"), PLAIN), "signed"),
    "text beside a signed part": (parted("mixed", PLAIN, parted("signed", PLAIN, SIGNATURE, boundary="s")), "signed"),
    "S/MIME, signed": (typed("application/pkcs7-mime; smime-type=signed-data", "MII", "base64"), "signed"),
    "S/MIME, encrypted": (typed("application/x-pkcs7-mime; smime-type=enveloped-data", "MII", "base64"), "encrypted"),
    "PGP/MIME, encrypted": (
        parted("encrypted", typed("application/pgp-encrypted", "Version: 1"), typed("application/octet-stream", "x")),
        "encrypted",
    ),
    "the same after a server took it apart": (
        parted("mixed", typed("text/plain", ""), typed("application/pgp-encrypted", "Version: 1")), "encrypted"
    ),
    "inline PGP, signed": ("Subject: x\n\nHi\n-----BEGIN PGP SIGNED MESSAGE-----\n", "signed"),
    "inline PGP, encrypted": ("Subject: x\n\n-----BEGIN PGP MESSAGE-----\n", "encrypted"),
    "inline PGP in base64": (typed("text/plain", base64(b"-----BEGIN PGP MESSAGE-----\n"), "base64"), "encrypted"),
    "inline PGP beside a page": (
        parted("alternative", HTML, typed("text/plain", "-----BEGIN PGP SIGNED MESSAGE-----")), "signed"
    ),
    "DKIM": ("DKIM-Signature: v=1\n" + PLAIN, "signed"),
    "ARC": ("ARC-Message-Signature: i=1\n" + PLAIN, "signed"),
    "a file": (PDF, "no-text"),
    "a named text": (typed("text/plain; name=x.txt", "x"), "no-text"),
    "a text of another disposition": ("Content-Disposition: form-data\n" + PLAIN, "no-text"),
    "a forwarded message only": (FORWARDED, "no-text"),
    "UTF-16": (typed("text/plain; charset=utf-16", base64("Hi".encode("utf-16")), "base64"), "unreadable"),
    "ISO-2022-JP": (typed("text/plain; charset=iso-2022-jp", "x"), "unreadable"),
    "UTF-7": (typed("text/plain; charset=utf-7", "x"), "unreadable"),
    "two character sets": (typed("text/plain; charset=utf-8; charset=utf-16", "x"), "unreadable"),
    "a page that could not have it": (parted("alternative", PLAIN, typed("text/html; charset=utf-16", "x")), "unreadable"),
    "uuencode": (typed("text/plain", "begin 644 x\n", "x-uuencode"), "unreadable"),
    "binary": (typed("text/plain", "x", "binary"), "unreadable"),
    "an encoding that is two": (typed("text/plain", "x", "base64, 7bit"), "unreadable"),
    "base64 that is none": (typed("text/plain", "abcd=efghi=jklmn=o", "base64"), "unreadable"),
    "two types": ("Content-Type: text/html\n" + PLAIN, "unreadable"),
    "two encodings": ("Content-Transfer-Encoding: base64\n" + PLAIN, "unreadable"),
    "two types in a part": (parted("mixed", "Content-Type: text/html\n" + PLAIN), "unreadable"),
    "a broken type": (typed("text", "x"), "unreadable"),
    "a header without an empty line": ("Content-Type: multipart/mixed; boundary=b\n\n--b\nHello\n--b--\n", "unreadable"),
    "an encoded multipart": ("Content-Transfer-Encoding: base64\n" + parted("mixed", PLAIN), "unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("wireformat", [False, True])
@pytest.mark.parametrize("name", LEFT_ALONE)
def test_what_is_signed_or_cannot_be_read_is_left_alone(
    plugin: type[Processor[Any]], name: str, wireformat: bool
) -> None:
    text, word = LEFT_ALONE[name]
    check(plugin, mail(text, wireformat=wireformat), word, set())


def test_over_signatures_means_those_of_servers_only(plugin: type[Processor[Any]]) -> None:
    for name, (text, word) in LEFT_ALONE.items():
        is_of_server = name in {"DKIM", "ARC"}
        expected = ("added", {0}) if is_of_server else (word, set[int]())
        check(plugin, mail(text), *expected, over_signatures=True)


def test_the_note_in_each_form(plugin: type[Processor[Any]]) -> None:
    """To the byte, and that HTML has it behind the tag where that is plain."""
    text = parted("alternative", PLAIN, typed("text/html; charset=utf-8", quoted(PAGE), "quoted-printable"))
    body = b"".join(run(plugin, mail(text), config=NOTING).message.body.chunks())
    assert b"7bit\n\nCAUTION: this message\ncomes from outside.\n\nHello,\n" in body
    assert (
        b'<body dir=3D"auto" class=3D"x">=\n<p><b>\nCAUTION: this message<br>\ncomes from outside.<br>\n</b></p>\nGr=C3'
    ) in body
    in_base64 = mail(typed("text/html", base64(PAGE * 4), "base64"), wireformat=True)
    verdict = run(plugin, in_base64, config=NOTING).verdict
    assert isinstance(verdict, Proceed)
    (edit,) = [edit for edit in verdict.edits if isinstance(edit, InsertIntoBody)]
    assert edit.position == 0
    assert max(map(len, edit.content.split(b"\r\n"))) == 76
    assert edit.content.endswith(b"\r\n")
    assert b"=" not in edit.content


@pytest.mark.parametrize(
    "note",
    [
        "a = b", "<b>", "R&D", "--b", "-- ", "From here", "\u00e4", "a\rb", "a\tb", "\0", " a", "a ", "\n", "a\n\nb", "x" * 71,
        "1\n2\n3\n4\n5\n6",
    ],
)  # fmt: skip
def test_a_note_that_would_not_be_the_same_everywhere_is_refused(plugin: type[Processor[Any]], note: str) -> None:
    with pytest.raises(ConfigError, match="printable ASCII") as caught:
        run(plugin, config={**OURS, "note": note})
    assert caught.value.key == "config.note"


def test_our_own_mail_gets_no_note(plugin: type[Processor[Any]]) -> None:
    message = make_message(authenticated="bob")
    assert run(plugin, message, config=NOTING).message is message


def test_a_signature_still_verifies_after_it(plugin: type[Processor[Any]], tmp_path: Path) -> None:
    """What was signed before it, with defaults; and what we sign after it, note and all."""
    key = tmp_path / "ed.pem"
    key.write_bytes(pem(ed25519_private_key()))
    key.chmod(0o600)
    signing = {"keys": [{"domain": "example.org", "selector": "ed", "key_file": str(key)}]}
    signer = registry.build("dkim-sign", signing)
    text = parted("alternative", PLAIN, HTML)
    original = make_message(
        [("From", "a@example.org"), ("Content-Type", "multipart/alternative; boundary=b")],
        body=text.partition("\n\n")[2].encode(),
        sender="a@example.org",
    )
    signed = run(signer, original).message

    noted = run(plugin, signed, config=NOTING)
    assert noted.header("X-External-Sender") == ("yes; domain=example.org; note=signed",)
    assert verifies(noted.message)

    over = run(plugin, signed, config={**NOTING, "over_signatures": True})
    assert over.header("X-External-Sender") == ("yes; domain=example.org; note=added",)
    assert not verifies(over.message)
    assert verifies(run(signer, over.message).message)


def verifies(message: Message) -> bool:
    """By the topmost signature."""
    try:
        return bool(dkimpy.DKIM(wire(message)).verify(0, dnsfunc=dkimpy_lookup(zone())))
    except dkimpy.ValidationError:
        return False  # the hash of the body


class LargeBody:
    """A text of 64 MiB that is nowhere in memory."""

    wireformat = False
    size = 64 << 20

    def chunks(self) -> Iterator[bytes]:
        chunk = (b"x" * 63 + b"\n") * 4096
        return (chunk for _ in range(self.size // len(chunk)))


def test_a_large_body_is_not_copied(plugin: type[Processor[Any]]) -> None:
    message = Message(mail("Subject: x\n\n").envelope, LargeBody())
    tracemalloc.start()
    try:
        after = run(plugin, message, config=NOTING).message
        assert sum(map(len, after.body.chunks())) == after.body.size > message.body.size
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        typed("text/html", "<body " * 500_000),
        typed("text/html", "<!--" * 750_000 + "<body>"),
        parted("mixed", *[typed("text/html", "<body " * 3000)] * 200),
        parted("alternative", *[PLAIN] * 990),
        "Content-Type: multipart/mixed; boundary=b\n\n" + "--b\n" * 750_000,
        "Content-Type: multipart/mixed; boundary=b\n\n--b\n\n" + "--bb\n" * 600_000,
        typed("text/plain", "=" * 3_000_000, "base64"),
    ],
)
def test_hostile_bodies_take_time_in_proportion(plugin: type[Processor[Any]], text: str) -> None:
    before = time.process_time()
    run(plugin, mail(text), config=NOTING)
    assert time.process_time() - before < 20  # quadratic work on 3 MB would take hours


def test_it_keeps_the_contract(plugin: type[Processor[Any]]) -> None:
    settings = registry.decode_config(plugin, NOTING)
    messages = [mail(text) for text, _ in [*NOTED.values(), *LEFT_ALONE.values()]]
    messages += [read_message(path) for path in sorted(SAMPLES.glob("spool/spf*/*-H"))]
    assert check_contract(plugin(settings), messages, lambda message: make_context()).faults == ()
