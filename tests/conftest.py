"""What tests may need from outside the checkout, and what happens where it is missing.

Three markers name such a need:

- ``exim``: Debian's Exim, started by root as a private instance (see integration/exim.py);
- ``system("strace", "perl:Mail::DKIM", "node:mailauth")``: other programs or Perl modules of
  ``make system``, or node packages and Python modules (``python:authres``) of ``make peers``;
- ``suites``: the public test suites, looked for in the directory that RESPOOL_SUITES names;
- ``peer("parsedmarc")``: a Python program that is no dependency of ours, of ``make peers``.

Where the need is absent the test is skipped, and the last lines of the run say how much was
skipped and how to get it. RESPOOL_REQUIRE (a comma-separated list of ``exim`` and ``suites``;
``exim`` stands for everything that ``make system`` and ``make peers`` install) turns the skip into a failure; with
both in the list nothing at all may be skipped, for whatever reason.

Diagnostics: a failed set-up names the need and the remedy.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import hypothesis
import pytest

CHECKOUT: Final = Path(__file__).resolve().parent.parent
EXIM_COMMAND: Final = os.environ.get("RESPOOL_EXIM", "/usr/sbin/exim4")

_MARK: Final = "NEEDED AND ABSENT"
_MAKE_SYSTEM: Final = "as root: make system"
_MAKE_PEERS: Final = "make peers"
#: An environment of its own: what it needs must not get into ours.
PEERS: Final = CHECKOUT / "build" / "peers" / "bin"
_GET_SUITES: Final = "point RESPOOL_SUITES at the directory that holds arc-test-suite and spf-test-suite"


# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("respool", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("respool")


def suites_directory() -> Path:
    """Where the public test suites lie: RESPOOL_SUITES, or ``../shared/data`` beside the checkout."""
    named = os.environ.get("RESPOOL_SUITES")
    return Path(named) if named else CHECKOUT.parent / "shared" / "data"


def required() -> frozenset[str]:
    """The needs whose absence is a failure: RESPOOL_REQUIRE."""
    return frozenset(name.strip() for name in os.environ.get("RESPOOL_REQUIRE", "").split(",") if name.strip())


@functools.cache
def _missing_program(name: str) -> str | None:
    kind, colon, module = name.partition(":")
    if not colon:
        return None if shutil.which(name) else f"the program {name}"
    if kind == "node":
        return None if (CHECKOUT / "build" / "peers" / "node_modules" / module).is_dir() else f"{module} for node"
    if kind == "python":
        return None if (CHECKOUT / "build" / "peers" / "python" / module).is_dir() else f"{module} for Python"
    if kind != "perl":
        raise pytest.UsageError(f"marker system: unknown kind of need {name!r}")
    if shutil.which("perl") is not None:
        tried = subprocess.run(["perl", f"-M{module}", "-e1"], check=False, capture_output=True)
        if tried.returncode == 0:
            return None
    return f"the Perl module {module}"


@functools.cache
def _missing_exim(features: frozenset[str]) -> str | None:
    if not os.access(EXIM_COMMAND, os.X_OK):
        return f"Exim ({EXIM_COMMAND})"
    if os.geteuid() != 0:
        return "root, which alone may start a private Exim"
    if not features:
        return None
    # It says so before it looks for a configuration, which one that is not installed need not have.
    shown = subprocess.run([EXIM_COMMAND, "-bV"], check=False, capture_output=True, text=True).stdout
    # "Support for: crypteq DANE SRS ...", "Lookups (built-in): lsearch sqlite ...".
    absent = features.difference(*(line.partition(":")[2].split() for line in shown.splitlines()))
    return f"an Exim ({EXIM_COMMAND}) with {' and '.join(sorted(absent))}" if absent else None


@functools.cache
def _missing_suites() -> str | None:
    directory = suites_directory()
    absent = [name for name in ("arc-test-suite", "spf-test-suite") if not (directory / name).is_dir()]
    return f"{' and '.join(absent)} in {directory}" if absent else None


def absent_needs(item: pytest.Item) -> Iterator[tuple[str, str, str]]:
    """What item needs and the machine lacks: (member of RESPOOL_REQUIRE, what is missing, remedy)."""
    exim = list(item.iter_markers("exim"))
    if exim and (missing := _missing_exim(frozenset(feature for marker in exim for feature in marker.args))):
        yield "exim", missing, _MAKE_SYSTEM
    for marker in item.iter_markers("system"):
        for name in marker.args:
            if missing := _missing_program(name):
                yield "exim", missing, _MAKE_PEERS if name.startswith(("node:", "python:")) else _MAKE_SYSTEM
    for marker in item.iter_markers("peer"):
        for name in marker.args:
            if not (PEERS / name).exists():
                yield "exim", f"the program {name}", _MAKE_PEERS
    if item.get_closest_marker("suites") is not None and (missing := _missing_suites()):
        yield "suites", missing, _GET_SUITES


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out, not skip, what only ``make campaign`` runs; there it takes as long as it takes."""
    if os.environ.get("RESPOOL_CAMPAIGN"):
        for item in items:
            item.add_marker(pytest.mark.timeout(0))
        return
    left_out = [item for item in items if item.get_closest_marker("campaign") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item.get_closest_marker("campaign") is None]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for need, missing, remedy in absent_needs(item):
        sentence = f"{_MARK}: {missing} ({remedy})"
        if need in required():
            pytest.fail(f"{sentence}; RESPOOL_REQUIRE asks for {need}", pytrace=False)
        pytest.skip(sentence)


def _skip_reasons(reporter: pytest.TerminalReporter) -> Counter[str]:
    reasons: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []):
        longrepr = report.longrepr
        reasons[longrepr[2] if isinstance(longrepr, tuple) else str(longrepr)] += 1
    return reasons


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter: pytest.TerminalReporter | None = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or hasattr(session.config, "workerinput"):
        return
    if {"exim", "suites"} <= required() and reporter.stats.get("skipped") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = _skip_reasons(terminalreporter)
    if not reasons:
        return
    strict = {"exim", "suites"} <= required()
    terminalreporter.section("NOT TESTED", sep="!", red=True, bold=True)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5} skipped: {reason.removeprefix('Skipped: ')}", red=strict, yellow=True)
    if strict:
        terminalreporter.write_line("RESPOOL_REQUIRE=exim,suites: nothing may be skipped; the run has failed", red=True)
