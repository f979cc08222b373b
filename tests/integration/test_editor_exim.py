"""A real Exim as judge of what the editor writes: it lists and delivers it, byte for byte."""

from __future__ import annotations

import os
import random
import re
from collections import Counter

import pytest

from respool.spool.body import Body, BytesBody, local_chunks, wire_chunks
from respool.spool.check import check_envelope
from respool.spool.editing import (
    add_header,
    add_non_recipients,
    add_recipient,
    freeze,
    modern_recipients,
    redirect_recipient,
    remove_directive,
    remove_header,
    remove_recipients,
    remove_variable,
    replace_header,
    set_sender,
    set_variable,
    thaw,
    with_body,
    with_id,
)
from respool.spool.envelope import Envelope, Header, Recipient, unique_form
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import IdMinter, MessageId
from respool.spool.journal import merge_journal
from tests.spool_corpus import SAMPLES, Sample, load

from .conftest import EximFactory
from .exim import Exim

pytestmark = pytest.mark.exim

#: The samples name quoters of this lookup; an Exim without it does not read them.
READS_THE_SAMPLES = pytest.mark.exim("sqlite")


def put(exim: Exim, envelope: Envelope, body: bytes) -> None:
    """A pair into the spool of an Exim that is not running."""
    directory = exim.input_directory()
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in (
        (envelope.id.data_name, envelope.id.data_name.encode() + b"\n" + body),
        (envelope.id.header_name, render_header_file(envelope)),
    ):
        (directory / name).write_bytes(content)
        os.chown(directory / name, exim.uid, exim.gid)
        (directory / name).chmod(0o640)
    for made in (directory, directory.parent):
        os.chown(made, exim.uid, exim.gid)


def edited(sample: Sample, message_id: MessageId, body: Body) -> Envelope:
    """The sample under another id, with an edit of every kind that leaves it deliverable."""
    envelope = modern_recipients(with_id(sample.envelope, message_id))
    # -N would fake the deliveries.
    envelope = thaw(freeze(remove_directive(envelope, b"N"), 1795360300))
    envelope = remove_variable(set_variable(envelope, "acl_c_gone", b"x"), "acl_c_gone")
    envelope = set_variable(envelope, "acl_m_respool", b"edited\nhere")
    if envelope.sender[:1].isalnum():
        envelope = set_sender(envelope, b"editor+" + envelope.sender)
    sent = [index for index, header in enumerate(envelope.headers) if header.is_sent]
    if sent:
        envelope = replace_header(envelope, sent[-1], Header.make(b"X-Instead", b"another"))
        envelope = remove_header(envelope, sent[0], keep_record=True)
    envelope = add_header(envelope, Header.make(b"X-Edited", b"folded\n\tvalue"))
    envelope = add_header(envelope, Header.make(b"X-Edited", b"at the end"), at="end")
    # So that there is somebody left, whoever has got it already.
    envelope = add_recipient(envelope, Recipient.make(b"added@editor.example"))
    first = envelope.recipients[0].address
    if len(envelope.recipients) > 3:
        envelope = remove_recipients(envelope, [1])
        envelope = redirect_recipient(envelope, 1, b"redirected@editor.example")
    envelope = add_non_recipients(envelope, [first, b"somebody@else.example"])
    return with_body(envelope, body)


def in_the_other_form(body: Body) -> Body:
    """A local-format body in wire format, and the other way round, with a final LF then."""
    if body.wireformat:
        local = b"".join(local_chunks(body))
        return BytesBody(local if local.endswith(b"\n") or not local else local + b"\n")
    return BytesBody(b"".join(wire_chunks(body)), wireformat=True)


def left(envelope: Envelope) -> list[bytes]:
    """What Exim has still to deliver to; equal addresses count once."""
    return [recipient.address for recipient in envelope.recipients if not envelope.is_delivered(recipient)]


@READS_THE_SAMPLES
@pytest.mark.parametrize("is_converted", [False, True], ids=["body-as-it-was", "body-converted"])
def test_exim_delivers_what_the_editor_wrote(start_exim: EximFactory, is_converted: bool) -> None:
    exim = start_exim(listen=False, routers="everything:\n  driver = accept\n  transport = inbox\n")
    # An Exim before 4.97 knows short ids only.
    minter = IdMinter(long=False)
    messages: dict[str, tuple[Sample, Envelope, Body]] = {}
    for sample in SAMPLES:
        body = in_the_other_form(sample.message.body) if is_converted else sample.message.body
        envelope = edited(sample, minter.mint(), body)
        assert left(envelope)
        assert [f for f in check_envelope(envelope, file="f", now=2_000_000_000) if f.severity == "error"] == []
        put(exim, envelope, b"".join(body.chunks()))
        messages[str(envelope.id)] = (sample, envelope, body)
    assert len(messages) == len(SAMPLES)

    listed = exim.command("-bp")
    assert "spool format error" not in listed
    assert set(re.findall(r"\S{6}-\S{6}-\S\S", listed)) == set(messages)

    exim.run_queue(force=True)

    assert exim.panic_log() == ""
    deliveries = exim.deliveries()
    seen = Counter(delivery.id for delivery in deliveries)
    for message_id, (sample, envelope, _) in messages.items():
        expected = {unique_form(address).lower() for address in left(envelope)}
        # Without brackets or quotes no two of these differ by their spelling alone.
        assert seen[message_id] == len(expected), (sample, exim.log())
    for delivery in deliveries:
        if delivery.id not in messages:
            # Exim's own notice to a sender who asked for one with NOTIFY=SUCCESS.
            assert delivery.sender == ""
            continue
        sample, envelope, body = messages[delivery.id]
        fields = b"".join(header.raw for header in envelope.headers if header.is_sent)
        assert delivery.content == fields + b"\n" + b"".join(local_chunks(body)), sample
        assert delivery.sender.encode("utf-8", "surrogateescape") == envelope.sender
        assert delivery.variables["acl_m_respool"] == r"edited\nhere"


@READS_THE_SAMPLES
def test_exim_reads_files_that_nobody_edited(start_exim: EximFactory) -> None:
    exim = start_exim(listen=False)
    samples = [sample for sample in load("spool-496") if "J" not in sample.entry["files"]]
    for sample in samples:
        put(exim, sample.envelope, sample.body_bytes)
    listed = exim.command("-bp")
    assert "spool format error" not in listed
    for sample in samples:
        assert f" {sample.id} " in listed
    shown = exim.command("-Mvh", samples[0].id)
    assert shown.encode() == samples[0].header_data


def test_exim_agrees_on_what_is_delivered_in_a_large_tree(start_exim: EximFactory) -> None:
    exim = start_exim(listen=False)
    sample = next(sample for sample in SAMPLES if sample.case == "rcpt200")
    envelope = with_id(sample.envelope, IdMinter(long=False).mint())
    done = [recipient.address for recipient in envelope.recipients[::3]]
    envelope = add_non_recipients(envelope, done)
    put(exim, envelope, sample.body_bytes)
    listed = exim.command("-bp")
    assert re.findall(r"^ {8}D (.*)$", listed, re.MULTILINE) == [address.decode() for address in done]


def test_a_merged_journal_gives_the_lines_that_exim_itself_writes(start_exim: EximFactory) -> None:
    exim = start_exim(listen=False, routers="later:\n  driver = redirect\n  data = :defer: not now\n")
    sample = next(sample for sample in SAMPLES if sample.case == "rcpt200")
    names = [recipient.address for recipient in sample.envelope.recipients]
    chance = random.Random(5)
    for count in (1, 2, 3, 7, 40, 150):
        chance.shuffle(names)
        before = add_non_recipients(with_id(sample.envelope, IdMinter(long=False).mint()), names[:5])
        journal = b"".join(name + b"\n" for name in names[3 : 3 + count])
        put(exim, before, sample.body_bytes)
        (exim.input_directory() / before.id.journal_name).write_bytes(journal)
        os.chown(exim.input_directory() / before.id.journal_name, exim.uid, exim.gid)
        exim.deliver(before.id)
        # Nobody could be delivered to: so this is the tree, and the journal.
        after = (exim.input_directory() / before.id.header_name).read_bytes()
        assert not (exim.input_directory() / before.id.journal_name).exists()
        assert parse_header_file(after, file="f").tree == merge_journal(before, journal).tree
