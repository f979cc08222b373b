"""SRS for any address: what is rewritten comes back, and no input raises."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from respool.processors.srs_codec import EximSrs, SrsCodec, StandardSrs

NOW = 1_767_250_000.0
EXIM = EximSrs([b"mysecret", b"old"])
STANDARD = StandardSrs([b"mysecret", b"old"], separator="+", hash_length=8)
CODECS: list[SrsCodec] = [EXIM, STANDARD]

labels = st.text("abcxyzABC019", min_size=1, max_size=10)
domains = st.lists(labels, min_size=1, max_size=4).map(".".join).map(str.encode)
atoms = st.text("abcXYZ019!#$%&'*+-/=?^_`{|}~.", min_size=1, max_size=30).map(str.encode)
quoted = st.text('ab \t@,;:[](){}=+-.\\"', min_size=1, max_size=20).map(
    lambda text: b'"' + text.replace("\t", " ").replace("\\", "\\\\").replace('"', '\\"').encode() + b'"'
)
srs_like = st.from_regex(
    rb"(?i)\"?SRS[01][=+-][0-9a-z+/_=-]{0,12}(=[0-9A-Z]{0,3}){0,2}=[a-z.=@\"\\]{0,20}", fullmatch=True
)


@given(local=atoms | quoted, domain=domains)
def test_standard_comes_back(local: bytes, domain: bytes) -> None:
    sender = local + b"@" + domain
    forwarded = STANDARD.forward(sender, "fwd.example", NOW)
    if forwarded.problem:
        assert b"SRS" in sender.upper()
        return
    back = STANDARD.reverse(forwarded.address, NOW)
    if not local.startswith(b'"'):
        assert back.address == sender, back.problem
    else:  # quotes go where none are needed
        assert back.address.replace(b'"', b"") == sender.replace(b'"', b"") or b"\\" in sender


@given(local=atoms, domain=domains)
def test_exim_comes_back_in_lower_case(local: bytes, domain: bytes) -> None:
    sender = local + b"@" + domain
    back = EXIM.reverse(EXIM.forward(sender, "fwd.example", NOW).address, NOW)
    assert back.address == sender.lower(), back.problem


@given(address=st.binary(max_size=300) | srs_like | atoms)
def test_nothing_raises_and_nothing_odd_comes_out(address: bytes) -> None:
    for codec in CODECS:
        for found in (codec.reverse(address, NOW), codec.forward(address, "fwd.example", NOW)):
            assert bool(found.address) is not bool(found.problem)
            assert not any(byte in b"\n\r\0<>" for byte in found.address)
