"""Every rule of the checker finds what it is for, and says where."""

import pytest

from respool.spool.body import BytesBody
from respool.spool.check import Finding, check_envelope, check_pair
from respool.spool.header_file import parse_header_file

NAME = "1xV9D2-0007Yr-05-H"
GOOD = b"""1xV9D2-0007Yr-05-H
root 0 0
<a@b.ex>
1795360228 0
-received_time_usec .422164
--(pgsql)auth_id x
-aclm _x 1
v
-body_linecount 2
YN m@x.ex
NN a@x.ex
2
r@x.ex
s@x.ex o 1,2  0,0#3

020P Received: from b.ex
008F From: a
"""


def findings(data: bytes, now: int = 1795360300) -> list[Finding]:
    return check_envelope(parse_header_file(data, file=NAME), file=NAME, now=now)


def test_nothing_is_wrong_with_a_good_file() -> None:
    assert findings(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "line", "rule", "severity"),
    [
        (b"root 0 0", b"root 0 0 ", 2, "identity-line", "error"),
        (b"root 0 0", b"ro\rot 0 0", 2, "carriage-return", "error"),
        (b"<a@b.ex>", b"<a@b\r.ex>", 3, "carriage-return", "error"),
        (b"1795360228 0", b"1795360228 0 x", 4, "time-line", "error"),
        (b"1795360228 0", b"1895360228 0", 4, "received-time", "error"),
        (b"1795360228 0", b"1795360228 -1", 4, "warning-count", "error"),
        (b".422164", b".4221640", 5, "microseconds", "error"),
        (
            b"-body_linecount 2\n",
            b"-body_linecount 2\n-received_time_complete 5.1000000\n",
            10,
            "microseconds",
            "error",
        ),
        (b"-aclm _x 1\nv\n", b"-aclm _x 1048577\n" + b"v" * 1048577 + b"\n", 7, "variable-size", "error"),
        (b"--(pgsql)", b"--(nonesuch)", 6, "quoter", "error"),
        (b"-aclm _x 1\nv\n", b"-aclm _x 1\nvv", 7, "variable-end", "error"),
        (b"-aclm _x 1", b"-aclm _-x 1", 7, "variable-name", "error"),
        (b"-aclm _x 1", b"-acl 3 1", 7, "old-variable", "error"),
        (b"-body_linecount 2\n", b"-body_linecount 2\n-spool_file_wireformat\n", 0, "body-format", "error"),
        (b"-body_linecount 2\n", b"", 0, "body-format", "error"),
        (b"-body_linecount 2\n", b"-body_linecount 2\n-N\n", 10, "forced", "note"),
        (b"-body_linecount 2\n", b"-body_linecount 2\n-debuglog_name /etc/x\n", 10, "forced", "note"),
        (b"-body_linecount 2\n", b"-body_linecount 2\n-debug_selector 0x1\n", 10, "forced", "note"),
        (b"-body_linecount 2\n", b"-body_linecount 2\n-frozen 1\n", 10, "forced", "note"),
        (b"-body_linecount 2\n", b"-body_linecount 2\n-other\n", 10, "unknown-directive", "note"),
        (b"NN a@x.ex", b"NN z@x.ex", 11, "tree-order", "error"),
        (b"NN a@x.ex", b"NN m@x.ex", 11, "tree-order", "error"),
        (b"NN a@x.ex", b"nn a@x.ex", 11, "tree-flags", "error"),
        (b"NN a@x.ex", b"YN b@x.ex\nNN a@x.ex", 10, "tree-balance", "error"),
        (b"NN a@x.ex", b"NN a@x\r.ex", 11, "carriage-return", "error"),
        (b"\n2\n", b"\n2 x\n", 12, "count-line", "error"),
        (b"\n2\nr@x.ex\ns@x.ex o 1,2  0,0#3\n", b"\n0\n", 12, "no-recipients", "error"),
        (b"\n2\nr@x.ex\ns@x.ex o 1,2  0,0#3\n", b"\n1\na@X.ex\n", 12, "all-delivered", "error"),
        (b"r@x.ex", b"r@x.ex 0", 13, "recipient-form", "error"),
        (b"r@x.ex", b"r@x\r.ex", 13, "carriage-return", "error"),
        (b"r@x.ex", b"r", 13, "recipient-domain", "error"),
        (b"0,0#3", b"0,2#3", 14, "recipient-parent", "error"),
        (b"1,2 ", b"1,32 ", 14, "dsn-flags", "error"),
        (b"008F", b"8F", 17, "record-start", "error"),
        (b"008F", b"008Q", 17, "header-type", "error"),
        (b"008F", b"008T", 17, "header-type", "note"),
        (b"008F From: a\n", b"007F From: a", 17, "header-end", "error"),
        (b"008F From: a\n", b"010F From: a\nb\n", 17, "header-fold", "error"),
        (b"008F From: a\n", b"009F Fro m: a\n", 17, "header-name", "error"),
        (b"008F From: a\n", b"000F 008F From: a\n", 17, "header-name", "error"),
        (b"008F From: a\n", b"008F  From: a\n", 17, "record-start", "error"),
        (b"008F From: a\n", b"009F From: a\r\n", 17, "carriage-return", "note"),
        (b"020P ", b"020  ", 0, "no-received", "note"),
    ],
)
def test_what_is_wrong_is_found(old: bytes, new: bytes, line: int, rule: str, severity: str) -> None:
    assert old in GOOD
    found = {(finding.line, finding.rule, finding.severity) for finding in findings(GOOD.replace(old, new, 1))}
    assert (line, rule, severity) in found


def test_too_many_received_fields() -> None:
    found = findings(GOOD + b"012P Received: x\n" * 30)
    assert [(finding.rule, finding.severity) for finding in found] == [("received-count", "error")]


def test_a_tree_that_would_exhaust_exims_stack() -> None:
    chain = b"".join(b"YN n%03d@x\n" % number for number in range(60, 0, -1)) + b"NN a@x.ex\n"
    found = findings(GOOD.replace(b"YN m@x.ex\nNN a@x.ex\n", chain))
    assert [(finding.rule, finding.line) for finding in found] == [("tree-depth", 50), ("tree-balance", 10)]


def test_with_resent_fields_these_carry_the_letters() -> None:
    assert findings(GOOD.replace(b"008F From: a\n", b"008  From: a\n015F Resent-From: a\n")) == []


def pair(
    header: bytes = GOOD, first: bytes = b"1xV9D2-0007Yr-05-D\n", body: bytes = b"1\n2\n", **names: str
) -> set[str]:
    found = check_pair(
        header_name=names.get("header_name", NAME),
        header_data=header,
        data_name=names.get("data_name", "1xV9D2-0007Yr-05-D"),
        first_line=first,
        body=BytesBody(body),
        now=1795360300,
    )
    return {finding.rule for finding in found}


def test_a_good_pair() -> None:
    assert pair() == set()


def test_w03_names_and_first_lines_have_to_agree() -> None:
    assert pair(first=b"1xV9D2-0007Yr-06-D\n") == {"data-first-line"}
    assert pair(first=b"1xV9D2") == {"data-first-line"}
    assert pair(header_name="1xV9D2-0007Yr-06-H") == {"header-file-name"}
    assert pair(data_name="1xV9D2-0007Yr-06-D") == {"data-file-name"}


def test_w06_a_wrong_line_count_is_found() -> None:
    assert pair(body=b"1\n") == {"body-linecount"}
    assert pair(body=b"1\n2\n3") == {"body-end"}
    assert pair(body=b"1\n\0\n") == {"body-zerocount"}


def test_a_file_that_cannot_be_read_is_one_finding() -> None:
    assert pair(header=b"") == {"format"}
