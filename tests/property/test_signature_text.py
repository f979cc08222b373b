"""Signature fields that are laid out here: read back as written, and unfolded as canonicalisation would do it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from respool.processors.authentication.canonicalization import relaxed_value
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.signature import parse_tag_list
from respool.processors.authentication.signature_text import fold_tags, unfolded
from respool.spool.body import BytesBody

_VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=";"), max_size=200)
_TAGS = st.dictionaries(st.sampled_from([b"a", b"c", b"d", b"h", b"i", b"s", b"t", b"bh"]), _VALUES).map(
    lambda tags: tuple((name, value.encode()) for name, value in tags.items())
)


@given(_TAGS.filter(bool), _TAGS, st.binary(max_size=300), st.booleans())
def test_unfolded_is_relaxed(
    before: tuple[tuple[bytes, bytes], ...],
    after: tuple[tuple[bytes, bytes], ...],
    signature: bytes,
    fold_base64: bool,
) -> None:
    first = dict(before)
    text = fold_tags(b"ARC-Seal", before, tuple((name, value) for name, value in after if name not in first))
    signed = text.with_signature(signature, fold_base64=fold_base64)
    assert unfolded(signed) == relaxed_value(signed)
    assert unfolded(text.value) == relaxed_value(text.value)
    read = parse_tag_list(signed)
    assert read.unsigned == text.value
    assert {name: b"".join(value.split()) for name, value in read.tags.items() if name != b"b"} == dict(after) | first


@given(st.lists(st.sampled_from([b"a", b"b", b"c"])), st.lists(st.sampled_from([b"a", b"b", b"c", b"d"])))
def test_selection_takes_each_field_once_from_below(present: list[bytes], names: list[bytes]) -> None:
    raw = [b"%b: %d\n" % (name, number) for number, name in enumerate(present)]
    left = list(raw)
    expected: list[bytes] = []
    for name in names:
        below = [field for field in left if field.startswith(name)]
        if below:
            expected.append(below[-1])
            left.remove(below[-1])
    message = AuthenticatedMessage(raw, BytesBody(b""))
    assert [field.raw for field in message.select(names)] == expected
