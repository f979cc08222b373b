"""Line ends and counts do not depend on where a chunk ends."""

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from respool.spool.body import BytesBody, SplicedBody, count_body, local_chunks, wire_chunks

pieces = st.lists(
    st.text("\r\n\0a", max_size=6).map(str.encode).filter(bool), max_size=12
)  # fmt: skip


class PiecewiseBody:
    """A body that comes in the pieces given."""

    def __init__(self, chunks: list[bytes], *, wireformat: bool) -> None:
        self._chunks = chunks
        self.wireformat = wireformat
        self.size = sum(map(len, chunks))

    def chunks(self) -> Iterator[bytes]:
        return iter(self._chunks)


@given(pieces)
def test_local_to_wire_and_back(chunks: list[bytes]) -> None:
    local = b"".join(chunks)
    wire = list(wire_chunks(PiecewiseBody(chunks, wireformat=False)))
    assert b"".join(wire) == local.replace(b"\n", b"\r\n")
    assert b"".join(local_chunks(PiecewiseBody(wire, wireformat=True))) == local


@given(pieces)
def test_wire_to_local_takes_one_cr_before_each_lf(chunks: list[bytes]) -> None:
    wire = b"".join(chunks)
    assert b"".join(local_chunks(PiecewiseBody(chunks, wireformat=True))) == wire.replace(b"\r\n", b"\n")


@given(pieces, st.booleans())
def test_counts(chunks: list[bytes], wireformat: bool) -> None:
    stored = b"".join(chunks)
    local = stored.replace(b"\r\n", b"\n") if wireformat else stored
    counts = count_body(PiecewiseBody(chunks, wireformat=wireformat))
    assert counts.lines == local.count(b"\n")
    assert counts.zeros == stored.count(b"\0")
    assert counts.longest_line == max(map(len, local.split(b"\n")))
    assert counts.ends_with_line_end == (local.endswith(b"\n") or not local)
    assert counts == count_body(BytesBody(stored, wireformat=wireformat))


@given(pieces, st.data())
def test_insertions_stand_where_they_should_however_the_body_comes(chunks: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(chunks)
    contents = st.sampled_from([b"", b"1", b"23\n"])
    insertions = data.draw(st.lists(st.tuples(st.integers(0, len(whole)), contents), max_size=5))
    spliced = SplicedBody(PiecewiseBody(chunks, wireformat=True), insertions)
    expected = b"".join(
        b"".join(content for place, content in insertions if place == at) + whole[at : at + 1]
        for at in range(len(whole) + 1)
    )
    assert b"".join(spliced.chunks()) == expected
    assert spliced.size == len(expected)
    assert spliced.wireformat
