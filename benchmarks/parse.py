"""What reading a ``-H`` costs: ours, Python's email parser on the same header block, exipick per message.

Two sets: a message as the Internet sends them (28 fields, 4.4 KB: four hops, two
signatures, an ARC set, the fields of a list and of a large mailbox provider), and the small
test messages of the corpora.
The email parser gets the header block alone; we read the envelope as well, 15 to 20 lines
that it has not. *parse* verifies the file and leaves values until they are asked for (as
email leaves its own as text). *a reader* asks for what a pipeline always does: sender,
recipients, the names of all fields; email's for its names. *all values* asks for every
directive, recipient and header. No result of an earlier parse helps a later one.

exipick reads a directory of such messages; what it costs per message is the difference
between two directories of different length, so that starting perl does not count. Beside it
stands ``respool``'s own way through the same directory: scan, open, read, parse, stat.

CPU time, the best of several rounds; only the ratios of one run mean anything.

    python -m benchmarks.parse
"""

from __future__ import annotations

import email.parser
import email.policy
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from respool.sidecar.cli import spool_files
from respool.spool.editing import with_id
from respool.spool.envelope import Envelope, Header
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import MessageId, encode_base62
from tests.spool_corpus import SAMPLES

FEW, MANY = 200, 1200
B64 = b"dGhpcyBpcyBhIHNpZ25hdHVyZSBvZiBhIG1lc3NhZ2UgdGhhdCB3YXMgbmV2ZXIgc2lnbmVk"


def folded(value: bytes, count: int) -> bytes:
    return value + b"\n\t" + b"\n\t ".join([B64] * count)


def received(number: int) -> bytes:
    return (
        b"from mx%d.example.net (mx%d.example.net [192.0.2.%d])\n\tby mx%d.example.org (Postfix) with ESMTPS id 4Xk%d\n"
        b"\t(using TLSv1.3 with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))\n"
        b"\tfor <alice@example.org>; Sun, 22 Nov 2026 15:29:4%d +0000 (UTC)" % ((number,) * 6)
    )


def typical() -> Envelope:
    """A message from the Internet: the envelope of a real one, with the fields that such mail carries."""
    envelope = next(sample.envelope for sample in SAMPLES if sample.case == "plain")
    fields = [
        (b"Return-Path", b"<bounces+alice=example.org@list.example.net>"),
        *((b"Received", received(number)) for number in range(4)),
        (b"ARC-Seal", folded(b"i=1; a=rsa-sha256; t=1795361381; cv=none; d=example.net; s=arc; b=", 5)),
        (b"ARC-Message-Signature", folded(b"i=1; a=rsa-sha256; c=relaxed/relaxed; d=example.net; s=arc;", 6)),
        (b"ARC-Authentication-Results", b"i=1; mx.example.net;\n\tdkim=pass header.d=example.com;\n\tspf=pass"),
        (b"Authentication-Results", b"mx.example.org;\n\tdkim=pass header.d=example.net header.s=s1;\n\tspf=pass"),
        (b"DKIM-Signature", folded(b"v=1; a=rsa-sha256; c=relaxed/relaxed; d=example.com; s=s1; h=from:to;", 6)),
        (b"X-Google-DKIM-Signature", folded(b"v=1; a=rsa-sha256; c=relaxed/relaxed; d=1e100.net; s=20230601;", 6)),
        (b"X-Gm-Message-State", folded(b"AOJu0Y", 4)),
        (b"X-Google-Smtp-Source", B64[:64]),
        (b"X-Received", b"by 2002:a05:600c with SMTP id 5b1f17b1804b1.12.17953613;\n\tSun, 22 Nov 2026 07:29:40 -0800"),
        (b"From", b"Alice Example <alice@example.com>"),
        (b"To", b"Some List <list@list.example.net>"),
        (b"Cc", b"bob@example.org, carol@example.org"),
        (b"Subject", b"=?utf-8?q?Re=3A_what_was_said_about_the_spool?="),
        (b"Date", b"Sun, 22 Nov 2026 12:00:00 +0000"),
        (b"Message-ID", b"<687882.3f2a@client.example.com>"),
        (b"In-Reply-To", b"<687881.9b1c@client.example.com>"),
        (b"References", b"<687880.1@client.example.com>\n\t<687881.9b1c@client.example.com>"),
        (b"MIME-Version", b"1.0"),
        (b"Content-Type", b'multipart/alternative; boundary="----=_Part_1_123456789"'),
        (b"List-Id", b"Some List <list.list.example.net>"),
        (b"List-Unsubscribe", b"<mailto:leave@list.example.net>, <https://list.example.net/leave>"),
        (b"X-Mailer", b"Mailer 1.0"),
        (b"Precedence", b"list"),
    ]
    return envelope.replace(headers=tuple(Header.make(name, value) for name, value in fields))


def microseconds(run: Callable[[], object], rounds: int = 7) -> float:
    """CPU time of one call."""
    started = time.process_time()
    run()
    count = max(1, int(0.02 / max(1e-6, time.process_time() - started)))
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(count):
            run()
        best = min(best, time.process_time() - started)
    return best / count * 1e6


def everything(data: bytes) -> None:
    envelope = parse_header_file(data, file="x")
    _ = envelope.id, envelope.sender, envelope.directives, envelope.recipients, envelope.headers


def reader(data: bytes) -> None:
    envelope = parse_header_file(data, file="x")
    _ = envelope.sender, envelope.recipients, [header.name for header in envelope.headers]


def parsers(name: str, files: list[bytes]) -> None:
    """Medians over files, of the times and of the ratios."""
    compat = email.parser.BytesHeaderParser()
    modern = email.parser.BytesHeaderParser(policy=email.policy.default)
    rows: list[tuple[float, ...]] = []
    sizes: list[int] = []
    for data in files:
        envelope = parse_header_file(data, file="x")
        if render_header_file(envelope) != data:
            sys.exit("what was parsed is not what was there")
        block = b"".join(header.raw for header in envelope.headers if header.is_sent) + b"\n"
        sizes.append(len(block))
        parsed = compat.parsebytes(block)
        # email takes a line without a colon for the end of the header block.
        if len(files) == 1 and len(parsed) != len(envelope.headers):
            sys.exit("the email parser found other fields")
        rows.append(
            (
                microseconds(lambda data=data: parse_header_file(data, file="x")),  # type: ignore[misc]
                microseconds(lambda data=data: reader(data)),  # type: ignore[misc]
                microseconds(lambda data=data: everything(data)),  # type: ignore[misc]
                microseconds(lambda block=block: compat.parsebytes(block)),  # type: ignore[misc]
                microseconds(lambda block=block: compat.parsebytes(block).keys()),  # type: ignore[misc]
                microseconds(lambda block=block: modern.parsebytes(block), 3),  # type: ignore[misc]
            )
        )
    parse, read, values, old, old_read, new = (statistics.median(column) for column in zip(*rows, strict=True))
    ratio = statistics.median(row[3] / row[0] for row in rows)
    print(f"{name}, header block of {statistics.median(sizes):.0f} bytes (medians)")
    print(f"  parse_header_file            {parse:8.1f} us")
    print(f"  a reader                     {read:8.1f} us")
    print(f"  the same, all values         {values:8.1f} us")
    print(f"  email, compat32              {old:8.1f} us   {ratio:.1f} times ours, {old / values:.1f} with all values")
    print(f"  a reader of it               {old_read:8.1f} us   {old_read / read:.1f} times ours")
    print(f"  email, policy.default        {new:8.1f} us   {new / parse:.1f} times ours")


def fill(root: Path, envelope: Envelope, count: int) -> Path:
    """A spool with count messages."""
    place = root / "input"
    place.mkdir(parents=True)
    for number in range(count):
        message_id = MessageId(f"1xV9Vd-{encode_base62(number, 6)}-0R")
        (place / message_id.header_name).write_bytes(render_header_file(with_id(envelope, message_id)))
        (place / message_id.data_name).write_bytes(message_id.data_name.encode() + b"\nbody\n")
    return root


def exipick_seconds(root: Path, count: int) -> float:
    best = float("inf")
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        listed = subprocess.run(["exipick", "--spool", str(root), "-bp"], check=True, capture_output=True).stdout
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if listed.count(b"<alice@remote.example>") != count:
            sys.exit(f"exipick listed something else: {listed[:300]!r}")
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def directories(envelope: Envelope) -> None:
    """exipick against our own reading of the same directory."""
    with tempfile.TemporaryDirectory() as base:
        few, many = fill(Path(base, "few"), envelope, FEW), fill(Path(base, "many"), envelope, MANY)
        data = render_header_file(envelope)

        def read_all() -> None:
            for place in spool_files.find(str(many)):
                spool_files.read(place)

        files = microseconds(read_all, 3) / MANY
        parse = microseconds(lambda: parse_header_file(data, file="x"))
        print(f"a directory of {MANY} such messages, per message")
        print(f"  scan, open, read, parse      {files:8.1f} us   of which parse_header_file {parse:.1f}")
        if shutil.which("exipick") is None:
            print("  exipick is not installed (make system)")
            return
        perl = (exipick_seconds(many, MANY) - exipick_seconds(few, FEW)) / (MANY - FEW) * 1e6
        print(
            f"  exipick -bp                  {perl:8.1f} us   {perl / files:.1f} times ours, {perl / parse:.0f} parse"
        )


if __name__ == "__main__":
    os.environ.setdefault("LC_ALL", "C")
    message = typical()
    parsers("a message from the Internet", [render_header_file(message)])
    parsers(f"the {len(SAMPLES)} messages of the corpora", [sample.header_data for sample in SAMPLES])
    directories(message)
