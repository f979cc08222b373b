"""Postfix's smtpd, from Debian's package unpacked beside Exim: it takes mail and hands it on to a port.

Postfix and Exim can't both be installed, so `make system` unpacks the package into POSTFIX. Only
master, smtpd and trivial-rewrite run, below a directory of the test's own; what smtpd takes goes
at once to the server behind it (smtpd_proxy_filter), which therefore sees Postfix's Received field.

Diagnostics: AssertionError with Postfix's log if it doesn't come up.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

#: Where `make system` unpacks Debian's package.
POSTFIX: Final = Path("/opt/respool-tests/postfix")
MASTER: Final = str(POSTFIX / "usr/lib/postfix/sbin/master")

_USER: Final = "daemon"
_SERVICES: Final = """\
127.0.0.1:{port} inet n - n - - smtpd
rewrite unix - - n - - trivial-rewrite
anvil unix - - n - 1 anvil
proxymap unix - - n - - proxymap
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


class Postfix:
    """``with Postfix(directory, behind=port) as postfix: postfix.port``; options are lines of main.cf.

    directory is one that every user may enter.
    """

    def __init__(self, directory: Path, *, behind: int, options: str = "") -> None:
        self._directory = directory
        self._behind, self._options = behind, options
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        etc, queue, data = (self._directory / name for name in ("etc", "queue", "data"))
        for path in (etc, queue, data, *(queue / name for name in ("pid", "public", "private"))):
            path.mkdir()
        uid = pwd.getpwnam(_USER).pw_uid
        for path in (data, queue / "public", queue / "private"):
            os.chown(path, uid, -1)
        (etc / "master.cf").write_text(_SERVICES.format(port=self.port))
        (etc / "dynamicmaps.cf").write_text("")
        (etc / "main.cf").write_text(
            f"""compatibility_level = 3.6
queue_directory = {queue}
data_directory = {data}
daemon_directory = {POSTFIX}/usr/lib/postfix/sbin
command_directory = {POSTFIX}/usr/sbin
meta_directory = {etc}
shlib_directory = {POSTFIX}/usr/lib/postfix
mail_owner = {_USER}
setgid_group = tape
myhostname = postfix.example
inet_interfaces = 127.0.0.1
inet_protocols = all
mydestination =
alias_maps =
local_recipient_maps =
mynetworks = 0.0.0.0/0 [::]/0
smtpd_relay_restrictions = permit_mynetworks, reject_unauth_destination
smtpd_peername_lookup = no
smtpd_proxy_filter = 127.0.0.1:{self._behind}
maillog_file = {self._directory}/log
maillog_file_prefixes = {self._directory}
import_environment = LD_LIBRARY_PATH MAIL_CONFIG
{self._options}
"""
        )
        environment = {
            "PATH": "/usr/bin:/bin",
            "LD_LIBRARY_PATH": f"{POSTFIX}/usr/lib/postfix",
            "MAIL_CONFIG": str(etc),
        }
        # In a session of its own: at its end master signals its whole process group.
        self._process = subprocess.Popen([MASTER, "-c", str(etc), "-d"], env=environment, start_new_session=True)
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=60) as session:
                    if session.recv(3) == b"220":
                        session.sendall(b"QUIT\r\n")
                        return self
            except OSError:
                time.sleep(0.05)
        self.__exit__(None, None, None)
        raise AssertionError(f"Postfix did not come up:\n{self.log()}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(60)

    def log(self) -> str:
        """What Postfix says."""
        path = self._directory / "log"
        return path.read_text() if path.exists() else ""
