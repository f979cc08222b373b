"""Messages of many shapes from a seed, for comparing implementations; the same seed makes the same message."""

from __future__ import annotations

import random

WORDS = [
    b"lorem",
    b"ipsum",
    b"=?utf-8?q?a=20b?=",
    b"dolor,",
    b'"sit amet"',
    b"x" * 60,
    b"1",
    b"caf\xc3\xa9",
    b"a:b;c=d",
]
SPACES = [b" ", b"  ", b"\t", b" \t "]
FOLDS = [b" ", b"\n ", b"\n\t", b"\n   ", b"  "]


def message_fields(seed: int) -> tuple[bytes, ...]:
    """Header fields with odd white space, folds, repeats, 8-bit text; From, To and Date are always there."""
    maker = random.Random(seed)

    def text(count: int) -> bytes:
        return b"".join(maker.choice(WORDS) + maker.choice(FOLDS) for _ in range(count)) + b"end"

    fields = [
        b"From: " + maker.choice([b"", b'"Ann, A." ', b"Ann "]) + b"<ann@example.org>\n",
        b"To:" + maker.choice([b" ", b"", b"\n "]) + b"bob@example.net\n",
        b"Date: Tue, 14 Nov 2023 22:13:20 +0000\n",
    ]
    optional = [
        b"Subject: " + text(maker.randrange(12)) + maker.choice([b"", b" ", b"\t "]) + b"\n",
        b"Message-ID: <%d@example.org>\n" % seed,
        b"MIME-Version: 1.0\n",
        b"content-type:text/plain;\n\tcharset=utf-8\n",
        b"References: " + b"\n ".join(b"<%d@example.org>" % number for number in range(maker.randrange(1, 9))) + b"\n",
        b"List-Id: <list.example.org>\n",
        b"X-Empty:\n",
        b"Cc: carol@example.net\n",
    ]
    fields += maker.sample(optional, maker.randrange(len(optional)))
    maker.shuffle(fields)
    received = [
        b"Received: from h%d.example\n\tby mx.example.net; %s\n" % (n, text(3)) for n in range(maker.randrange(4))
    ]
    return (*received, *fields)


def message_body(seed: int) -> bytes:
    """Lines with runs of white space, at ends too, empty lines anywhere; the last line is ended or body is empty."""
    maker = random.Random(seed + 1_000_000)
    lines: list[bytes] = []
    for _ in range(maker.choice([0, 1, 3, 40, 400])):
        words = [maker.choice(WORDS) + maker.choice(SPACES) for _ in range(maker.randrange(9))]
        lines.append(maker.choice([b"", b" ", b"\t"]) + b"".join(words) + maker.choice([b"", b" ", b"."]))
    lines += [maker.choice([b"", b" "])] * maker.randrange(4)
    return b"".join(line + b"\n" for line in lines)
