import itertools
from collections.abc import Callable

import pytest

from respool.spool.body import BytesBody
from respool.spool.editing import (
    LONGEST_TREE_NAME,
    add_header,
    add_non_recipients,
    add_recipient,
    freeze,
    keep_recipients,
    modern_recipients,
    redirect_recipient,
    remove_directive,
    remove_header,
    remove_recipients,
    remove_variable,
    replace_header,
    set_directive,
    set_directives,
    set_recipients,
    set_sender,
    set_variable,
    thaw,
    with_body,
    with_id,
)
from respool.spool.envelope import Directive, Envelope, Header, Recipient
from respool.spool.header_file import LONGEST_FIXED_LINE, MOST_RECIPIENTS, parse_header_file, render_header_file
from respool.spool.ids import MessageId
from respool.spool.journal import merge_journal, parse_journal
from tests.spool_corpus import SAMPLES, Sample

HEADER_FILE = b"""1xV9DW-000000007cS-1lp7-H
root 0 0
<sender@test.ex>
1795360258 0
-received_time_usec .422164
--helo_name client.example
-aclc 0 4
conn
-aclm _foo 3
a
b
-future_thing yes
-body_linecount 2
-max_received_linelength 15
-deliver_firsttime
-tls_resumption A
XX
4
a@test.ex
b@test.ex rfc822;b 8,4 err@test.ex 11,0#3
c@test.ex  0,2  0,1#3
d@test.ex  0,0  0,-1#3

016F From: a@test.ex
007* X: old
014T To: b@test.ex
"""


@pytest.fixture
def envelope() -> Envelope:
    return parse_header_file(HEADER_FILE, file="x")


def changed_lines(before: bytes, after: Envelope) -> tuple[list[bytes], list[bytes]]:
    """(lines that went, lines that came)."""
    old, new = before.split(b"\n"), render_header_file(after).split(b"\n")
    return [line for line in old if line not in new], [line for line in new if line not in old]


def test_header_edits_touch_no_other_byte(envelope: Envelope) -> None:
    field = Header.make(b"X-New", b"one\n\ttwo")
    record = b"016  X-New: one\n\ttwo\n"
    assert render_header_file(add_header(envelope, field)) == HEADER_FILE.replace(b"016F", record + b"016F")
    assert render_header_file(add_header(envelope, field, at="end")) == HEADER_FILE + record
    assert render_header_file(remove_header(envelope, 0)) == HEADER_FILE.replace(b"016F From: a@test.ex\n", b"")
    kept = remove_header(envelope, 0, keep_record=True)
    assert render_header_file(kept) == HEADER_FILE.replace(b"016F From", b"016* From")
    replaced = replace_header(envelope, 2, field)
    assert render_header_file(replaced) == HEADER_FILE.replace(b"014T To: b@test.ex\n", record)


def test_header_edits_reverted_give_the_same_file(envelope: Envelope) -> None:
    assert render_header_file(remove_header(add_header(envelope, Header.make(b"X", b"y")), 0)) == HEADER_FILE


@pytest.mark.parametrize("index", [-1, 3])
def test_there_is_no_header_outside_of_the_list(envelope: Envelope, index: int) -> None:
    with pytest.raises(ValueError, match="no element"):
        remove_header(envelope, index)
    with pytest.raises(ValueError, match="no element"):
        replace_header(envelope, index, envelope.headers[0])


def test_a_field_that_is_replaced_leaves_those_around_it(envelope: Envelope) -> None:
    field = Header.make(b"X-New", b"one")
    for index in range(3):
        expected = list(envelope.headers)
        expected[index] = field
        assert replace_header(envelope, index, field).headers == tuple(expected)


@pytest.mark.parametrize("index", [-1, 4])
def test_there_is_no_recipient_outside_of_the_list(envelope: Envelope, index: int) -> None:
    for change in (keep_recipients, remove_recipients):
        with pytest.raises(ValueError, match="no element"):
            change(envelope, [0, index])
    with pytest.raises(ValueError, match="no element"):
        redirect_recipient(envelope, index, b"x@test.ex")


@pytest.mark.parametrize("value", [b"a\nEvil: yes", b"a\r\nEvil: yes", b"a\0", b"a\n", b"a\n \n", b"a\rb"])
def test_no_header_injection(value: bytes) -> None:
    with pytest.raises(ValueError):
        Header.make(b"X", value)


@pytest.mark.parametrize("name", [b"", b"X Y", b"X:", b"X\n", b"\xc3\xa4"])
def test_no_header_name_injection(name: bytes) -> None:
    with pytest.raises(ValueError):
        Header.make(name, b"v")


@pytest.mark.parametrize("sender", [b"a@b\nc", b"a\0", b"<a@b>", b"a" * 20000])
def test_no_sender_injection(envelope: Envelope, sender: bytes) -> None:
    with pytest.raises(ValueError):
        set_sender(envelope, sender)


def test_set_sender(envelope: Envelope) -> None:
    assert changed_lines(HEADER_FILE, set_sender(envelope, b"")) == ([b"<sender@test.ex>"], [b"<>"])
    every_other_byte = bytes(byte for byte in range(1, 256) if byte not in b"\n\r<>")
    assert set_sender(envelope, every_other_byte).sender == every_other_byte


def test_with_id_changes_the_first_line_only(envelope: Envelope) -> None:
    other = with_id(envelope, MessageId("1xV9D2-0007Yr-05"))
    assert render_header_file(other) == HEADER_FILE.replace(b"1xV9DW-000000007cS-1lp7", b"1xV9D2-0007Yr-05")


def test_a_directive_is_replaced_in_its_place(envelope: Envelope) -> None:
    other = set_directive(envelope, Directive.make(b"helo_name", b"x", tainted=True))
    assert changed_lines(HEADER_FILE, other) == ([b"--helo_name client.example"], [b"--helo_name x"])


def test_a_new_directive_takes_exims_place_and_unknown_ones_stay(envelope: Envelope) -> None:
    names = [directive.name for directive in set_directive(envelope, Directive.make(b"auth_id", b"u")).directives]
    assert names == [
        b"received_time_usec", b"helo_name", b"aclc", b"aclm", b"future_thing", b"body_linecount",
        b"max_received_linelength", b"auth_id", b"deliver_firsttime", b"tls_resumption",
    ]  # fmt: skip


def test_repeated_directives_become_one(envelope: Envelope) -> None:
    twice = envelope.replace(directives=(Directive.make(b"helo_name", b"first"), *envelope.directives))
    once = set_directive(twice, Directive.make(b"helo_name", b"last"))
    assert [d.value for d in once.directives if d.name == b"helo_name"] == [b"last"]
    assert not [d for d in remove_directive(twice, b"helo_name").directives if d.name == b"helo_name"]


def test_variables_keep_exims_group_order(envelope: Envelope) -> None:
    edited = set_variable(set_variable(envelope, "acl_m_respool", b"1"), "acl_c_new", b"")
    order = [directive.variable for directive in edited.directives if directive.variable]
    assert order == ["acl_c0", "acl_c_new", "acl_m_foo", "acl_m_respool"]
    again = set_variable(edited, "acl_m_foo", b"x\n")
    assert [directive.variable for directive in again.directives if directive.variable] == order
    assert parse_header_file(render_header_file(again), file="x").variables == {
        "acl_c0": b"conn", "acl_c_new": b"", "acl_m_foo": b"x\n", "acl_m_respool": b"1",
    }  # fmt: skip
    assert "acl_m_foo" not in remove_variable(again, "acl_m_foo").variables


def test_several_directives_at_once_are_set_as_one_after_the_other(envelope: Envelope) -> None:
    wanted = [
        Directive.make_variable("acl_m_a", b"1"),
        Directive.make(b"no_such", b"x"),
        Directive.make_variable("acl_c_a", b"2"),
        Directive.make(b"helo_name", b"x"),
        Directive.make(b"not_this_one_either"),
        Directive.make_variable("acl_m_foo", b"3"),
        Directive.make_variable("acl_m_b", b"4"),
        Directive.make(b"no_such", b"y"),
        Directive.make_variable("acl_m_a", b"5"),
    ]
    one_by_one = envelope
    for directive in wanted:
        one_by_one = set_directive(one_by_one, directive)
    assert set_directives(envelope, wanted).directives == one_by_one.directives
    assert one_by_one.variables["acl_m_a"] == b"5"


@pytest.mark.parametrize("variable", ["acl_x_a", "acl_m", "acl_m-a", "acl_m_a b", "acl_ma", "acl_m_\n"])
def test_no_variable_name_injection(envelope: Envelope, variable: str) -> None:
    with pytest.raises(ValueError):
        set_variable(envelope, variable, b"")


def test_freeze_and_thaw_as_exim(envelope: Envelope) -> None:
    frozen = freeze(envelope, 1795360300)
    assert (frozen.is_frozen, frozen.frozen_since) == (True, 1795360300)
    thawed = thaw(frozen)
    assert (thawed.is_frozen, thawed.is_manually_thawed) == (False, True)
    assert not freeze(thawed, 1795360400).is_manually_thawed
    assert thaw(envelope) is envelope


def test_removed_recipients_take_their_indexes_along(envelope: Envelope) -> None:
    rest = remove_recipients(envelope, [0])
    assert [(recipient.address, recipient.parent) for recipient in rest.recipients] == [
        (b"b@test.ex", -1), (b"c@test.ex", 0), (b"d@test.ex", -1),
    ]  # fmt: skip
    assert b"\n3\nb@test.ex rfc822;b 8,4 err@test.ex 11,-1#3\nc@test.ex  0,2  0,0#3\n" in render_header_file(rest)


def test_recipients_not_touched_keep_their_bytes(envelope: Envelope) -> None:
    rest = keep_recipients(envelope, {0, 3})
    assert [recipient.raw for recipient in rest.recipients] == [b"a@test.ex\n", b"d@test.ex  0,0  0,-1#3\n"]


def test_redirect_keeps_what_the_sender_asked_for(envelope: Envelope) -> None:
    redirected = redirect_recipient(envelope, 1, b"z@other.ex")
    assert redirected.recipients[1].raw == b"z@other.ex rfc822;b 8,4 err@test.ex 11,0#3\n"


def test_a_message_keeps_at_least_one_recipient_and_at_most_exims_number(envelope: Envelope) -> None:
    with pytest.raises(ValueError):
        remove_recipients(envelope, range(4))
    with pytest.raises(ValueError):
        set_recipients(envelope, [Recipient.make(b"a@b")] * 16385)
    assert len(add_recipient(envelope, Recipient.make(b"e@test.ex")).recipients) == 5


def test_parents_outside_of_the_list_are_refused(envelope: Envelope) -> None:
    with pytest.raises(ValueError):
        add_recipient(envelope, Recipient.make(b"e@test.ex", parent=9))


def test_old_recipient_forms_are_made_modern() -> None:
    old = HEADER_FILE.replace(
        b"4\na@test.ex\nb@test.ex rfc822;b 8,4 err@test.ex 11,0#3\nc@test.ex  0,2  0,1#3\nd@test.ex  0,0  0,-1#3\n",
        b"4\na@test.ex err@x.ex 8,-1#1\nb@test.ex rfc822;b 8,4#2\nc@test.ex 0\nd@test.ex 0,1,0\n",
    )
    envelope = parse_header_file(old, file="x")
    assert render_header_file(envelope) == old
    assert [recipient.raw for recipient in modern_recipients(envelope).recipients] == [
        b"a@test.ex  0,0 err@x.ex 8,-1#3\n",
        b"b@test.ex rfc822;b 8,4  0,-1#3\n",
        b"c@test.ex  0,0  0,0#3\n",
        b"d@test.ex  0,0  0,1#3\n",
    ]


@pytest.mark.parametrize("address", [b"x 5", b"5", b"x,1", b"x 1,2", b"a#3", b"x "])
def test_an_address_that_ends_like_another_form_is_not_written_plain(envelope: Envelope, address: bytes) -> None:
    written = render_header_file(set_recipients(envelope, [Recipient.make(address)]))
    assert [recipient.address for recipient in parse_header_file(written, file="x").recipients] == [address]


def test_modern_recipients_are_left_alone(envelope: Envelope) -> None:
    assert modern_recipients(envelope) is envelope


def test_w09_the_journal_is_merged_into_the_tree(envelope: Envelope) -> None:
    merged = merge_journal(envelope, b"b@test.ex\na@test.ex\nb@test.ex\n\xe4@test.ex\n")
    assert [node.name for node in merged.tree] == [b"b@test.ex", b"a@test.ex", b"\xe4@test.ex"]
    assert [merged.is_delivered(recipient) for recipient in merged.recipients] == [True, True, False, False]
    assert merge_journal(merged, b"a@test.ex\n") is merged


def test_a_torn_journal_line_is_left_out() -> None:
    assert parse_journal(b"a@test.ex\n\0\0\0\0\nb@test.ex\n\nc@test.e") == (b"a@test.ex", b"b@test.ex")
    assert parse_journal(b"") == ()
    assert parse_journal(b"x" * 20000 + b"\n") == ()


@pytest.mark.parametrize("name", [b"", b"a\nb", b"a\0", b"a" * 16380])
def test_no_tree_injection(envelope: Envelope, name: bytes) -> None:
    with pytest.raises(ValueError):
        add_non_recipients(envelope, [name])


def test_w06_the_counts_follow_the_body(envelope: Envelope) -> None:
    edited = with_body(envelope, BytesBody(b"one\ntwo\0\n" + b"x" * 100 + b"\n"))
    assert (edited.body_linecount, edited.body_zerocount, edited.max_received_linelength) == (3, 1, 100)
    assert with_body(edited, BytesBody(b"")).values == {**envelope.values, b"body_linecount": b"0"}


def test_w15_a_wire_format_body_has_a_flag_and_no_line_count(envelope: Envelope) -> None:
    edited = with_body(envelope, BytesBody(b"one\r\ntwo", wireformat=True))
    assert edited.is_wireformat
    assert edited.body_linecount is None
    back = with_body(edited, BytesBody(b"one\ntwo\n"))
    assert (back.is_wireformat, back.body_linecount) == (False, 2)
    assert render_header_file(back) == HEADER_FILE


def test_a_local_body_has_to_end_with_a_line_end(envelope: Envelope) -> None:
    with pytest.raises(ValueError):
        with_body(envelope, BytesBody(b"one"))


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_the_counts_of_real_bodies_are_found_again(sample: Sample) -> None:
    edited = with_body(sample.envelope, sample.message.body)
    assert edited.body_linecount == sample.envelope.body_linecount
    assert edited.body_zerocount == sample.envelope.body_zerocount or sample.envelope.is_wireformat
    # Exim's own Received field was not received, and may hold the longest line.
    assert edited.max_received_linelength >= sample.envelope.max_received_linelength or sample.envelope.is_wireformat


def test_an_envelope_can_not_be_changed(envelope: Envelope) -> None:
    name = "sender"
    with pytest.raises(AttributeError):
        setattr(envelope, name, b"x")


def test_edits_commute_where_they_touch_different_things(envelope: Envelope) -> None:
    edits: list[Callable[[Envelope], Envelope]] = [
        lambda e: set_sender(e, b"s@x.ex"),
        lambda e: set_variable(e, "acl_m_a", b"1"),
        lambda e: add_non_recipients(e, [b"a@test.ex"]),
        lambda e: add_header(e, Header.make(b"X", b"y")),
    ]
    results: set[bytes] = set()
    for order in itertools.permutations(edits):
        edited = envelope
        for edit in order:
            edited = edit(edited)
        results.add(render_header_file(edited))
    assert len(results) == 1


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_a_directive_taken_out_and_set_again_is_where_exim_had_it(sample: Sample) -> None:
    envelope = sample.envelope
    names = [directive.name for directive in envelope.directives]
    for directive in envelope.directives:
        if names.count(directive.name) == 1 and directive.variable is None:
            without = remove_directive(envelope, directive.name)
            assert len(without.directives) == len(names) - 1
            assert set_directive(without, directive).directives == envelope.directives


def test_what_just_fits_is_written_and_read_again() -> None:
    envelope = parse_header_file(HEADER_FILE, file="h")
    sender = b"s" * (LONGEST_FIXED_LINE - 3)
    name = b"n" * LONGEST_TREE_NAME
    assert len(b"NN " + name + b"\n") == LONGEST_FIXED_LINE
    largest = add_non_recipients(set_sender(envelope, sender), [name, b"n"])
    read = parse_header_file(render_header_file(largest), file="h")
    assert read.sender == sender
    assert read.non_recipients == {name, b"n"}
    with pytest.raises(ValueError, match="sender"):
        set_sender(envelope, sender + b"s")
    with pytest.raises(ValueError, match="tree"):
        add_non_recipients(envelope, [name + b"n"])


def test_the_parent_of_a_recipient_is_in_the_list() -> None:
    envelope = parse_header_file(HEADER_FILE, file="h")

    def listed(parent: int) -> tuple[Recipient, ...]:
        return Recipient.make(b"a@x.example"), Recipient.make(b"b@x.example", parent=parent)

    for parent in (-1, 0, 1):
        assert set_recipients(envelope, listed(parent)).recipients[1].parent == parent
    for parent in (-2, 2):
        with pytest.raises(ValueError, match="parent"):
            set_recipients(envelope, listed(parent))


def test_the_number_of_recipients_is_bounded() -> None:
    envelope = parse_header_file(HEADER_FILE, file="h")
    most = (Recipient.make(b"a@x.example"),) * MOST_RECIPIENTS
    assert len(set_recipients(envelope, most).recipients) == MOST_RECIPIENTS
    for bad in ((), (*most, most[0])):
        with pytest.raises(ValueError, match="recipients"):
            set_recipients(envelope, bad)


def test_a_body_of_nothing_has_no_line_of_any_length(envelope: Envelope) -> None:
    bare = with_body(envelope.replace(headers=()), BytesBody(b""))
    assert bare.max_received_linelength == 0


def test_a_variable_that_nobody_calls_tainted_is_not(envelope: Envelope) -> None:
    assert changed_lines(HEADER_FILE, set_variable(envelope, "acl_m_new", b"v"))[1] == [b"-aclm _new 1", b"v"]


def test_the_acl_variables_of_old_have_their_place_too() -> None:
    """``-acl`` with a number, which Exim wrote before 4.61."""
    old = HEADER_FILE.replace(b"-aclc 0 4\nconn\n", b"-acl 0 4\nconn\n").replace(b"-aclm _foo 3\na\nb\n", b"")
    edited = set_directive(parse_header_file(old, file="h"), Directive.make(b"ident", b"x"))
    names = [directive.name for directive in edited.directives]
    assert names.index(b"ident") == names.index(b"acl") - 1


@pytest.mark.parametrize(
    ("name", "following"),
    [
        (b"debug_selector", b"body_linecount"),
        (b"debuglog_name", b"body_linecount"),
        (b"host_lookup_deferred", b"tls_resumption"),
        (b"local_scan", b"tls_resumption"),
        (b"tls_ocsp", b"tls_resumption"),
    ],
)
def test_directives_that_the_samples_lack_have_their_place_too(name: bytes, following: bytes) -> None:
    envelope = set_directive(parse_header_file(HEADER_FILE, file="h"), Directive.make(name, b"x"))
    names = [directive.name for directive in envelope.directives]
    assert names.index(name) < names.index(following)
