"""Half a message is set aside only when its other half can't come any more."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from respool.requeue import orphans
from respool.requeue.orphans import reunite, set_aside
from respool.requeue.state import StateDirectory
from respool.requeue.target import Target
from respool.spool.directory import Found
from respool.spool.ids import MessageId
from respool.spool.sources import Source

ID = MessageId("1xV9DW-000000007cS-1lp7")


@pytest.mark.parametrize("place", ["input", "input/W", "named/input"])
def test_a_header_file_waits_while_exim_delivers_the_message(tmp_path: Path, place: str) -> None:
    export = tmp_path / "export"
    export.mkdir()
    (export / ID.header_name).write_text("half")
    directory = tmp_path / "spool" / place
    directory.mkdir(parents=True)
    data = directory / ID.data_name
    data.write_text(f"{ID.data_name}\nbody\n")
    state, source, target = (
        StateDirectory(str(tmp_path)),
        Source("export", str(export)),
        Target("spool", str(tmp_path / "spool")),
    )
    # Exim's POSIX lock, by another process: within one it would not conflict with itself.
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        file = data.open("r+b")
        fcntl.lockf(file, fcntl.LOCK_EX, 26, 0, 0)
        os.write(writer, b"x")
        os.close(writer)
        while True:
            signal.pause()
    os.read(reader, 1)
    try:
        assert set_aside(state, source, Found(ID, ""), target.is_in_use) is None
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    job = set_aside(state, source, Found(ID, ""), target.is_in_use)
    assert job is not None
    job.close()
    assert os.listdir(export) == []


@pytest.mark.parametrize("subdirectory", ["", "W"])
def test_a_half_that_goes_while_it_is_looked_at_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subdirectory: str
) -> None:
    """Exim finished with it, and removed the empty split directory: that is no trouble of the system."""
    export = tmp_path / "export"
    export.mkdir()
    state, source = StateDirectory(str(tmp_path)), Source("export", str(export))
    # It was there when it was listed.
    monkeypatch.setattr(orphans, "_is_file", lambda name, place: name.endswith("-D"))
    assert set_aside(state, source, Found(ID, subdirectory)) is None
    assert state.list("work") == []


def test_a_half_in_a_directory_that_is_gone_is_not_reunited(tmp_path: Path) -> None:
    export = tmp_path / "export"
    (export / "W").mkdir(parents=True)
    (export / "W" / ID.header_name).write_text("half")
    state, source = StateDirectory(str(tmp_path)), Source("export", str(export))
    job = set_aside(state, source, Found(ID, "W"))
    assert job is not None
    job.move("corrupt")
    job.close()
    (export / "W").rmdir()
    assert not reunite(state, source, Found(ID, "W"))
    assert [claim.id for claim in state.list("corrupt")] == [ID]
