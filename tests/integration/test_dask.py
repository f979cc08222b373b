"""``respool batch --dask`` on a scheduler and worker processes of its own, on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.spool.editing import with_id
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import IdMinter
from tests.spool_corpus import SAMPLES

#: Each process of a cluster imports for seconds before it does anything, on a busy machine for a minute.
PATIENCE_SECONDS = 240
pytestmark = pytest.mark.timeout(4 * PATIENCE_SECONDS)

PROCESSOR = '''
"""Divides messages to several recipients, takes its time, and kills whoever meets the poison."""
import os, time
from respool import Context, Message, Part, Processor, ProcessorConfig, Verdict, add_header, proceed, split

class Config(ProcessorConfig):
    """Nothing to set."""
    seconds: float = 0.02
    poison: str = ""

class Divide(Processor[Config]):
    """See above."""
    phase = "modify"

    def process(self, message, context):
        time.sleep(self.config.seconds)
        if self.config.poison and str(message.id) == self.config.poison:
            os._exit(9)
        edit = add_header("X-Source", str(message.id))
        if len(message.undelivered) == 1:
            return proceed(edit)
        return split(*(Part((recipient.address,), (edit,)) for recipient in message.undelivered))
'''


class Cluster:
    """A scheduler and workers, each a process without a nanny, so that a kill is a death."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._address_file = directory / "scheduler.json"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
                    "--scheduler-file", str(self._address_file))  # fmt: skip
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._address_file.exists() or not self._address_file.read_text():
            if time.monotonic() > end:
                self.close()
                raise AssertionError("no scheduler")
            time.sleep(0.05)
        self.address = str(json.loads(self._address_file.read_text())["address"])
        self.workers = [self.start_worker() for _ in range(3)]

    def start_worker(self) -> subprocess.Popen[bytes]:
        return self._start("worker", self.address, "--no-nanny", "--nthreads", "1", "--no-dashboard",
                           "--host", "127.0.0.1", "--local-directory", str(self._directory))  # fmt: skip

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        log = (self._directory / f"{arguments[0]}-{len(self._processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], stdout=log, stderr=log, cwd=self._directory,
                env={**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"},
            )  # fmt: skip
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()


@pytest.fixture
def impatient_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """Its scheduler gives a worker up that it has not heard of for three seconds."""
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL", "3s")
    (tmp_path / "dask").mkdir()
    found = Cluster(tmp_path / "dask")
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "dask").mkdir()
    found = Cluster(tmp_path / "dask")
    try:
        yield found
    finally:
        found.close()


def make_archive(directory: Path, count: int) -> dict[str, list[bytes]]:
    """Messages of the corpora under new ids, and whom each still has to reach."""
    samples = [sample for sample in SAMPLES if sample.journal is None]
    directory.mkdir()
    wanted: dict[str, list[bytes]] = {}
    minters = {is_long: IdMinter(long=is_long) for is_long in (True, False)}
    while len(wanted) < count:
        sample = samples[len(wanted) % len(samples)]
        envelope = parse_header_file(sample.header_data, file=sample.id)
        message_id = minters[envelope.id.is_long].mint()
        header = render_header_file(with_id(envelope, message_id))
        (directory / message_id.header_name).write_bytes(header)
        body = sample.data_file.partition(b"\n")[2]
        (directory / message_id.data_name).write_bytes(message_id.data_name.encode() + b"\n" + body)
        open_ones = [one.address for one in envelope.recipients if not envelope.is_delivered(one)]
        wanted[message_id] = list(dict.fromkeys(open_ones))
    return wanted


def reached(directory: Path) -> tuple[Counter[tuple[str, bytes]], list[str]]:
    """How often each recipient of each source message is somewhere in DEST; and what is no pair."""
    found: Counter[tuple[str, bytes]] = Counter()
    odd: list[str] = []
    for path in directory.iterdir():
        if not path.name.endswith("-H"):
            if not (path.name.endswith("-D") and path.with_name(path.name[:-1] + "H").exists()):
                odd.append(path.name)
            continue
        data = path.with_name(path.name[:-1] + "D").read_bytes()
        assert data.startswith(path.name[:-1].encode() + b"D\n")
        envelope = parse_header_file(path.read_bytes(), file=path.name)
        source = re.search(rb"X-Source: (\S+)", b"".join(header.raw for header in envelope.headers))
        assert source is not None
        for recipient in envelope.recipients:
            if not envelope.is_delivered(recipient):
                found[source[1].decode(), recipient.address] += 1
    return found, odd


def configuration(directory: Path, settings: str = "", main: str = "") -> Path:
    (directory / "divide.py").write_text(PROCESSOR)
    (directory / "divide.py").chmod(0o644)
    (directory / "dns.zone").write_text("")
    file = directory / "batch.toml"
    file.write_text(f"""
hostname = "mx.example.org"
{main}
[dns]
zone_file = "{directory}/dns.zone"
[[processor]]
use = "{directory}/divide.py:Divide"
config = {{ {settings} }}
""")
    return file


def start_batch(cluster: Cluster, source: Path, destination: Path, config: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "respool", "batch", str(source), str(destination), "-c", str(config),
         "--dask", cluster.address, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def resume_batch(cluster: Cluster, source: Path, destination: Path, config: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "respool", "batch", str(source), str(destination), "-c", str(config),
         "--dask", cluster.address, "--resume"],
        capture_output=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip


def wait_for_messages(process: subprocess.Popen[bytes], destination: Path, number: int) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and (not destination.exists() or len(list(destination.glob("*-H"))) < number):
        assert time.monotonic() < end
        time.sleep(0.02)
    # On a busy machine all may be done by now.
    assert process.poll() in {None, 0}, process.communicate()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_lost_midway_loses_and_doubles_nothing(cluster: Cluster, tmp_path: Path, how: signal.Signals) -> None:
    """Killed; or stopped for a while, and gone on with."""
    wanted = make_archive(tmp_path / "source", 400)
    destination = tmp_path / "destination"
    process = start_batch(cluster, tmp_path / "source", destination, configuration(tmp_path))
    wait_for_messages(process, destination, 40)
    victim = cluster.workers[0]
    victim.send_signal(how)
    if how == signal.SIGSTOP:
        # Far shorter than the scheduler's patience: its chunk stays its own.
        time.sleep(1.5)
        victim.send_signal(signal.SIGCONT)
    reports, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, errors
    lines = [json.loads(line) for line in reports.splitlines()]
    assert Counter(line["id"] for line in lines) == dict.fromkeys(wanted, 1)
    assert {line["state"] for line in lines} == {"written"}
    found, odd = reached(destination)
    assert odd == []
    assert found == {(name, address): 1 for name, addresses in wanted.items() for address in addresses}


def test_a_worker_that_was_given_up_and_comes_back_doubles_nothing(impatient_cluster: Cluster, tmp_path: Path) -> None:
    """Stopped in the middle of a message, which the others pass by; it goes on with it when all is over."""
    cluster, destination = impatient_cluster, tmp_path / "destination"
    wanted = make_archive(tmp_path / "source", 200)
    config = configuration(tmp_path, "seconds = 0.2", "deadline_seconds = 2")
    process = start_batch(cluster, tmp_path / "source", destination, config)
    wait_for_messages(process, destination, 20)
    victim = cluster.workers[0]
    victim.send_signal(signal.SIGSTOP)
    lines, errors = process.communicate(timeout=PATIENCE_SECONDS)
    reports = [json.loads(line) for line in lines.splitlines()]
    assert Counter(report["id"] for report in reports) == dict.fromkeys(wanted, 1)
    failed = [report for report in reports if report["state"] != "written"]
    # A fifth of a second a message: it is stopped in the midst of one, or just between two. On a busy machine
    # another is given up, too, though it was not stopped; what it has in hand it finishes by itself.
    assert len(failed) <= len(cluster.workers), errors
    assert process.returncode == len(failed)
    assert [report["reason"] for report in failed] == ["another worker has had it in hand for 4 s: resume later"] * len(
        failed
    )
    given_up = (tmp_path / "dask" / "scheduler-0.log").read_text()
    assert "failed to heartbeat" in given_up

    def missing() -> set[str]:
        return set(wanted) - {path.name[:-2] for path in destination.glob("*-H")}

    # Before it has gone on, nobody may take that message from it.
    assert missing() <= {report["id"] for report in failed}
    resumed = resume_batch(cluster, tmp_path / "source", destination, config)
    assert resumed.returncode == len(failed) or not missing(), resumed.stderr
    victim.send_signal(signal.SIGCONT)
    end = time.monotonic() + PATIENCE_SECONDS
    while missing():
        assert time.monotonic() < end, "the worker did not go on"
        time.sleep(0.1)
    assert resume_batch(cluster, tmp_path / "source", destination, config).returncode == 0
    found, odd = reached(destination)
    assert odd == []
    assert found == {(name, address): 1 for name, addresses in wanted.items() for address in addresses}


def test_a_message_that_kills_its_workers_fails_alone(cluster: Cluster, tmp_path: Path) -> None:
    wanted = make_archive(tmp_path / "source", 40)
    poison = sorted(wanted)[5]
    for _ in range(4):
        cluster.start_worker()
    config = configuration(tmp_path, f'seconds = 0.0, poison = "{poison}"')
    process = start_batch(cluster, tmp_path / "source", tmp_path / "destination", config)
    reports, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1, errors
    states = {line["id"]: line["state"] for line in map(json.loads, reports.splitlines())}
    assert states == {name: "failed" if name == poison else "written" for name in wanted}
    found, odd = reached(tmp_path / "destination")
    assert [name for name in odd if not name.startswith(".")] == []
    assert found == {
        (name, address): 1 for name, addresses in wanted.items() if name != poison for address in addresses
    }


def test_a_lost_client_goes_on_with_resume(cluster: Cluster, tmp_path: Path) -> None:
    """Its last chunks may still be under way in the workers when the next run begins."""
    wanted = make_archive(tmp_path / "source", 300)
    config = configuration(tmp_path)
    destination = tmp_path / "destination"
    process = start_batch(cluster, tmp_path / "source", destination, config)
    wait_for_messages(process, destination, 60)
    process.kill()
    process.communicate()
    again = resume_batch(cluster, tmp_path / "source", destination, config)
    assert again.returncode == 0, again.stderr
    found, odd = reached(destination)
    assert odd == []
    assert found == {(name, address): 1 for name, addresses in wanted.items() for address in addresses}


def test_a_scheduler_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    make_archive(tmp_path / "source", 1)
    done = subprocess.run(
        [sys.executable, "-m", "respool", "batch", str(tmp_path / "source"), str(tmp_path / "destination"),
         "--dask", "tcp://127.0.0.1:1"],
        capture_output=True, check=False, timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    assert done.returncode == 78
    assert b"no Dask scheduler answers at tcp://127.0.0.1:1" in done.stderr
