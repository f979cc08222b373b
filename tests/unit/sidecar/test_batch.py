"""``respool batch``: bytes, dry runs, and what a kill at any point leaves for --resume."""

from __future__ import annotations

import fcntl
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
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from respool.errors import ConfigError
from respool.lookups.table_build import build as build_table
from respool.requeue import durable
from respool.sidecar import batch, batch_destination, demo
from respool.sidecar.cli import cli
from respool.sidecar.config import BatchConfig, Config, decode
from respool.sidecar.log import get
from respool.sidecar.preparation import prepare
from respool.sidecar.sample_cases import load
from respool.sidecar.worker_setup import make_worker
from respool.spool.ids import IdMinter, MessageId
from respool.spool.locks import lock_directory
from tests.spool_corpus import SAMPLES

FAULT_POINTS = ("create_file", "write", "copy_tail", "rename", "unlink", "sync", "make_directory")


def respool(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def files(directory: Path) -> dict[str, bytes]:
    """Every file below directory, by its path in it; the empty staging directory is gone."""
    assert not (directory / ".respool").exists()
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every message of the corpora of which each id is there once, journals among them, half in split layout."""
    directory = tmp_path_factory.mktemp("archive")
    seen: set[str] = set()
    for sample in SAMPLES:
        if sample.id in seen:
            continue
        seen.add(sample.id)
        place = directory / sample.id[5] if len(seen) % 2 else directory
        place.mkdir(exist_ok=True)
        (place / f"{sample.id}-H").write_bytes(sample.header_data)
        (place / f"{sample.id}-D").write_bytes(sample.data_file)
        if sample.journal is not None:
            (place / f"{sample.id}-J").write_bytes(sample.journal)
    return directory


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demonstration's keys, tables and zone."""
    return Path(demo.run(str(tmp_path_factory.mktemp("demo")), load()[:1]).directory)


def main_job(keys: Path) -> str:
    """The processors of the main job, whose signatures say nothing of the time."""
    return f"""
[dns]
zone_file = "{keys}/dns.zone"
[[processor]]
use = "auth"
[[processor]]
use = "authentication-results"
[[processor]]
use = "arc-seal"
config = {{ domain = "example.test", selector = "demo", key_file = "{keys}/keys/demo.pem", timestamps = false }}
"""


def test_without_processors_the_pairs_come_out_byte_for_byte(archive: Path, tmp_path: Path) -> None:
    result = respool("batch", archive, tmp_path / "out", "--workers", "2")
    assert result.exit_code == 0, result.output
    assert files(tmp_path / "out") == files(archive)


def test_the_same_job_as_sidecar_and_as_batch_gives_the_same_bytes(archive: Path, keys: Path, tmp_path: Path) -> None:
    who = 'hostname = "mx.example.test"\n'
    # A plain directory has no journals for the sidecar to merge.
    source, spool = tmp_path / "source", tmp_path / "out-sidecar"
    for place in (source, spool):
        place.mkdir(mode=0o750)
    for path in archive.rglob("*-[HD]"):
        (source / path.name).write_bytes(path.read_bytes())
    (tmp_path / "batch.toml").write_text(who + main_job(keys))
    result = respool("batch", source, tmp_path / "out-batch", "-c", tmp_path / "batch.toml", "--workers", "2")
    assert result.exit_code == 0, result.output

    text = f"""{who}state_directory = "{tmp_path}/state"
[source]
kind = "directory"
directory = "{source}"
[requeue]
kind = "directory"
directory = "{spool}"
{main_job(keys)}"""
    prepared = prepare(decode(text.encode(), Config, file="respool.toml"))
    try:
        assert make_worker(prepared, get(), once=True, trace=False).run() == 0
    finally:
        prepared.close()
    batched, requeued = files(tmp_path / "out-batch"), files(spool)
    marked = {name: content.replace(b"-aclm _respool 1\n1\n", b"") for name, content in requeued.items()}
    assert marked == batched
    assert all(b"ARC-Seal" in content for name, content in batched.items() if name.endswith("-H"))
    assert len(batched) > 100


def test_a_dry_run_writes_nothing_and_shows_the_diff(archive: Path, keys: Path, tmp_path: Path) -> None:
    before = files(archive)
    (tmp_path / "c.toml").write_text('hostname = "mx.example.test"\n' + main_job(keys))
    result = respool("batch", archive, tmp_path / "out", "--dry-run", "-c", tmp_path / "c.toml")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()
    assert files(archive) == before
    assert "nothing was written" in result.stderr
    for name in before:
        if name.endswith("-H"):
            assert f"{Path(name).name[:-2]} written" in result.stdout
    assert "    + ARC-Seal: a=rsa-sha256;\n" in result.stdout
    assert "    + variable acl_m_dmarc_status: " in result.stdout
    # Nothing in it could steer a terminal or forge a line.
    assert all(character.isprintable() or character == "\n" for character in result.stdout)
    assert respool("batch", archive, "--dry-run").exit_code == 0


def test_a_dry_run_as_json_says_what_a_real_one_writes(archive: Path, keys: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('hostname = "mx.example.test"\n' + main_job(keys))
    dry = respool("batch", archive, "--dry-run", "--json", "-c", tmp_path / "c.toml")
    wet = respool("batch", archive, tmp_path / "out", "--json", "-c", tmp_path / "c.toml", "--workers", "1")
    told = {line["id"]: line for line in map(json.loads, dry.stdout.splitlines())}
    reports = {line["id"]: line for line in map(json.loads, wet.stdout.splitlines())}
    assert set(told) == set(reports)
    for message_id, report in reports.items():
        (path,) = report["outputs"]
        written = (tmp_path / "out" / path).read_bytes()
        (output,) = told[message_id]["outputs"]
        for change in output["changes"]:
            if change["what"] == "header" and isinstance(change["after"], str):
                assert change["after"].encode() in written


def test_dest_is_needed_and_must_hold_no_messages(archive: Path, tmp_path: Path) -> None:
    assert respool("batch", archive).exit_code == 2
    assert respool("batch", archive, tmp_path / "out").exit_code == 0
    again = respool("batch", archive, tmp_path / "out")
    assert isinstance(again.exception, ConfigError)
    assert "--resume" in str(again.exception)
    assert respool("batch", archive, tmp_path / "out", "--resume").exit_code == 0


def test_bad_messages_are_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for case in load():
        (source / case.id.header_name).write_bytes(case.header_file)
        (source / case.id.data_name).write_bytes(case.data_file)
    result = respool("batch", source, tmp_path / "out")
    assert result.exit_code == 1
    assert "1xV9Vo-0000zD-2y: corrupt: 1xV9Vo-0000zD-2y-H:30:1: expected" in result.stderr
    assert len(list((tmp_path / "out").glob("*-H"))) == len(load()) - 1


def test_a_second_batch_into_the_same_directory_is_refused(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_destination, "_PATIENCE", 0.2)
    out = tmp_path / "out"
    with batch_destination.own(str(out)):
        refused = respool("batch", archive, out)
    assert isinstance(refused.exception, ConfigError)
    assert "another batch" in str(refused.exception)
    assert respool("batch", archive, out).exit_code == 0


# Killed, and gone on with


@pytest.fixture(scope="module")
def dividing(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, BatchConfig]:
    """An archive, and a configuration that divides its messages: each recipient domain gets a copy."""
    directory = tmp_path_factory.mktemp("dividing")
    source = directory / "source"
    source.mkdir()
    (directory / "routes").write_text("example.test: route=a.example\nother.example: route=b.example\n")
    build_table(str(directory / "routes"), str(directory / "routes.mdb"))
    names = {"multi_rcpt", "wire_bdat"}
    for sample in SAMPLES:
        if sample.case in names:
            (source / f"{sample.id}-H").write_bytes(sample.header_data)
            (source / f"{sample.id}-D").write_bytes(sample.data_file)
    text = f"""
hostname = "mx.example.test"
[[processor]]
use = "route"
config = {{ tables = [{{ by = "domain", table = "lmdb;{directory}/routes.mdb" }}] }}
"""
    return source, decode(text.encode(), BatchConfig, file="c.toml")


def run_here(source: Path, out: Path, config: BatchConfig, *, resume: bool) -> None:
    work = batch_destination.survey(str(source), str(out), resume=resume, dry_run=False).left
    one = batch.Batch(str(source), str(out), config)
    for found in work:
        assert one.process(found).report.state == "written"
    one.close()
    batch_destination.finish(str(out))


def contents(out: Path) -> Counter[bytes]:
    """Every file of the result, with whatever id it got written as X."""
    found: Counter[bytes] = Counter()
    for name, content in files(out).items():
        message_id = MessageId(Path(name).name[:-2])
        found[name[-2:].encode() + content.replace(message_id.encode(), b"X", 1)] += 1
    return found


def killed_at(number: int, source: Path, out: Path, config: BatchConfig) -> bool:
    """Run in a child that is killed at its number-th change to the file system; False if it came to its end."""
    child = os.fork()
    if child == 0:
        count = 0

        def counted(original: Any) -> Any:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal count
                if count == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
                return original(*arguments, **named)

            return call

        for name in FAULT_POINTS:
            setattr(durable, name, counted(getattr(durable, name)))
        code = 1
        try:
            run_here(source, out, config, resume=False)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def test_killed_at_every_change_a_resumed_run_loses_and_doubles_nothing(
    dividing: tuple[Path, BatchConfig], tmp_path: Path
) -> None:
    source, config = dividing
    run_here(source, tmp_path / "clean", config, resume=False)
    expected = contents(tmp_path / "clean")
    assert sum(expected.values()) > 2 * len(list(source.glob("*-H")))
    number = 0
    while True:
        out = tmp_path / str(number)
        killed = killed_at(number, source, out, config)
        run_here(source, out, config, resume=True)
        assert contents(out) == expected, number
        if not killed:
            break
        number += 1
    assert number > 50


def test_the_workers_of_a_batch_that_was_killed_may_take_their_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine it is seconds until the last of them has seen that its parent is gone."""
    (tmp_path / "out").mkdir()
    descriptor = os.open(tmp_path / "out", os.O_RDONLY)
    assert lock_directory(descriptor)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now >= 8:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    monkeypatch.setattr(batch_destination, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    with batch_destination.own(str(tmp_path / "out")):
        assert now >= 8
    os.close(descriptor)


PAUSING = """
import itertools, pathlib, time
from respool import Processor, ProcessorConfig, proceed

class Config(ProcessorConfig):
    hold: str

class Pausing(Processor[Config]):
    taken = itertools.count()

    def process(self, message, context):
        while next(self.taken) >= 100 and pathlib.Path(self.config.hold).exists():
            time.sleep(0.01)
        return proceed()
"""


def test_the_command_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    """A worker stops at its hundredth message: however long this takes to see fifty, it is not too late to kill."""
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    minter = IdMinter(long=True)
    (sample,) = [sample for sample in SAMPLES if sample.root.name == "export-499" and sample.case == "plain"]
    for _ in range(600):
        message_id = minter.mint()
        for suffix, content in (("H", sample.header_data), ("D", sample.data_file)):
            (source / f"{message_id}-{suffix}").write_bytes(content.replace(sample.id.encode(), message_id.encode(), 1))
    plugin, hold, config = tmp_path / "pausing.py", tmp_path / "hold", tmp_path / "c.toml"
    plugin.write_text(PAUSING)
    plugin.chmod(0o644)
    hold.touch()
    config.write_text(
        f'hostname = "mx.example.org"\n[[processor]]\nuse = "{plugin}:Pausing"\nconfig = {{ hold = "{hold}" }}\n'
    )
    command = [sys.executable, "-m", "respool", "batch", str(source), str(out), "--workers", "2", "-c", str(config)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in polls():
        if len(list(out.glob("*-H"))) >= 50:
            break
        assert process.poll() is None
    # The parent alone: its workers have to find out, and the next batch to wait for them.
    process.kill()
    process.wait()
    hold.unlink()
    marks = {path.name: path.stat().st_mtime_ns for path in out.glob("*-H")}
    resumed = subprocess.run([*command, "--resume"], capture_output=True, timeout=120, check=False)
    assert resumed.returncode == 0, resumed.stderr
    (left,) = re.findall(rb"(\d+) written", resumed.stderr)
    assert 0 < int(left) <= 600 - len(marks) < 600
    assert files(out) == files(source)
    assert {name: (out / name).stat().st_mtime_ns for name in marks} == marks


def polls() -> Iterator[None]:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        yield
        time.sleep(0.005)
    raise AssertionError("nothing came out")
