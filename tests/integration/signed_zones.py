"""Signed zones served by nsd, behind a validating unbound: both started by the test, on loopback alone.

Zones are signed with ldns-signzone. Neither daemon touches the system's: their
directories, ports and control channels are their own.

Diagnostics: AssertionError with the daemon's output if one doesn't come up.
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from ..ports import free_port

_PATH = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"


class SignedZones:
    """zones: the text of each, by name. unsigned names those left as they are; tampered maps a zone to
    (old, new), replaced after signing. address is that of the resolver.
    """

    def __init__(
        self,
        directory: Path,
        zones: Mapping[str, str],
        *,
        unsigned: frozenset[str] = frozenset(),
        tampered: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self._directory = directory
        self._zones, self._unsigned, self._tampered = zones, unsigned, tampered or {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._server_port, port = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        self._port = port

    def __enter__(self) -> Self:
        anchors = [self._write_zone(name) for name in self._zones]
        self._start_nsd()
        self._start_unbound([anchor for anchor in anchors if anchor is not None])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.wait(60)

    def _write_zone(self, name: str) -> Path | None:
        """The zone's file, signed; the file with its trust anchor."""
        plain = self._directory / f"{name}.zone"
        plain.write_text(
            f"$ORIGIN {name}.\n$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A 127.0.0.1\n"
            + self._zones[name]
        )
        if name in self._unsigned:
            return None
        key = self._run("ldns-keygen", "-a", "ECDSAP256SHA256", "-k", name).strip()
        self._run("ldns-signzone", "-f", f"{plain}.signed", str(plain), key)
        signed = Path(f"{plain}.signed")
        if name in self._tampered:
            old, new = self._tampered[name]
            text = signed.read_text()
            assert old in text
            signed.write_text(text.replace(old, new))
        signed.replace(plain)
        return self._directory / f"{key}.key"

    def _run(self, *command: str) -> str:
        result = subprocess.run(
            command, cwd=self._directory, capture_output=True, check=True, text=True, env={"PATH": _PATH}
        )  # fmt: skip
        return result.stdout

    def _start_nsd(self) -> None:
        zones = "".join(
            f'zone:\n  name: "{name}"\n  zonefile: "{self._directory / f"{name}.zone"}"\n' for name in self._zones
        )
        configuration = self._directory / "nsd.conf"
        configuration.write_text(
            f"""server:
  ip-address: 127.0.0.1@{self._server_port}
  username: ""
  chroot: ""
  zonesdir: "{self._directory}"
  database: ""
  pidfile: ""
  xfrdfile: "{self._directory}/xfrd.state"
  zonelistfile: "{self._directory}/zone.list"
  xfrdir: "{self._directory}"
  server-count: 1
  verbosity: 1
remote-control:
  control-enable: no
{zones}"""
        )
        self._start("nsd", "-d", "-c", str(configuration))
        self._wait_for(self._server_port)

    def _start_unbound(self, anchors: list[Path]) -> None:
        trust = "".join(f'  trust-anchor-file: "{anchor}"\n' for anchor in anchors)
        stubs = "".join(
            f'stub-zone:\n  name: "{name}"\n  stub-addr: 127.0.0.1@{self._server_port}\n' for name in self._zones
        )
        configuration = self._directory / "unbound.conf"
        configuration.write_text(
            f"""server:
  interface: 127.0.0.1@{self._port}
  outgoing-interface: 127.0.0.1
  do-not-query-localhost: no
  username: ""
  chroot: ""
  directory: "{self._directory}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  module-config: "validator iterator"
  num-threads: 1
  do-ip6: no
{trust}{stubs}remote-control:
  control-enable: no
"""
        )
        self._start("unbound", "-d", "-p", "-c", str(configuration))
        self._wait_for(self._port)

    def _start(self, *command: str) -> None:
        with (self._directory / f"{command[0]}.log").open("ab") as log:
            self._processes.append(
                subprocess.Popen(command, cwd=self._directory, stdout=log, stderr=log, env={"PATH": _PATH})
            )

    def _wait_for(self, port: int) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and self._processes[-1].poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        logs = "\n".join(path.read_text() for path in self._directory.glob("*.log"))
        raise AssertionError(f"{self._processes[-1].args!r} did not come up:\n{logs}")
