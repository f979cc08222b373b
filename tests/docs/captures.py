"""The pictures of a terminal in docs/images, made by running the commands: ``python -m tests.docs.captures``.

A command runs under a pseudo-terminal, and what it printed becomes an SVG without any font or script from elsewhere.
They are looked at by people and not compared by tests: ids and times differ in each.
"""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..conftest import CHECKOUT
from .pages import blocks

COLUMNS = 100
IMAGES = CHECKOUT / "docs" / "images"
RESPOOL = Path(sys.executable).parent / "respool"


def printed(command: str, directory: str) -> str:
    """What command prints on a terminal of COLUMNS."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        ["bash", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory,
        env={"PATH": f"{RESPOOL.parent}:{os.environ['PATH']}", "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    os.close(theirs)
    read = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed: the command has ended
            break
        read += piece
    process.wait()
    os.close(ours)
    return read.decode().replace("\r\n", "\n")


def picture(name: str, command: str, text: str, *, first: int = 0, lines: int = 40) -> None:
    """Some lines of a command's output, with the command above them."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
    shown = text.rstrip("\n").split("\n")[first : first + lines]
    console.print(Text.from_ansi("\n".join(shown)))
    svg = console.export_svg(title="")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    (IMAGES / f"terminal-{name}.svg").write_text(svg)


def main() -> None:
    directory = tempfile.mkdtemp(prefix="respool-captures-")
    try:
        os.symlink(CHECKOUT / "samples", f"{directory}/samples")
        os.symlink(CHECKOUT / ".venv", f"{directory}/.venv")
        prepare, configuration, dry_run, *_ = blocks("docs/batch.md", "Ten minutes, with an archive that everybody has")
        for block in (prepare, configuration):
            subprocess.run(["bash", "-c", block], cwd=directory, check=False, capture_output=True)
        picture("demo", "respool demo", printed("respool demo --dir demo", directory), lines=32)
        picture("check", "respool check archive", printed("respool check archive", directory))
        show = "respool show archive/1xV9Mb-000000002rO-2sqC-H"
        picture("show", show, printed(show, directory))
        dry = dry_run.strip().removeprefix(".venv/bin/")
        picture("dry-run", dry, printed(dry, directory), lines=34)
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
