"""SIGHUP at a running sidecar: all of the new configuration, or all of the old; each message once."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from respool.spool.ids import IdMinter, MessageId
from tests.sidecar_process import SidecarProcess

PLUGIN = """
import os
import time
from pathlib import Path

from respool import Processor, ProcessorConfig, add_header, hold, proceed

class Config(ProcessorConfig):
    word: str
    seconds: float = 0.0

class Stamp(Processor[Config]):
    def __init__(self, config):
        super().__init__(config)
        match config.word:
            case "raises":
                raise RuntimeError("made badly")
            case "dies":
                os.kill(os.getpid(), 9)

    def process(self, message, context):
        Path(self.config.word + ".begun").touch()
        while Path(self.config.word + ".hold").exists():
            time.sleep(0.02)
        time.sleep(self.config.seconds)
        return proceed(add_header("X-Word", self.config.word))
"""


class Running(SidecarProcess):
    """``respool run`` into a plain directory, from another one or from one that an Exim exports to."""

    def __init__(self, directory: Path, *, source: str = "directory") -> None:
        self.directory = directory
        self.source = source
        for name in ("source", "target", "state", "exim"):
            (directory / name).mkdir(mode=0o750)
        (directory / "stamp.py").write_text(PLUGIN)
        (directory / "stamp.py").chmod(0o600)
        super().__init__(directory / "respool.toml", directory / "log", directory=directory)
        self._minter = IdMinter(long=True)

    def configure(self, word: str, *, seconds: float = 0.0, extra: str = "", workers: int = 2) -> None:
        """Write the file as a careful administrator does: whole."""
        new = self.directory / "respool.toml.new"
        new.write_text(f"""
hostname = "mx.example.org"
state_directory = "{self.directory}/state"
workers = {workers}
scan_seconds = 0.5
[source]
kind = "{self.source}"
directory = "{self.directory}/source"
[requeue]
kind = "directory"
directory = "{self.directory}/target"
[dns]
zone_file = "/dev/null"
[[processor]]
use = "{self.directory}/stamp.py:Stamp"
config = {{ word = "{word}", seconds = {seconds} }}
{extra}
""")
        new.rename(self.configuration)

    def start(self) -> None:
        super().start()
        self.until(lambda: "sidecar.started" in self.events())

    def hang_up(self) -> None:
        self.signal(signal.SIGHUP)

    def reload(self) -> None:
        """Hang up, and wait until the new configuration counts and the last worker of the old one has ended."""
        before, reloaded = set(self.workers()), self.events()["sidecar.reloaded"]
        self.hang_up()
        self.until(lambda: self.events()["sidecar.reloaded"] == reloaded + 1)
        self.until(lambda: before.isdisjoint(self.workers()))

    def put(self, count: int = 1) -> list[MessageId]:
        """So many new messages into the source; their ids."""
        return [self._put() for _ in range(count)]

    def _put(self) -> MessageId:
        message_id = self._minter.mint()
        lines = [f"{message_id}-H", "mail 8 8", "<a@example.test>", "1795000000 0", "-received_time_usec .5",
                 "-body_linecount 1", "-max_received_linelength 50", "XX", "1", "bob@example.test", "",
                 f"{len(message_id) + 13:03d}  Message-Id: {message_id}", ""]  # fmt: skip
        source, exim = self.directory / "source", self.directory / "exim"
        (exim / message_id.data_name).write_text(f"{message_id}-D\nHello.\n")
        (exim / message_id.header_name).write_text("\n".join(lines))
        if self.source == "export":
            self.export(message_id)
        else:
            for name in (message_id.data_name, message_id.header_name):
                (exim / name).rename(source / name)
        return message_id

    def export(self, message_id: MessageId) -> None:
        """As the queuefile transport does it: two hard links, -H first; the original stays queued for now."""
        for name in (message_id.header_name, message_id.data_name):
            (self.directory / "source" / name).hardlink_to(self.directory / "exim" / name)

    def is_taken(self, message_id: MessageId) -> bool:
        """True as soon as a claim has moved both files out of the source."""
        names = (message_id.data_name, message_id.header_name)
        return not any((self.directory / "source" / name).exists() for name in names)

    def finish(self, message_id: MessageId) -> None:
        """Exim has delivered to its transport, and removes the original."""
        for name in (message_id.data_name, message_id.header_name):
            (self.directory / "exim" / name).unlink()

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_file.read_text().splitlines() if line.startswith("{")]

    def events(self) -> Counter[str]:
        return Counter(record["event"] for record in self.records())

    def words(self) -> Counter[str]:
        """How many messages in the target bear which word."""
        found: Counter[str] = Counter()
        for path in (self.directory / "target").glob("*-H"):
            found[path.read_text().partition("X-Word: ")[2].partition("\n")[0]] += 1
        return found


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    made = Running(tmp_path)
    yield made
    made.kill()


def test_the_new_configuration_counts_and_what_is_in_hand_finishes_on_the_old(running: Running) -> None:
    running.configure("old")
    held = running.directory / "old.hold"
    held.touch()
    running.start()
    running.put()
    running.until((running.directory / "old.begun").exists)
    running.configure("new", workers=1)
    running.hang_up()
    running.until(lambda: running.events()["sidecar.reloaded"] == 1)
    # An old worker still has its message in hand: nobody waits for it. It has only just been told to end,
    # and may take one or two more before it hears of it.
    count = 1
    while running.words()["new"] < 5:
        count += len(running.put())
        time.sleep(0.05)
    assert running.words()["old"] == 0
    held.unlink()
    running.until(lambda: running.words().total() == count)
    (reloaded,) = [record for record in running.records() if record["event"] == "sidecar.reloaded"]
    assert reloaded["workers"] == 1
    assert reloaded["changed"] == ["processor", "workers"]
    # The status of the new worker survives the end of the old one of its number.
    running.until(lambda: not [*running.directory.glob("state/work/*")])
    running.until(lambda: not (running.directory / "state/status/1.json").exists())
    assert (running.directory / "state/status/0.json").exists()
    assert running.stop() == 0
    assert not running.events() & Counter({"worker.died": 1, "message.recovered": 1})


WRONG = {
    "unknown-key": ("new", "[deferral]\nfrist_seconds = 1\n", r"respool.toml:18: $.deferral.frist_seconds:"),
    "toml": ("new", "[deferral\n", "respool.toml:17: not TOML"),
    "unknown-processor": ("new", '[[processor]]\nuse = "auht"\n', "respool.toml:18: $.processor[1].use:"),
    "order": ("new", '[[processor]]\nuse = "auth"\n', "respool.toml:17: $.processor[1]:"),
    "key-file": (
        "new",
        '[[processor]]\nuse = "arc-seal"\nconfig = { domain = "a.example", selector = "s", key_file = "/nowhere.pem" }',
        "respool.toml:19: $.processor[1].config: private key /nowhere.pem: No such file",
    ),
    "table": (
        "new",
        '[[processor]]\nuse = "headers"\nwhen = { recipient_domains = "lmdb;/nowhere.mdb" }\n',
        "/nowhere.mdb",
    ),
    "raises": ("raises", "", "RuntimeError: made badly"),
    "dies": ("dies", "", "loading it killed the process that tried it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_used_changes_nothing(running: Running, name: str) -> None:
    word, extra, expected = WRONG[name]
    running.configure("old")
    running.start()
    running.configure(word, extra=extra)
    running.hang_up()
    running.until(lambda: running.events()["sidecar.reload_refused"] == 1)
    (refused,) = [record for record in running.records() if record["event"] == "sidecar.reload_refused"]
    assert expected in refused["error"]
    assert str(running.configuration) in refused["error"]
    running.put(3)
    running.until(lambda: running.words()["old"] == 3)
    # Mended, it is taken.
    running.configure("new")
    running.reload()
    running.put(3)
    running.until(lambda: running.words()["new"] == 3)
    assert running.stop() == 0
    assert running.events()["worker.died"] == 0


@pytest.mark.parametrize(
    ("setting", "old", "new"),
    [
        ("$.state_directory", 'state_directory = "', 'state_directory = "/elsewhere'),
        ("$.source", 'kind = "directory"\ndirectory = "', 'kind = "directory"\ndirectory = "/elsewhere'),
        ("$.requeue.kind", 'kind = "directory"\ndirectory = "', 'kind = "spool"\nspool_directory = "'),
    ],
)
def test_where_messages_are_can_not_change_and_is_named(running: Running, setting: str, old: str, new: str) -> None:
    running.configure("old")
    running.start()
    text = running.configuration.read_text()
    place = text.rindex(old) if setting == "$.requeue.kind" else text.index(old)
    running.configuration.write_text(text[:place] + new + text[place + len(old) :])
    running.hang_up()
    running.until(lambda: running.events()["sidecar.reload_refused"] == 1)
    (refused,) = [record for record in running.records() if record["event"] == "sidecar.reload_refused"]
    assert f" {setting}: can't change while the sidecar runs" in refused["error"]
    assert running.stop() == 0


def test_a_key_and_a_table_that_were_replaced_are_read_again(running: Running) -> None:
    directory = running.directory
    (directory / "table.txt").write_text("other.test: yes\n")
    build = [sys.executable, "-m", "respool", "table", "build"]
    subprocess.run([*build, directory / "table.txt", directory / "table.mdb"], check=True, capture_output=True)
    key = directory / "s1.pem"
    _make_key(key)
    seal = (
        f'[[processor]]\nuse = "headers"\nwhen = {{ recipient_domains = "lmdb;{directory}/table.mdb" }}\n'
        'config = { add = [{ name = "X-Table", value = "yes" }] }\n'
        '[[processor]]\nuse = "dkim-sign"\n'
        f'config = {{ keys = [{{ domain = "example.test", selector = "s1", key_file = "{key}" }}] }}\n'
    )
    running.configure("old", extra=seal)
    running.start()
    shutil.move(key, directory / "away.pem")
    running.hang_up()
    running.until(lambda: running.events()["sidecar.reload_refused"] == 1)
    _make_key(key)
    key.chmod(0o644)
    running.hang_up()
    running.until(lambda: running.events()["sidecar.reload_refused"] == 2)
    key.chmod(0o600)
    running.hang_up()
    running.until(lambda: running.events()["sidecar.reloaded"] == 1)
    assert running.stop() == 0


def _make_key(path: Path) -> None:
    subprocess.run(["openssl", "genrsa", "-out", str(path), "2048"], check=True, capture_output=True)
    path.chmod(0o600)


@contextlib.contextmanager
def storm(running: Running) -> Generator[None]:
    """Good and bad files in turn, faster than they can be taken, until the end of the context."""
    ended = threading.Event()

    def blow() -> None:
        number = 0
        while not ended.is_set():
            number += 1
            if number % 5 == 0:
                running.configure("bad", extra="nonsense = 1")
            else:
                running.configure(f"word-{number}", seconds=0.01, workers=1 + number % 3)
            for _ in range(1 + number % 3):
                running.hang_up()
            time.sleep(0.05)

    thread = threading.Thread(target=blow)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def has_raged(running: Running) -> bool:
    """Whether there was enough of everything that the storm is about."""
    events = running.events()
    return events["sidecar.reloaded"] >= 3 and events["sidecar.reload_refused"] >= 1 and len(running.words()) >= 3


def test_a_storm_of_reloads_under_load_handles_each_message_once(running: Running) -> None:
    count = 0
    running.configure("word-0", seconds=0.01)
    running.start()
    with storm(running):
        while count < 600 or not has_raged(running):
            count += len(running.put(10))
            time.sleep(0.05)
        running.until(lambda: sum(running.words().values()) == count)
    assert_each_once(running, count)
    assert not running.events()["message.dropped"]


def test_a_storm_of_reloads_over_an_export_whose_exim_repeats_itself(tmp_path: Path) -> None:
    """Some messages are exported again before Exim is done with them: the ledger knows them, whoever reads it."""
    count = repeated = 0
    running = Running(tmp_path, source="export")
    running.configure("word-0", seconds=0.01)
    try:
        running.start()
        with storm(running):
            while count < 300 or not has_raged(running):
                ids = running.put(10)
                for message_id in ids[::3]:
                    running.until(partial(running.is_taken, message_id))
                    running.export(message_id)
                    repeated += 1
                for message_id in ids:
                    running.finish(message_id)
                count += len(ids)
            running.until(lambda: sum(running.words().values()) == count)
            running.until(lambda: running.events()["message.dropped"] == repeated)
        # Both exports of a message are one file, whose lock only one claim has at a time: the other waits in work/.
        assert_each_once(running, count, also_recovered=("claimed",))
    finally:
        running.kill()


def assert_each_once(running: Running, count: int, also_recovered: tuple[str, ...] = ()) -> None:
    """After its end: so many messages, each handled once, by a good configuration; nothing is left."""
    assert running.stop() == 0
    events = running.events()
    requeued = Counter(record["id"] for record in running.records() if record["event"] == "message.requeued")
    assert len(requeued) == count
    assert set(requeued.values()) == {1}
    words = running.words()
    assert sum(words.values()) == count
    assert "bad" not in words
    assert not [*running.directory.glob("source/*")]
    for state in ("work", "deferred", "held", "corrupt"):
        assert not [*running.directory.glob(f"state/{state}/*")]
    assert events["worker.died"] == 0
    # A new worker may look between another's mkdir and its lock, and clears the empty directory away.
    recovered = {record["phase"] for record in running.records() if record["event"] == "message.recovered"}
    assert recovered <= {"empty", *also_recovered}
