"""What a claim leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from respool.errors import NotReadyError
from respool.requeue import claim
from respool.requeue.state import StateDirectory
from respool.spool.directory import Found
from respool.spool.ids import MessageId
from respool.spool.sources import Source

ID = MessageId("1xV9DW-000000007cS-1lp7")


def test_a_data_file_without_its_header_file_is_never_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Exim that has just made ``-D`` and does not get its lock at once dies: 421 for the client."""
    directory = tmp_path / "source"
    directory.mkdir()
    (directory / ID.data_name).write_text(f"{ID.data_name}\nbody\n")
    locked: list[MessageId] = []

    def lock(descriptor: int, message_id: MessageId) -> bool:
        locked.append(message_id)
        return True

    monkeypatch.setattr(claim, "lock_message", lock)
    state, source = StateDirectory(str(tmp_path)), Source("directory", str(directory))
    with pytest.raises(NotReadyError):
        claim.take(state, source, Found(ID, ""))
    assert locked == []
    (directory / ID.header_name).write_text("header")
    claim.take(state, source, Found(ID, "")).close()
    assert locked == [ID]
