"""The sidecar watched from outside: a real Prometheus, health, readiness, a service manager, the terminal."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respool.sidecar.heartbeat import LONGEST_SILENCE
from respool.spool.ids import IdMinter
from tests.conftest import CHECKOUT

from ..ports import free_port
from . import judged_site

RULES = CHECKOUT / "samples" / "prometheus"
SLOW = "import ctypes, time\n" + judged_site.JUDGE.replace(
    "        subject =", "        time.sleep(0.005)\n        subject ="
).replace(
    '        if b"hold" in subject:\n',
    """\
        if b"seize" in subject:
            ctypes.PyDLL(None).sleep(600)  # without letting go of the interpreter
        if b"linger" in subject:
            time.sleep(600)
        if b"hold" in subject:
""",
)


class Running:
    """``respool run`` with an endpoint, over plain directories."""

    def __init__(self, directory: Path, extra: str = "", environment: dict[str, str] | None = None) -> None:
        self.directory = directory
        self.port = free_port()
        self.configuration = judged_site.set_up(
            directory,
            judge=SLOW,
            workers=2,
            top=f"scan_seconds = 0.5\n{extra}",
            tables=f'[metrics]\nlisten = "127.0.0.1:{self.port}"',
        )
        self._minter = IdMinter(long=True)
        with (directory / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "respool", "run", "-c", str(self.configuration)], stderr=log,
                env={**os.environ, **(environment or {})}, start_new_session=True,
            )  # fmt: skip

    def put(self, subject: str) -> None:
        message_id = self._minter.mint()
        lines = [f"{message_id}-H", "mail 8 8", "<a@example.test>", "1795000000 0", "-received_time_usec .5",
                 "-body_linecount 1", "-max_received_linelength 50", "XX", "1", "bob@example.test", "",
                 f"{len(subject) + 10:03d}  Subject: {subject}", ""]  # fmt: skip
        source = self.directory / "source"
        (source / message_id.data_name).write_text(f"{message_id}-D\nHello.\n")
        # The sidecar is running: -H appears whole.
        (source / ".new").write_text("\n".join(lines))
        (source / ".new").rename(source / message_id.header_name)

    def get(self, path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def workers(self) -> list[int]:
        files = sorted((self.directory / "state" / "status").glob("*.json"))
        return [int(json.loads(path.read_bytes())["pid"]) for path in files]

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """The first true answer."""
    end = time.monotonic() + seconds
    while True:
        try:
            answer = what()
        except OSError:
            answer = None
        if answer:
            return answer
        assert time.monotonic() < end, f"{what} gave {answer!r}"
        time.sleep(0.1)


def received(channel: socket.socket, seconds: float) -> list[bytes]:
    """What comes, until nothing has come for so many seconds."""
    channel.settimeout(seconds)
    found: list[bytes] = []
    while True:
        try:
            found.append(channel.recv(1000))
        except TimeoutError:
            return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path)
    try:
        yield started
    finally:
        started.stop()


@pytest.mark.system("prometheus", "promtool")
def test_a_real_prometheus_scrapes_what_the_rules_ask_for(running: Running) -> None:
    until(lambda: running.get("/ready")[0] == 200)
    for number in range(40):
        running.put("hold" if number % 10 == 0 else "plain")
    until(lambda: 'respool_queue_messages{queue="held"} 4.0' in running.get("/metrics")[1])
    directory, port = running.directory / "prometheus", free_port()
    directory.mkdir()
    shutil.copy(RULES / "respool.rules.yml", directory)
    text = (RULES / "prometheus.yml").read_text().replace("127.0.0.1:9610", f"127.0.0.1:{running.port}")
    (directory / "prometheus.yml").write_text(text.replace("15s", "1s"))
    with (directory / "log").open("wb") as log:
        prometheus = subprocess.Popen(
            ["prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stderr=log,
        )  # fmt: skip
    try:

        def ask(query: str) -> list[Any]:
            url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
            with urllib.request.urlopen(url, timeout=60) as answer:
                return list(json.load(answer)["data"]["result"])

        until(lambda: any(one["value"][1] == "1" for one in ask('up{job="respool"}')))

        def total(query: str) -> float:
            return sum(float(one["value"][1]) for one in ask(query))

        until(lambda: total("respool_messages_total") == 40)
        assert total('respool_messages_total{state="held"}') == 4
        assert total("respool_outputs_total") == 36
        assert total("respool_processor_duration_seconds_count") == 40
        assert total("respool_message_duration_seconds_count") == 40
        assert total("respool_processor_duration_seconds_sum") >= 40 * 0.005
        # Every metric that a rule asks for is there; those of DNS only where the network is asked.
        named = set(re.findall(r"respool_[a-z_]+", (RULES / "respool.rules.yml").read_text()))
        absent = {name for name in named if not ask(name)}
        assert absent <= {"respool_dns_failures_total", "respool_dns_questions_total"}
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/rules", timeout=60) as answer:
            (group,) = json.load(answer)["data"]["groups"]
        assert {rule["health"] for rule in group["rules"]} <= {"ok", "unknown"}
    finally:
        prometheus.terminate()
        prometheus.wait(60)


@pytest.mark.system("promtool")
def test_the_rules_are_right() -> None:
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "respool.rules.test.yml"]):
        done = subprocess.run(["promtool", *command], cwd=RULES, capture_output=True, check=False, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_health_and_readiness_tell_a_stopped_worker(tmp_path: Path) -> None:
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    channel.bind(str(tmp_path / "notify"))
    channel.settimeout(60)
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"}
    running = Running(tmp_path, environment=environment)
    try:
        assert channel.recv(1000).startswith((b"READY=1", b"WATCHDOG=1"))
        until(lambda: running.get("/ready") == (200, "ok\n"))
        assert running.get("/health") == (200, "ok\n")
        assert running.get("/nothing")[0] == 404
        victim = until(running.workers)[0]
        os.kill(victim, signal.SIGSTOP)
        _, text = until(lambda: (found := running.get("/health"))[0] == 503 and found, LONGEST_SILENCE + 60)
        assert_silent(text)
        until(lambda: b"watchdog.withheld" in (tmp_path / "log").read_bytes())
        received(channel, 0.1)
        # Four intervals without a ping.
        assert not [text for text in received(channel, 4) if text.startswith(b"WATCHDOG")]
        os.kill(victim, signal.SIGCONT)
        until(lambda: running.get("/health")[0] == 200)
        channel.settimeout(60)
        until(lambda: channel.recv(1000) == b"WATCHDOG=1")
        running.process.terminate()
        until(lambda: channel.recv(1000).startswith(b"STOPPING=1"))
    finally:
        running.stop()
        channel.close()


def test_health_tells_a_processor_that_keeps_the_interpreter_to_itself(tmp_path: Path) -> None:
    """No thread of that worker runs any more, so it can't end itself; the deadline of a message is a minute."""
    running = Running(tmp_path)
    try:
        until(lambda: running.get("/ready") == (200, "ok\n"))
        running.put("seize")
        _, text = until(lambda: (found := running.get("/health"))[0] == 503 and found, LONGEST_SILENCE + 60)
        assert_silent(text)
    finally:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.stop()


def assert_silent(text: str) -> None:
    """What is said of a worker: it has been silent for so long, which is too long."""
    said = re.fullmatch(r"worker [01] has given no sign of life for ([0-9]+) s\n", text)
    assert said is not None, text
    assert int(said[1]) >= LONGEST_SILENCE


def test_a_worker_busy_for_longer_than_the_silence_is_no_trouble(tmp_path: Path) -> None:
    """Slow is not hung: a minute is a message's, and the worker gives signs of life all the while."""
    running = Running(tmp_path, "threads = 1")
    try:
        until(lambda: running.get("/ready") == (200, "ok\n"))
        running.put("linger")
        until(lambda: list((tmp_path / "state" / "work").iterdir()))
        end = time.monotonic() + LONGEST_SILENCE + 3
        while time.monotonic() < end:
            assert running.get("/health") == (200, "ok\n")
            time.sleep(0.5)
        assert list((tmp_path / "state" / "work").iterdir())
    finally:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.stop()


def test_a_killed_worker_and_a_killed_endpoint_come_back(running: Running) -> None:
    until(lambda: running.get("/ready")[0] == 200)
    workers = until(lambda: len(found := running.workers()) == 2 and found)
    os.kill(workers[0], signal.SIGKILL)
    until(lambda: (found := running.workers()) != workers and len(found) == 2)
    children = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(running.process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    (endpoint,) = set(map(int, children)) - set(running.workers())
    os.kill(endpoint, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{endpoint}").exists())
    until(lambda: running.get("/health")[0] == 200)
    assert "respool_up 1.0" in running.get("/metrics")[1]


def test_status_of_a_running_sidecar(running: Running) -> None:
    until(lambda: running.get("/ready")[0] == 200)
    for number in range(6):
        running.put("hold" if number == 0 else "plain")

    def status(*options: str) -> str:
        command = [sys.executable, "-m", "respool", "status", "-c", str(running.configuration), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    document = until(lambda: (found := json.loads(status("--json")))["ended"] == {"held": 1, "requeued": 5} and found)
    assert document["condition"] == "working"
    assert document["queues"]["held"]["length"] == 1
    assert sum(document["minutes"]) == 6
    assert [one["name"].rpartition(":")[2] for one in document["processors"]] == ["Judge"]
    text = status()
    assert "● working" in text
    assert re.search(r"held +1 ", text)
    assert "5 requeued" in text
    assert 'respool_messages_total{state="held",worker="' in status("--prometheus")
    running.stop()
    assert json.loads(status("--json"))["condition"] == "not running"


@pytest.mark.system("tmux")
def test_the_live_view_in_a_terminal(running: Running) -> None:
    until(lambda: running.get("/ready")[0] == 200)
    running.put("hold")
    name = f"respool-{os.getpid()}"
    command = f"{sys.executable} -m respool status -c {running.configuration} --watch"

    def tmux(*arguments: str) -> str:
        done = subprocess.run(["tmux", "-L", name, *arguments], capture_output=True, text=True, check=False)
        return done.stdout

    tmux("new-session", "-d", "-x", "120", "-y", "40", command)
    try:
        until(lambda: re.search(r"held +1 +█", tmux("capture-pane", "-p")))
        assert "q ends" in tmux("capture-pane", "-p")
        tmux("send-keys", "q")
        until(lambda: not tmux("list-sessions"))
    finally:
        tmux("kill-server")
