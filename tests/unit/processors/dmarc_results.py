"""What ``auth`` would have said of a message: the results it hands on, without DNS."""

from __future__ import annotations

from typing import Any

from respool.processors.auth import Auth, Config
from respool.processors.results import AuthResult
from respool.spool.message import Message

from .authentication.fake_dns import FakeResolver
from .processor_kit import make_context

Zone = dict[str, dict[str, Any]]

#: SPF passes for example.com from 192.0.2.1 only; lists.example.net may send from anywhere.
ZONE: Zone = {
    "example.com": {"TXT": (b"v=spf1 ip4:192.0.2.1 -all",)},
    "lists.example.net": {"TXT": (b"v=spf1 +all",)},
    "_dmarc.example.com": {
        "TXT": (b"v=DMARC1; p=reject; sp=none; aspf=s; pct=50; rua=mailto:a@example.com,mailto:b@example.org!5m",)
    },
    "_dmarc.careful.example": {"TXT": (b"v=DMARC1; p=quarantine",)},
    "_dmarc.testing.example": {"TXT": (b"v=DMARC1; p=reject; t=y",)},
    "_dmarc.unclear.example": {"TXT": (b"v=DMARC1; p=rejekt; rua=mailto:a@unclear.example",)},
    "_dmarc.watching.example": {"TXT": (b"v=DMARC1; p=none; rua=mailto:a@watching.example",)},
}


def results_for(message: Message, zone: Zone | None = None, **config: Any) -> tuple[AuthResult, ...]:
    """The results of ``auth``."""
    verdict = Auth(Config(**config)).process(message, make_context(FakeResolver(ZONE if zone is None else zone)))
    results: tuple[AuthResult, ...] = getattr(verdict, "results", ())
    return results
