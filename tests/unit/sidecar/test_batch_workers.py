"""Workers of a batch that die, hang or are killed: reported, named, and the rest is done; and ``--report``."""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from respool.sidecar import batch_workers
from respool.sidecar.batch_destination import survey
from respool.sidecar.batch_workers import run
from respool.sidecar.config import BatchConfig, decode
from respool.spool.directory import Found
from respool.spool.header_file import render_header_file
from respool.spool.ids import IdMinter, MessageId
from respool.testing import make_message
from tests.fault import misbehaving

DEADLY = ("exits", "killed", "loops", "hogs", "leaves-a-thread", "system-exit", "forks", "raises")


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """Messages whose processing goes wrong in various ways among many of which nothing does."""
    source = tmp_path / "source"
    source.mkdir()
    minter = IdMinter(long=True)
    ids: dict[str, str] = {}
    for number in range(100):
        deed = DEADLY[number // 10] if number % 10 == 5 and number // 10 < len(DEADLY) else f"good {number}"
        ids[deed] = str(minter.mint())
        fields = [("From", "a@b.example"), *([("X-Do", deed)] if deed in DEADLY else [])]
        message = make_message(fields, message_id=ids[deed])
        (source / f"{ids[deed]}-H").write_bytes(render_header_file(message.envelope))
        (source / f"{ids[deed]}-D").write_bytes(f"{ids[deed]}-D\n".encode() + b"Hello,\n\nworld.\n")
    return source, ids


def configuration(directory: Path) -> str:
    plugin = directory / "misbehaving.py"
    shutil.copy(misbehaving.__file__, plugin)
    plugin.chmod(0o644)
    return f"""
hostname = "mx.example.org"
deadline_seconds = 1
memory_mib = 512
[[processor]]
use = "{plugin}:Misbehaving"
on_error = "hold"
"""


def test_what_kills_or_hangs_its_worker_is_reported_and_the_rest_is_done(
    archive: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("respool.sidecar.batch_workers._PATIENCE", 1)
    source, ids = archive
    out = str(tmp_path / "out")
    config = decode(configuration(tmp_path).encode(), BatchConfig, file="c.toml")
    work = survey(str(source), out, resume=False, dry_run=False).left
    reports = {report.id: report for report in run(str(source), out, config, work, 2)}
    assert sorted(reports) == sorted(ids.values())
    by_deed = {deed: reports[message_id] for deed, message_id in ids.items()}
    for deed, report in by_deed.items():
        if deed not in {"exits", "killed", "loops", "hogs", "system-exit", "raises"}:
            assert report.state == "written", (deed, report)
    assert "SIGKILL" in by_deed["killed"].reason
    for deed in ("killed", "exits", "loops"):
        assert by_deed[deed].state == "failed"
        assert "misbehaving.py:Misbehaving" in by_deed[deed].reason
    assert "did not come back" in by_deed["loops"].reason
    assert "misbehaving.py:" in by_deed["loops"].reason.partition(", at ")[2]
    for deed in ("system-exit", "raises"):
        assert by_deed[deed].state == "held"
    # MemoryError, or out of time on a slow machine.
    assert "misbehaving.py:Misbehaving" in by_deed["hogs"].reason
    assert len(list((tmp_path / "out").glob("*-H"))) == sum(report.state == "written" for report in reports.values())


def test_what_comes_back_while_it_is_given_up_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    # The parent would take a second report of this message for one of the next, which nobody would process.
    ours, theirs = multiprocessing.Pipe()
    guard = threading.Lock()
    watch = batch_workers._Watch(theirs, guard, 0.0, mmap.mmap(-1, 256))
    monkeypatch.setattr("respool.sidecar.batch_workers.os._exit", pytest.fail)

    def comes_back(_frame: object) -> list[traceback.FrameSummary]:
        with guard:
            watch.end()
            theirs.send("the worker's report")
            watch.begin(found)
        return []

    monkeypatch.setattr("respool.sidecar.batch_workers.traceback.extract_stack", comes_back)
    found = Found(MessageId("1xV9Vo-000000-2c"))
    watch.begin(found)
    watch.look()
    assert ours.recv() == "the worker's report"
    assert not ours.poll()


def test_a_report_holds_a_line_for_each_message_over_kill_and_resume(tmp_path: Path) -> None:
    source, out, told = tmp_path / "source", tmp_path / "out", tmp_path / "report.jsonl"
    source.mkdir()
    minter = IdMinter(long=True)
    ids: set[str] = set()
    for _ in range(400):
        message_id = str(minter.mint())
        ids.add(message_id)
        (source / f"{message_id}-H").write_bytes(render_header_file(make_message(message_id=message_id).envelope))
        (source / f"{message_id}-D").write_bytes(f"{message_id}-D\n".encode() + b"Hello,\n\nworld.\n")
    command = [sys.executable, "-m", "respool", "batch", str(source), str(out), "--workers", "2", "--report", str(told)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    give_up = time.monotonic() + 60
    while process.poll() is None and (len(told.read_bytes().splitlines()) < 50 if told.exists() else True):
        assert time.monotonic() < give_up
        time.sleep(0.005)
    # On a busy machine it may be done by now.
    assert process.poll() in {None, 0}
    process.send_signal(signal.SIGKILL)
    process.wait()
    with told.open("ab") as file:
        file.write(b'{"id":"torn')
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    lines: list[dict[str, Any]] = []
    torn = 0
    for line in told.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            torn += 1
    assert torn == 1
    assert {line["state"] for line in lines} == {"written"}
    # Also of what was written, and not yet reported, when the parent was killed.
    assert sorted(line["id"] for line in lines) == sorted(ids)
    assert {path.name[:-2] for path in out.glob("*-H")} == ids


def test_a_resumed_run_reports_what_earlier_runs_did_not(tmp_path: Path) -> None:
    source, out, told = tmp_path / "source", tmp_path / "out", tmp_path / "report.jsonl"
    source.mkdir()
    minter = IdMinter(long=True)
    paths: dict[str, str] = {}
    for number in range(6):
        message_id = minter.mint()
        place = message_id.split_directory if number % 2 else ""
        (source / place).mkdir(exist_ok=True)
        paths[str(message_id)] = os.path.join(place, message_id.header_name)
        message = make_message(message_id=str(message_id))
        (source / place / message_id.header_name).write_bytes(render_header_file(message.envelope))
        (source / place / message_id.data_name).write_bytes(f"{message_id}-D\n".encode() + b"Hello.\n")
    *reported, unreported, missing = paths
    command = [sys.executable, "-m", "respool", "batch", str(source), str(out)]
    subprocess.run([*command, "--report", str(told)], check=True, capture_output=True, timeout=60)
    kept = [line for line in told.read_bytes().splitlines(True) if json.loads(line)["id"] in reported]
    # Without --resume it is refused, and the report stays.
    refused = subprocess.run([*command, "--report", str(told)], check=False, capture_output=True, timeout=60)
    assert (refused.returncode, len(told.read_bytes().splitlines())) == (78, len(paths))
    # Of one the line is torn, behind another of a run that had deferred it; one is not there at all: it is written anew.
    kept.append(b'{"id":"%b","state":"deferred"}\n' % unreported.encode())
    told.write_bytes(b"".join(kept) + b'{"id":"' + unreported.encode())
    (out / paths[missing]).unlink()
    resumed = subprocess.run(
        [*command, "--resume", "--report", str(told)], check=True, capture_output=True, text=True, timeout=60
    )
    assert "1 written" in resumed.stderr
    torn, of_earlier, of_this = told.read_bytes().splitlines()[len(kept) :]
    assert torn.startswith(b'{"id":"')
    earlier = json.loads(of_earlier)
    assert (earlier["id"], earlier["state"], earlier["outputs"]) == (unreported, "written", [paths[unreported]])
    assert earlier["reason"] == "by an earlier run that did not report it"
    assert (json.loads(of_this)["id"], json.loads(of_this)["reason"]) == (missing, "")
    # With nothing left to say nothing is said twice.
    before = told.read_bytes()
    subprocess.run([*command, "--resume", "--report", str(told)], check=True, capture_output=True, timeout=60)
    assert told.read_bytes() == before


def test_ctrl_c_ends_the_batch_and_its_workers(tmp_path: Path, archive: tuple[Path, dict[str, str]]) -> None:
    source, _ = archive
    (tmp_path / "c.toml").write_text(configuration(tmp_path).replace("deadline_seconds = 1", "deadline_seconds = 600"))
    command = [
        sys.executable,
        "-m",
        "respool",
        "batch",
        str(source),
        str(tmp_path / "out"),
        "-c",
        str(tmp_path / "c.toml"),
    ]
    # Who runs the tests in the background may have them ignore it.
    listen = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=listen)
    give_up = time.monotonic() + 60
    while len(list((tmp_path / "out").glob("*-H"))) < 15:
        assert time.monotonic() < give_up
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert b"Traceback" not in said.partition(b"Aborted")[2]
    assert alive(process.pid) == []


def alive(group: int) -> list[str]:
    """The processes of a group that are no zombies."""
    found: list[str] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member) == group and state != "Z":
            found.append(str(path))
    return found
