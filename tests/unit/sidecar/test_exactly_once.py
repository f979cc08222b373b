"""The sidecar's ways for a message, in one process and without an Exim."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from respool import ConfigError
from respool.requeue.hold import LOOP, QUOTER, list_kept
from respool.requeue.job import Job, Status
from respool.requeue.ledger import open_for_reading
from respool.requeue.state import StateDirectory
from respool.sidecar import log
from respool.sidecar.cli import cli
from respool.sidecar.config import Config, load
from respool.sidecar.preparation import prepare
from respool.sidecar.status import read_all
from respool.sidecar.worker_setup import make_worker

DATA = Path(__file__).parents[2] / "data"
NAIVE = [DATA / "export-499" / f"naive-{number}" for number in (1, 2, 3)]
ONE = DATA / "spool-496/main/input/1xV9Vd-0000wB-2S-H"

PLUGIN = """
from pathlib import Path
from respool import Processor, ProcessorConfig, TemporaryError, defer, discard, hold, proceed

class Config(ProcessorConfig):
    path: str = ""

class Hold(Processor[Config]):
    def process(self, message, context):
        return hold("look \\x1b[31mat it")

class Defer(Processor[Config]):
    def process(self, message, context):
        return defer("later", 3600)

class Tells(Processor[Config]):
    def process(self, message, context):
        context.effects.declare("line", b"first")
        context.effects.declare("line", b"second")
        return discard("told") if context.attempt == 7 else proceed()

    def run_effect(self, effect, log):
        if Path(self.config.path + ".broken").exists():
            raise TemporaryError("the file is locked")
        with open(self.config.path, "a") as file:
            print(effect.key, effect.kind, effect.payload.decode(), file=file)
"""


class House:
    """Source, target, state and a configuration below one directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.export, self.input, self.state = root / "export", root / "spool/input", root / "state"
        for path in (self.export, self.input):
            path.mkdir(parents=True, mode=0o750)
        (root / "plugin.py").write_text(PLUGIN)
        (root / "plugin.py").chmod(0o600)
        self.file = root / "respool.toml"
        self.configure()

    def configure(self, processor: str = "", *, requeue: str = "quoters = []", extra: str = "") -> None:
        step = (
            f'[[processor]]\nuse = "{self.root}/plugin.py:{processor}"\nconfig = {{ path = "{self.root}/effects" }}\n'
        )
        self.file.write_text(
            f"""
hostname = "mx.example"
state_directory = "{self.state}"
workers = 1
threads = 2
[source]
kind = "export"
directory = "{self.export}"
[requeue]
kind = "spool"
spool_directory = "{self.root}/spool"
notify = "none"
{requeue}
[dns]
zone_file = "/dev/null"
{extra}
{step if processor else ""}"""
        )

    def put(self, header: Path) -> str:
        message_id = header.name[:-2]
        for name in (f"{message_id}-D", f"{message_id}-H"):
            shutil.copyfile(header.with_name(name), self.export / name)
            (self.export / name).chmod(0o640)
        return message_id

    def run(self) -> int:
        """As the program does it: in a process of its own. A ConfigError in it is raised here."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            code = 99
            try:
                code = self._run()
            except ConfigError as error:
                os.write(writer, str(error).encode())
                code = 78
            finally:
                os._exit(code)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            text = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 78:
            raise ConfigError(text)
        return code

    def _run(self) -> int:
        log.configure(level=50, terminal=False)
        prepared = prepare(load(str(self.file), Config))
        return make_worker(prepared, log.get(), once=True, trace=False).run()

    def published(self) -> list[str]:
        return sorted(path.name[:-2] for path in self.input.glob("*-H"))

    def deliver(self) -> list[bytes]:
        """Take what is published away; the recipients it went to: the list minus the tree."""
        from respool.spool.header_file import parse_header_file

        delivered: list[bytes] = []
        for header in self.input.glob("*-H"):
            envelope = parse_header_file(header.read_bytes(), file=header.name)
            delivered += [r.address for r in envelope.recipients if not envelope.is_delivered(r)]
            header.with_name(header.name[:-1] + "D").unlink()
            header.unlink()
        return sorted(delivered)

    def in_state(self, name: str) -> list[str]:
        return sorted(os.listdir(self.state / name))

    def status(self, place: str) -> Status:
        state = StateDirectory(str(self.state))
        (kept,) = list_kept(state, "held" if place == "held" else "deferred")
        state.close()
        return kept.status

    def command(self, *arguments: str) -> str:
        head = arguments[: 2 if arguments[0] != "x" else 1]
        result = CliRunner().invoke(cli, [*head, "-c", str(self.file), *arguments[len(head) :]])
        assert result.exit_code == 0, (result.output, result.exception)
        return result.output


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


@pytest.mark.parametrize("one_after_the_other", [True, False])
def test_three_naive_exports_of_three_recipients_are_three_deliveries(
    house: House, *, one_after_the_other: bool
) -> None:
    delivered: list[bytes] = []
    for directory in NAIVE:
        (header,) = directory.glob("*-H")
        house.put(header)
        assert house.run() == 0
        if one_after_the_other:
            delivered += house.deliver()
    delivered += house.deliver()
    assert len(delivered) == len(set(delivered)) == 3
    assert house.in_state("work") == []
    entries = list(open_for_reading(str(house.state)))
    assert len(entries) == 3
    assert all(entry.settled for entry in entries)
    listed = [json.loads(line) for line in house.command("ledger", "list", "--json").splitlines()]
    assert sorted(entry["recipient"].encode() for entry in listed) == sorted(delivered)


def test_naive_exports_while_the_first_is_held(house: House) -> None:
    (header,) = NAIVE[0].glob("*-H")
    house.configure("Hold")
    house.put(header)
    assert house.run() == 1
    house.configure()
    house.put(header)
    assert house.run() == 0
    assert house.published() == []
    house.command("held", "release", header.name[:-2], "--as-is")
    assert house.run() == 0
    assert len(house.deliver()) == 3


def test_a_dropped_message_is_not_brought_back_by_its_repeat(house: House) -> None:
    (header,) = NAIVE[0].glob("*-H")
    house.configure("Hold")
    house.put(header)
    house.run()
    assert "dropped" in house.command("held", "drop", "--all")
    assert house.in_state("held") == []
    house.configure()
    house.put(header)
    assert house.run() == 0
    assert house.published() == []


def test_a_loop_is_held_and_named_and_can_be_released(house: House) -> None:
    message_id = house.put(ONE)
    house.run()
    for suffix in ("-D", "-H"):
        (house.input / (message_id + suffix)).rename(house.export / (message_id + suffix))
    assert house.run() == 1
    status = house.status("held")
    assert (status.processor, status.reason[:5]) == (LOOP, "loop:")
    house.command("held", "release", message_id)
    assert house.run() == 0
    assert house.published() == [message_id]


def test_released_with_the_hold_overridden(house: House) -> None:
    house.configure("Hold")
    message_id = house.put(ONE)
    house.run()
    (document,) = json.loads(house.command("held", "list", "--json"))
    assert document["id"] == message_id
    text = house.command("held", "list")
    assert "\x1b" not in text
    assert "\\x1b[31mat it" in text
    assert json.loads(house.command("held", "show", message_id, "--json"))["id"] == message_id
    house.command("held", "release", document["name"])
    assert house.in_state("held") == []
    assert house.run() == 0
    assert house.published() == [message_id]


def test_deferred_is_listed_retried_and_finally_held(house: House) -> None:
    house.configure("Defer")
    message_id = house.put(ONE)
    assert house.run() == 1
    first = house.status("deferred")
    assert (first.attempt, first.crashes) == (1, 0)
    house.run()
    assert house.status("deferred").attempt == 1, "not due yet"
    for attempt in range(2, 9):
        house.command("deferred", "retry", message_id)
        house.run()
        status = house.status("deferred")
        assert (status.attempt, status.crashes, status.deferred_since) == (attempt, 0, first.deferred_since)
    assert "attempt 8" in house.command("deferred", "list")
    house.configure("Defer", extra="[deferral]\nhold_after_hours = 1e-9\n")
    house.command("deferred", "retry", message_id)
    house.run()
    status = house.status("held")
    assert "deferred for" in status.reason
    assert "later" in status.reason


def test_what_kills_its_worker_is_held_after_five_times(house: House) -> None:
    message_id = house.put(ONE)
    house.configure("Hold")
    house.run()
    state = StateDirectory(str(house.state))
    (claim,) = state.list("held")
    job = Job.take(state, "held", claim)
    assert job is not None
    # As it is found after the fifth death.
    job.write_status(Status(crashes=5))
    job.move("work")
    job.close()
    state.close()
    house.configure()
    assert house.run() == 1
    assert "died 5 times" in house.status("held").reason
    house.command("held", "release", message_id)
    assert house.run() == 0
    assert house.published() == [message_id]


def test_effects_run_after_the_commit_and_again_until_they_succeed(house: House) -> None:
    house.configure("Tells")
    (house.root / "effects.broken").touch()
    message_id = house.put(ONE)
    assert house.run() == 75
    assert house.published() == [message_id], "published though its effects wait"
    assert not (house.root / "effects").exists()
    (work,) = house.in_state("work")
    plan = json.loads((house.state / "work" / work / "out/plan.json").read_text())
    assert [effect["kind"] for effect in plan["effects"]] == ["line", "line"]
    (house.root / "effects.broken").unlink()
    assert house.run() == 0
    lines = (house.root / "effects").read_text().splitlines()
    use = f"{house.root}/plugin.py:Tells"
    assert lines == [f"{work}/{use}/0 line first", f"{work}/{use}/1 line second"]
    assert house.in_state("work") == []


def test_a_quoter_that_the_destination_lacks_is_held(house: House) -> None:
    message_id = house.put(ONE)
    header = house.export / f"{message_id}-H"
    content = header.read_bytes()
    header.write_bytes(content.replace(b"\nXX\n", b"\n--(pgsql)aclm _q 3\na'b\nXX\n", 1))
    assert header.read_bytes() != content
    assert house.run() == 1
    assert house.status("held").processor == QUOTER
    house.configure(requeue='quoters = ["pgsql"]')
    house.command("held", "release", message_id)
    assert house.run() == 0


def test_an_id_that_the_destination_can_not_read_is_not_kept(house: House) -> None:
    house.configure(requeue='quoters = []\nid_format = "long"')
    message_id = house.put(ONE)
    assert house.run() == 0
    (published,) = house.published()
    assert published != message_id
    assert len(published) == 23


def test_held_messages_expire_only_where_asked_for(house: House) -> None:
    house.configure("Hold")
    house.put(ONE)
    house.run()
    house.run()
    assert len(house.in_state("held")) == 1
    house.configure("Hold", extra="[held]\ndrop_after_days = 1e-9\n")
    house.run()
    assert house.in_state("held") == []


def test_a_missing_staged_file_stops_nobody_else(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respool.sidecar.pause.SECONDS", 0.01)
    house.configure("Tells")
    (house.root / "effects.broken").touch()
    house.put(ONE)
    house.run()
    (work,) = house.in_state("work")
    # As if the last -H had not been renamed, and somebody had removed -D by hand.
    out = house.state / "work" / work / "out"
    message_id = ONE.name[:-2]
    (house.input / ONE.name).rename(out / "0-H")
    (out / f"{message_id}-D").unlink()
    (house.input / f"{message_id}-D").unlink()
    (house.root / "effects.broken").unlink()
    (header,) = NAIVE[0].glob("*-H")
    house.put(header)
    for _ in range(12):
        house.run()
        if house.in_state("deferred"):
            break
    assert house.published() == [header.name[:-2]]


def test_command_is_refused_where_it_can_not_work(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    exim = house.root / "exim"
    spool = house.root / "spool"
    exim.write_text(
        f'#!/bin/sh\n[ "$1" = -bP ] && echo "spool_directory = {spool}"\necho "Lookups (built-in): lsearch"\n'
    )
    exim.chmod(0o755)
    extra = f'[exim]\ncommand = "{exim}"\n'
    requeue = "quoters = []\n"
    house.configure(extra=extra, requeue=requeue)
    house.file.write_text(house.file.read_text().replace('notify = "none"', 'notify = "command"'))
    monkeypatch.setattr("respool.sidecar.preparation.is_privilege_lost", lambda: True)
    with pytest.raises(ConfigError, match="no_new_privs"):
        house.run()
    monkeypatch.setattr("respool.sidecar.preparation.is_privilege_lost", lambda: False)
    house.put(ONE)
    exim.write_text(exim.read_text() + f'echo "$@" >>{house.root}/calls\n')
    assert house.run() == 0
    assert f"-Mc {ONE.name[:-2]}" in (house.root / "calls").read_text()
    exim.write_text(exim.read_text().replace(str(spool), "/somewhere/else"))
    with pytest.raises(ConfigError, match="has its spool in"):
        house.run()


def test_status_is_readable(house: House) -> None:
    from collections import Counter

    from respool.sidecar.status import Reporter

    house.configure("Hold")
    house.put(ONE)
    house.run()
    state = StateDirectory(str(house.state))
    reporter = Reporter(state, 0)
    reporter.failed("no space", "id")
    reporter.paused("no space")
    reporter.write(waiting=1, in_hand=2, stuck=3, ended=Counter(held=1))
    (status,) = read_all(str(house.state))
    assert (status.waiting, status.in_hand, status.stuck, status.paused) == (1, 2, 3, "no space")
    assert status.states["held"].length == 1
    assert status.last_errors[0].error == "no space"
    reporter.remove()
    assert read_all(str(house.state)) == []
    state.close()
