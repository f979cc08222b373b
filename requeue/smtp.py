"""The destination that sends: outputs go to one server by SMTP instead of into a queue.

Per output: after the final reply ``out/<n>-H`` is renamed away, and that is the evidence that it
was sent. Where only some recipients got it, they are recorded first, in the non-recipients tree of
``out/<n>-H``, so that a retry is for the others alone. docs/smtp.md says what survives a crash, and
what SMTP can't guarantee.

Diagnostics: publish() raises LeftOverError, temporary while the server may yet take what
is left; ConfigError from the constructor; OSError from the disk.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence

from structlog.typing import FilteringBoundLogger

from ..lookups.dns import Resolver
from ..spool.ids import IdMinter, MessageId
from . import durable
from .destination import LeftOverError
from .group_sync import GroupSync
from .job import OUT, Job, parse_output
from .publish import Published
from .smtp_dialogue import Refusal
from .smtp_output import MOST_NAMED, SmtpOutput
from .smtp_server import SmtpServer, SmtpSettings


class SmtpDestination:
    """One server, which takes what the staging of any destination has made ready."""

    def __init__(
        self,
        settings: SmtpSettings,
        *,
        resolver: Resolver,
        log: FilteringBoundLogger,
        localhost_number: int | None = None,
    ) -> None:
        self._server = SmtpServer(settings, resolver=resolver, log=log)
        self._minters = {
            is_long: IdMinter(long=is_long, localhost_number=localhost_number) for is_long in (True, False)
        }

    def accepts(self, message_id: MessageId) -> bool:
        """Every id: none is ever seen by Exim."""
        del message_id
        return True

    def may_keep_id(self, job: Job, queue: str) -> bool:
        """Always: an id means nothing to a server."""
        del job, queue
        return True

    def mint(self, like: MessageId) -> MessageId:
        """A new id in the shape of another."""
        return self._minters[like.is_long].mint()

    def give(self, descriptor: int, mode: int = durable.FILE_MODE) -> None:
        """Nobody but respool reads what is staged."""
        durable.give(descriptor, os.geteuid(), os.getegid(), mode)

    def sync_file_system(self) -> None:
        """What was sent is sent."""

    def queue_of(self, message_id: MessageId) -> str | None:
        """None: a server has no queues that we know."""
        return None

    def hang_up(self) -> None:
        """Say goodbye to the server."""
        self._server.hang_up()

    def publish(self, job: Job, syncs: GroupSync) -> tuple[Published, ...]:
        """Send what is left in ``out/``. See the module's Diagnostics."""
        del syncs  # each job has an out/ of its own
        deadline = time.monotonic() + self._server.settings.message_seconds
        published: list[Published] = []
        left: list[Refusal] = []
        out = durable.open_directory(OUT, at=job.descriptor)
        try:
            names = deque(sorted(name for name in map(parse_output, os.listdir(out)) if name is not None))
            while names:
                sending = SmtpOutput(self._server, self, job, out, names.popleft(), deadline)
                try:
                    sending.run()
                finally:
                    sending.close()
                if sending.left:
                    left += sending.left
                else:
                    published.append(Published(sending.message.id, sending.name.queue))
                names.extend(sending.notices)
        finally:
            os.close(out)
        if left:
            raise _as_error(left)
        return tuple(published)


def _as_error(left: Sequence[Refusal]) -> LeftOverError:
    """One sentence for all who did not get it; temporary as long as one of them may yet."""
    is_temporary = any(not refusal.is_permanent for refusal in left)
    reasons: dict[str, list[str]] = {}
    for refusal in left:
        reasons.setdefault(refusal.reason, []).append(refusal.recipient.address.decode("utf-8", "backslashreplace"))
    told = [
        f"{', '.join(addresses[:MOST_NAMED])}{' and others' if len(addresses) > MOST_NAMED else ''}: {reason}"
        for reason, addresses in list(reasons.items())[:MOST_NAMED]
    ]
    sentence = "; ".join(told)
    return LeftOverError(sentence, is_permanent=not is_temporary)
