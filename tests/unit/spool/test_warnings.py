"""The warnings of Exim's documentation that no other test of this folder is named after.

All of W1-W16 have one: here, beside what they concern (grep for ``test_w``), W5 and W16
also in tests/fault; test_every_warning_has_its_test sees to it.
"""

from __future__ import annotations

import re

import pytest

from respool.spool.editing import add_header, add_non_recipients, modern_recipients, set_variable, with_body
from respool.spool.envelope import Header
from tests.conftest import CHECKOUT
from tests.spool_corpus import SAMPLES, Sample

ROOMS = ("errors", "lookups", "processors", "requeue", "sidecar")
#: What only somebody who reads or writes the format by himself would write down.
FORMAT = re.compile(r"""%03d%c|b"XX\\n|b"-aclm|b"-aclc|b"-frozen|spool_file_wireformat|#3\\n|F_OFD_SETLK|"hdr\.""")


def test_every_warning_has_its_test() -> None:
    named = {
        int(number)
        for folder in ("unit", "fault", "integration")
        for path in (CHECKOUT / "tests" / folder).rglob("*.py")
        for number in re.findall(r"^def test_w(\d\d)_", path.read_text(), re.MULTILINE)
    }
    assert named == set(range(1, 17))


def test_w02_the_format_is_known_to_this_folder_alone() -> None:
    for room in ROOMS:
        for path in (CHECKOUT / room).rglob("*.py"):
            found = FORMAT.search(path.read_text())
            assert found is None, f"{path.relative_to(CHECKOUT)} knows of the spool format: {found[0]}"
    everything = "".join(path.read_text() for path in (CHECKOUT / "spool").glob("*.py"))
    assert len(set(FORMAT.findall(everything))) >= 3, "the test looks for what nobody writes any more"


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_w07_no_edit_of_the_envelope_touches_the_body(sample: Sample) -> None:
    message = sample.message
    before = b"".join(message.body.chunks())
    edited = set_variable(modern_recipients(message.envelope), "acl_m_respool", b"1")
    edited = with_body(edited, message.body)
    assert b"".join(message.body.chunks()) == before == sample.body_bytes
    # The counts that go with it stay true: nothing about the body was changed.
    assert edited.body_linecount == sample.envelope.body_linecount
    assert edited.is_wireformat == sample.envelope.is_wireformat


@pytest.mark.parametrize("sample", SAMPLES, ids=repr)
def test_w08_fields_that_no_edit_names_keep_every_byte(sample: Sample) -> None:
    """So what was signed stays signed: a field is added, and the others are the same bytes in the same order."""
    edited = add_header(sample.envelope, Header.make(b"X-New", b"one\n\ttwo"))
    edited = add_non_recipients(set_variable(edited, "acl_m_x", b"1"), [b"done@example.test"])
    kept = [header for header in edited.headers if header.name != b"X-New"]
    assert kept == list(sample.envelope.headers)
    assert len(edited.headers) == len(kept) + 1
