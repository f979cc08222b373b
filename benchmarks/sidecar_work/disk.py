"""The file system that is worked on: one whose journal keeps metadata in order, as a mail server has it.

Diagnostics: OSError from the system.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

from respool.requeue import durable

_SIZE = 4 << 30


@contextlib.contextmanager
def ordered_directory(place: Path) -> Generator[tuple[Path, str]]:
    """A directory at place, or on a loop-mounted ext4 image there if place has no such journal; and what it is."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        directory = Path(name)
        if _is_ordered(directory):
            yield directory, "with an ordered journal"
            return
        image, mount = directory / "image", directory / "mount"
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(_SIZE)
        make = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", str(image)]
        if os.geteuid() != 0 or subprocess.run(make, check=False).returncode:
            yield directory, "WITHOUT an ordered journal, and only root may mount one that has it"
            return
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            yield mount, "ext4 with a journal, loop-mounted"
        finally:
            subprocess.run(["umount", mount], check=True)


def _is_ordered(directory: Path) -> bool:
    descriptor = durable.open_directory(str(directory))
    try:
        return durable.keeps_metadata_in_order(descriptor)
    finally:
        os.close(descriptor)
