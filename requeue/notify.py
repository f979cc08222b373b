"""Telling Exim that a message is there.

A datagram to the daemon's notifier socket (daemon.c) makes it run that one message. It
is best effort by Exim's own rules, so a periodic queue runner (``-q<time>``) has to be
there anyway; nothing here may ever block or fail a message.

Diagnostics: tell() raises nothing; the answer says whether Exim was told, and how.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from collections.abc import Callable, Iterable
from typing import Final

from ..spool.ids import MessageId
from .exim_program import CommandNotifier
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
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)

    @classmethod
    def for_spool(cls, spool_directory: str, notifier_socket: str = "") -> Notifier:
        """The socket of an Exim with this spool and ``notifier_socket`` option (empty: its default).

        Abstract, as on Linux (daemon.c), unless there is a socket of that name to be seen.
        """
        path = notifier_socket or f"{spool_directory}/{_SOCKET_NAME}"
        is_visible = False
        with contextlib.suppress(OSError):
            is_visible = stat.S_ISSOCK(os.stat(path).st_mode)
        return cls(path.encode() if is_visible else b"\0" + path.encode())

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def tell(self, published: Iterable[Published]) -> int:
        """How many of these the daemon's socket accepted; a full or absent one counts nothing."""
        outputs = tuple(published)
        return len(outputs) - len(self.refused(outputs))

    def refused(self, published: Iterable[Published]) -> tuple[Published, ...]:
        """Tell the daemon; those that its socket did not accept."""
        refused: list[Published] = []
        for output in published:
            # Before 4.97 the note names no queue: a daemon would look in the default one.
            if output.queue and not output.id.is_long:
                refused.append(output)
                continue
            try:
                self._socket.sendto(payload(output.id, output.queue), socket.MSG_DONTWAIT, self.address)
            except OSError:
                refused.append(output)
        return tuple(refused)


class SocketThenCommand:
    """``notify = "auto"``: the socket; what it does not accept by ``exim -Mc``, where that is possible."""

    def __init__(self, notifier: Notifier, command: CommandNotifier | None) -> None:
        self._notifier, self._command = notifier, command

    def tell(self, published: Iterable[Published]) -> int:
        """How many were accepted by either."""
        outputs = tuple(published)
        refused = self._notifier.refused(outputs)
        accepted = len(outputs) - len(refused)
        return accepted + (self._command.tell(refused) if self._command is not None and refused else 0)


Tell = Callable[[Iterable[Published]], int]


def tell_nobody(_published: Iterable[Published]) -> int:
    """For a destination without a daemon."""
    return 0
