"""Who may log in: a file of hashed passwords, or Dovecot; and how often one may try.

A line of the file is ``name:scrypt:N:r:p:salt:hash``, both in base64, as ``respool web
--hash NAME`` prints it.

Diagnostics: ConfigError for a file that can't be used; check() gives an operator or None, and
raises TemporaryError where nobody could tell.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from ...errors import ConfigError, TemporaryError
from ...lookups.dovecot import DovecotAuth
from ..config import WebSection

_COST, _BLOCK, _PARALLEL = 2**15, 8, 1
_MEMORY: Final = 256 * 1024 * 1024
_LONGEST_PASSWORD: Final = 1024
#: Each check takes 32 MiB for a tenth of a second.
_AT_ONCE: Final = threading.BoundedSemaphore(2)


class Operator(Struct, frozen=True):
    """Somebody whose password was right. mark changes when the password does, where that can be seen."""

    name: str
    mark: bytes = b""


class Authenticator(Protocol):
    """Whoever can say whether a password is right."""

    def check(self, name: str, password: str, *, remote: str) -> Operator | None:
        """The operator, or None. Raises TemporaryError."""
        ...

    def still_knows(self, operator: Operator) -> bool:
        """Whether what was right is still right: False ends the session. Raises TemporaryError."""
        ...


class _Hash(Struct, frozen=True):
    cost: int
    block: int
    parallel: int
    salt: bytes
    digest: bytes

    def fits(self, password: str) -> bool:
        with _AT_ONCE:
            found = hashlib.scrypt(
                password.encode(), salt=self.salt, n=self.cost, r=self.block, p=self.parallel, maxmem=_MEMORY,
                dklen=len(self.digest),
            )  # fmt: skip
        return hmac.compare_digest(found, self.digest)


def hash_line(name: str, password: str) -> str:
    """The line for a name and its password. Raises ValueError for a name that no line can have."""
    if not name or not name.isprintable() or ":" in name or name.startswith("#") or name != name.strip():
        raise ValueError("a name is printable, without a colon, and begins neither with # nor a space")
    salt = os.urandom(16)
    digest = hashlib.scrypt(password.encode(), salt=salt, n=_COST, r=_BLOCK, p=_PARALLEL, maxmem=_MEMORY, dklen=32)
    encoded = (base64.b64encode(value).decode() for value in (salt, digest))
    return ":".join((name, "scrypt", str(_COST), str(_BLOCK), str(_PARALLEL), *encoded))


class PasswordFile:
    """The file, read anew whenever it has changed."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._guard = threading.Lock()
        self._seen: tuple[int, int, int] | None = None
        self._hashes: dict[str, _Hash] = {}
        self._nobody = _parse(hash_line("nobody", base64.b64encode(os.urandom(16)).decode()), path, 0)[1]
        self._refresh()

    def check(self, name: str, password: str, *, remote: str) -> Operator | None:
        """The operator, if the password is right."""
        del remote
        self._renew()
        if len(password) > _LONGEST_PASSWORD:
            return None
        # An unknown name takes as long as a wrong password.
        known = self._hashes.get(name)
        fits = (known or self._nobody).fits(password)
        return Operator(name, known.digest) if known is not None and fits else None

    def still_knows(self, operator: Operator) -> bool:
        """Whether the file has this name, and with the same password."""
        self._renew()
        known = self._hashes.get(operator.name)
        return known is not None and known.digest == operator.mark

    def _renew(self) -> None:
        try:
            self._refresh()
        except ConfigError as error:
            raise TemporaryError(str(error)) from error

    def _refresh(self) -> None:
        with self._guard:
            try:
                # O_NONBLOCK: opening a FIFO by mistake must not hang.
                with open(os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                    status = os.fstat(file.fileno())
                    if not stat.S_ISREG(status.st_mode) or status.st_uid not in {0, os.geteuid()}:
                        raise ConfigError(f"{self._path} is no regular file of root's or of this user")
                    seen = status.st_ino, status.st_mtime_ns, status.st_size
                    if seen == self._seen:
                        return
                    if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
                        raise ConfigError(f"{self._path} can be read by everybody or written by its group: chmod 640")
                    content = file.read(1024 * 1024)
            except OSError as error:
                raise ConfigError(f"{self._path}: {error.strerror}", key="$.web.password_file") from error
            hashes: dict[str, _Hash] = {}
            for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
                if line.strip() and not line.startswith("#"):
                    name, parsed = _parse(line.strip(), self._path, number)
                    hashes[name] = parsed
            self._hashes, self._seen = hashes, seen


def _parse(line: str, path: str, number: int) -> tuple[str, _Hash]:
    fields = line.split(":")
    try:
        name, kind, *figures, salt, digest = fields
        cost, block, parallel = map(int, figures)
        parsed = _Hash(cost, block, parallel, _decoded(salt), _decoded(digest))
    except (ValueError, binascii.Error):
        raise ConfigError(f"{path}:{number}: not name:scrypt:N:r:p:salt:hash") from None
    is_possible = min(cost - 1, block, parallel) > 0 and cost & (cost - 1) == 0
    if kind != "scrypt" or len(parsed.digest) < 16 or not is_possible or 128 * cost * block * parallel > _MEMORY // 2:
        raise ConfigError(f"{path}:{number}: not scrypt, or with figures that this machine shall not be asked for")
    return name, parsed


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


class DovecotOperators:
    """Dovecot says whether the password is right, the configuration whether its owner is an operator."""

    def __init__(self, dovecot: DovecotAuth, operators: tuple[str, ...]) -> None:
        self._dovecot = dovecot
        self._operators = frozenset(operators)

    def check(self, name: str, password: str, *, remote: str) -> Operator | None:
        """Whom Dovecot named, if that is an operator."""
        user = self._dovecot.check(name, password, remote=remote)
        return Operator(user) if user in self._operators else None

    def still_knows(self, operator: Operator) -> bool:
        """As long as this runs: Dovecot can't be asked without a password."""
        return operator.name in self._operators


def make_authenticator(section: WebSection) -> Authenticator:
    """What the configuration asks for. Raises ConfigError."""
    if bool(section.dovecot_socket) == bool(section.password_file):
        raise ConfigError("either dovecot_socket or password_file says who may log in", key="$.web")
    if section.password_file:
        return PasswordFile(section.password_file)
    if not section.operators:
        raise ConfigError("with Dovecot, name those of its users who may log in", key="$.web.operators")
    try:
        dovecot = DovecotAuth(
            section.dovecot_socket, tls=section.dovecot_tls, ca_file=section.dovecot_ca_file
        )  # fmt: skip
    except ConfigError as error:
        raise ConfigError(error.reason, key="$.web.dovecot_socket") from error
    return DovecotOperators(dovecot, section.operators)


class Limits:
    """How many failed log-ins are taken before nobody gets another try for a while.

    Counted for a name, for an address, and in all; the memory that takes is bounded.
    """

    WINDOW_SECONDS: Final = 300.0
    _MOST: Final = {"name": 5, "address": 20, "all": 100}

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guard = threading.Lock()
        self._tries: deque[tuple[float, str, str]] = deque()

    def begin(self, name: str, address: str) -> bool:
        """Count a try as failed; False where it may not be made."""
        name = name[:_LONGEST_PASSWORD]
        with self._guard:
            now = self._clock()
            while self._tries and self._tries[0][0] <= now - self.WINDOW_SECONDS:
                self._tries.popleft()
            counts = {
                "name": sum(1 for _, tried, _ in self._tries if tried == name),
                "address": sum(1 for _, _, tried in self._tries if tried == address),
                "all": len(self._tries),
            }
            if any(counts[kind] >= most for kind, most in self._MOST.items()):
                return False
            self._tries.append((now, name, address))
            return True

    def succeeded(self, name: str, address: str) -> None:
        """Forget the failures of a name from an address."""
        with self._guard:
            self._tries = deque(one for one in self._tries if one[1:] != (name, address))
