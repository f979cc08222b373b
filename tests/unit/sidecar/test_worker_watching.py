"""A worker whose watch dies, is not to be had, or is not wanted, still gets every message."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from respool.requeue.claim import take
from respool.sidecar import log, queue_runner
from respool.sidecar.preparation import prepare
from respool.sidecar.worker import Worker
from respool.sidecar.worker_setup import make_worker
from respool.spool import watch as watch_module
from respool.spool.ids import MessageId
from respool.spool.locks import lock_message
from respool.spool.watch import Watch
from tests.fault.harness import Setup

GOOD = Path(__file__).parents[2] / "data/spool-496/main/input/1xV9Vd-0000wB-2S-H"
PATIENCE = 60


class Events:
    """A logger that remembers: (level, event, fields)."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, Any]]] = []

    def bind(self, **_: Any) -> Events:
        return self

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: self.seen.append((level, event, fields))

    def names(self) -> list[str]:
        return [event for _, event, _ in self.seen]


@contextmanager
def running(setup: Setup) -> Generator[tuple[Worker, Events]]:
    log.configure(level=50, terminal=False)
    prepared = prepare(setup.config)
    events = Events()
    logger: Any = events
    made = make_worker(prepared, logger, once=False, trace=False)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made, events
    finally:
        made.stop()
        thread.join(PATIENCE)
        prepared.close()
        assert not thread.is_alive()


def until_published(setup: Setup) -> None:
    end = time.monotonic() + PATIENCE
    while not list(setup.input.glob("*-H")):
        assert time.monotonic() < end, "the message was never noticed"
        time.sleep(0.01)


def test_an_event_is_enough(tmp_path: Path) -> None:
    # Scanning alone would take ten minutes.
    setup = Setup(tmp_path, source="export", extra="scan_seconds = 600")
    with running(setup) as (made, _):
        wait_for_watch(made)
        setup.put(GOOD)
        until_published(setup)


def wait_for_watch(made: Worker) -> Watch:
    end = time.monotonic() + PATIENCE
    while made._runner.watch is None or not made._runner.watch.is_alive() or made._runner.is_wanted:
        assert time.monotonic() < end
        time.sleep(0.01)
    return made._runner.watch


def test_a_watch_whose_thread_was_killed_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    setup = Setup(tmp_path, source="export", extra="scan_seconds = 600")
    with running(setup) as (made, events):
        first = wait_for_watch(made)

        def dies(_: object) -> None:
            raise RuntimeError("killed")

        first._appeared = dies
        (setup.export / "1xV9Vd-0000zz-00-H").touch()  # half a message: the event kills the thread
        end = time.monotonic() + PATIENCE
        while made._runner.watch is first or made._runner.watch is None:
            assert time.monotonic() < end, "the dead watch still looks alive"
            time.sleep(0.01)
        wait_for_watch(made)
        setup.put(GOOD)
        until_published(setup)
        assert "watch.died" in events.names()


def test_without_inotify_scanning_does_it_and_the_log_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Any:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(watch_module, "InotifyFD", refused)
    setup = Setup(tmp_path, source="export", extra="scan_seconds = 0.05")
    with running(setup) as (_, events):
        setup.put(GOOD)
        until_published(setup)
        assert "watch.unavailable" in events.names()


def test_polling_by_setting(tmp_path: Path) -> None:
    setup = Setup(tmp_path, source="export", extra='scan_seconds = 0.05\nwatch = "poll"')
    with running(setup) as (made, events):
        setup.put(GOOD)
        until_published(setup)
        assert made._runner.watch is None
        assert not [name for name in events.names() if name.startswith("watch.")]


def test_a_remote_file_system_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def remote(_: int) -> str:
        return "nfs4"

    monkeypatch.setattr(queue_runner, "file_system_type", remote)
    setup = Setup(tmp_path, source="export", extra="scan_seconds = 0.05")
    with running(setup) as (_, events):
        setup.put(GOOD)
        until_published(setup)
    ((level, _, fields),) = [call for call in events.seen if call[1] == "watch.remote"]
    assert (level, fields["file_system"]) == ("warning", "nfs4")


def test_a_lost_event_costs_time_until_the_next_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def deaf(self: Watch, subdirectory: str, event: object) -> None:
        del self, subdirectory, event

    looks: list[float] = []
    look = queue_runner.QueueRunner.look

    def counted(self: queue_runner.QueueRunner, now: float) -> None:
        look(self, now)
        looks.append(now)

    monkeypatch.setattr(Watch, "on_event", deaf)
    monkeypatch.setattr(queue_runner.QueueRunner, "look", counted)
    setup = Setup(tmp_path, source="export", extra="scan_seconds = 600")
    with running(setup) as (made, _):
        watched = wait_for_watch(made)
        # The scan at its start, too, is over: nothing but an event could tell of the message.
        wait_until(lambda: bool(looks))
        setup.put(GOOD)
        time.sleep(0.2)
        assert not list(setup.input.glob("*-H"))
        watched.on_overflow()
        until_published(setup)


def test_a_split_subdirectory_made_while_it_runs(tmp_path: Path) -> None:
    setup = Setup(tmp_path, source="directory", extra="scan_seconds = 600", orphan_seconds=600)
    # No export: the ledger would know the message that comes a second time.
    with running(setup) as (made, _):
        wait_for_watch(made)
        message_id = setup.put(GOOD)  # noticed at once
        until_published(setup)
        setup.deliver()
        (setup.export / "d").mkdir()
        aside = setup.root / "aside"
        aside.mkdir()
        setup.place = aside
        assert setup.put(GOOD) == message_id
        for suffix in "HD":
            (aside / f"{message_id}-{suffix}").rename(setup.export / "d" / f"{message_id}-{suffix}")
        until_published(setup)


def test_what_a_worker_that_ends_in_good_order_gives_up_is_no_crash(tmp_path: Path) -> None:
    """Eight orderly ends with the same message in hand, which Exim locks; of crashes, six would have it held."""
    setup = Setup(tmp_path, source="queue", extra="scan_seconds = 0.05")
    message_id = setup.put(GOOD)
    prepared = prepare(setup.config)
    (found,) = prepared.source.input.list().pairs
    take(prepared.state, prepared.source, found).close()
    prepared.close()
    (data,) = (setup.state / "work").glob(f"*/{message_id}-D")
    descriptor = os.open(data, os.O_RDWR)
    try:
        assert lock_message(descriptor, MessageId(message_id))
        for _ in range(8):
            with running(setup) as (_, events):
                wait_for_event(events, "message.waits")
    finally:
        os.close(descriptor)
    with running(setup):
        until_published(setup)
    assert not setup.states()["held"]


def wait_for_event(events: Events, name: str) -> None:
    wait_until(lambda: name in events.names())


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)
