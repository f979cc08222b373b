"""What a processor returns never becomes more than it says: no other field, directive or recipient.

The engine's own way is taken: check_verdict(), apply(), render_header_file(); what comes out
is parsed again and must have the structure of what was rendered, with nothing in it that was
neither there before nor asked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from respool.lookups.table_build import build as build_table
from respool.processors.api import Freeze, Part, Proceed, Split, Verdict
from respool.processors.edits import (
    AddHeader,
    AddRecipient,
    Edit,
    RedirectRecipient,
    RemoveHeader,
    ReplaceHeader,
    SetQueue,
    SetSender,
    SetVariable,
    apply,
    divide,
)
from respool.processors.verdict_check import check_verdict
from respool.requeue.job import OutputName, parse_output
from respool.spool.directive import Directive
from respool.spool.envelope import Header, Recipient
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.message import Message
from tests.fault.harness import Setup, run
from tests.unit.processors.processor_kit import make_message

PIECES = [
    b"\n", b"\r", b"\r\n", b"\0", b" ", b"\t", b"\n ", b"\n\t", b"\n\n", b"\x80", b"\xff", b"\xe2\x80\xa8", b'"', b"(", b")", b"\\",
    b";", b"<", b">", b"@", b"#1", b"#3", b" 1,2#3", b" 5", b"*", b"%n", b"${run{x}}", b"-aclm 1 2\nxx\n", b"\n-aclm 1 2\nxx\n",
    b"-local\n", b"\n-host_auth x\n", b"\n-debug_selector 0x1\n", b"X-Injected: 1", b"\nX-Injected: 1\n", b"\r\nX-Injected: 1\r\n",
    b"014  X-Injected: 1\n", b"\n014  X-Injected: 1\n", b"XX\n", b"YY", b"a", b"x@example.com", b"rfc822;", b"1abcde-000000-00-H\n",
]  # fmt: skip
hostile = st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=5).map(b"".join)


def made(constructor: Callable[..., Any], *values: st.SearchStrategy[Any], **named: st.SearchStrategy[Any]) -> Any:
    """What a constructor makes; one that refuses has done its duty."""

    def attempt(*arguments: Any, **keywords: Any) -> Any:
        try:
            return constructor(*arguments, **keywords)
        except ValueError:
            return None

    return st.builds(attempt, *values, **named).filter(lambda value: value is not None)


headers = st.one_of(
    made(Header.make, st.sampled_from([b"X-A", b"Bcc"]) | hostile, hostile),
    st.builds(
        Header, flag=st.sampled_from([" ", "F", "*", "", "Q", "  ", "\n"]), raw=hostile, lead=st.just(b"") | hostile
    ),
    hostile.map(lambda text: Header(flag=" ", raw=b"X-Made: " + text + b"\n")),
)
variables = st.one_of(
    made(Directive.make_variable, st.sampled_from(["acl_m_x", "acl_c0", "acl_m\n", "acl_m_x y"]), hostile),
    st.builds(
        Directive,
        raw=hostile,
        name=st.sampled_from([b"aclm", b"local", b"host_auth"]),
        value=hostile,
        variable=st.just("acl_m_x"),
    ),
    made(Directive.make, st.sampled_from([b"local", b"host_auth"]) | hostile, hostile),
)
recipients = st.one_of(
    made(Recipient.make, hostile, orcpt=hostile, errors_to=hostile, dsn_flags=st.integers(-1, 99)),
    st.builds(Recipient, address=hostile, raw=hostile),
)


edits = st.one_of(
    st.builds(AddHeader, headers, st.sampled_from(["top", "end"])),
    st.builds(RemoveHeader, st.integers(0, 2)),
    st.builds(ReplaceHeader, st.integers(0, 2), headers),
    st.builds(SetSender, hostile),
    st.builds(AddRecipient, recipients),
    st.builds(RedirectRecipient, st.just(b"a@example.org"), hostile),
    st.builds(SetVariable, variables),
    st.builds(SetQueue, hostile.map(lambda text: text.decode("latin-1"))),
)


def received() -> Message:
    return make_message(
        [(b"From", b"A <a@example.com>"), (b"Subject", b"x"), b"X-Strange: \x80\n  \n folded\n"],
        recipients=(b"a@example.org", b"b@example.org"), delivered=(b"c@example.org",), variables={"acl_m_y": b"1\n-local\n"},
    )  # fmt: skip


def check_rendered(before: Message, after: Message, asked: tuple[Edit, ...]) -> None:
    """The file says what the value says, and the value nothing that nobody asked for."""
    envelope = after.envelope
    again = parse_header_file(render_header_file(envelope), file="rendered")
    assert [one.raw for one in again.directives] == [one.raw for one in envelope.directives]
    assert [(one.name, one.variable, one.value) for one in again.directives] == [
        (one.name, one.variable, one.value) for one in envelope.directives
    ]
    assert [(one.flag, one.raw) for one in again.headers] == [(one.flag, one.raw) for one in envelope.headers]
    assert [
        (one.address, one.orcpt, one.dsn_flags, one.errors_to, one.parent) for one in again.recipients
    ] == [(one.address, one.orcpt, one.dsn_flags, one.errors_to, one.parent) for one in envelope.recipients]  # fmt: skip
    assert again.sender == envelope.sender
    assert (again.id, again.login, again.uid, again.gid) == (envelope.id, envelope.login, envelope.uid, envelope.gid)
    assert again.non_recipients == before.envelope.non_recipients

    added = [edit.header.name for edit in asked if isinstance(edit, AddHeader | ReplaceHeader)]
    allowed = Counter([header.name for header in before.headers] + added)
    assert not Counter(header.name for header in again.headers) - allowed
    set_ = {edit.directive.variable for edit in asked if isinstance(edit, SetVariable)}
    old = {(one.name, one.variable) for one in before.envelope.directives}
    assert all((one.name, one.variable) in old or one.variable in set_ for one in again.directives)
    # No line but the file's first is a message id's, and a field is a field on the wire, too.
    for header in again.headers:
        if header not in before.headers:
            assert b"\n\n" not in header.raw
            assert b"\r" not in header.raw
            assert b"\0" not in header.raw
            assert all(line[:1] in b" \t" for line in header.raw.split(b"\n")[1:-1])


@settings(max_examples=1500, deadline=None)
@given(st.data())
def test_whatever_is_returned_says_no_more_than_it_says(data: st.DataObject) -> None:
    message = received()
    asked = tuple(data.draw(st.lists(edits, max_size=4), label="edits"))
    kind = data.draw(st.sampled_from(["proceed", "freeze", "split"]), label="verdict")
    verdict: Verdict = Proceed(edits=asked)
    if kind == "freeze":
        verdict = Freeze(reason="x", edits=asked)
    elif kind == "split":
        verdict = Split(parts=(Part((b"b@example.org",), asked),))
    try:
        check_verdict(verdict, message)
        base = divide(message, ((b"b@example.org",),))[0] if kind == "split" else message
        assert base is not None
        applied = apply(base, asked)
    except (ValueError, TypeError):
        return  # the engine defers the message, or what on_error says
    check_rendered(base, applied.message, asked)
    if applied.queue is not None:
        name = OutputName(0, applied.queue)
        assert "/" not in name.name
        # What a restart reads is what was written: another answer would be lost mail.
        assert parse_output(name.name) == name


@pytest.mark.parametrize("queue", ["a/b", "..", ".", "a@b", "a\n", "\0", "ü", "x" * 65])
def test_a_queue_that_is_no_single_name_is_refused(queue: str) -> None:
    with pytest.raises(ValueError, match="not the name of a queue"):
        check_verdict(Proceed(edits=(SetQueue(queue),)), received())


# Every processor that is built in, between a hostile message and a hostile zone.

TEXTS = {
    "directive": b"-aclm _x 2\nxx",
    "folded": b"a\r\n X-Injected: 1",
    "bare-cr": b"a\rX-Injected: 1\r",
    "quotes": b'";x="\\',
    "comment": b"(((a) example.org; dkim=pass (",
    "eight-bit": "ü\u2028\u202e\x80".encode() + b"\xff\xfe",
    "long": b"x" * 5000,
    "result": b"a; dmarc=pass header.from=example.org",
}
#: What the processors below may add; nothing else may be in a message that was not there.
OURS = {b"authentication-results", b"arc-seal", b"arc-message-signature", b"arc-authentication-results", b"dkim-signature",
        b"received-spf", b"x-checked"}  # fmt: skip


def one_line(text: bytes) -> bytes:
    """What can stand on one line of -H."""
    return text.replace(b"\n", b"")


def hostile_message(text: bytes) -> Message:
    line = one_line(text)
    signature = (
        b" v=1; a=rsa-sha256; d=%b; s=%b; i=%b; h=from; bh=%b; b=%b" % (text, text, text, text, text)
    )  # fmt: skip
    fields = [
        b"Received: from %b (%b [192.0.2.1]) by %b\n" % (text, text, text),
        b"DKIM-Signature:" + signature + b"\n",
        b"DKIM-Signature: v=1; a=rsa-sha256; d=evil.example; s=sel; h=from; bh=AAAA; b=AAAA\n",
        b"ARC-Seal: i=1; a=rsa-sha256; cv=none; d=%b; s=%b; b=AAAA\n" % (text, text),
        b"ARC-Message-Signature: i=1;" + signature[5:] + b"\n",
        b"ARC-Authentication-Results: i=1; %b; dkim=pass header.d=%b\n" % (text, text),
        b"Authentication-Results: example.org; dmarc=pass header.from=%b\n" % text,
        b"Authentication-Results: %b; spf=pass\n" % text,
        b"From: %b <a@evil.example>\n" % text,
        b"Subject: %b\n" % text,
    ]
    # As Exim reads a field: a line that does not begin with white space would have been another one.
    fields = [field[:-1].replace(b"\n", b"\n ").replace(b"\n  ", b"\n ") + b"\n" for field in fields]
    return make_message(
        fields, sender=(line[:200].translate(None, b"<>\r\0") + b"@evil.example"), helo=line, host=b"[192.0.2.1]:25",
        recipients=(b"a@example.org", b'"' + line[:60].translate(None, b'"\\\r') + b'"@forwarded.example'),
    )  # fmt: skip


def hostile_zone(text: bytes) -> str:
    # In the words of a master file: \DDD for each byte, strings of at most 255.
    shown = "".join(f"\\{byte:03d}" for byte in text[:40])
    return f"""
evil.example. TXT "v=spf1 exp=why.evil.example include:{shown[:40]}.evil.example -all"
why.evil.example. TXT "{shown}"
sel._domainkey.evil.example. TXT "v=DKIM1; k=rsa; n={shown}; p={shown}"
_dmarc.evil.example. TXT "v=DMARC1; p=reject; rua=mailto:{shown}@evil.example; ruf={shown}"
"""


@pytest.mark.parametrize("kind", sorted(TEXTS))
def test_nothing_gets_through_a_built_in_processor(kind: str, tmp_path: Path) -> None:
    text = TEXTS[kind]
    for name, content in {
        "secret": b"0123456789abcdef",
        "key.pem": private_key(),
        "zone": hostile_zone(text).encode(),
    }.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / name).chmod(0o600)
    (tmp_path / "routes").write_text("forwarded.example: route=192.0.2.9\n")
    build_table(str(tmp_path / "routes"), str(tmp_path / "routes.mdb"))
    key = f'domain = "example.org", selector = "s1", key_file = "{tmp_path}/key.pem"'
    setup = Setup(
        tmp_path, source="export",
        extra='authserv_id = "example.org"',
        processors=f"""
[[processor]]
use = "auth"
[[processor]]
use = "dmarc-policy"
[[processor]]
use = "dmarc-history"
config = {{ file = "{tmp_path}/history" }}
[[processor]]
use = "headers"
config = {{ add = [{{ name = "X-Checked", value = "yes" }}] }}
[[processor]]
use = "route"
config = {{ tables = [{{ by = "domain", table = "lmdb;{tmp_path}/routes.mdb" }}] }}
[[processor]]
use = "srs"
config = {{ domain = "example.org", secret_file = "{tmp_path}/secret", local_domains = "example.org" }}
[[processor]]
use = "dane"
[[processor]]
use = "authentication-results"
[[processor]]
use = "dkim-sign"
config = {{ keys = [{{ {key} }}] }}
[[processor]]
use = "arc-seal"
config = {{ {key} }}
""",
    )  # fmt: skip
    zone = structs.replace(setup.config.dns, zone_file=str(tmp_path / "zone"))
    setup.config = structs.replace(setup.config, dns=zone)
    message = hostile_message(text)
    content = render_header_file(message.envelope)
    assert render_header_file(parse_header_file(content, file="made")) == content
    message_id = message.id
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / f"{message_id}-H").write_bytes(content)
    (tmp_path / "in" / f"{message_id}-D").write_bytes(message_id.data_name.encode() + b"\nbody\n")
    setup.put(tmp_path / "in" / f"{message_id}-H")

    assert run(setup)[0] == 0, setup.states()

    outputs = [parse_header_file(path.read_bytes(), file=path.name) for path in setup.input.glob("*-H")]
    assert outputs
    before = Counter(header.raw for header in message.headers)
    for envelope in outputs:
        assert render_header_file(envelope) == next(setup.input.glob(f"{envelope.id}-H")).read_bytes()
        new = [header for header in envelope.headers if header.is_sent and header.raw not in before]
        assert {(header.name or b"").lower() for header in new} <= OURS
        assert {b"x-checked", b"arc-seal", b"authentication-results"} <= {
            (header.name or b"").lower() for header in new
        }
        for header in new:
            assert header.raw.isascii()
            assert b"\r" not in header.raw
            assert b"\0" not in header.raw
            assert all(line[:1] in {b" ", b"\t"} for line in header.raw.split(b"\n")[1:-1])
            assert max(map(len, header.raw.split(b"\n"))) < 998
        known = {one.name for one in message.envelope.directives}
        assert all(one.name in known or (one.variable or "").startswith("acl_m_") for one in envelope.directives)
        assert not [one for one in envelope.variables if not one.startswith(("acl_m_arc", "acl_m_dmarc", "acl_m_route", "acl_m_respool", "acl_m_dane", "acl_m_spf", "acl_m_dkim"))]  # fmt: skip
        assert {one.address for one in envelope.recipients} <= {one.address for one in message.envelope.recipients}
        assert envelope.sender == message.sender or envelope.sender.endswith(b"@example.org")
    history = tmp_path / "history"
    if history.exists():
        assert all(
            line.split(b" ")[0].isalnum() or b"_" in line.split(b" ")[0] for line in history.read_bytes().splitlines()
        )


def private_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
