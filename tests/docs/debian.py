"""A Debian machine with Exim of its own, for the commands of the documents: as they stand, and nothing else sees it.

In namespaces of its own (mounts, network, processes) every change to /etc, /opt, /root, /usr/local, /run and
/var is kept in memory, loopback is the only network, and all processes end with it. `respool` there is
this checkout's. What a container lacks stands in /usr/local: `systemctl` for exim4 alone.

Diagnostics: run() raises AssertionError with all output of a script that fails.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from ..conftest import CHECKOUT
from .pages import blocks

README_HEADING = "Ten minutes to a sidecar beside a real Exim"
_PRIVATE = ("/etc", "/opt", "/usr/local", "/run", "/var")

_SYSTEMCTL = """\
#!/bin/sh
# What is needed of it here: reload or restart exim4.
case "$1 $2" in
"reload exim4" | "restart exim4" | "start exim4" | "stop exim4")
    if [ -s /run/exim4/exim.pid ]; then
        daemon=$(cat /run/exim4/exim.pid)
        kill "$daemon"
        # Nobody reaps it here: a zombie has no exe.
        while [ -e "/proc/$daemon/exe" ]; do sleep 0.05; done
        rm -f /run/exim4/exim.pid
    fi
    [ "$1" = stop ] || exec /usr/sbin/exim4 -bd -q30m ;;
*) exit 0 ;;
esac
"""

_EXIM_SETTINGS = """\
dc_eximconfig_configtype='internet'
dc_other_hostnames='example.org'
dc_local_interfaces='127.0.0.1'
dc_readhost=''
dc_relay_domains=''
dc_minimaldns='true'
dc_relay_nets=''
dc_smarthost=''
CFILEMODE='644'
dc_use_split_config='true'
dc_hide_mailname=''
dc_mailname_in_oh='true'
dc_localdelivery='mail_spool'
"""

_SEND = """\
python3 - <<'END'
import smtplib
with smtplib.SMTP("127.0.0.1") as server:
    for number in range({count}):
        text = f"From: {sender}\\r\\nTo: anna@example.org\\r\\nSubject: {subject} {{number}}\\r\\n\\r\\nhello\\r\\n"
        server.sendmail("{sender}", ["anna@example.org"], text)
END
"""


class Debian:
    """Use as a context manager; user anna@example.org has a mailbox there."""

    def __enter__(self) -> Debian:
        self._directory = tempfile.TemporaryDirectory(prefix="respool-docs-")
        self._init = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--net",
                "--pid",
                "--uts",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "sleep",
                "infinity",
            ]
        )
        try:
            self._inside = self._process_within()
            self.run(self._set_up())
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._init.kill()
        self._init.wait()
        self._directory.cleanup()

    def _process_within(self) -> int:
        children = Path(f"/proc/{self._init.pid}/task/{self._init.pid}/children")
        while not (found := children.read_text().split()):
            assert self._init.poll() is None, "unshare failed"
            time.sleep(0.02)
        # unshare forks before it mounts /proc: sleep is there when that is done.
        while Path(f"/proc/{found[0]}/comm").read_text() != "sleep\n":
            time.sleep(0.02)
        return int(found[0])

    def _set_up(self) -> str:
        scratch = self._directory.name
        lines = ["umask 022", "ip link set lo up", f"mount -t tmpfs -o mode=755 none {scratch}"]
        # Exim's user has to reach the interpreter and the checkout, also where they are below /root.
        needed = [path for path in (sys.base_prefix, str(CHECKOUT)) if Path(path).is_relative_to("/root")]
        for number, path in enumerate(needed):
            lines += [f"mkdir {scratch}/needed{number}", f"mount --bind {path} {scratch}/needed{number}"]
        lines.append("mount -t tmpfs -o mode=755 none /root")
        for number, path in enumerate(needed):
            lines += [f"mkdir -p {path}", f"mount --bind {scratch}/needed{number} {path}"]
        for number, path in enumerate(_PRIVATE):
            upper, work = f"{scratch}/upper{number}", f"{scratch}/work{number}"
            lines += [
                f"mkdir {upper} {work}",
                f"mount -t overlay -o lowerdir={path},upperdir={upper},workdir={work} none {path}",
            ]
        lines += [
            "mount -t tmpfs -o mode=750,uid=$(id -u Debian-exim),gid=$(id -g Debian-exim) none /var/spool/exim4",
            f"printf %s {shlex.quote(_SYSTEMCTL)} >/usr/local/bin/systemctl",
            "chmod 755 /usr/local/bin/systemctl",
            f"ln -sf {Path(sys.executable).parent}/respool /usr/local/bin/respool",
            f"printf %s {shlex.quote(_EXIM_SETTINGS)} >/etc/exim4/update-exim4.conf.conf",
            "echo mx.example.org >/etc/mailname",
            "printf '%s\\n' '127.0.0.1 localhost' '127.0.1.1 mx.example.org mx' >/etc/hosts",
            "hostname mx",
            "useradd --system --create-home --home-dir /var/lib/anna anna",
            "rm -rf /etc/respool /opt/respool /var/log/exim4/*",
            "mkdir -p /run/exim4",
            "chown Debian-exim:Debian-exim /run/exim4",
            "update-exim4.conf",
            "systemctl start exim4",
        ]
        return "\n".join(lines)

    def take_the_steps_of_the_readme(self) -> None:
        """Steps 1 to 4 as they stand, short of the installation; DNS is /etc/respool/dns.zone, as there is no network."""
        install, key, configuration, exim, _, _ = blocks("README.md", README_HEADING, "")
        for line in install.splitlines():
            if not re.search("pip install|ln -s", line):
                self.run(line)
        self.run(key)
        self.run("printf '#!/bin/sh\\n' > /usr/local/bin/editor; chmod 755 /usr/local/bin/editor")
        self.run(configuration)
        self.run(exim)
        self.run(
            "echo '_dmarc.sender.example. 300 TXT \"v=DMARC1; p=reject\"' > /etc/respool/dns.zone\n"
            "sed -i 's,^#zone_file = .*,zone_file = \"/etc/respool/dns.zone\",' /etc/respool/respool.toml"
        )

    def send(self, subject: str, count: int = 1, *, sender: str = "bob@sender.example") -> None:
        """So many messages to anna@example.org by SMTP, with numbered subjects."""
        self.run(_SEND.format(subject=subject, count=count, sender=sender))

    def command(self, script: str) -> list[str]:
        """The command by which bash runs a script there, ending at the first command that fails."""
        enter = ["nsenter", "--mount", "--net", "--pid", "--uts", "--target", str(self._inside)]
        return [*enter, "bash", "-e", "-u", "-o", "pipefail", "-c", script]

    def run(self, script: str, *, seconds: float = 240) -> str:
        """Run a script as root would type it, ending at the first command that fails; what it printed."""
        done = subprocess.run(
            self.command(script),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=seconds, check=False,
            stdin=subprocess.DEVNULL, cwd="/", env=_environment(),
        )  # fmt: skip
        assert done.returncode == 0, f"{script}\n\nexit code {done.returncode}:\n{done.stdout}"
        return done.stdout


def _environment() -> dict[str, str]:
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "LC_ALL": os.environ.get("LC_ALL", "C.UTF-8"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
