"""The pictures of a terminal in docs/images, made by running the commands: ``python -m tests.docs.captures``, as root.

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
import threading
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

from ..conftest import CHECKOUT
from .debian import Debian
from .pages import blocks

COLUMNS = 108
IMAGES = CHECKOUT / "docs" / "images"
#: Mail that is held, put off, and let through.
_MAIL = (
    ("forged", "bob@sender.example", 3),
    ("early", "dan@moving.example", 2),
    ("usual", "carol@friends.example", 400),
)
_POLICY = """\
python3 - <<'END'
path = "/etc/respool/respool.toml"
text = open(path).read()
policy = '''
[[processor]]
use = "dmarc-policy"
config = { reject = "hold" }

[[processor]]
use = "require"
when = { sender_domains = "moving.example" }
config = { otherwise = "defer", retry_after_seconds = 3600, reason = "moving.example moves today" }

[[processor]]
use = "arc-seal"'''
open(path, "w").write(text.replace('[[processor]]\\nuse = "arc-seal"', policy.lstrip(), 1))
END
"""
RESPOOL = Path(sys.executable).parent / "respool"


def printed(command: list[str], directory: str, *, quit_after: float | None = None) -> str:
    """What command prints on a terminal of COLUMNS; q is typed after so many seconds."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=directory,
        env={"PATH": f"{RESPOOL.parent}:{os.environ['PATH']}", "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"},
    )  # fmt: skip
    os.close(theirs)
    quitting = None if quit_after is None else threading.Timer(quit_after, os.write, (ours, b"q"))
    if quitting is not None:
        quitting.start()
    read = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed: the command has ended
            break
        read += piece
    process.wait()
    if quitting is not None:
        quitting.join()
    os.close(ours)
    return read.decode().replace("\r\n", "\n")


def picture(name: str, command: str, text: str, *, lines: int = 40) -> None:
    """Some lines of a command's output, with the command above them."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ ", style="bold green") + Text(command, style="bold"))
    # The interpreter stands where the documents install it.
    shown = text.replace(str(RESPOOL.parent.parent), "/opt/respool").rstrip("\n").split("\n")[:lines]
    while not Text.from_ansi(shown[-1]).plain.strip():
        shown.pop()
    for line in shown:
        # As a terminal does: at the edge, not between words.
        folded = Text.from_ansi(line)
        for piece in folded.divide(range(COLUMNS, len(folded), COLUMNS)):
            console.print(piece, no_wrap=True)
    svg = console.export_svg(title="")
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "DejaVu Sans Mono")
    (IMAGES / f"terminal-{name}.svg").write_text(svg)


def archive() -> None:
    """The demonstration, and the archive of docs/batch.md."""
    directory = tempfile.mkdtemp(prefix="respool-captures-")

    def take(name: str, command: str, lines: int = 40) -> None:
        picture(name, command, printed(["bash", "-c", command], directory), lines=lines)

    try:
        os.symlink(CHECKOUT / "samples", f"{directory}/samples")
        os.symlink(CHECKOUT / ".venv", f"{directory}/.venv")
        prepare, configuration, dry_run, *_ = blocks("docs/batch.md", "Ten minutes, with an archive that everybody has")
        for block in (prepare, configuration):
            subprocess.run(["bash", "-c", block], cwd=directory, check=False, capture_output=True)
        picture("demo", "respool demo", printed(["bash", "-c", "respool demo --dir demo"], directory), lines=32)
        take("check", "respool check archive")
        take("show", "respool show archive/1xV9Mb-000000002rO-2sqC-H")
        take("dry-run", dry_run.strip().removeprefix(".venv/bin/"), lines=34)
    finally:
        shutil.rmtree(directory)


def sidecar() -> None:
    """A sidecar beside Debian's Exim, set up as the README says, whose key nobody has published; as root."""
    with Debian() as machine:
        machine.take_the_steps_of_the_readme()
        machine.run(_POLICY)
        machine.send("first")
        machine.run(
            "setsid runuser -u Debian-exim -- respool run -c /etc/respool/respool.toml >/var/log/respool 2>&1 &"
        )
        doctor = "respool doctor -c /etc/respool/respool.toml"
        status = "respool status -c /etc/respool/respool.toml"
        for subject, sender, count in _MAIL:
            machine.send(subject, count, sender=sender)
        time.sleep(6)  # the workers report every five seconds
        picture("doctor", doctor, printed(machine.command(doctor), "/"))
        picture("status", status, printed(machine.command(status), "/"))
        busy = threading.Thread(target=machine.send, args=("busy", 600), kwargs={"sender": "carol@friends.example"})
        busy.start()
        watched = printed(machine.command(f"{status} --watch"), "/", quit_after=9)
        busy.join()
        # Each frame begins at the top left of a screen of its own, which is left at the end.
        frame = watched.partition("\x1b[?1049l")[0].rpartition("\x1b[H")[2]
        picture("status-watch", f"{status} --watch", frame)


def main() -> None:
    archive()
    sidecar()


if __name__ == "__main__":
    main()
