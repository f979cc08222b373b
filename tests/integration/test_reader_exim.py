"""A real Exim as judge of the reader: damaged files are refused by both or read by both."""

from __future__ import annotations

import os
import random
import subprocess
from typing import Final

import pytest

from respool.errors import SpoolFormatError
from respool.spool.header_file import parse_header_file
from respool.spool.ids import IdMinter, MessageId
from tests.spool_corpus import SAMPLES

from .conftest import EximFactory
from .exim import Exim
from .exim_configuration import EXIM

#: The samples name quoters of this lookup, which an Exim without it does not read.
pytestmark = pytest.mark.exim("sqlite")

_FILES: Final = 240
_PIECES: Final = (
    b"XX\n", b"YN ", b"NY ", b"NN ", b"-aclm _x 3\nabc\n", b"--(sqlite)aclc 0 2\nab\n", b"-acl 3 2\nxy\n",
    b"-acl 20 2\nxy\n", b"-acl\n", b"-aclm\n", b"-frozen ", b"-frozen 12\n", b"-frozen\n", b"-local\n", b"1\n", b"2\n",
    b"16385\n", b"r@x.ex\n", b" 0,2  0,-1#3", b" 0,1,0", b" 7", b",5", b"\n\n", b"\n", b" ", b"\t", b"-", b"--", b"0",
    b"9", b"+", b"\r", b"x", b"005  X: y\n", b"004P ", b"-host_address [1.2.3.4]:25\n", b"-host_address\n",
    b"-interface_address x\n", b"-body_linecount\n", b"-received_time_usec x\n", b"-tls_ocsp\n", b"-dsn_ret\n",
)  # fmt: skip
#: What Exim reads and respool does not, since Exim misreads it: see spool/README.md.
_STRICTER: Final = (
    "with the length of the string before it",
    "after a space",
    "a recipient with an address",
    "at the end of a recipient",
)


def damaged(rest: bytes, chance: random.Random) -> bytes:
    """The file behind its first line with one or two pieces put in, put over others, doubled or cut out."""
    data = bytearray(rest)
    for _ in range(chance.randint(1, 2)):
        at = chance.randrange(min(len(data), chance.choice((80, 500, 900))))
        if chance.random() < 0.6:
            at = data.rfind(b"\n", 0, at) + 1
        action = chance.randrange(4)
        if action < 2:
            data[at : at + action] = chance.choice(_PIECES)
        elif action == 2:
            del data[at : at + chance.randint(1, 12)]
        else:
            data[at:at] = data[at : at + chance.randint(1, 20)]
    return bytes(data)


def exim_reads(exim: Exim, message_id: MessageId, header_data: bytes) -> bool:
    """Whether Exim lists the message."""
    directory = exim.input_directory()
    directory.mkdir(parents=True, exist_ok=True)
    data_name = message_id.data_name
    for name, content in ((data_name, data_name.encode() + b"\nbody\n"), (message_id.header_name, header_data)):
        (directory / name).write_bytes(content)
        os.chown(directory / name, exim.uid, exim.gid)
    command = [EXIM, "-C", str(exim.configuration), "-bp", message_id]
    listed = subprocess.run(command, check=True, capture_output=True, timeout=60).stdout
    (directory / message_id.header_name).unlink()
    assert message_id.encode() in listed
    return b"spool format error" not in listed and b"spool read error" not in listed


def test_what_exim_reads_is_read_and_what_it_refuses_is_refused(start_exim: EximFactory) -> None:
    exim = start_exim(listen=False)
    minter = IdMinter(long=False)
    # The same files in each run.
    chance = random.Random(4)
    samples = [sample for sample in SAMPLES if sample.root.name == "spool-496" and len(sample.header_data) < 6000]
    outcomes = {True: 0, False: 0}
    for _ in range(_FILES):
        message_id = minter.mint()
        rest = chance.choice(samples).header_data.partition(b"\n")[2]
        data = message_id.header_name.encode() + b"\n" + damaged(rest, chance)
        is_read = exim_reads(exim, message_id, data)
        outcomes[is_read] += 1
        try:
            parse_header_file(data, file="f")
        except SpoolFormatError as error:
            assert not is_read or error.expected.endswith(_STRICTER), (error, data)
        else:
            assert is_read, data
    # The damage is neither always fatal nor never.
    assert min(outcomes.values()) > _FILES // 10, outcomes
