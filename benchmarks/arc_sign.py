"""What Exim's own arc_sign adds to a delivery, against all that respool does to such a message.

Debian's Exim is built without ``EXPERIMENTAL_ARC``; RESPOOL_EXIM_ARC names one that has it. Each delivery
is ``exim -odi -bm``: reception from a pipe and delivery over SMTP to a server on loopback, in
processes that the caller waits for, so that their CPU is counted whole; once with arc_sign in the transport and
once without, in turns. The difference is what sealing costs there: no verification, no evaluation.
Beside it: the CPU of a worker for messages of the same size, claim to settled, verified, evaluated and
sealed, from benchmarks.sidecar. The server counts the seals.

    RESPOOL_EXIM_ARC=/path/to/exim python -m benchmarks.arc_sign [--deliveries N] [--rounds N] [--json]

Diagnostics: SystemExit where no such Exim is named, where it does not seal, or where not root.
"""

from __future__ import annotations

import argparse
import json
import os
import pwd
import resource
import socketserver
import statistics
import subprocess
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from .authentication_work.messages import AUTHSERV_ID, SEALING_DOMAIN, SELECTOR
from .machine import facts
from .sidecar import measure
from .sidecar_work.disk import ordered_directory
from .sidecar_work.material import SIZE, Material, make_material

_CONFIGURATION: Final = """
primary_hostname = {hostname}
exim_path = {exim}
spool_directory = {root}/spool
log_file_path = {root}/log/%slog
tls_advertise_hosts =
keep_environment =
local_interfaces = 127.0.0.1
disable_ipv6
begin routers
all:
  driver = manualroute
  domains = *
  route_list = * 127.0.0.1::{port}
  self = send
  transport = out
begin transports
out:
  driver = smtp
  allow_localhost
  {seal}
begin retry
* * F,1m,1m
"""


class _Sink(socketserver.StreamRequestHandler):
    """An SMTP server that takes everything, and counts what came and what of it was sealed."""

    def handle(self) -> None:
        self._say("220 sink")
        in_data = False
        for line in self.rfile:
            if in_data:
                self.server.sealed += line.lower().startswith(b"arc-seal:")  # type: ignore[attr-defined]
                if line == b".\r\n":
                    in_data = False
                    self.server.received += 1  # type: ignore[attr-defined]
                    self._say("250 taken")
            elif line.upper().startswith(b"DATA"):
                in_data = True
                self._say("354 go on")
            elif line.upper().startswith(b"QUIT"):
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(text.encode() + b"\r\n")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    received = sealed = 0


def _prepare(exim: str, root: Path, port: int, material: Material) -> tuple[Path, Path]:
    """Configurations without and with arc_sign."""
    owner = pwd.getpwnam("Debian-exim")
    for name in ("spool", "log"):
        (root / name).mkdir()
        os.chown(root / name, owner.pw_uid, owner.pw_gid)
    # Exim's user has to get there; what lies above is the system's, or temporary and ours.
    for directory in (root, *root.parents):
        if not directory.stat().st_mode & 1:
            directory.chmod(0o711)
    key = root / "key.pem"
    key.write_bytes(material.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    key.chmod(0o640)
    os.chown(key, 0, owner.pw_gid)
    seal = f"arc_sign = {AUTHSERV_ID} : {SELECTOR} : {key} : timestamps"
    found: list[Path] = []
    for name, option in (("without", ""), ("with", seal)):
        path = root / f"{name}.conf"
        path.write_text(_CONFIGURATION.format(hostname=AUTHSERV_ID, exim=exim, root=root, port=port, seal=option))
        found.append(path)
    return found[0], found[1]


def _message(material: Material) -> bytes:
    """One with an Authentication-Results field, without which Exim does not seal, and no ARC set."""
    envelope, body = material.envelopes[0]
    fields = b"".join(header.raw for header in envelope.headers)
    return (
        b"Authentication-Results: %b; spf=pass smtp.mailfrom=a.example\n" % AUTHSERV_ID.encode() + fields + b"\n" + body
    )


def deliver(exim: str, configuration: Path, message: bytes, times: int) -> float:
    """Seconds of CPU of all processes, for each delivery."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for _ in range(times):
        done = subprocess.run(
            [exim, "-C", str(configuration), "-odi", "-bm", "-f", "a@a.example", "bob@b.example"],
            input=message, check=False, capture_output=True,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(
                f"{exim} ended with {done.returncode}: {(done.stdout + done.stderr).decode(errors='replace')}"
            )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / times


def main() -> None:
    parser = argparse.ArgumentParser(description="what Exim's arc_sign adds, against all that respool does")
    parser.add_argument("--deliveries", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--messages", type=int, default=400)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    exim = os.environ.get("RESPOOL_EXIM_ARC", "")
    if not exim or os.geteuid() != 0:
        raise SystemExit("as root, with RESPOOL_EXIM_ARC naming an Exim that is built with EXPERIMENTAL_ARC")
    plain, material = make_material(sets=0, kinds=1), make_material()
    rounds: list[dict[str, float]] = []
    with (
        ordered_directory(Path(tempfile.gettempdir())) as (place, kind),
        tempfile.TemporaryDirectory(dir=place) as name,
        _Server(("127.0.0.1", 0), _Sink) as server,
    ):
        machine = facts(place, kind)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        without, sealing = _prepare(exim, Path(name), server.server_address[1], plain)
        message = _message(plain)
        for _ in range(arguments.rounds):
            rounds.append(
                {
                    "without": deliver(exim, without, message, arguments.deliveries),
                    "with": deliver(exim, sealing, message, arguments.deliveries),
                    "respool": measure("respool", place, 1, material, arguments.messages).cpu,
                }
            )
        server.shutdown()
        wanted = arguments.rounds * arguments.deliveries
        if (server.received, server.sealed) != (2 * wanted, wanted):
            raise SystemExit(
                f"{server.received} messages came, {server.sealed} of them sealed; expected {2 * wanted}, {wanted}"
            )
    adds = statistics.median(one["with"] - one["without"] for one in rounds) * 1e3
    ours = statistics.median(one["respool"] for one in rounds) * 1e3
    found: dict[str, Any] = {
        "machine": machine,
        "exim_ms": {key: statistics.median(one[key] for one in rounds) * 1e3 for key in ("without", "with")},
        "arc_sign_adds_ms": adds,
        "respool_ms": ours,
        "respool_to_arc_sign": ours / adds,
    }
    if arguments.json:
        print(json.dumps(found))
        return
    print(
        f"a message of {SIZE // 1000} KB, sealed for {SEALING_DOMAIN}; medians of {arguments.rounds} rounds; {machine}"
    )
    print(
        f"Exim without arc_sign {found['exim_ms']['without']:.2f} ms, with {found['exim_ms']['with']:.2f} ms: it adds {adds:.2f} ms of CPU"
    )
    print(f"respool, claim to settled, verified, evaluated and sealed: {ours:.2f} ms, {ours / adds:.0%} of that")


if __name__ == "__main__":
    main()
