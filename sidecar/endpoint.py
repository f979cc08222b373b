"""The HTTP endpoint of the sidecar: ``/metrics``, ``/health``, ``/ready``.

A process of its own, so that it answers while workers work, hang or die. Nothing can be
changed through it, and no message is named.

Diagnostics: serve() returns when told to stop; a bad request gets a status of HTTP.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from .config import Config
from .heartbeat import Heartbeats
from .metrics import CONTENT_TYPE, exposition
from .obstacles import find
from .queues import lengths
from .status import read_all

_MOST_CONNECTIONS: Final = 16
_TEXT: Final = "text/plain; charset=utf-8"

Page = Callable[[], tuple[int, str, bytes]]


class Health:
    """What the pages say."""

    def __init__(self, config: Config, heartbeats: Heartbeats) -> None:
        self._config, self._heartbeats = config, heartbeats

    def troubles(self) -> list[str]:
        """Why the sidecar is not alive; nothing while it is."""
        return [
            f"worker {number} has given no sign of life for {self._heartbeats.silent_seconds(number):.0f} s"
            for number in self._heartbeats.silent()
        ]

    def hindrances(self) -> list[str]:
        """Why it is alive and still takes no messages."""
        found = [] if self._heartbeats.have_all_begun() else ["not all workers have begun"]
        try:
            lengths(self._config.state_directory)
        except OSError as error:
            found.append(f"the state directory: {error.strerror}")
        found += [
            f"worker {report.worker} takes nothing in"
            for report in read_all(self._config.state_directory)
            if report.paused
        ]
        # A worker that has no room to report that it is paused says that it works.
        return [*found, *map(str, find(self._config))]

    def page(self, path: str) -> tuple[int, str, bytes]:
        """Status, content type and content for a path."""
        match path:
            case "/metrics":
                return 200, CONTENT_TYPE, exposition(self._config)
            case "/health":
                return _answer(self.troubles())
            case "/ready":
                return _answer([*self.troubles(), *self.hindrances()])
            case "/":
                return 200, _TEXT, b"/metrics\n/health\n/ready\n"
            case _:
                return 404, _TEXT, b"not found\n"


def _answer(reasons: list[str]) -> tuple[int, str, bytes]:
    return (503, _TEXT, "\n".join([*reasons, ""]).encode()) if reasons else (200, _TEXT, b"ok\n")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5.0
    server_version = "respool"
    sys_version = ""

    def do_GET(self) -> None:
        self._reply(with_content=True)

    def do_HEAD(self) -> None:
        self._reply(with_content=False)

    def _reply(self, *, with_content: bool) -> None:
        if not isinstance(self.server, _Server):
            raise TypeError("this handler answers for _Server")
        status, kind, content = self.server.health.page(self.path.partition("?")[0])
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        if with_content:
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are no events of mail: not logged."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, listener: socket.socket, health: Health) -> None:
        super().__init__(listener.getsockname(), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.health = health
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is nobody's trouble."""


def serve(listener: socket.socket, health: Health) -> None:
    """Answer until SIGTERM."""
    server = _Server(listener, health)

    def stop(_number: int, _frame: object) -> None:
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD))
    server.serve_forever()
