"""A processor that blocks, raises, leaks or returns nonsense: contained, named, and the rest of the mail goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import IdMinter
from respool.testing import make_message

from . import misbehaving

PLUGIN = Path(misbehaving.__file__)

#: The sidecar, its patience shortened.
SIDECAR = """
import sys
from respool.sidecar import engine, pause, supervisor
from respool.sidecar.cli import main
pause.SECONDS = 0.2
engine.MOST_CRASHES = 2
supervisor._RESTART_WAIT = 0.1
sys.argv = ["respool", "run", "-c", sys.argv[1]]
main()
"""

#: Deeds that kill the worker or make it end, and what the log says of them.
DEADLY = ("exits", "killed", "segfault", "loops", "blocks", "closes-descriptors", "closes-a-descriptor")
HARMLESS = (
    "forks",
    "forks-and-stays",
    "leaks",
    "keeps-memory",
    "leaves-a-thread",
    "thread-that-fails",
    "changes-the-process",
    "well-behaved",
)
DEFERRED = ("temporary-odd",)
HELD = tuple(sorted(set(misbehaving.DEEDS) - set(DEADLY) - set(HARMLESS) - set(DEFERRED)))


class Ran:
    """What the sidecar left: status of each message by its deed, what was published, the log."""

    def __init__(self, root: Path, ids: dict[str, str], log: str, exit_code: int) -> None:
        self.root, self.ids, self.exit_code = root, ids, exit_code
        self.log = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
        self.text = log

    def status(self, deed: str, state: str) -> dict[str, Any]:
        (path,) = (self.root / "state" / state).glob(f"{self.ids[deed]}.*/status.json")
        found: dict[str, Any] = json.loads(path.read_text())
        return found

    def published(self, deed: str) -> list[Path]:
        """The files in the target, whatever id they have, of the message with that deed."""
        marker = f"X-Deed: {deed}\n".encode()
        return [path for path in (self.root / "target").glob("*-H") if marker in path.read_bytes()]

    def events(self, name: str, deed: str = "") -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == name and (not deed or line.get("id") == self.ids[deed])]


def prepare(root: Path, deeds: list[str], workers: int, memory_mib: int = 512) -> tuple[Path, dict[str, str]]:
    """A configuration with one message for each deed; the ids of these, in order."""
    for name in ("source", "target", "state"):
        (root / name).mkdir(mode=0o750)
    plugin = root / "misbehaving.py"
    plugin.write_bytes(PLUGIN.read_bytes())
    plugin.chmod(0o644)
    configuration = root / "respool.toml"
    configuration.write_text(f"""
hostname = "mx.example.org"
state_directory = "{root}/state"
workers = {workers}
threads = 2
deadline_seconds = 2
memory_mib = {memory_mib}
[source]
kind = "directory"
directory = "{root}/source"
[requeue]
kind = "directory"
directory = "{root}/target"
[[processor]]
use = "{plugin}:Misbehaving"
on_error = "hold"
""")
    minter = IdMinter(long=True)
    ids: dict[str, str] = {}
    for number, deed in enumerate(deeds):
        message_id = str(minter.mint())
        ids[deed if deeds.count(deed) == 1 else f"{deed} {number}"] = message_id
        fields = [("From", "a@sender.example"), ("X-Deed", deed)]
        if deed in misbehaving.DEEDS:
            fields.append(("X-Do", deed))
        message = make_message(fields, message_id=message_id)
        data = root / "source" / f"{message_id}-D"
        data.write_bytes(f"{message_id}-D\n".encode() + b"Hello,\n\nworld.\n")
        data.chmod(0o640)
        (root / "source" / f"{message_id}-H").write_bytes(render_header_file(message.envelope))
    return configuration, ids


def run(root: Path, configuration: Path, done: Callable[[], bool], *, descriptors: int | None = None) -> int:
    """Run the sidecar, with so many descriptors, until that is so, then end it; the exit code."""
    command = [sys.executable, "-c", SIDECAR, str(configuration)]
    if descriptors is not None:
        command = ["sh", "-c", f'ulimit -Sn {descriptors} && exec "$@"', "sh", *command]
    with (root / "log").open("wb") as log:
        process = subprocess.Popen(command, stderr=log, cwd=root)
    try:
        give_up = time.monotonic() + 120
        while not done():
            assert process.poll() is None, (root / "log").read_text()[-4000:]
            assert time.monotonic() < give_up, (root / "log").read_text()[-4000:]
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        return process.wait(60)
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    root = tmp_path_factory.mktemp("misbehaving")
    configuration, ids = prepare(root, [*misbehaving.DEEDS, "well-behaved"], workers=2)

    def done() -> bool:
        held = count(root / "state/held")
        return count(root / "target", "-H") >= len(HARMLESS) and held >= len(HELD) + len(DEADLY)

    exit_code = run(root, configuration, done)
    return Ran(root, ids, (root / "log").read_text(), exit_code)


def test_a_worker_out_of_descriptors_makes_room_for_another(tmp_path: Path) -> None:
    configuration, ids = prepare(tmp_path, ["leaks"] * 60, workers=1)

    def done() -> bool:
        # One that finds no descriptor itself is held, by name.
        return count(tmp_path / "target", "-H") + count(tmp_path / "state/held") == 60

    run(tmp_path, configuration, done, descriptors=300)
    log = (tmp_path / "log").read_text()
    assert '"event":"worker.leaking"' in log
    assert "/etc/hostname" in log
    assert ended(tmp_path) == sorted(ids.values())


def test_a_worker_whose_memory_grows_makes_room_for_another(tmp_path: Path) -> None:
    """What is kept of all messages is more than a worker may take; without another every message would fail."""
    configuration, ids = prepare(tmp_path, ["keeps-memory"] * 60, workers=1, memory_mib=400)
    run(tmp_path, configuration, lambda: count(tmp_path / "target", "-H") + count(tmp_path / "state/held") == 60)
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    (leaking, *_) = [event for event in events if event["event"] == "worker.leaking"]
    assert leaking["memory_mib"] >= 300
    assert leaking["memory_limit_mib"] == 400
    assert not [event for event in events if event["event"] in {"processor.failed", "message.recovered"}]
    assert count(tmp_path / "target", "-H") == 60
    assert ended(tmp_path) == sorted(ids.values())


def ended(root: Path) -> list[str]:
    """The ids of the messages that were published or held, sorted; none is in hand."""
    assert os.listdir(root / "state/work") == []
    found = [name[:-2] for name in os.listdir(root / "target") if name.endswith("-H")]
    return sorted(found + [name.partition(".")[0] for name in os.listdir(root / "state/held")])


def count(directory: Path, suffix: str = "") -> int:
    return sum(name.endswith(suffix) for name in os.listdir(directory)) if directory.exists() else 0


@pytest.mark.parametrize("deed", HELD)
def test_what_fails_at_the_boundary_is_held_and_named(ran: Ran, deed: str) -> None:
    status = ran.status(deed, "held")
    assert ran.published(deed) == []
    assert len(status["reason"]) < 1200
    status["reason"].encode()
    is_verdict = deed in {"surrogate", "long-reason"}
    # What is no verdict of a processor is tried again by a release: there is none to override.
    assert ("misbehaving.py:Misbehaving" in status["processor"]) is is_verdict
    if not is_verdict:
        assert "misbehaving.py:Misbehaving" in status["reason"]
    if not is_verdict and deed != "permanent-odd":
        assert "misbehaving.py:Misbehaving failed: " in status["reason"]
        event = ran.events("processor.failed", deed)[-1]
        assert "Traceback" in event["exception"]


@pytest.mark.parametrize("deed", DEFERRED)
def test_odd_temporary_errors_defer(ran: Ran, deed: str) -> None:
    assert ran.status(deed, "deferred")["reason"] == "soon"


@pytest.mark.parametrize("deed", HARMLESS)
def test_what_can_be_made_harmless_goes_through_once(ran: Ran, deed: str) -> None:
    (path,) = ran.published(deed)
    envelope = parse_header_file(path.read_bytes(), file=path.name)
    data = path.with_name(envelope.id.data_name)
    assert data.read_bytes().endswith(b"world.\n")
    for file in (path, data):
        assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("deed", DEADLY)
def test_what_kills_its_worker_is_held_and_the_processor_is_named(ran: Ran, deed: str) -> None:
    status = ran.status(deed, "held")
    assert ran.published(deed) == []
    assert "the worker died 2 times" in status["reason"]
    assert "misbehaving.py:Misbehaving" in status["reason"]


@pytest.mark.parametrize("deed", ["loops", "blocks"])
def test_a_hang_is_named_with_the_line(ran: Ran, deed: str) -> None:
    event = ran.events("worker.hung", deed)[0]
    assert "misbehaving.py:Misbehaving" in event["processor"]
    assert f" {deed}" in event["where"]


@pytest.mark.parametrize("deed", ["closes-descriptors", "closes-a-descriptor"])
def test_lost_descriptors_are_named_and_the_worker_ends(ran: Ran, deed: str) -> None:
    # On the way to being held the message costs two workers.
    events = [line for line in ran.events("worker.descriptors_lost") if line.get("id") in {ran.ids[deed], None}]
    assert any(str(ran.root / "source") in line["lost"] for line in events)


def test_the_log_names_what_was_meddled_with(ran: Ran) -> None:
    changed = [line["changed"] for line in ran.events("processor.meddled")]
    assert "umask" in changed
    assert changed.count("a fork of the worker") >= 2  # again where another message killed the worker
    # Again, too, where another message killed the worker before this one was done.
    failed, *_ = [line for line in ran.events("thread.failed") if line["thread"] == "failing"]
    assert not failed["ours"]
    assert "in a thread" in failed["exception"]
    assert [line for line in ran.events("thread.failed") if line["ours"]] == []


def test_nothing_is_left_running_and_nothing_in_hand(ran: Ran) -> None:
    assert ran.exit_code == 0
    assert os.listdir(ran.root / "state/work") == []
    assert os.listdir(ran.root / "state/corrupt") == []
    give_up = time.monotonic() + 60
    # Who was killed may take a moment.
    while left := [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if str(ran.root).encode() in read(entry)]:
        assert time.monotonic() < give_up, left
        time.sleep(0.05)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
