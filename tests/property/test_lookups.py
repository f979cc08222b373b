"""Properties of tables and DNS text: round trips, order, and never a stray exception."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import cast

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype
import dns.rrset
from hypothesis import given, settings
from hypothesis import strategies as st

from respool.errors import ConfigError
from respool.lookups import dns_wire
from respool.lookups.dns import DnsTemporaryError
from respool.lookups.organisational_domain import PublicSuffixList
from respool.lookups.table_build import build, dump
from respool.lookups.table_reference import TableReference, candidate_keys
from respool.lookups.table_source import SourceFormat, TableSourceError, json_line, lsearch_line, read_entries
from respool.lookups.tables import LmdbTable
from respool.lookups.zone import ZoneResolver

KEYS = st.binary(min_size=1, max_size=60).filter(lambda key: b"\0" not in key)
VALUES = st.binary(max_size=200).filter(lambda value: b"\0" not in value)
LSEARCH_VALUES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=50).map(
    lambda text: text.strip().encode()
)


def entries(text: bytes, source_format: SourceFormat) -> list[tuple[bytes, bytes, int]]:
    return list(read_entries(io.BytesIO(text), "text", source_format, lower_keys=False))


@given(st.lists(st.tuples(KEYS, LSEARCH_VALUES)))
def test_lsearch_lines_are_read_back(pairs: list[tuple[bytes, bytes]]) -> None:
    text = b"".join(lsearch_line(key, value) + b"\n" for key, value in pairs)
    assert [(key, value) for key, value, _ in entries(text, SourceFormat.LSEARCH)] == [
        (key, value) for key, value in pairs
    ]


@given(st.lists(st.tuples(KEYS, VALUES)))
def test_json_lines_are_read_back(pairs: list[tuple[bytes, bytes]]) -> None:
    text = b"".join(json_line(key, value) + b"\n" for key, value in pairs)
    assert [(key, value) for key, value, _ in entries(text, SourceFormat.JSON_LINES)] == pairs


HOSTILE = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from(
            [b'"', b"\\", b"\n", b":", b" ", b"\t", b"#", b",", b"a", b"\\x4", b"\\777", b"{", b"}", b'"key":', b"\r"]
        ),
        max_size=40,
    ).map(b"".join),
)


@given(HOSTILE, st.sampled_from(SourceFormat))
def test_any_text_is_entries_or_one_error(text: bytes, source_format: SourceFormat) -> None:
    found: list[tuple[bytes, bytes, int]] = []
    last = 0
    try:
        found = entries(text, source_format)
    except TableSourceError as error:
        last = error.line
    assert last <= text.count(b"\n") + 2
    for key, value, line in found:
        assert 0 < len(key) <= 511
        assert b"\0" not in key + value
        assert 1 <= line <= text.count(b"\n") + 1


def _exim_lsearch(text: bytes, wanted: bytes) -> bytes | None:
    """What Exim's documentation says, for one key, by a loop over lines like Exim's own."""
    white = b" \t\v\f\r"
    found: bytes | None = None
    for raw in text.split(b"\n"):
        line = raw.rstrip(white)
        if not line or line.startswith(b"#"):
            continue
        if line[:1] in {bytes([byte]) for byte in white}:
            if found is not None:
                found += b" " + line.lstrip(white)
            continue
        if found is not None:
            return found
        position = 0
        while position < len(line) and line[position] not in b":" + white:
            position += 1
        if line[:position] == wanted:
            rest = line[position:].lstrip(white)
            found = rest[1:].lstrip(white) if rest.startswith(b":") else rest
    return found


LSEARCH_TEXTS = st.lists(
    st.sampled_from([b"a", b"b", b"ab", b":", b" ", b"\t", b"\n", b"#", b"x y", b"\n\n", b"a: 1\n", b"b 2\n", b" c\n"]),
    max_size=30,
).map(b"".join)


@given(LSEARCH_TEXTS)
def test_lsearch_as_a_slow_reader_sees_it(text: bytes) -> None:
    text = b"first: x\n" + text.replace(b"\n:", b"\n")
    first: dict[bytes, bytes] = {}
    try:
        for key, value, _ in entries(text, SourceFormat.LSEARCH):
            first.setdefault(key, value)
    except TableSourceError:
        return
    for key in (b"a", b"b", b"ab", b"first", b"x", b"aa"):
        assert first.get(key) == _exim_lsearch(text, key)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=60))
def test_build_and_dump_round_trip(pairs: list[tuple[bytes, bytes]]) -> None:
    first: dict[bytes, bytes] = {}
    for key, value in pairs:
        first.setdefault(key, value)
    with tempfile.TemporaryDirectory() as directory:
        source, target = str(Path(directory, "s.jsonl")), str(Path(directory, "t.mdb"))
        Path(source).write_bytes(b"".join(json_line(key, value) + b"\n" for key, value in pairs))
        report = build(source, target)
        assert list(dump(target)) == sorted(first.items())
        assert report.entries + report.duplicates == len(pairs)
        table = LmdbTable(target)
        assert {key: table.get(key) for key in first} == first
        table.close()


def _exim_steps(key: bytes, partial: int, affix: bytes) -> list[bytes]:
    """search_find() of Exim's src/search.c, pointer by pointer."""
    tried = [key]
    if affix:
        tried.append(affix + key)
    buffer = bytearray(affix + key)
    position = len(affix)
    dots = key.count(b".")
    length = len(affix)
    while dots >= partial:
        dots -= 1
        while position < len(buffer) and buffer[position] != ord("."):
            position += 1
        if position == len(buffer):
            if length < 1:
                break
            if length > 1 and affix[length - 1] == ord("."):
                length -= 1
            tried.append(affix[:length])
            break
        position -= length - 1
        buffer[position : position + length] = affix
        tried.append(bytes(buffer[position:]))
        position += length
    return tried


DOTTED = st.lists(st.sampled_from([b"a", b".", b"bc", b"@", b"*", b"-"]), max_size=14).map(b"".join)


@given(DOTTED, st.integers(0, 5), st.sampled_from([b"*.", b"", b".", b"*", b"**", b"=.", b"-+."]))
def test_partial_order_is_that_of_exim(key: bytes, partial: int, affix: bytes) -> None:
    reference = TableReference(path="/f", partial=partial, affix=affix)
    assert [candidate.key for candidate in candidate_keys(reference, key)] == _exim_steps(key, partial, affix)


@given(DOTTED, st.integers(0, 5), st.sampled_from(["", "*", "*@"]))
def test_parts_join_to_the_key(key: bytes, partial: int, default: str) -> None:
    reference = TableReference(path="/f", partial=partial, default=default)
    for candidate in candidate_keys(reference, key):
        if candidate.key in {key, b"*." + key}:
            continue
        if candidate.key.startswith(b"*@"):
            assert candidate.wild + candidate.key[1:] == key
        elif candidate.key == b"*" and candidate.fixed != key:
            assert (candidate.wild, candidate.fixed) == (key, b"")
        elif candidate.wild or candidate.fixed != key:
            assert candidate.wild + b"." + candidate.fixed == key


@given(st.integers(600, 3000), st.integers(0, 3))
def test_long_keys_cost_no_more(size: int, partial: int) -> None:
    reference = TableReference(path="/f", partial=partial, default="*@")
    tried = [candidate.key for candidate in candidate_keys(reference, b"a." * size)]
    assert len(tried) < 600
    short = [candidate for candidate in _exim_steps(b"a." * size, partial, b"*.") if len(candidate) <= 511]
    assert [key for key in tried if len(key) <= 511][: len(short)] == short


@given(st.text("partil-lmdbs*@;/()0129.,=ret key", max_size=40))
def test_references_parse_or_are_refused(text: str) -> None:
    try:
        reference = TableReference.parse(text)
    except ConfigError:
        return
    assert TableReference.parse(str(reference)) == reference


# DNS

QUESTION = dns_wire.name_to_wire("a.example.org")
assert QUESTION is not None

RRSETS = [
    ("a.example.org.", 300, "TXT", '"one" "two"'),
    ("a.example.org.", 60, "TXT", '"three"'),
    ("a.example.org.", 300, "MX", "10 mx.example.org."),
    ("a.example.org.", 300, "MX", "0 ."),
    ("a.example.org.", 300, "A", "192.0.2.1"),
    ("a.example.org.", 300, "AAAA", "2001:db8::1"),
    ("a.example.org.", 300, "TLSA", "3 1 1 " + "ab" * 32),
    ("a.example.org.", 300, "PTR", "Host.Example.ORG."),
    ("A.example.ORG.", 50, "CNAME", "b.example.org."),
    ("b.example.org.", 300, "CNAME", "c.example.org."),
    ("c.example.org.", 300, "TXT", '"behind"'),
    ("other.example.org.", 300, "TXT", '"other"'),
    ("c.example.org.", 300, "CNAME", "a.example.org."),
]
TYPES = [dns_wire.RecordType[name] for name in ("TXT", "MX", "A", "AAAA", "TLSA", "PTR")]


@st.composite
def replies(draw: st.DrawFn) -> tuple[bytes, dns_wire.RecordType]:
    kind = draw(st.sampled_from(TYPES))
    query = dns.message.make_query("a.example.org", dns.rdatatype.from_text(kind.name))
    reply = dns.message.make_response(query)
    reply.flags |= draw(st.sampled_from([0, dns.flags.AD, dns.flags.AA]))
    reply.set_rcode(dns.rcode.Rcode(draw(st.sampled_from([0, 0, 3]))))
    for name, ttl, type_, data in draw(st.lists(st.sampled_from(RRSETS), max_size=6, unique=True)):
        reply.answer.append(dns.rrset.from_text(name, ttl, "IN", type_, data))
    if draw(st.booleans()):
        reply.authority.append(
            dns.rrset.from_text("example.org.", 900, "IN", "SOA", "ns.example.org. h.example.org. 1 2 3 4 77")
        )
    return reply.to_wire(), kind


def _dnspython_sees(wire: bytes) -> tuple[bytes, list[bytes]] | None:
    """Canonical name and data by dnspython's resolution of aliases; None where it finds the reply unusable."""
    message = dns.message.from_wire(wire)
    assert isinstance(message, dns.message.QueryMessage)
    try:
        chain = message.resolve_chaining()
    except dns.exception.DNSException:
        return None
    rdatas = cast("list[dns.rdata.Rdata]", list(chain.answer or ()))
    data = [bytes(rdata.to_digestable()) for rdata in rdatas]
    return chain.canonical_name.to_digestable(), data


@given(replies())
def test_replies_read_as_dnspython_reads_them(case: tuple[bytes, dns_wire.RecordType]) -> None:
    wire, kind = case
    assert QUESTION is not None
    theirs = _dnspython_sees(wire)
    try:
        ours = dns_wire.parse_reply(wire, QUESTION, kind)
    except dns_wire.MalformedReply:
        assert theirs is None
        return
    if theirs is None:
        return
    canonical, data = theirs
    assert ours.canonical == canonical
    assert set(ours.records) == {dns_wire.decode_data(raw, kind, 0, len(raw)) for raw in data}


@given(replies(), st.data())
def test_mangled_replies_are_read_or_malformed(case: tuple[bytes, dns_wire.RecordType], data: st.DataObject) -> None:
    wire, kind = bytearray(case[0]), case[1]
    assert QUESTION is not None
    for _ in range(data.draw(st.integers(0, 6))):
        position = data.draw(st.integers(12, len(wire) - 1))
        wire[position] = data.draw(st.sampled_from([0, 1, 0xC0, 0x0C, 0x3F, 0x40, 0xFF, 5, 16]))
    del wire[data.draw(st.integers(12, len(wire))) :]
    try:
        reply = dns_wire.parse_reply(bytes(wire), QUESTION, kind)
    except dns_wire.MalformedReply:
        return
    assert len(reply.canonical) <= 255
    assert reply.ttl is None or 0 <= reply.ttl <= 0x7FFFFFFF


@given(st.binary(max_size=600), st.sampled_from(TYPES))
def test_garbage_is_malformed(wire: bytes, kind: dns_wire.RecordType) -> None:
    assert QUESTION is not None
    query = dns_wire.build_query(1, QUESTION, kind, checking_disabled=False, edns=True)
    dns_wire.is_reply_to(wire, query, QUESTION)
    try:
        dns_wire.parse_reply(wire, QUESTION, kind)
    except dns_wire.MalformedReply:
        return


@given(st.text(st.characters(max_codepoint=0x2FF), max_size=80) | st.text("ab.-_\\", max_size=300))
def test_names(name: str) -> None:
    wire = dns_wire.name_to_wire(name)
    if wire is None:
        assert (
            not name.isascii()
            or len(name) > 253
            or ".." in "." + name.removesuffix(".") + "."
            or any(len(label) > 63 for label in name.split("."))
        )
        return
    assert dns.name.from_wire(wire, 0)[0].to_digestable() == wire
    text = dns_wire.name_to_text(wire)
    assert dns.name.from_text(text + ".").to_digestable() == wire
    assert text.isascii()
    assert text.isprintable()


@given(st.integers(0, 65535), st.sampled_from(TYPES), st.booleans(), st.booleans())
def test_questions_as_dnspython_reads_them(number: int, kind: dns_wire.RecordType, cd: bool, edns: bool) -> None:
    assert QUESTION is not None
    query = dns.message.from_wire(dns_wire.build_query(number, QUESTION, kind, checking_disabled=cd, edns=edns))
    assert query.id == number
    assert query.question[0].name.to_text() == "a.example.org."
    assert int(query.question[0].rdtype) == kind
    assert bool(query.flags & dns.flags.CD) is cd
    assert query.edns == (0 if edns else -1)


ZONE_WORDS = """a.b TXT A MX " 192.0.2.1 10 CNAME ( ) ; $ORIGIN $TTL \\# \\#_1_00 \\ TLSA IN * @ .. \\300 é
    ;!_fail $INCLUDE_/etc/passwd $GENERATE_1-9_a_A_1"""
ZONE_PIECES = st.lists(
    st.sampled_from([" ", "\n", "\t", *(word.replace("_", " ") for word in ZONE_WORDS.split())]), max_size=25
).map(" ".join)


@given(ZONE_PIECES | st.text(max_size=100))
def test_any_text_is_a_zone_or_a_configuration_error(text: str) -> None:
    try:
        zone = ZoneResolver.from_text(text)
    except ConfigError:
        return
    for ask in (zone.txt, zone.mail_exchangers, zone.tlsa, zone.pointers):
        try:
            ask("a.b")
        except DnsTemporaryError:
            continue


@given(st.text("abc.", max_size=60), st.lists(st.sampled_from(["a", "b.a", "*.c", "!b.c", "*.b.a", "c.b.a"])))
def test_organisational_domain_is_a_suffix(name: str, rules: list[str]) -> None:
    suffixes = PublicSuffixList.from_lines(rules)
    domain = suffixes.organisational_domain(name)
    plain = name.removesuffix(".")
    assert plain == domain or plain.endswith("." + domain)
    assert domain.endswith(suffixes.public_suffix(name))
