"""Serving the pages until told to stop.

Diagnostics: ConfigError before anything is served.
"""

from __future__ import annotations

import uvicorn

from .. import log
from ..config import Config
from ..listening import is_loopback, listen, parse_address
from .app import make_app


def serve(config: Config) -> None:
    """Listen and answer until SIGTERM or SIGINT. Raises ConfigError."""
    host, _ = parse_address(config.web.listen, "$.web.listen")
    app = make_app(config)
    listener = listen(config.web.listen, "$.web.listen")
    the_log = log.get()
    if not is_loopback(host):
        the_log.warning("web.exposed", listen=config.web.listen, advice="put a proxy that speaks TLS before it")
    the_log.info("web.started", listen=config.web.listen)
    settings = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, date_header=True, proxy_headers=False,
        lifespan="off", limit_concurrency=64, timeout_keep_alive=15, timeout_graceful_shutdown=3,
        h11_max_incomplete_event_size=32 * 1024, http="h11", ws="none", loop="asyncio",
    )  # fmt: skip
    try:
        uvicorn.Server(settings).run(sockets=[listener])
    finally:
        listener.close()
    the_log.info("web.stopped")
