"""A port on loopback, for TCP and UDP, for a server that must be told its number before it starts.

Diagnostics: RuntimeError where hundreds of them in a row are taken.
"""

from __future__ import annotations

import random
import socket

#: Below those that the kernel gives to whoever asks for any (ip(7), ip_local_port_range): no connection of
#: anybody's, and no server that leaves the choice to the kernel, takes one between this look and the start.
_FIRST, _LAST = 10_240, 32_000


def free_port() -> int:
    """One that nobody has now; which of them is chance, so that tests at the same time seldom choose the same."""
    for _ in range(300):
        port = random.SystemRandom().randint(_FIRST, _LAST)
        with socket.socket() as stream, socket.socket(type=socket.SOCK_DGRAM) as datagram:
            try:
                stream.bind(("127.0.0.1", port))
                datagram.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no port is free on loopback")
