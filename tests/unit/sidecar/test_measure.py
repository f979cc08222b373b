"""What workers measure, what is shown of it, and that the documents name all of it."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from respool.requeue.state import StateDirectory
from respool.sidecar import heartbeat
from respool.sidecar.cli import cli
from respool.sidecar.cli.status import duration, sparkline
from respool.sidecar.config import Config, decode
from respool.sidecar.heartbeat import Heartbeats
from respool.sidecar.listening import is_loopback, parse_address
from respool.sidecar.measure import BOUNDS, Durations, Ended, Measured, Meter, Ran
from respool.sidecar.metrics import exposition
from respool.sidecar.overview import bound, look, mean, total
from respool.sidecar.service_manager import ServiceManager
from respool.sidecar.status import Reporter
from tests.conftest import CHECKOUT


class Clock:
    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def ended(number: int, state: str = "requeued", **more: object) -> Ended:
    return msgspec.structs.replace(
        Ended(id=f"1aaaaa-00000000000-{number:04d}", claim=number, time=1.0, state=state, seconds=0.02,
              ran=(Ran("auth", "proceed", 0.004),), outputs=("x",) if state == "requeued" else ()),
        **more,
    )  # fmt: skip


def test_what_is_counted() -> None:
    meter = Meter(clock=Clock())
    for number in range(10):
        meter.ended(ended(number), requeue_seconds=0.01)
    meter.ended(ended(10, "held", ran=(Ran("auth", "hold", 100.0, "no"),)), requeue_seconds=None)
    found = meter.snapshot()
    assert found.messages.number == 11
    assert found.requeue == Durations((0, 0, 10, *[0] * (len(BOUNDS) - 2)), 0.1)
    assert found.outputs == 10
    assert found.processors["auth"].answers == {"proceed": 10, "hold": 1}
    assert found.processors["auth"].durations.counts[-1] == 1
    assert msgspec.json.decode(msgspec.json.encode(found), type=Measured) == found


def test_held_messages_are_remembered_while_others_pass() -> None:
    meter = Meter()
    meter.ended(ended(1, "held", reason="x" * 10_000))
    for number in range(2, 500):
        meter.ended(ended(number))
    recent = meter.snapshot().recent
    assert len(recent) == 51
    (held,) = [one for one in recent if one.state == "held"]
    assert len(held.reason) == 500


def test_minutes_go_by_also_without_messages_and_never_back() -> None:
    clock = Clock()
    clock.now = 60.0 * 1000
    meter = Meter(clock=clock)
    meter.ended(ended(1))
    clock.now += 60 * 3
    meter.ended(ended(2))
    assert meter.snapshot().minutes == (1, 0, 0, 1)
    clock.now -= 120
    meter.ended(ended(3))
    assert meter.snapshot().minutes == (1, 0, 0, 2)
    clock.now += 10**6
    assert sum(meter.snapshot().minutes) == 0
    assert len(meter.snapshot().minutes) == 60


def test_figures_of_several_workers() -> None:
    one, two = Durations((3, *[0] * 11), 0.003), Durations((0, 96, *[0] * 9, 1), 1.0)
    both = total([one, two])
    assert both.number == 100
    assert mean(both) == pytest.approx(0.01003)
    assert bound(both, 0.95) == 0.003
    assert bound(both, 1.0) is None
    assert mean(Durations()) == 0


@pytest.fixture
def config(tmp_path: Path) -> Config:
    for name in ("state", "source", "target"):
        (tmp_path / name).mkdir()
    text = f"""
hostname = "mx.example.org"
state_directory = "{tmp_path}/state"
[source]
kind = "directory"
directory = "{tmp_path}/source"
[requeue]
kind = "directory"
directory = "{tmp_path}/target"
"""
    (tmp_path / "respool.toml").write_text(text)
    return decode(text.encode(), Config, file="respool.toml")


def report(config: Config) -> None:
    """Two workers that have worked."""
    state = StateDirectory(config.state_directory)
    for worker in (0, 1):
        meter = Meter()
        meter.ended(ended(worker, reason="secret@example.test"), requeue_seconds=0.01)
        reporter = Reporter(state, worker, meter)
        reporter.failed("disk full", "1aaaaa-00000000000-0001")
        reporter.write(waiting=3, in_hand=1, stuck=0, ended={"requeued": 1})  # type: ignore[arg-type]
    for name in ("held/1aaaaa-00000000000-0000.7", "held/no message", "deferred/1aaaab-00000000000-0000.8"):
        (Path(config.state_directory) / name).mkdir()
    state.close()


def test_no_metric_names_a_message_and_every_label_is_of_a_closed_set(config: Config) -> None:
    report(config)
    text = exposition(config).decode()
    assert not re.search(r"1aaaa|example\.test|disk full", text)
    labels = set(re.findall(r'(\w+)="', text))
    assert labels == {"queue", "worker", "state", "processor", "answer", "le"}
    assert 'respool_queue_messages{queue="held"} 1.0' in text
    for state in ("requeued", "discarded", "deferred", "held", "corrupt"):
        assert f'respool_messages_total{{state="{state}",worker="0"}}' in text


def test_every_metric_is_in_the_document_and_the_other_way_round(config: Config) -> None:
    families = set(re.findall(r"(?m)^# TYPE (\S+)", exposition(config).decode()))
    document = set(re.findall(r"(?m)^\| `(respool_\w+)`", (CHECKOUT / "docs" / "metrics.md").read_text()))
    assert document == families
    rules = (CHECKOUT / "samples" / "prometheus" / "respool.rules.yml").read_text()
    asked = {re.sub(r"_bucket$", "", name) for name in re.findall(r"respool_[a-z_]+", rules)}
    assert asked - {"respool_rules"} <= families


def test_directories_that_are_gone(config: Config, tmp_path: Path) -> None:
    (tmp_path / "source").rmdir()
    assert "respool_up 0.0" in exposition(config).decode()
    result = CliRunner().invoke(cli, ["status", "-c", str(tmp_path / "respool.toml")])
    assert type(result.exception).__name__ == "TemporaryError"


def test_status_puts_workers_together(config: Config, tmp_path: Path) -> None:
    report(config)
    overview = look(config)
    assert (overview.condition, overview.ended) == ("working", {"requeued": 2})
    assert (overview.queues["held"].length, overview.queues["deferred"].length) == (1, 1)
    assert overview.minutes[-1] + overview.minutes[-2] == 2
    result = CliRunner().invoke(cli, ["status", "-c", str(tmp_path / "respool.toml")])
    assert result.exit_code == 0
    assert "disk full" in result.output


def test_a_worker_that_was_killed_long_ago_is_silent(config: Config) -> None:
    report(config)
    path = Path(config.state_directory) / "status" / "1.json"
    path.write_text(re.sub(r'"written": [0-9.]+', '"written": 5.0', path.read_text()))
    overview = look(config)
    assert (overview.condition, overview.silent) == ("silent", (1,))


def test_words_for_the_terminal() -> None:
    assert [duration(length) for length in (-1, 0, 119, 121, 7300, 200_000)] == [
        "0 s",
        "0 s",
        "119 s",
        "2 min",
        "2 h",
        "2 d",
    ]
    assert sparkline((0, 1, 500, 1000)) == "·▁▄█"


def test_heartbeats(monkeypatch: pytest.MonkeyPatch) -> None:
    beats = Heartbeats(3)
    assert not beats.have_all_begun()
    for number in range(3):
        beats.beat(number)
    assert beats.have_all_begun()
    assert beats.silent() == []
    monkeypatch.setattr(heartbeat, "LONGEST_SILENCE", -1)
    assert beats.silent() == [0, 1, 2]


def test_a_service_manager_that_is_not_there_is_told_nothing(tmp_path: Path) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": str(tmp_path / "none"), "WATCHDOG_USEC": "1000"}):
        manager = ServiceManager(environment)
        manager.ready()
        manager.ping()
        manager.stopping()
    assert not ServiceManager({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}).wants_pings
    assert not ServiceManager({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "²"}).wants_pings


@pytest.mark.parametrize("text", ["", "9610", ":9610", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:99999"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(Exception, match="is not host:port"):
        parse_address(text, "$.metrics.listen")


def test_addresses() -> None:
    assert parse_address("[::1]:9610", "") == ("::1", 9610)
    assert [is_loopback(host) for host in ("127.0.0.2", "::1", "localhost", "0.0.0.0", "example.org")] == [
        True, True, True, False, False,
    ]  # fmt: skip
