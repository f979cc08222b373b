"""Exim's message lock against ours: other processes, other descriptors, other names."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from respool.spool.ids import MessageId
from respool.spool.locks import lock_message, unlock_message

OLD = MessageId("1xV9D2-0007Yr-05")
NEW = MessageId("1xV9DW-000000007cS-1lp7")


def exim_can_lock(path: Path, message_id: MessageId) -> bool:
    """Whether another process gets the lock as Exim asks for it (spool_in.c)."""
    program = "import fcntl, os, sys; f = os.open(sys.argv[1], os.O_RDWR | os.O_APPEND)\n" \
              "try: fcntl.lockf(f, fcntl.LOCK_EX | fcntl.LOCK_NB, int(sys.argv[2]), 0, 0)\n" \
              "except OSError: sys.exit(1)"  # fmt: skip
    return not subprocess.run(
        [sys.executable, "-c", program, path, str(message_id.body_offset)], check=False
    ).returncode


@pytest.mark.parametrize("message_id", [OLD, NEW])
def test_w04_the_lock_is_exims_record_lock_on_the_first_line(tmp_path: Path, message_id: MessageId) -> None:
    path = tmp_path / message_id.data_name
    path.write_text(f"{message_id}-D\nbody\n")
    ours = os.open(path, os.O_RDWR)
    assert lock_message(ours, message_id)
    assert not exim_can_lock(path, message_id)
    # Unlike a POSIX lock it survives the closing of another descriptor, and conflicts with one of this process.
    other = os.open(path, os.O_RDWR)
    assert not lock_message(other, message_id)
    os.close(other)
    assert not exim_can_lock(path, message_id)
    unlock_message(ours, message_id)
    assert exim_can_lock(path, message_id)
    os.close(ours)


def test_w05_the_lock_follows_the_inode_and_is_lost_by_a_new_file(tmp_path: Path) -> None:
    path, moved = tmp_path / OLD.data_name, tmp_path / "moved"
    path.write_text(f"{OLD}-D\nbody\n")
    ours = os.open(path, os.O_RDWR)
    assert lock_message(ours, OLD)
    path.rename(moved)
    os.link(moved, path)
    assert not exim_can_lock(moved, OLD)
    assert not exim_can_lock(path, OLD)
    new = tmp_path / "new"
    new.write_text(f"{OLD}-D\nother\n")
    new.rename(path)
    assert exim_can_lock(path, OLD)
    os.close(ours)
