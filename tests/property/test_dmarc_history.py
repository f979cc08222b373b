"""Whatever a stranger's message holds, its history record reads back as it was written."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from respool.processors.authentication.arc_chain import ArcSet
from respool.processors.authentication.arc_verify import ArcResult
from respool.processors.authentication.dkim_verify import DkimResult
from respool.processors.authentication.dmarc import Alignment, DmarcResult
from respool.processors.authentication.dmarc_record import DmarcRecord, parse_record
from respool.processors.authentication.spf import SpfResult
from respool.processors.dmarc_history_record import parse_records, record_of, render_record
from respool.processors.results import AuthResult, Result
from tests.unit.processors.processor_kit import make_message

words = st.one_of(st.text(max_size=20), st.sampled_from(["example.com", "s1", "a b", "x\ny", "-", "\x00", "é"]))
results = st.sampled_from(Result)
no_line_end = st.binary(max_size=30).map(lambda data: data.translate(None, b"\n\r\0<>"))
signatures = st.builds(DkimResult, result=results, domain=words, selector=words)
seals = st.builds(
    ArcSet, instance=st.integers(1, 50), seal_domain=words, seal_selector=words, remote_ip=st.sampled_from(["", "::1"])
)
records = st.builds(
    lambda tail: parse_record(b"v=DMARC1; " + tail),
    st.one_of(
        st.binary(max_size=60), st.sampled_from([b"p=reject; rua=mailto:a@b.example,mailto:c@d.example!1m; pct=3"])
    ),
)


@settings(max_examples=150, deadline=None)
@given(
    sender=no_line_end,
    helo=no_line_end,
    reporter=words,
    record=records,
    spf=results,
    dkim=st.lists(signatures, max_size=4),
    arc=st.lists(seals, max_size=3),
    overall=results,
    policy=st.sampled_from(["none", "quarantine", "reject"]),
    aligned=st.booleans(),
    action=st.integers(0, 4),
)
def test_written_and_read(
    sender: bytes,
    helo: bytes,
    reporter: str,
    record: DmarcRecord | None,
    spf: Result,
    dkim: list[DkimResult],
    arc: list[ArcSet],
    overall: Result,
    policy: Any,
    aligned: bool,
    action: int,
) -> None:
    message = make_message(sender=sender, helo=helo or b"h")
    found: list[AuthResult] = [
        SpfResult(method="spf", result=spf, domain="x"),
        *dkim,
        DmarcResult(
            method="dmarc",
            result=overall,
            policy=policy,
            author_domain="example.com",
            domain="example.com",
            record=record,
            alignment=Alignment(spf=aligned, dkim=not aligned),
        ),
        ArcResult(result=Result.PASS, sets=tuple(arc)),
    ]
    made = record_of(message, found, reporter=reporter, now=1.5, action=action)
    if record is None or overall not in {Result.PASS, Result.FAIL}:
        assert made is None
        return
    assert made is not None
    content = render_record(made)
    assert list(parse_records(content.splitlines(keepends=True))) == [made]
    assert list(parse_records((content * 2).splitlines(keepends=True))) == [made, made]
