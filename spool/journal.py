"""The journal ``-J``: which addresses a running or broken-off delivery has finished.

Exim appends one name per line (deliver.c, transports/smtp.c) and puts them into the
non-recipients tree before its next attempt. Whoever takes a message away does the same
under the message lock: read ``-H``, merge, write ``-H``, then unlink ``-J``, in this order.

Diagnostics: raises nothing. A line that a crash has torn (no LF at the end, or NUL in
it) is left out: the address is at worst delivered to once more, never forgotten.
"""

from __future__ import annotations

from .editing import LONGEST_TREE_NAME, add_non_recipients
from .envelope import Envelope


def parse_journal(data: bytes) -> tuple[bytes, ...]:
    """The names in data, the content of ``-J``, each once and in its order.

    A name is the address with its domain in lower case, cut at 500 bytes, or
    ``address/transport`` for an address that equals one of its ancestors.
    """
    complete_lines = data[: data.rfind(b"\n") + 1].split(b"\n")
    names = (line for line in complete_lines if line and len(line) <= LONGEST_TREE_NAME and b"\0" not in line)
    return tuple(dict.fromkeys(names))


def merge_journal(envelope: Envelope, data: bytes) -> Envelope:
    """The envelope with every name of the journal data in its non-recipients tree."""
    return add_non_recipients(envelope, parse_journal(data))
