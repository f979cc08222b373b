"""The sidecar itself: whether one runs, works, and answers; what waits for a person.

Diagnostics: the checks raise nothing.
"""

from __future__ import annotations

import http.client
import os
from typing import Final

from ..config import Config
from ..listening import parse_address
from ..overview import Overview, look
from .finding import Finding, Findings, ok, problem, warning

_PATIENCE_SECONDS: Final = 5.0


def check_daemon(config: Config) -> Findings:
    """What a running sidecar says, and what lies in its state directory."""
    try:
        overview = look(config)
    except OSError as error:
        yield warning(
            "sidecar", f"none has run: {error.filename or config.state_directory}: {error.strerror}", "start it"
        )
        return
    yield _condition(overview)
    if config.metrics.listen and overview.condition != "not running":
        yield _endpoint(config.metrics.listen)
    yield from _waiting(overview, config.state_directory)


def _condition(overview: Overview) -> Finding:
    workers = f"{len(overview.workers)} workers"
    match overview.condition:
        case "working":
            return ok("sidecar", f"{workers} work, {overview.per_second:.1f} messages a second")
        case "paused":
            reason = next((worker.paused for worker in overview.workers if worker.paused), "")
            return problem("sidecar", f"it takes nothing in: {reason}", "mend that; it goes on by itself")
        case "silent":
            silent = ", ".join(map(str, overview.silent))
            return problem("sidecar", f"nothing was heard of worker {silent} for half a minute", "look at its log")
        case "not running":
            return warning("sidecar", "none is running", "systemctl start respool, or respool run -c FILE")


def _endpoint(listen: str) -> Finding:
    host, port = parse_address(listen, "$.metrics.listen")
    # What listens everywhere is asked here.
    host = host if host.strip("0:.") else "localhost"
    connection = http.client.HTTPConnection(host, port, timeout=_PATIENCE_SECONDS)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        text = answer.read(1000).decode("utf-8", "replace").strip().replace("\n", "; ")
    except (OSError, http.client.HTTPException) as error:
        return problem("endpoint", f"{listen}: {error}", "look at the sidecar's log for endpoint.died")
    finally:
        connection.close()
    if answer.status != 200:
        return problem("endpoint", f"{listen}/ready: {text}", "see the sidecar's log")
    return ok("endpoint", f"{listen} is ready")


def _waiting(overview: Overview, state_directory: str) -> Findings:
    held, corrupt = overview.queues["held"].length, overview.queues["corrupt"].length
    if held:
        waiting = "1 message waits" if held == 1 else f"{held} messages wait"
        yield warning("held mail", f"{waiting} for a person", "respool held list -c FILE")
    if corrupt:
        where = os.path.join(state_directory, "corrupt")
        yield warning("unreadable mail", f"in {where}: {corrupt}", f"respool check {where} says what is wrong")
    if not held and not corrupt:
        yield ok("held mail", "nothing waits for a person")
