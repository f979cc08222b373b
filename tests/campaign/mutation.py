"""Mutation testing: is there a test that fails when the code is wrong?

``python -m tests.campaign.mutation`` changes one place of one module at a time (mutants.py), in a copy of
the checkout, and runs the tests that reach the changed line, the quickest first. A mutant that no test
notices has survived: either a test is missing, or the change changes nothing, which
mutation_equivalents.toml then says with the reason.

The sample is drawn by a hash of the change itself, so that the same mutants come again
after an edit elsewhere in the module, and hypothesis draws the same examples each time.

Diagnostics: exit 1 if a mutant survived that has no explanation, or if the tests fail without any change.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Final, Literal, NoReturn

import coverage
import hypothesis
import msgspec
import pytest
from msgspec import Struct

from .mutants import Mutant, mutants_of

CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent
EQUIVALENTS: Final = Path(__file__).with_name("mutation_equivalents.toml")

#: Not imported anew for each mutant.
_PRELOADED: Final = ("cryptography.x509", "dns.resolver", "hypothesis.strategies", "lmdb", "structlog", "xdist.plugin")
#: The preloaded plugins of pytest are imported already, of which it warns.
_OPTIONS: Final = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_LEFT_OUT: Final = (".venv", ".git", "build", "demo", ".hypothesis", ".*_cache", "__pycache__", "*.egg-info")
_PATIENCE: Final = 120.0  #: seconds, of a machine that has other things to do
_TEST_PATIENCE: Final = 20.0  #: seconds that one test may take beyond ten times what it takes without a change
_MEMORY: Final = 6 << 30  #: address space of a run of tests, bytes: LMDB maps take their part

Fate = Literal["killed", "timeout", "unreached", "survived", "explained"]


class Part(Struct, frozen=True):
    """Modules and the tests meant for them."""

    modules: tuple[str, ...]
    tests: tuple[str, ...]
    #: Tests in child processes, whose lines are not seen: run for every mutant that the others let live.
    last: tuple[str, ...] = ()


_CODEC_TESTS: Final = (
    "tests/unit/spool", "tests/property/test_header_file.py", "tests/unit/processors/test_require.py",
)  # fmt: skip
_REQUEUE_TESTS: Final = (
    "tests/unit/requeue/test_job.py", "tests/unit/requeue/test_recovery.py", "tests/unit/requeue/test_claim.py",
    "tests/unit/requeue/test_stage.py", "tests/unit/requeue/test_publish.py", "tests/unit/requeue/test_slots.py",
    "tests/unit/requeue/test_orphans.py", "tests/unit/requeue/test_hand_back.py", "tests/unit/requeue/test_bounce.py",
    "tests/unit/requeue/test_file_system_order.py", "tests/unit/sidecar/test_exactly_once.py",
    "tests/unit/sidecar/test_intake.py", "tests/unit/sidecar/test_released.py",
    "tests/unit/sidecar/test_hostile_source.py", "tests/unit/sidecar/test_obstacles.py",
    "tests/unit/sidecar/test_bounce_verdict.py",
)  # fmt: skip

PARTS: Final = {
    "codec": Part(
        (
            "spool/header_file.py", "spool/header_records.py", "spool/expressions.py", "spool/recipient_line.py",
            "spool/directive.py", "spool/directive_values.py", "spool/journal.py", "spool/ids.py",
        ),
        _CODEC_TESTS,
    ),
    "edits": Part(
        ("spool/editing.py", "spool/non_recipients.py", "processors/edits.py"),
        (
            "tests/unit/spool/test_editing.py", "tests/unit/spool/test_non_recipients.py",
            "tests/unit/spool/test_journal.py", "tests/unit/spool/test_warnings.py",
            "tests/unit/processors/test_edits.py", "tests/unit/processors/test_testing.py",
            "tests/unit/processors/test_authentication_results.py", "tests/unit/processors/test_route.py",
            "tests/unit/processors/test_srs.py", "tests/unit/sidecar/test_difference.py",
        ),
    ),
    "ledger": Part(
        ("requeue/ledger.py", "requeue/ledger_file.py"),
        ("tests/unit/requeue/test_ledger.py", "tests/unit/requeue/test_ledger_file.py", *_REQUEUE_TESTS),
    ),
    "recovery": Part(
        ("requeue/recovery.py", "requeue/job.py", "requeue/publish.py", "requeue/stage.py", "requeue/claim.py"),
        _REQUEUE_TESTS,
        tuple(
            f"tests/fault/test_every_step.py::test_exactly_once[{case}-{fault}]"
            for case in ("id-taken", "named-queue-with-journal", "split", "new-body", "original-still-queued")
            for fault in ("kill-before", "EIO")
        ),
    ),
}  # fmt: skip


class Reach(Struct, frozen=True):
    """What a run of all tests of a part tells: seconds per test that passed, and the tests per line of each module."""

    seconds: dict[str, float]
    lines: dict[str, dict[int, list[str]]]


class Task(Struct, frozen=True):
    """A mutant of a module, and the tests to try on it."""

    module: str
    mutant: Mutant
    statement: str
    tests: dict[str, float]

    @property
    def key(self) -> tuple[str, str, str]:
        """By which an explanation names it."""
        return self.module, self.statement, self.mutant.text


def main() -> int:
    """Take the parts named, print a table and the survivors."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign.mutation")
    parser.add_argument("parts", nargs="*", default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--modules", nargs="*", default=[], help="only these of the parts")
    parser.add_argument("--sample", type=int, default=60, help="mutants per module (default 60; 0: all)")
    parser.add_argument("--seed", default="respool")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="without the tests in child processes")
    chosen = parser.parse_args()
    for name in _PRELOADED:
        importlib.import_module(name)
    explained = {
        (entry["module"], " ".join(entry["statement"].split()), entry["change"])
        for entry in tomllib.loads(EQUIVALENTS.read_text())["equivalent"]
    }
    unexplained = 0
    print(f"{'module':28} mutants sample  killed timeout unreached survived explained", flush=True)
    for name in chosen.parts:
        with tempfile.TemporaryDirectory(prefix="mutation.") as directory:
            part = msgspec.structs.replace(PARTS[name], last=()) if chosen.quick else PARTS[name]
            campaign = Campaign(Path(directory), part, jobs=chosen.jobs)
            for module in part.modules:
                if not chosen.modules or module in chosen.modules:
                    unexplained += campaign.take(module, chosen.sample, chosen.seed, explained)
    return 1 if unexplained else 0


class Campaign:
    """One part: its copies of the checkout, and what its tests reach."""

    def __init__(self, directory: Path, part: Part, *, jobs: int) -> None:
        self._part = part
        first = directory / "0"
        shutil.copytree(CHECKOUT, first, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT))
        self._reach = _measure(first, part)
        self._trees = [first]
        for number in range(1, jobs):
            self._trees.append(directory / str(number))
            shutil.copytree(first, self._trees[-1], symlinks=True)

    def take(self, module: str, sample: int, seed: str, explained: set[tuple[str, str, str]]) -> int:
        """Try a sample of the mutants of a module; how many survived without an explanation."""
        source = (CHECKOUT / module).read_bytes()
        found = mutants_of(source)
        lines = source.decode().splitlines()
        tasks = [
            Task(module, mutant, lines[mutant.line - 1].strip(), self._tests(module, mutant))
            for mutant in _drawn(found, lines, sample, seed)
        ]
        counts = dict.fromkeys(("killed", "timeout", "unreached", "survived", "explained"), 0)
        survivors: list[str] = []
        for number, fate in _fates(tasks, self._trees, source):
            task = tasks[number]
            if fate in {"survived", "unreached"}:
                if task.key in explained:
                    fate = "explained"
                else:
                    survivors.append(
                        f"    {fate}: {module}:{task.mutant.line}: {task.statement}\n        {task.mutant.text}"
                    )
            counts[fate] += 1
        row = " ".join(f"{count:7}" for count in counts.values())
        print(f"{module:28} {len(found):7} {len(tasks):6} {row}", *survivors, sep="\n", flush=True)
        return len(survivors)

    def _tests(self, module: str, mutant: Mutant) -> dict[str, float]:
        by_line = self._reach.lines.get(module, {})
        names = {name for line in mutant.reach for name in by_line.get(line, ())}
        if "" in names:  # run at import: whatever uses the module
            names.update(name for tests in by_line.values() for name in tests)
            if names == {""}:  # run at import alone: anybody may use what it made
                names.update(self._reach.seconds)
        names.update(name for name in self._reach.seconds if name.startswith(self._part.last))
        return {name: self._reach.seconds[name] for name in names if name in self._reach.seconds}


def _drawn(found: list[Mutant], lines: list[str], sample: int, seed: str) -> list[Mutant]:
    def lot(mutant: Mutant) -> bytes:
        return hashlib.sha256(f"{seed}\0{lines[mutant.line - 1].strip()}\0{mutant.text}".encode()).digest()

    drawn = sorted(found, key=lot)[: sample or len(found)]
    return sorted(drawn, key=lambda mutant: (mutant.start, mutant.end, mutant.new))


def _measure(tree: Path, part: Part) -> Reach:
    report = tree / "reach.json"
    process = _fork(tree, partial(_run_measured, tree, part, report))
    _, status = os.waitpid(process, 0)
    if status:
        sys.exit(f"the tests fail without a change:\n{(tree / 'output').read_text()[-4000:]}")
    return msgspec.json.decode(report.read_bytes(), type=Reach)


def _run_measured(tree: Path, part: Part, report: Path) -> int:
    measure = coverage.Coverage(
        data_file=None, config_file=False, include=[str(tree / module) for module in part.modules]
    )
    watch = _Watch(measure)
    measure.start()
    code = pytest.main([*_OPTIONS, *part.tests, *part.last], plugins=[watch])
    measure.stop()
    data = measure.get_data()
    lines = {module: data.contexts_by_lineno(str(tree / module)) for module in part.modules}
    report.write_text(json.dumps({"seconds": watch.seconds, "lines": lines}))
    return int(code)


class _Watch:
    """A pytest plugin: which test reaches what, and how long it takes."""

    def __init__(self, measure: coverage.Coverage) -> None:
        self._measure = measure
        self.seconds: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._measure.switch_context(item.nodeid)
        try:
            return (yield)
        finally:
            self._measure.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.seconds[report.nodeid] = report.duration


class _Choice:
    """A pytest plugin: only these tests, the quickest first."""

    def __init__(self, tests: dict[str, float]) -> None:
        self._tests = tests

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((x for x in items if x.nodeid in self._tests), key=lambda x: self._tests[x.nodeid])


def _fates(tasks: list[Task], trees: list[Path], source: bytes) -> Iterator[tuple[int, Fate]]:
    """The fate of each task by its number, several at a time: one in each tree."""
    waiting = list(enumerate(tasks))
    running: dict[int, tuple[int, Path, float]] = {}
    idle = list(trees)
    while waiting or running:
        while waiting and idle:
            number, task = waiting.pop(0)
            if not task.tests:
                yield number, "unreached"
                continue
            tree = idle.pop()
            _put(tree, task.module, task.mutant.apply(source))
            process = _fork(tree, partial(_run_chosen, task))
            running[process] = number, tree, time.monotonic() + _PATIENCE + 5 * sum(task.tests.values())
        time.sleep(0.02)
        for process, (number, tree, deadline) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            late = not ended and time.monotonic() > deadline
            if not ended and not late:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process, signal.SIGKILL)  # with all that its tests started
            if late:
                os.waitpid(process, 0)
            del running[process]
            idle.append(tree)
            _put(tree, tasks[number].module, source)
            yield number, "timeout" if late else "survived" if status == 0 else "killed"


def _run_chosen(task: Task) -> int:
    files = sorted({name.partition("::")[0] for name in task.tests})
    # Most mutants fall to the tests of their own module: the others need not even be imported.
    own = [file for file in files if Path(file).name == f"test_{Path(task.module).stem}.py"]
    # A wait that never ends fails its test, which is sooner known than by the time that all of them may take.
    limit = f"timeout={_TEST_PATIENCE + 10 * max(task.tests.values()):.0f}"
    for group in own, [file for file in files if file not in own]:
        if group and (code := pytest.main([*_OPTIONS, "-x", "-o", limit, *group], plugins=[_Choice(task.tests)])):
            return int(code)
    return 0


def _put(tree: Path, module: str, source: bytes) -> None:
    path = tree / module
    path.write_bytes(source)
    # Its time is in whole seconds: the next mutant of the same length would not be noticed.
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*.pyc"):
        compiled.unlink()


def _fork(tree: Path, run: Callable[[], int]) -> int:
    process = os.fork()
    if process:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.setpgid(process, process)
        return process
    _be_child(tree, run)


def _be_child(tree: Path, run: Callable[[], int]) -> NoReturn:
    code = 70
    try:
        os.setpgid(0, 0)
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
        output = os.open(tree / "output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        for descriptor in (1, 2):
            os.dup2(output, descriptor)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        os.environ["PYTHONPATH"] = str(tree)
        # The campaign's own, of the checkout; the tests import those of the tree.
        for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
            del sys.modules[name]
        phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
        # How long an example takes says nothing on a machine that runs several mutants.
        hypothesis.settings.register_profile(
            "mutation", phases=phases, derandomize=True, database=None, deadline=None, max_examples=50,
            suppress_health_check=list(hypothesis.HealthCheck),
        )  # fmt: skip
        hypothesis.settings.load_profile("mutation")
        code = run()
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
