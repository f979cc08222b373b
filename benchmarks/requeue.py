"""What it costs to hand a message back: into a spool, and to a server by SMTP.

Run ``python -m benchmarks.requeue [messages]``. One worker with its threads drains an export of
messages of 10 KB without a processor; wall time and CPU time of that process alone, each case the
best of three. The server is a process of its own that takes everything; what it and the spool
got is counted. Only the ratios of one run mean anything.
"""

from __future__ import annotations

import multiprocessing
import socketserver
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from respool.sidecar import log
from respool.sidecar.config import Config, SmtpRequeue, SpoolRequeue, decode
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker
from respool.spool.body import BytesBody
from respool.spool.directive import Directive
from respool.spool.editing import with_body, with_id
from respool.spool.envelope import Envelope, Header, Recipient
from respool.spool.header_file import render_header_file
from respool.spool.ids import MessageId

ROUNDS = 3
BODY = b"This is one line of a message of ten kilobytes, as mail has it.\n" * 160
CONFIG = """
hostname = "mx.example.org"
state_directory = "{root}/state"
workers = 1
[source]
kind = "export"
directory = "{root}/export"
[requeue]
kind = "spool"
spool_directory = "{root}/spool"
notify = "none"
[dns]
zone_file = "/dev/null"
"""


class _Session(socketserver.StreamRequestHandler):
    """As little of a server as takes mail: its time is not what is measured."""

    extensions = b""
    taken: list[int] = []  # noqa: RUF012 the counter of the one server

    def handle(self) -> None:
        self.wfile.write(b"220 sink\r\n")
        while line := self.rfile.readline():
            verb = line[:4].upper()
            if verb == b"BDAT":
                self.rfile.read(int(line.split()[1]))
                self.taken.append(1)
            elif verb == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                while self.rfile.readline() != b".\r\n":
                    pass
                self.taken.append(1)
            if verb == b"EHLO":
                self.wfile.write(b"250-sink\r\n" + self.extensions + b"250 8BITMIME\r\n")
            else:
                self.wfile.write(b"250 OK\r\n")
            if verb == b"QUIT":
                return


def _serve(extensions: bytes, pipe: Connection) -> None:
    _Session.extensions = extensions
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Session) as server:
        server.socket.listen(256)
        pipe.send(server.server_address[1])
        threading.Thread(target=server.serve_forever, daemon=True).start()
        while pipe.recv() == "count":
            pipe.send(len(_Session.taken))


def fill(export: Path, count: int) -> None:
    content = BytesBody(BODY)
    envelope = Envelope(
        id=MessageId("1xV9Vo-000000-2c"), login=b"exim", uid=8, gid=8, sender=b"a@sender.example",
        received_time=1_795_361_392, warning_count=0, directives=(Directive.make(b"deliver_firsttime"),),
        recipients=(Recipient.make(b"b@one.example"),),
        headers=tuple(Header.make(b"X-Line-%d" % number, b"some value of a header field") for number in range(15)),
    )  # fmt: skip
    envelope = with_body(envelope, content)
    for number in range(count):
        message_id = MessageId(f"1xV9Vo-{number:06d}-2c")
        (export / message_id.data_name).write_bytes(message_id.data_name.encode() + b"\n" + BODY)
        (export / message_id.header_name).write_bytes(render_header_file(with_id(envelope, message_id)))


def drain(requeue: SmtpRequeue | None, count: int) -> tuple[float, float]:
    """Wall and CPU seconds for each message."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for directory in ("export", "spool/input"):
            (root / directory).mkdir(parents=True, mode=0o750)
        config = decode(CONFIG.format(root=root).encode(), Config, file="benchmark.toml")
        if requeue is not None:
            config = msgspec.structs.replace(config, requeue=requeue)
        fill(root / "export", count)
        prepared = prepare(config)
        worker = make_worker(prepared, log.get(), once=True, trace=False)
        wall, cpu = time.monotonic(), time.process_time()
        code = worker.run()
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        prepared.close()
        if code != 0:
            raise SystemExit(f"the worker ended with {code}: {list((root / 'state').glob('*/*'))[:5]}")
        if isinstance(config.requeue, SpoolRequeue) and len(list((root / "spool/input").glob("*-H"))) != count:
            raise SystemExit("not all are in the spool")
    return wall / count, cpu / count


def report(name: str, results: list[tuple[float, float]], base: float) -> float:
    wall, cpu = min(wall for wall, _ in results), min(cpu for _, cpu in results)
    print(f"{name:52} {1 / wall:8.0f} /s {cpu * 1e3:8.2f} ms CPU {cpu / (base or cpu):6.2f}")
    return cpu


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    log.configure(level=50, terminal=False)
    print(f"{count} messages of 10 KB, one worker, {ROUNDS} rounds: rate, CPU a message, against the spool")
    base = report("spool", [drain(None, count) for _ in range(ROUNDS)], 0)
    for name, extensions in (
        ("SMTP, PIPELINING and CHUNKING", b"250-PIPELINING\r\n250-CHUNKING\r\n"), ("SMTP, neither", b""),
    ):  # fmt: skip
        ours, theirs = multiprocessing.Pipe()
        server = multiprocessing.get_context("spawn").Process(target=_serve, args=(extensions, theirs), daemon=True)
        server.start()
        port: int = ours.recv()
        settings = {"host": "127.0.0.1", "port": port, "tls": "none"}
        for note, options in (("", {}), (", a connection each", {"messages_per_connection": 1})):
            requeue = msgspec.convert({"kind": "smtp", **settings, **options}, SmtpRequeue)
            report(name + note, [drain(requeue, count) for _ in range(ROUNDS)], base)
        ours.send("count")
        taken: int = ours.recv()
        if taken != 2 * ROUNDS * count:
            raise SystemExit(f"the server took {taken} messages of {2 * ROUNDS * count}")
        ours.send("end")
        server.join(10)


if __name__ == "__main__":
    main()
