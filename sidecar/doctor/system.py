"""The machine: Python, packages, clock, limits.

Diagnostics: the checks raise nothing; what can't be found out is a warning.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import re
import resource
import sys
import time
from typing import Final

from ..config import Config
from .finding import Finding, Findings, ok, problem, warning

_OLDEST_PYTHON: Final = (3, 11)
_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)\s*>=\s*([0-9.]+)")
_EXTRA: Final = re.compile(r"extra == ['\"](\w+)['\"]")
#: adjtimex(2): the kernel's clock is not disciplined by anybody.
_STA_UNSYNC: Final = 0x0040
_INOTIFY: Final = "/proc/sys/fs/inotify"
#: Per directory of a split spool, and the spool itself.
_WATCHES: Final = 63
#: Descriptors of one message in hand, and of a worker besides.
_PER_MESSAGE, _PER_WORKER = 12, 64


def check_system(config: Config | None) -> Findings:
    """Everything that does not depend on Exim."""
    yield _python()
    yield from _packages()
    yield _clock()
    if config is not None:
        yield from _inotify(config)
        yield _descriptors(config)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < _OLDEST_PYTHON:
        return problem("python", f"Python {version}", "install Python 3.11 or later, and respool with it")
    return ok("python", f"Python {version}, {sys.executable}")


def _packages() -> Findings:
    """What the installed respool says that it needs."""
    wanted = importlib.metadata.requires("respool") or []
    lacking: list[str] = []
    extras: dict[str, list[str]] = {}
    for requirement in wanted:
        match = _REQUIREMENT.match(requirement)
        extra = _EXTRA.search(requirement)
        if match is None:
            continue
        trouble = _version_trouble(match[1], match[2])
        if extra is not None:
            extras.setdefault(extra[1], []).extend([trouble] if trouble else [])
        elif trouble:
            lacking.append(trouble)
    version = importlib.metadata.version("respool")
    whole = [name for name in ("web", "dask") if not extras.get(name, ["absent"])]
    if lacking:
        advice = f"install again: {sys.executable} -m pip install --force-reinstall respool=={version}"
        yield problem("packages", "; ".join(lacking), advice)
    else:
        yield ok("packages", f"respool {version} and all that it needs; extras: {', '.join(whole) or 'none'}")


def _version_trouble(name: str, least: str) -> str:
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name} is not installed"
    return f"{name} is {found}, {least} is the least" if _numbers(found) < _numbers(least) else ""


def _numbers(version: str) -> tuple[int, ...]:
    # Numbers, not text and not a float: 4.10 is later than 4.9.
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:4])


def _clock() -> Finding:
    installed = os.stat(__file__).st_mtime
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < installed - 86400:
        return problem(
            "clock", f"{shown}, before respool was installed", "set the clock: ids, signatures, expiry use it"
        )
    is_disciplined = _is_disciplined()
    if is_disciplined is None:
        return ok("clock", f"{shown}; whether something keeps it right, the kernel does not say here")
    if not is_disciplined:
        return warning("clock", f"{shown}, and nothing keeps it right", "run chrony or systemd-timesyncd")
    return ok("clock", f"{shown}, kept right by the system")


def _is_disciplined() -> bool | None:
    """Whether something keeps the clock right; None where the kernel does not say, as in a container."""

    class Timex(ctypes.Structure):
        """The head of struct timex; the rest is not looked at."""

        _fields_ = (
            ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
            ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
            ("rest", ctypes.c_byte * 256),
        )  # fmt: skip

    values = Timex()
    # modes = 0 asks and sets nothing (adjtimex(2)).
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(values))
    return None if state < 0 else not values.status & _STA_UNSYNC


def _inotify(config: Config) -> Findings:
    if config.watch == "poll":
        yield ok("events", f"not wanted (watch = poll): a scan every {config.scan_seconds:g} s")
        return
    for name, wanted in (
        ("max_user_instances", config.workers * 2),
        ("max_user_watches", config.workers * _WATCHES * 2),
    ):
        try:
            with open(f"{_INOTIFY}/{name}", encoding="ascii") as file:
                limit = int(file.read())
        except (OSError, ValueError):
            yield warning("events", f"{_INOTIFY}/{name} can't be read", 'without inotify set watch = "poll"')
            continue
        if limit < wanted:
            yield warning("events", f"{name} is {limit}", f"sysctl fs.inotify.{name}={wanted}, with a file in sysctl.d")
        else:
            yield ok("events", f"inotify: {name} is {limit}, {wanted} is plenty")


def _descriptors(config: Config) -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = config.threads * _PER_MESSAGE + _PER_WORKER
    if limit != resource.RLIM_INFINITY and limit < wanted:
        return warning(
            "limits", f"{limit} open files here, a worker with {config.threads} threads may want {wanted}",
            f"LimitNOFILE={wanted} in the unit, or fewer threads",
        )  # fmt: skip
    return ok("limits", f"{limit} open files, {wanted} are enough for a worker")
