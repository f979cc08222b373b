"""What became of a message, as values and as lines."""

from __future__ import annotations

from respool import (
    AddRecipient,
    Header,
    Message,
    Recipient,
    RemoveHeader,
    RemoveRecipient,
    ReplaceHeader,
    SetSender,
    add_header,
    replace_body,
    set_variable,
)
from respool.processors.edits import Edit, apply
from respool.sidecar.difference import Change, compare, document, render
from respool.spool.editing import freeze
from respool.testing import make_message


def changes(before: Message, *edits: Edit) -> list[tuple[str, str, bytes | None, bytes | None]]:
    after = apply(before, edits).message
    return [(change.what, change.name, change.before, change.after) for change in compare(before, after)]


def test_nothing_is_nothing() -> None:
    message = make_message()
    assert compare(message, message) == ()
    assert compare(message, make_message()) == (
        Change(what="body", before=b"15 bytes", after=b"15 bytes"),
    )  # two bodies, which nobody compares byte by byte


def test_each_kind_of_edit_is_one_change() -> None:
    message = make_message(variables={"acl_m_a": "1"})
    assert changes(message, add_header("X-A", "1")) == [("header", "X-A", None, b"X-A: 1\n")]
    assert changes(message, RemoveHeader(2)) == [("header", "Subject", b"Subject: test\n", None)]
    assert changes(message, ReplaceHeader(2, Header.make(b"Subject", b"other"))) == [
        ("header", "Subject", b"Subject: test\n", None),
        ("header", "Subject", None, b"Subject: other\n"),
    ]
    assert changes(message, SetSender(b"")) == [("sender", "", b"<alice@sender.example>", b"<>")]
    assert changes(message, set_variable("acl_m_a", "2")) == [("variable", "acl_m_a", b"1", b"2")]
    assert changes(message, set_variable("acl_m_b", "2")) == [("variable", "acl_m_b", None, b"2")]
    assert changes(message, AddRecipient(Recipient.make(b"c@x.example")), RemoveRecipient(b"bob@example.org")) == [
        ("recipient", "", b"bob@example.org", None),
        ("recipient", "", None, b"c@x.example"),
    ]
    (body,) = [change for change in changes(message, replace_body(b"x\n")) if change[0] == "body"]
    assert body == ("body", "", b"15 bytes", b"2 bytes")


def test_what_the_engine_does_shows_too() -> None:
    message = make_message()
    frozen = Message(freeze(message.envelope, 17), message.body)
    assert compare(message, frozen, queue="slow") == (
        Change(what="queue", after=b"slow"),
        Change(what="setting", name="frozen", after=b"17"),
    )


def test_one_of_several_equal_fields() -> None:
    message = make_message([("X-Same", "1"), ("X-Same", "1"), ("X-Same", "1")])
    assert changes(message, RemoveHeader(1)) == [("header", "X-Same", b"X-Same: 1\n", None)]
    assert changes(message, add_header("X-Same", "1")) == [("header", "X-Same", None, b"X-Same: 1\n")]


def test_a_field_turned_into_a_record_is_removed() -> None:
    message = make_message()
    headers = (Header("*", message.headers[0].raw), *message.headers[1:])
    after = Message(message.envelope.replace(headers=headers), message.body)
    assert [(change.name, change.after) for change in compare(message, after)] == [("From", None)]


def test_lines_hold_nothing_that_steers_a_terminal() -> None:
    evil = b"X-Evil: \x1b[31m\xff\r \xe2\x80\xae [bold]\n\tfolded \x07\n"
    before = make_message([evil], sender="a\x1bb@x.example", recipients=("\u202ea@x.example",))
    after = make_message([("From", "x@y.example")], variables={"acl_m_x": "two\nlines\x9b"})
    for unfolded in (False, True):
        lines = [text.plain for text in render(compare(before, after), unfolded=unfolded)]
        assert all(line.isprintable() and line[:2] in {"- ", "+ "} for line in lines), lines
    assert "[bold]" in " ".join(lines)
    assert sum(line.startswith("- X-Evil") for line in lines) == 1


def test_json_keeps_bytes_that_are_no_text() -> None:
    found = document([Change(what="header", name="X", before=b"X: \xff\n", after=b"X: y\n")])
    assert found == [{"what": "header", "name": "X", "before": {"b64": "WDog/wo="}, "after": "X: y\n"}]


def test_thousands_of_moved_fields_are_neither_added_nor_removed() -> None:
    names = [(f"X-{number}", "a" * (number % 7)) for number in range(5_000)]
    before, after = make_message(names), make_message(reversed(names))
    assert [change for change in compare(before, after) if change.what == "header"] == []
