"""Edits as values, and the one function that applies them."""

from __future__ import annotations

import pytest

from respool.processors.edits import (
    AddHeader,
    Edit,
    InsertIntoBody,
    RedirectRecipient,
    RemoveHeader,
    RemoveRecipient,
    ReplaceHeader,
    SetSender,
    add_header,
    add_recipient,
    apply,
    divide,
    replace_body,
    set_queue,
    set_variable,
)
from respool.spool.body import CHUNK_SIZE
from respool.spool.envelope import Header, Recipient
from respool.spool.message import Message
from respool.testing import make_message

A, B, C = b"a@x.example", b"b@x.example", b"c@x.example"


def message(*recipients: bytes) -> Message:
    made = make_message()
    listed = tuple(Recipient.make(address) for address in recipients or (A, B, C))
    return Message(made.envelope.replace(recipients=listed), made.body)


def names(given: Message) -> list[bytes]:
    return [header.raw.partition(b":")[0] for header in given.headers]


def addresses(given: Message | None) -> list[bytes]:
    assert given is not None
    return [recipient.address for recipient in given.envelope.recipients]


def test_no_edits_give_the_very_message() -> None:
    given = message()
    applied = apply(given, ())
    assert applied.message is given
    assert not applied.body_replaced
    assert applied.queue is None


def test_indexes_are_those_of_the_message_as_given() -> None:
    given = message()
    before = names(given)
    last = len(before) - 1
    edits = (
        add_header("X-First", "1"),
        RemoveHeader(0),
        AddHeader(Header.make(b"X-Second", b"2"), "top"),
        ReplaceHeader(last, Header.make(b"X-Last", b"3")),
        add_header("X-End", "4", "end"),
    )
    applied = apply(given, edits)
    assert names(applied.message) == [b"X-Second", b"X-First", *before[1:last], b"X-Last", b"X-End"]
    assert not applied.body_replaced
    assert applied.message.body is given.body


@pytest.mark.parametrize("index", [-1, 10_000])
def test_an_index_outside_is_refused(index: int) -> None:
    for edit in (RemoveHeader(index), ReplaceHeader(index, Header.make(b"X", b"1"))):
        with pytest.raises(ValueError, match="no header record"):
            apply(message(), (edit,))


def test_the_index_after_the_last_is_outside() -> None:
    given = message()
    with pytest.raises(ValueError, match="no header record"):
        apply(given, (RemoveHeader(len(given.headers)),))


def test_the_envelope_edits() -> None:
    given = message(A, B, A, C)
    edits = (
        SetSender(b"s@y.example"),
        RemoveRecipient(B),
        add_recipient("d@x.example"),
        RedirectRecipient(A, b"e@x.example"),
        set_variable("acl_m_x", "1"),
        set_queue("later"),
    )
    applied = apply(given, edits)
    assert applied.message.sender == b"s@y.example"
    assert addresses(applied.message) == [b"e@x.example", b"e@x.example", C, b"d@x.example"]
    assert applied.queue == "later"
    assert [d.value for d in applied.message.envelope.directives if d.variable == "acl_m_x"] == [b"1"]
    assert applied.message.headers == given.headers


@pytest.mark.parametrize(("content", "becomes"), [(b"", b""), (b"x", b"x\n"), (b"x\n", b"x\n")])
def test_a_new_body_ends_with_a_line_end(content: bytes, becomes: bytes) -> None:
    applied = apply(message(), (replace_body(content),))
    assert applied.body_replaced
    assert b"".join(applied.message.body.chunks()) == becomes


def test_content_is_put_into_a_body_where_it_belongs() -> None:
    given = make_message(body=b"one\ntwo\n")
    edits = (
        InsertIntoBody(8, b"end\n"),
        InsertIntoBody(0, b"first\n"),
        InsertIntoBody(4, b"x" * 300_000 + b"\n"),
        InsertIntoBody(0, b"second\n"),
    )
    applied = apply(given, edits)
    assert applied.body_replaced
    chunks = list(applied.message.body.chunks())
    assert b"".join(chunks) == b"first\nsecond\none\n" + b"x" * 300_000 + b"\ntwo\nend\n"
    assert applied.message.body.size == sum(map(len, chunks))
    assert max(map(len, chunks)) <= CHUNK_SIZE
    assert applied.message.envelope.body_linecount == 6
    assert b"".join(given.body.chunks()) == b"one\ntwo\n"


@pytest.mark.parametrize(
    ("edits", "fault"),
    [
        ((InsertIntoBody(9, b"x\n"),), "no place 9"),
        ((InsertIntoBody(-1, b"x\n"),), "no place -1"),
        ((InsertIntoBody(8, b"x"),), "end with LF"),
        ((InsertIntoBody(0, b"x\n"), replace_body(b"y\n")), "replaced"),
    ],
)
def test_content_that_fits_nowhere(edits: tuple[Edit, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        apply(make_message(body=b"one\ntwo\n"), edits)


def test_names_of_queues() -> None:
    assert set_queue("q" * 64).queue == "q" * 64
    assert set_queue("").queue == ""
    for bad in ("q" * 65, "a/b", ".", "..", "ä", "a\n"):
        with pytest.raises(ValueError, match="name of a queue"):
            set_queue(bad)


def test_division_gives_each_recipient_to_one_part() -> None:
    given = message(A, B, C)
    first, second, third = divide(given, ((b"nobody@x.example",), (B, A), (A,)))
    assert addresses(first) == [C]
    assert addresses(second) == [A, B]
    assert third is None


def test_of_three_at_the_top_the_last_is_topmost() -> None:
    applied = apply(message(), (add_header("X-1", "a"), add_header("X-2", "b"), add_header("X-3", "c")))
    assert names(applied.message)[:3] == [b"X-3", b"X-2", b"X-1"]


def test_a_new_body_is_counted() -> None:
    applied = apply(message(), (replace_body(b"1\n2\n3\n4\n5\n6\n7\n"),))
    counts = [d.value for d in applied.message.envelope.directives if d.name == b"body_linecount"]
    assert counts == [b"7"]
