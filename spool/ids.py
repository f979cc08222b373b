"""Message ids: their two shapes, what each implies, and minting new ones.

A new id (Exim 4.97 and later) has 23 characters, ``tttttt-ppppppppppp-ssss``; an old one
has 16, ``tttttt-pppppp-ss``. The shape is decided by the id itself, never by a version
(functions.h). Digits are 0-9A-Za-z, so ids of one shape sort by time.

Diagnostics: MessageId raises ValueError for text that is no id; the codec and the
directory scan turn that into SpoolFormatError or skip the name.
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import Final

ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUE: Final = {character: value for value, character in enumerate(ALPHABET)}
_SHAPE: Final = re.compile(r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{11}-[0-9A-Za-z]{4}|[0-9A-Za-z]{6}-[0-9A-Za-z]{2})", re.ASCII)

_YEAR_2242: Final = 1 << 33


class MessageId(str):
    """An Exim message id; construction checks the shape.

    Raises ValueError when text is not an id. It is a str, so it sorts, formats and
    compares as Exim does.
    """

    __slots__ = ()

    def __new__(cls, text: str) -> MessageId:
        """Check the shape; ValueError for any other text."""
        if _SHAPE.fullmatch(text) is None:
            raise ValueError(f"not an Exim message id: {text[:40]!r}")
        return super().__new__(cls, text)

    @property
    def is_long(self) -> bool:
        """True for the 23-character shape of Exim 4.97 and later."""
        return len(self) == 23

    @property
    def received_time(self) -> int:
        """Unix seconds at the start of reception, from the first field; of base-36 ids, too."""
        seconds = decode_base62(self[:6])
        # Cygwin and Darwin have ids in base 36 (exim.h, BASE_62). Read in base 62 they would lie centuries on.
        return int(self[:6], 36) if seconds >= _YEAR_2242 and self[:6].upper() == self[:6] else seconds

    @property
    def split_directory(self) -> str:
        """The subdirectory of a split spool: the 6th character (functions.h, set_subdir_str)."""
        return self[5]

    @property
    def body_offset(self) -> int:
        """Where the body starts in ``-D``, which is also the length of the message lock: 26 or 19 bytes."""
        return len(self) + 3

    @property
    def data_name(self) -> str:
        """``<id>-D``."""
        return f"{self}-D"

    @property
    def header_name(self) -> str:
        """``<id>-H``."""
        return f"{self}-H"

    @property
    def journal_name(self) -> str:
        """``<id>-J``."""
        return f"{self}-J"


def parse_id(text: str) -> MessageId | None:
    """The message id that text is, None for any other text."""
    return str.__new__(MessageId, text) if _SHAPE.fullmatch(text) is not None else None


def decode_base62(text: str) -> int:
    """The number written in Exim's digits; KeyError for any other character."""
    number = 0
    for character in text:
        number = number * 62 + _VALUE[character]
    return number


def encode_base62(number: int, width: int) -> str:
    """The low width digits of number, zero-padded, as Exim's string_base62 writes them."""
    digits: list[str] = []
    for _ in range(width):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


class IdMinter:
    """Mints ids by Exim's own arithmetic (receive.c), never two on one clock tick of this process.

    long selects the 23-character shape. localhost_number is that of the destination's
    configuration (0-16), or None where it is unset. A tick is 1 microsecond (2 with a
    localhost_number) for long ids and 5 milliseconds for old ones (Exim 4.95 and 4.96);
    mint() sleeps until the tick has advanced. Safe for threads; a forked child gets its
    own pid into its ids.
    """

    def __init__(self, *, long: bool, localhost_number: int | None = None) -> None:
        self._long = long
        self._localhost_number = localhost_number
        self._lock = threading.Lock()
        self._last_tick = -1
        # Exim's clock does not go back: boot time plus the offset at start (exim.c).
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def mint(self) -> MessageId:
        """A new id. Uniqueness across processes is Exim's: pid and time, with O_EXCL as the last guard."""
        tick_us = (1 if self._localhost_number is None else 2) if self._long else 5000
        with self._lock:
            while True:
                now_us = (time.clock_gettime_ns(time.CLOCK_BOOTTIME) + self._offset_ns) // 1000
                tick = now_us // tick_us
                if tick > self._last_tick:
                    break
                time.sleep((self._last_tick + 1) * tick_us / 1e6 - now_us / 1e6)
            self._last_tick = tick
        seconds, microseconds = divmod(now_us, 1_000_000)
        base = 0 if self._localhost_number is None else self._localhost_number * (500_000 if self._long else 200)
        fraction = base + microseconds // tick_us
        pid_width, fraction_width = (11, 4) if self._long else (6, 2)
        pid = encode_base62(os.getpid(), pid_width)
        return MessageId(f"{encode_base62(seconds, 6)}-{pid}-{encode_base62(fraction, fraction_width)}")
