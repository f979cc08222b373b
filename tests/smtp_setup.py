"""A sidecar whose destination is a server: for the fault harness, and in the test's own process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from structlog.typing import FilteringBoundLogger

from respool.sidecar import log
from respool.sidecar.config import SmtpRequeue
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker
from respool.spool.body import BytesBody
from respool.spool.directive import Directive
from respool.spool.editing import with_body
from respool.spool.envelope import Envelope, Header, Recipient
from respool.spool.header_file import render_header_file
from respool.spool.ids import MessageId

from .fault.harness import Setup

ID = MessageId("1xV9Vo-0000zC-2c")


class SmtpSetup(Setup):
    """See Setup; options are those of ``[requeue] kind = "smtp"``."""

    def __init__(self, root: Path, port: int, *, processors: str = "", source: str = "export", **options: Any) -> None:
        super().__init__(root, source=source, processors=processors)
        settings: dict[str, Any] = {"host": "127.0.0.1", "port": port, "tls": "none", "timeout_seconds": 5.0, **options}
        self.config = msgspec.structs.replace(self.config, requeue=SmtpRequeue(**settings))

    def write(
        self,
        *recipients: Recipient | bytes,
        sender: bytes = b"alice@sender.example",
        directives: dict[bytes, bytes | None] | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = ((b"Subject", b"hello"),),
        body: bytes = b"Hello\n",
        wireformat: bool = False,
        message_id: MessageId = ID,
    ) -> MessageId:
        """Put a message into the source."""
        made = tuple(r if isinstance(r, Recipient) else Recipient.make(r) for r in recipients or (b"bob@one.example",))
        envelope = Envelope(
            id=message_id, login=b"exim", uid=8, gid=8, sender=sender, received_time=1_795_361_392, warning_count=0,
            directives=tuple(Directive.make(name, value) for name, value in (directives or {}).items()),
            recipients=made, headers=tuple(Header.make(*header) for header in headers),
        )  # fmt: skip
        content = BytesBody(body, wireformat=wireformat)
        envelope = with_body(envelope, content)
        (self.place / message_id.data_name).write_bytes(message_id.data_name.encode() + b"\n" + body)
        (self.place / message_id.header_name).write_bytes(render_header_file(envelope))
        return message_id

    def once(self, logger: FilteringBoundLogger | None = None) -> int:
        """``run --once`` here and now: its exit code."""
        log.configure(level=50, terminal=False)
        prepared = prepare(self.config)
        try:
            return make_worker(prepared, logger or log.get(), once=True, trace=False).run()
        finally:
            prepared.close()

    def make_due(self) -> int:
        """Let every deferred message be due now; how many there are."""
        statuses = list(self.state.glob("deferred/*/status.json"))
        for path in statuses:
            path.write_text(json.dumps({**json.loads(path.read_text()), "retry_at": 0.0}))
        return len(statuses)

    def reason(self, state: str) -> str:
        """Why the one message in a state is there."""
        (path,) = self.state.glob(f"{state}/*/status.json")
        reason: str = json.loads(path.read_text())["reason"]
        return reason
