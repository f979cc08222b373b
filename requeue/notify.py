"""Telling Exim that a message is there.

A datagram to the daemon's notifier socket (daemon.c) makes it run that one message. It
is best effort by Exim's own rules, so a periodic queue runner (``-q<time>``) has to be
there anyway; nothing here may ever block or fail a message.

Diagnostics: tell() raises nothing; the answer says whether Exim was told, and how.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import Final

from ..spool.ids import MessageId
from .publish import Published

_RUN_ONE_MESSAGE: Final = b"\x01"
_SOCKET_NAME: Final = "exim_daemon_notify"


def payload(message_id: MessageId, queue: str) -> bytes:
    """The datagram that asks for a run of one message (daemon.c).

    Exim 4.97 and later, who write 23-character ids, read the queue name behind the id at a
    fixed place of an uncleared buffer: the complete form is always sent to them.
    """
    tail = b"\0" + queue.encode() + b"\0" if message_id.is_long else b"\0"
    return _RUN_ONE_MESSAGE + message_id.encode() + tail


class Notifier:
    """Sends datagrams to one daemon. address is an abstract name (a leading NUL) or a path."""

    def __init__(self, address: bytes) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @classmethod
    def for_spool(cls, spool_directory: str) -> Notifier:
        """The default ``notifier_socket`` of an Exim with this spool: abstract, on Linux (globals.c)."""
        return cls(b"\0" + f"{spool_directory}/{_SOCKET_NAME}".encode())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def tell(self, published: Iterable[Published]) -> int:
        """How many of these the daemon's socket accepted; a full or absent one counts nothing."""
        accepted = 0
        for output in published:
            # Before 4.97 the note names no queue: a daemon would look in the default one.
            if output.queue and not output.id.is_long:
                continue
            try:
                self._socket.sendto(payload(output.id, output.queue), socket.MSG_DONTWAIT, self._address)
            except OSError:
                continue
            accepted += 1
        return accepted


Tell = Callable[[Iterable[Published]], int]


def tell_nobody(_published: Iterable[Published]) -> int:
    """For a destination without a daemon."""
    return 0
