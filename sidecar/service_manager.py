"""Telling systemd: ready, stopping, and watchdog pings (sd_notify(3)).

Without NOTIFY_SOCKET in the environment nothing is told to anybody.

Diagnostics: raises nothing; a service manager that does not listen is no reason to stop.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from typing import Final

from .cli.terminal import escape

_LONGEST_STATUS: Final = 1000


class ServiceManager:
    """What the environment says of the service manager that started this process."""

    def __init__(self, environment: Mapping[str, str] = os.environ, *, process: int | None = None) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte of an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._interval = _watchdog_seconds(environment, os.getpid() if process is None else process)
        self._next_ping = 0.0

    @property
    def wants_pings(self) -> bool:
        """Whether a missing ping would be noticed (WatchdogSec=)."""
        return bool(self._address) and self._interval > 0

    def ready(self, text: str = "Working") -> None:
        """Start-up, or a reload, is over."""
        self._send(f"READY=1\nSTATUS={_one_line(text)}")

    def reloading(self) -> None:
        """A reload has begun; ready() ends it, whatever came of it."""
        # systemd compares the time with when it sent the signal (Type=notify-reload).
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMONOTONIC_USEC={microseconds}\nSTATUS=Reloading")

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1\nSTATUS=Finishing the messages in hand")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={_one_line(text)}")

    def ping(self) -> None:
        """All is well; sent twice in each interval at most."""
        now = time.monotonic()
        if self.wants_pings and now >= self._next_ping:
            self._next_ping = now + self._interval / 2
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(1.0)
            channel.sendto(state.encode(), self._address)


def _one_line(text: str) -> str:
    return escape(text)[:_LONGEST_STATUS]


def _watchdog_seconds(environment: Mapping[str, str], process: int) -> float:
    meant = environment.get("WATCHDOG_PID", "")
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isascii() or not microseconds.isdigit() or (meant and meant != str(process)):
        return 0.0
    return int(microseconds) / 1e6
