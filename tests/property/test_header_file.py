"""The codec's law, both ways: what is rendered parses to the same, what parses renders to the same bytes."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from respool.errors import SpoolFormatError
from respool.spool.envelope import Directive, Envelope, Header, Recipient
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import MessageId
from respool.spool.non_recipients import grow
from tests.fuzz.header_file_law import parse_step_by_step
from tests.spool_corpus import SAMPLES

ALPHANUMERIC = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
REAL = [sample.header_data for sample in SAMPLES if len(sample.header_data) < 6000]


def digits(count: int) -> st.SearchStrategy[str]:
    return st.text(ALPHANUMERIC, min_size=count, max_size=count)


ids = st.one_of(
    st.builds("{}-{}-{}".format, digits(6), digits(11), digits(4)),
    st.builds("{}-{}-{}".format, digits(6), digits(6), digits(2)),
).map(MessageId)
line_bytes = st.binary(max_size=40).map(lambda text: text.replace(b"\n", b"").replace(b"\0", b""))
values = st.binary(max_size=60).map(lambda text: text.replace(b"\0", b""))
quoters = st.sampled_from([None, b"pgsql", b"sqlite"])
names = st.from_regex(rb"[A-Za-z][A-Za-z0-9_]{0,20}", fullmatch=True).filter(
    lambda name: name not in {b"acl", b"aclc", b"aclm"} and not name.startswith(b"frozen")
)
rests = st.from_regex(r"[cm](?:[0-9]|_)[A-Za-z0-9_]{0,8}", fullmatch=True)
directives = st.one_of(
    st.builds(Directive.make, names, st.none() | line_bytes, tainted=st.booleans(), quoter=quoters),
    st.builds(
        Directive.make_variable, rests.map("acl_{}".format), values, tainted=st.booleans(), quoter=quoters
    ),
)  # fmt: skip
# The last byte decides the form of a recipient line, and a domain never ends in one of these.
addresses = line_bytes.filter(lambda text: bool(text) and text[-1:] not in b"0123456789,# ")
recipients = st.builds(
    Recipient.make, addresses, orcpt=line_bytes, dsn_flags=st.integers(0, 31), errors_to=line_bytes,
    parent=st.integers(-1, 20),
)  # fmt: skip
field_names = st.sampled_from([b"From", b"To", b"Received", b"Subject", b"X-Y"])
field_values = st.lists(st.from_regex(rb"[!-~\x80-\xff][ -~]{0,20}[!-~]", fullmatch=True), min_size=1, max_size=3)
headers = st.builds(Header.make, field_names, field_values.map(b"\n\t".join))
trees = st.lists(line_bytes.filter(bool), max_size=12).map(lambda names: grow((), names))
logins = line_bytes.map(lambda text: text.strip())
envelopes = st.builds(
    Envelope,
    id=ids, login=logins, uid=st.integers(-10, 2**32), gid=st.integers(-10, 2**32), sender=line_bytes,
    received_time=st.integers(0, 2**40), warning_count=st.integers(0, 99),
    directives=st.lists(directives, max_size=6).map(tuple), tree=trees,
    recipients=st.lists(recipients, max_size=5).map(tuple), headers=st.lists(headers, max_size=5).map(tuple),
)  # fmt: skip


@given(envelopes)
def test_what_is_rendered_parses_to_the_same_value(envelope: Envelope) -> None:
    data = render_header_file(envelope)
    parsed = parse_header_file(data, file="x")
    assert parsed == envelope
    assert hash(parsed) == hash(envelope)
    assert render_header_file(parsed) == data


@given(envelopes)
def test_what_is_common_and_what_is_not_are_read_alike(envelope: Envelope) -> None:
    data = render_header_file(envelope)
    assert parse_header_file(data, file="x") == parse_step_by_step(data, file="x")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file with a few bytes changed, cut, doubled or put in."""
    data = bytearray(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(1, 4))):
        # Mostly in front, where the grammar is.
        at = draw(st.integers(0, min(len(data), draw(st.sampled_from([60, 900, 10_000])))))
        action = draw(st.integers(0, 3))
        if action == 0:
            data[at : at + 1] = draw(st.sampled_from([b"\n", b" ", b"-", b"0", b"9", b"#", b",", b"Y", b"\xff", b"\0"]))
        elif action == 1:
            del data[at : at + draw(st.integers(1, 30))]
        elif action == 2:
            data[at:at] = data[at : at + draw(st.integers(1, 30))]
        else:
            likely = [
                b"--(pgsql)",
                b"-aclm 0 5\n",
                b"-acl 3 2\n",
                b"-frozen ",
                b"YY ",
                b" 0,-1#1",
                b" 3,4,5",
                b"\n\n",
                b"\t",
            ]
            data[at:at] = draw(st.sampled_from(likely))
    return bytes(data)


def outcome(data: bytes, *, exact: bool) -> Envelope | SpoolFormatError:
    try:
        return parse_step_by_step(data, file="x") if exact else parse_header_file(data, file="x")
    except SpoolFormatError as error:
        return error


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(mutated())
def test_a_damaged_file_gives_a_value_or_the_one_error(data: bytes) -> None:
    found = outcome(data, exact=False)
    if isinstance(found, SpoolFormatError):
        assert found.file == "x"
        assert 1 <= found.line <= data.count(b"\n") + 1
        assert found.column >= 1
        assert str(found).isprintable()
    else:
        assert render_header_file(found) == data
        assert render_header_file(found.replace(headers=found.headers, directives=found.directives)) == data
    other = outcome(data, exact=True)
    assert str(other) == str(found) if isinstance(found, SpoolFormatError) else other == found


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_any_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    found = outcome(b"1xV9D2-0007Yr-05-H\nroot 0 0\n<>\n1 0\n" + data, exact=False)
    if isinstance(found, Envelope):
        assert render_header_file(found).endswith(data)


@pytest.mark.parametrize("cut", range(0, 1200, 7))
def test_a_cut_file_is_refused_or_ends_at_a_record(cut: int) -> None:
    data = next(sample.header_data for sample in SAMPLES if sample.case == "aclvars")
    found = outcome(data[:cut], exact=False)
    if isinstance(found, Envelope):
        assert render_header_file(found) == data[:cut]
