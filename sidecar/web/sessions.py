"""Who is logged in: kept in memory, known by a random token of which only the hash is kept.

Diagnostics: raises nothing; an unknown or expired token is None.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from .passwords import Operator

_MOST: Final = 1000
_LONGEST_SECONDS: Final = 12 * 3600.0


class Session(Struct):
    """One log-in. form_token goes into every form and must come back with it."""

    operator: Operator
    form_token: str
    begun: float
    used: float

    def owns(self, form_token: str) -> bool:
        """Whether a form was made for this session."""
        return hmac.compare_digest(self.form_token.encode(), form_token.encode())


class Sessions:
    """All of them. idle_seconds without a request end a session, twelve hours end it in any case."""

    def __init__(self, idle_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle, self._clock = idle_seconds, clock
        self._guard = threading.Lock()
        self._sessions: dict[bytes, Session] = {}

    def begin(self, operator: Operator) -> str:
        """Log an operator in; the token for the cookie."""
        token, now = secrets.token_urlsafe(32), self._clock()
        with self._guard:
            self._sweep(now)
            while len(self._sessions) >= _MOST:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[_hash(token)] = Session(operator, secrets.token_urlsafe(32), now, now)
        return token

    def find(self, token: str) -> Session | None:
        """The session of a token, used at this moment."""
        now = self._clock()
        with self._guard:
            self._sweep(now)
            session = self._sessions.get(_hash(token))
            if session is not None:
                session.used = now
            return session

    def end(self, token: str) -> None:
        """Log out."""
        with self._guard:
            self._sessions.pop(_hash(token), None)

    def _sweep(self, now: float) -> None:
        ended = [
            key
            for key, session in self._sessions.items()
            if now - session.used > self._idle or now - session.begun > _LONGEST_SECONDS
        ]
        for key in ended:
            del self._sessions[key]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
