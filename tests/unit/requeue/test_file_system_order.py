"""On which file systems one fsync is taken to commit every earlier link and rename."""

from __future__ import annotations

import builtins
import io
import os
from pathlib import Path
from typing import Any

import pytest

from respool.requeue import durable


@pytest.mark.parametrize(
    ("kind", "journal_task", "is_ordered"),
    [
        ("ext4", "417\n", True),
        ("ext4", "<none>\n", False),
        ("ext4", None, True),
        ("xfs", None, True),
        ("overlay", None, False),
        ("nfs4", None, False),
    ],
)
def test_only_a_journal_keeps_metadata_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, journal_task: str | None, is_ordered: bool
) -> None:
    descriptor = durable.open_directory(str(tmp_path))
    device = os.fstat(descriptor).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts = f"20 1 0:5 / /proc rw - proc proc rw\n36 35 {number} / {tmp_path} rw shared:1 - {kind} /dev/vdx rw\n"

    def fake_open(path: Any, *arguments: Any, **keywords: Any) -> Any:
        if path == "/proc/self/mountinfo":
            return io.StringIO(mounts)
        if path == "/sys/fs/ext4/vdx/journal_task":
            if journal_task is None:
                raise FileNotFoundError(path)
            return io.StringIO(journal_task)
        return real(path, *arguments, **keywords)

    real = builtins.open
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", fake_open)
        patch.setattr(os, "readlink", lambda _path: "../../devices/virtual/block/vdx")
        assert durable.keeps_metadata_in_order(descriptor) is is_ordered
    os.close(descriptor)
