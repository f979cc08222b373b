"""OpenDMARC's import and report programs, with a private MariaDB behind them.

Diagnostics: OpenDmarcError with the output of what failed.
"""

from __future__ import annotations

import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ..ports import free_port

SCHEMA: Final = Path("/usr/share/dbconfig-common/data/opendmarc/install/mysql")


class OpenDmarcError(Exception):
    """A program did not do what it is there for."""


class OpenDmarc:
    """A database with OpenDMARC's tables, on a loopback port, gone with the test."""

    def __init__(self) -> None:
        self._password = secrets.token_hex(16)
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.directory = Path(tempfile.mkdtemp(prefix="opendmarc."))
        try:
            self._install()
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and remove everything."""
        if self._server is not None:
            self._server.kill()
            self._server.wait()
        shutil.rmtree(self.directory)

    def _install(self) -> None:
        data = self.directory / "data"
        made = subprocess.run(
            [
                "mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root", "--skip-test-db",
                "--auth-root-authentication-method=normal",
            ],
            capture_output=True, check=False, timeout=120,
        )  # fmt: skip
        if made.returncode != 0:
            raise OpenDmarcError(made.stdout.decode() + made.stderr.decode())
        schema = re.sub(r"--[^\n]*", "", SCHEMA.read_text())
        statements = [" ".join(statement.split()) for statement in schema.split(";") if statement.strip()]
        statements += [
            f"CREATE USER 'opendmarc'@'127.0.0.1' IDENTIFIED BY '{self._password}'",
            "GRANT ALL ON opendmarc.* TO 'opendmarc'@'127.0.0.1'",
            "FLUSH PRIVILEGES",
        ]
        (self.directory / "init.sql").write_text("".join(f"{statement};\n" for statement in statements))

    def _start(self) -> None:
        self.port = free_port()
        log = self.directory / "server.log"
        with log.open("wb") as output:
            self._server = subprocess.Popen(
                [
                    "mariadbd", "--no-defaults", "--user=root", f"--datadir={self.directory}/data",
                    f"--socket={self.directory}/socket", f"--pid-file={self.directory}/pid",
                    "--bind-address=127.0.0.1", f"--port={self.port}", "--skip-name-resolve",
                    "--innodb-buffer-pool-size=16M", f"--init-file={self.directory}/init.sql",
                ],
                stdout=output, stderr=output,
            )  # fmt: skip
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._server.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=60):
                return
            time.sleep(0.1)
        raise OpenDmarcError(log.read_text(errors="replace"))

    def run(self, program: str, *arguments: str) -> str:
        """Run ``opendmarc-<program>``; what it wrote on standard error."""
        done = subprocess.run(
            [
                f"/usr/sbin/opendmarc-{program}", "--dbhost=127.0.0.1", f"--dbport={self.port}",
                "--dbname=opendmarc", "--dbuser=opendmarc", f"--dbpasswd={self._password}", *arguments,
            ],
            capture_output=True, check=False, timeout=120, cwd=self.directory,
        )  # fmt: skip
        said = done.stderr.decode(errors="replace")
        if done.returncode != 0:
            raise OpenDmarcError(f"opendmarc-{program}: exit code {done.returncode}\n{said}")
        return said

    def query(self, statement: str) -> list[tuple[str, ...]]:
        """The rows of a statement, as text."""
        script = (
            'use DBI; my $d = DBI->connect("DBI:mysql:database=opendmarc;host=127.0.0.1;port=$ARGV[0]", "opendmarc",'
            ' $ARGV[1], { RaiseError => 1 }); print join("\\t", map { $_ // "NULL" } @$_), "\\n"'
            " for @{ $d->selectall_arrayref($ARGV[2]) };"
        )
        done = subprocess.run(
            ["perl", "-e", script, str(self.port), self._password, statement],
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        if done.returncode != 0:
            raise OpenDmarcError(done.stderr.decode(errors="replace"))
        return [tuple(line.split("\t")) for line in done.stdout.decode().splitlines()]
