"""Every message of two real Exims, field by field as Exim itself sees it."""

import base64
import hashlib
import re

import pytest

from respool.spool.body import local_chunks, wire_chunks
from respool.spool.check import check_pair
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.journal import merge_journal
from tests.spool_corpus import SAMPLES, Sample

samples = pytest.mark.parametrize("sample", SAMPLES, ids=repr)
NOW = 2_000_000_000


def or_empty(value: bytes | None) -> bytes:
    return value or b""


@samples
def test_round_trip_is_byte_exact(sample: Sample) -> None:
    assert render_header_file(sample.envelope) == sample.header_data


@samples
def test_round_trip_is_byte_exact_after_every_section_was_read(sample: Sample) -> None:
    envelope = parse_header_file(sample.header_data, file="x")
    copied = envelope.replace(
        directives=envelope.directives, recipients=envelope.recipients, headers=envelope.headers
    )  # fmt: skip
    assert copied == envelope
    assert render_header_file(copied) == sample.header_data


@samples
def test_text_values_agree_with_exim(sample: Sample) -> None:
    envelope = sample.envelope
    seen = {
        "message_exim_id": envelope.id.encode(),
        "sender_address": envelope.sender,
        "received_protocol": or_empty(envelope.received_protocol),
        "sender_host_address": or_empty(envelope.host_address),
        "sender_host_name": or_empty(envelope.host_name),
        "sender_helo_name": or_empty(envelope.helo_name),
        "sender_ident": or_empty(envelope.ident),
        "sender_host_authenticated": or_empty(envelope.host_auth),
        "authenticated_id": or_empty(envelope.auth_id),
        "authenticated_sender": or_empty(envelope.auth_sender),
        "interface_address": or_empty(envelope.interface_address),
        "tls_in_cipher": or_empty(envelope.tls_cipher),
        "tls_in_peerdn": or_empty(envelope.tls_peerdn),
        "tls_in_sni": or_empty(envelope.tls_sni),
        "tls_in_ver": or_empty(envelope.tls_ver),
        "spam_score": or_empty(envelope.spam_score),
        "spam_bar": or_empty(envelope.spam_bar),
    }
    assert seen == {name: sample.exim(name) for name in seen}


@samples
def test_numbers_agree_with_exim(sample: Sample) -> None:
    envelope = sample.envelope
    seen = {
        "originator_uid": envelope.uid,
        "originator_gid": envelope.gid,
        "received_time": envelope.received_time,
        "sender_host_port": envelope.host_port,
        "interface_port": envelope.interface_port,
        "recipients_count": len(envelope.recipients),
        "body_linecount": envelope.body_linecount or 0,
        "body_zerocount": envelope.body_zerocount,
        "max_received_linelength": envelope.max_received_linelength,
        "tls_in_ocsp": envelope.tls_ocsp,
        "tls_in_certificate_verified": int(envelope.tls_is_certificate_verified),
        "host_lookup_deferred": int(envelope.host_lookup_deferred),
        "spam_score_int": envelope.spam_score_int or 0,
        "received_count": sum(header.flag == "P" for header in envelope.headers),
        "message_size": sample.message.size,
        "message_body_size": sample.message.body.size,
    }
    assert seen == {name: int(sample.exim(name) or b"0") for name in seen}
    # Asked for $sender_host_name, Exim looked it up and failed, also where the file did not say so.
    assert envelope.host_lookup_failed <= (sample.exim("host_lookup_failed") == b"1")


@samples
def test_acl_variables_agree_with_exim(sample: Sample) -> None:
    variables = sample.envelope.variables
    asked = [name for name in sample.entry["exim_vars"] if name.startswith("acl_")]
    assert {name: variables.get(name, b"") for name in asked} == {name: sample.exim(name) for name in asked}
    # Whatever Exim shows as empty was asked for, too, and left out of the file as empty.
    assert {name for name, value in variables.items() if value} >= set(asked)


@samples
def test_recipients_agree_with_exim(sample: Sample) -> None:
    addresses = [recipient.address for recipient in sample.envelope.recipients]
    assert b", ".join(addresses) == sample.exim("recipients")


@samples
def test_recipient_extras_agree_with_exims_reader(sample: Sample) -> None:
    seen: list[tuple[str, str]] = []
    for recipient in sample.envelope.recipients:
        address = recipient.address.decode("utf-8", "replace")
        if recipient.orcpt or recipient.dsn_flags:
            orcpt = recipient.orcpt.decode() or "<NULL>"
            seen.append((address, f"orcpt: <{orcpt.strip('<>')}> dsn_flags: 0x{recipient.dsn_flags:x}"))
        if recipient.errors_to:
            seen.append((address, f"errorsto: <{recipient.errors_to.decode()}>"))
    said = re.findall(r"SPOOL_IN - address: <(.*?)> (orcpt: .*|errorsto: .*)", sample.spool_read_debug)
    assert seen == said


@samples
def test_tree_agrees_with_exims_reader(sample: Sample) -> None:
    said = re.findall(r"-->(.*) \[\d+\]$", sample.spool_read_debug, re.MULTILINE)
    names = [node.name.decode("utf-8", "replace") for node in sample.envelope.tree]
    assert sorted(names) == sorted(said)


@samples
def test_delivered_recipients_agree_with_bpa(sample: Sample) -> None:
    envelope = merge_journal(sample.envelope, sample.journal or b"")
    said = re.findall(r"^ {8}([ D]) (.*)$", sample.entry["bpa"], re.MULTILINE)
    delivered = [address for mark, address in said if mark == "D"]
    seen = [
        recipient.address.decode("utf-8", "replace")
        for recipient in envelope.recipients
        # -bpa compares the address as written only.
        if recipient.address in envelope.non_recipients
    ]
    assert seen == delivered


@samples
def test_header_fields_agree_with_exim(sample: Sample) -> None:
    sent = [header for header in sample.envelope.headers if header.is_sent]
    for name in ("subject", "from", "to", "message-id"):
        expected = sample.exim(f"rh_{name}:")
        values = [header.raw.partition(b":")[2] for header in sent if header.is_named(name.encode())]
        if len(values) == 1:
            assert values[0] == expected


@samples
def test_message_as_delivered_agrees_with_exim(sample: Sample) -> None:
    message = sample.message
    headers = b"".join(header.raw for header in message.sent_headers)
    if message.body.wireformat:
        # Exim 4.96 shows the headers only.
        assert hashlib.sha256(headers + b"\n").hexdigest() == sample.entry["Mvc_sha256"]
        return
    content = headers + b"\n" + b"".join(local_chunks(message.body))
    assert hashlib.sha256(content).hexdigest() == sample.entry["Mvc_sha256"]


@samples
def test_wire_body_becomes_local_as_exim_delivers_it(sample: Sample) -> None:
    if "delivered_to_file_b64" not in sample.entry:
        assert b"".join(wire_chunks(sample.message.body)) == sample.body_bytes.replace(b"\n", b"\r\n")
        return
    delivered = base64.b64decode(sample.entry["delivered_to_file_b64"])
    assert delivered.partition(b"\n\n")[2].startswith(b"".join(local_chunks(sample.message.body)))


@samples
def test_w03_both_first_lines_name_the_files(sample: Sample) -> None:
    assert sample.header_data.startswith(sample.header_path.name.encode() + b"\n")
    assert sample.data_file.startswith(sample.envelope.id.data_name.encode() + b"\n")
    assert sample.envelope.id == sample.id


@samples
def test_nothing_is_wrong_with_what_exim_wrote(sample: Sample) -> None:
    message = sample.message
    offset = message.id.body_offset
    findings = check_pair(
        header_name=sample.header_path.name,
        header_data=sample.header_data,
        data_name=message.id.data_name,
        first_line=sample.data_file[:offset],
        body=message.body,
        now=NOW,
    )
    assert [finding for finding in findings if finding.severity == "error"] == []
    assert {finding.rule for finding in findings} <= {"forced"}
