"""Where the reader of ``-H`` draws its lines: to the byte; and what it reads by its quick ways."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from respool.errors import SpoolFormatError
from respool.spool import header_file
from respool.spool.envelope import Envelope
from respool.spool.header_file import LONGEST_FIXED_LINE, parse_header_file, render_header_file
from respool.spool.spool_text import SpoolText
from tests.spool_corpus import SAMPLES, Sample

TREE = b"NN done@test.ex\n"


def header(
    directives: bytes = b"", *, tree: bytes = b"XX\n", recipients: int = 1, identity: bytes = b"root 0 0"
) -> bytes:
    return (
        b"1xV9DW-000000007cS-1lp7-H\n%b\n<sender@test.ex>\n1795360258 0\n%b%b%d\n%b\n016F From: a@test.ex\n"
        % (identity, directives, tree, recipients, b"a@test.ex\n" * recipients)
    )  # fmt: skip


def read(data: bytes) -> Envelope:
    """Read, and written again as it was."""
    envelope = parse_header_file(data, file="h")
    assert render_header_file(envelope) == data
    return envelope


@pytest.fixture
def quick_alone(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Takes away the function that reads what the quick way does not."""

    def take_away(name: str) -> None:
        def reached(*_: object) -> object:
            raise AssertionError(f"{name} was needed")

        monkeypatch.setattr(header_file, name, reached)

    return take_away


VARIABLES = b"-aclc 0 5\nconn1\n-aclm _foo 50\n" + b"v" * 50 + b"\n--aclm _x 2\n\n\n\n"


@pytest.mark.parametrize(
    "directives",
    [
        b"",
        b"-received_time_usec .422164\n--helo_name client.example\n-deliver_firsttime\n",
        VARIABLES,
        b"-N\n-ident x\n",
    ],
    ids=["none", "names", "variables", "capital"],
)
@pytest.mark.parametrize("message_id", [b"1xV9DW-000000007cS-1lp7", b"1xV9DW-00007c-2c"])
def test_a_usual_file_is_read_by_one_expression(
    quick_alone: Callable[[str], None], directives: bytes, message_id: bytes
) -> None:
    quick_alone("_read_envelope")
    read(header(directives, recipients=12).replace(b"1xV9DW-000000007cS-1lp7", message_id))


@pytest.mark.parametrize(("length", "is_quick"), [(LONGEST_FIXED_LINE, True), (LONGEST_FIXED_LINE + 1, False)])
def test_the_expression_reads_no_longer_envelope_than_a_line_may_be(
    monkeypatch: pytest.MonkeyPatch, length: int, is_quick: bool
) -> None:
    calls: list[SpoolText] = []
    by_steps = header_file._read_envelope

    def counted(text: SpoolText) -> Envelope:
        calls.append(text)
        return by_steps(text)

    monkeypatch.setattr(header_file, "_read_envelope", counted)
    rest = len(header(b"-ident \n").partition(b"016F")[0])
    read(header(b"-ident " + b"x" * (length - rest) + b"\n"))
    assert len(calls) == (0 if is_quick else 1)


@pytest.mark.parametrize(
    "directives",
    [
        b"-received_time_usec .422164\n--helo_name client.example\n-deliver_firsttime\n-N\n",
        b"-aclc 0 4\nconn\n--aclm _foo 1\na\n-aclm 5 0\n\n",
        b"-tls_peerdn " + b"x" * 900 + b"\n",
        b"-ident x\n" * 100,
    ],
    ids=["names", "variables", "long", "many"],
)
def test_usual_directives_are_looked_up_where_the_rest_is_unusual(
    quick_alone: Callable[[str], None], directives: bytes
) -> None:
    quick_alone("_read_other_directive")
    assert read(header(directives, tree=TREE)).tree[0].name == b"done@test.ex"


@pytest.mark.parametrize("value", [b"\n", b"a", b"XX\n", b"abc", b"\n\n\n", b"-N\n-N"])
def test_a_value_that_lies_beyond_what_was_split_ahead(value: bytes) -> None:
    """The name of the variable ends what is split; before it, so many bytes that it does."""
    name = b"-aclm _x %d\n" % len(value)
    for short in range(3):
        filling = b"-ident " + b"x" * (header_file._SPLIT_AHEAD - len(b"-ident \n") - len(name) - short) + b"\n"
        envelope = read(header(filling + name + value + b"\n-deliver_firsttime\n", tree=TREE))
        assert envelope.variables == {"acl_m_x": value}
        assert envelope.directives[-1].name == b"deliver_firsttime"


@pytest.mark.parametrize("tree", [b"XX\n", TREE], ids=["quick", "by-steps"])
def test_so_many_recipients_as_exim_takes(tree: bytes) -> None:
    assert len(read(header(tree=tree, recipients=16384)).recipients) == 16384
    with pytest.raises(SpoolFormatError, match="a number of recipients, at most 16384"):
        parse_header_file(header(tree=tree, recipients=16385), file="h")


def test_a_file_of_64_mebibytes_and_no_byte_more() -> None:
    largest = b"x" * (64 << 20)
    with pytest.raises(SpoolFormatError, match="a message id and -H"):
        parse_header_file(largest, file="h")
    with pytest.raises(SpoolFormatError, match="at most 67108864 bytes"):
        parse_header_file(largest + b"x", file="h")


def test_so_much_of_an_old_variable_as_exim_takes() -> None:
    value = b"v" * 16384
    assert read(header(b"-acl 10 16384\n" + value + b"\n")).variables == {"acl_m0": value}
    with pytest.raises(SpoolFormatError, match="at most 16384 bytes"):
        parse_header_file(header(b"-acl 10 16385\n" + value + b"v\n"), file="h")


def test_a_variable_without_a_name() -> None:
    for mark in (b"-", b"--(mysql)"):
        assert read(header(mark + b"aclc  3\nabc\n", tree=TREE)).directives[0].variable == "acl_c"


def test_a_value_that_ends_with_the_file() -> None:
    cut = header(b"-aclc 0 3\nabc\n", tree=TREE).partition(b"abc")[0] + b"abc"
    with pytest.raises(SpoolFormatError, match="an ACL variable with 3 bytes and LF after this line"):
        parse_header_file(cut, file="h")


@pytest.mark.parametrize(("mark", "column"), [(b"-", 8), (b"--", 9), (b"--(mysql)", 16)])
def test_where_the_time_of_freezing_should_stand(mark: bytes, column: int) -> None:
    with pytest.raises(SpoolFormatError, match="the time of freezing") as caught:
        parse_header_file(header(mark + b"frozen x\n"), file="h")
    assert (caught.value.line, caught.value.column) == (5, column)


def test_a_time_of_freezing_may_follow_at_once() -> None:
    read(header(b"-frozen1\n"))


@pytest.mark.parametrize("identity", [b"root 0 0X", b"root 0 X", b"root X 0"])
def test_nothing_but_white_space_follows_the_group(identity: bytes) -> None:
    with pytest.raises(SpoolFormatError, match="login, uid and gid"):
        parse_header_file(header(identity=identity), file="h")


def test_an_odd_line_of_the_owner_stays_until_the_owner_changes() -> None:
    envelope = read(header(identity=b"root  0 0 "))
    changed = render_header_file(envelope.replace(uid=7))
    assert changed.splitlines()[1] == b"root  7 0"


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_most_of_what_exim_writes_is_read_by_one_expression(sample: Sample) -> None:
    """All but those that have a tree, recipients with options, a quoter, a frozen message or long variables."""
    if header_file._COMMON_ENVELOPE.match(sample.header_data) is None:
        envelope = parse_header_file(sample.header_data, file=sample.header_path.name)
        assert (
            envelope.tree
            or envelope.is_frozen
            or any(recipient.raw != recipient.address + b"\n" for recipient in envelope.recipients)
            or any(directive.quoter is not None for directive in envelope.directives)
            or any(len(value) > 99 for value in envelope.variables.values())
        )
