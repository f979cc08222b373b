"""What every answer tells the browser not to do.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import re
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_COMMON: Final = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
)
_PAGE: Final = (
    "default-src 'none'; style-src 'self'; img-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
#: A message, as text, in a frame of its page.
_TEXT: Final = "default-src 'none'; sandbox; form-action 'none'; base-uri 'none'; frame-ancestors 'self'"
_TEXT_PATH: Final = re.compile(r"/queue/[^/]+/[^/]+/text")


class SecurityHeaders:
    """Middleware: a content security policy without any script, no sniffing, no framing, no caching."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and its answer back with the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        is_text = _TEXT_PATH.fullmatch(path) is not None

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _COMMON:
                    headers[name] = value
                headers["content-security-policy"] = _TEXT if is_text else _PAGE
                headers["x-frame-options"] = "SAMEORIGIN" if is_text else "DENY"
                headers["cache-control"] = "max-age=3600" if path.startswith("/static/") else "no-store"
            await send(message)

        await self._app(scope, receive, with_headers)
