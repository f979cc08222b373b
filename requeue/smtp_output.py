"""One output on its way to a server: sent, what came of it made durable, the sender told where the server refused.

Diagnostics: SmtpOutput() raises SpoolFormatError for an output that is none; run() raises
OSError from the disk. Who did not get it is in ``left``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable
from typing import Final

from ..spool.body import FileBody
from ..spool.editing import LONGEST_TREE_NAME, add_non_recipients
from ..spool.envelope import Recipient
from ..spool.header_file import parse_header_file, render_header_file
from ..spool.message import Message
from . import durable
from .bounce import VOUCHED, bounce_notices, refused, with_own_id
from .delivery_status import FailedRecipient, RemoteServer, wants_failure
from .destination import Destination
from .job import Job, OutputName, parse_output
from .reading import read_file
from .smtp_commands import client_identity
from .smtp_connection import Connection
from .smtp_dialogue import Outcome, Refusal, make_letter
from .smtp_replies import DialogueError
from .smtp_server import SmtpServer
from .stage import write_new

_SENT: Final = ".sent"
_NEW: Final = ".new"
#: Recipients whose refusal is logged, or told, by itself.
MOST_NAMED: Final = 5


class SmtpOutput:
    """One output on its way. left is who did not get it, notices the outputs that tell the sender."""

    def __init__(
        self, server: SmtpServer, destination: Destination, job: Job, out: int, name: OutputName, deadline: float
    ) -> None:
        self._server, self._destination = server, destination
        self._settings = server.settings
        self._out, self.name, self._deadline = out, name, deadline
        content = read_file(name.name, at=out)
        envelope = parse_header_file(content, file=name.name)
        self._data = durable.open_file(envelope.id.data_name, at=out)
        body = FileBody(self._data, envelope.id.body_offset, wireformat=envelope.is_wireformat)
        self.message = Message(envelope, body)
        self.left: list[Refusal] = []
        self.notices: list[OutputName] = []
        self._log = server.log.bind(id=str(job.id), claim=job.claim.number, output=name.number)
        self._connection: Connection | None = None

    def close(self) -> None:
        """Close the body."""
        os.close(self._data)

    def run(self) -> None:
        """Send it to whom it is still to be sent."""
        envelope = self.message.envelope
        pending = list({recipient.address: recipient for recipient in self.message.undelivered}.values())
        if envelope.is_frozen:
            reason = "the message is frozen, which SMTP can't say"
            self.left = [Refusal(recipient, True, "5.7.0", reason, False) for recipient in pending]
            return
        if not envelope.is_delivery_faked:
            self._send(pending)
        permanent = [refusal for refusal in self.left if refusal.is_permanent]
        if permanent and self._settings.refused == "bounce":
            self._bounce(permanent)
        if not self.left:
            durable.rename(self.name.name, self.name.name + _SENT, at=self._out, to=self._out)
            durable.sync(self._out)

    def _send(self, pending: list[Recipient]) -> None:
        letter = make_letter(self.message)
        identity = client_identity(self.message.envelope)
        while pending:
            batch, pending = (
                pending[: self._settings.recipients_per_message],
                pending[self._settings.recipients_per_message :],
            )
            try:
                outcome, self._connection = self._server.transact(letter, batch, identity, self._deadline)
            except DialogueError as error:
                self.left += [Refusal(one, False, "4.4.2", str(error), False) for one in (*batch, *pending)]
                return
            self._note(outcome)
            pending = [*outcome.retry_now, *pending]
            self.left += outcome.refusals
            if outcome.delivered and (pending or self.left):
                self._record(recipient.address for recipient in outcome.delivered)

    def _note(self, outcome: Outcome) -> None:
        connection = self._connection
        if outcome.delivered and connection is not None:
            self._log.info(
                "smtp.sent", recipients=len(outcome.delivered), reply=outcome.reply, tls=connection.tls or None,
                protocol=connection.actions,
            )  # fmt: skip
        for refusal in outcome.refusals[:MOST_NAMED]:
            self._log.warning(
                "smtp.refused" if refusal.is_permanent else "smtp.put_off", reason=refusal.reason,
                status=refusal.status, recipients=len(outcome.refusals),
            )  # fmt: skip

    def _record(self, addresses: Iterable[bytes]) -> None:
        """Durably: these are done. Before anything else is, since they must not get it again."""
        done = [address for address in addresses if len(address) <= LONGEST_TREE_NAME]
        envelope = add_non_recipients(self.message.envelope, done)
        self.message = Message(envelope, self.message.body)
        _write_anew(self.name, render_header_file(envelope), self._out, self._destination)

    def _bounce(self, permanent: list[Refusal]) -> None:
        """Stage a notice about what was refused for good, then count it as done."""
        envelope = self.message.envelope
        if not envelope.sender or envelope.variables.get(VOUCHED) != b"1":
            return
        failure = refused((self._failed(refusal) for refusal in permanent), "the server refused it")
        made = bounce_notices(self.message, failure, hostname=self._settings.hostname, now=time.time())
        for notice in made:
            self.notices.append(self._stage_notice(notice))
        unheard = sum(not wants_failure(refusal.recipient) for refusal in permanent)
        self._log.info("smtp.bounced", notices=len(made), recipients=len(permanent), unheard=unheard)
        self.left = [refusal for refusal in self.left if not refusal.is_permanent]
        if self.left:
            self._record(refusal.recipient.address for refusal in permanent)

    def _failed(self, refusal: Refusal) -> FailedRecipient:
        connection = self._connection
        remote: RemoteServer | None = None
        if refusal.from_server and connection is not None:
            remote = RemoteServer(
                name=self._settings.host, address=connection.peer, port=self._settings.port,
                greeting=connection.greeting, ehlo_response=connection.ehlo_response, reply=refusal.reason,
            )  # fmt: skip
        return FailedRecipient(
            address=refusal.recipient.address, status=refusal.status, diagnostic=refusal.reason, remote=remote
        )

    def _stage_notice(self, notice: Message) -> OutputName:
        numbers = [name.number for name in map(_any_output, os.listdir(self._out)) if name is not None]
        name = OutputName(max(numbers) + 1)
        message_id = self._destination.mint(notice.id)
        data = b"%b\n" % message_id.data_name.encode() + b"".join(notice.body.chunks())
        write_new(message_id.data_name, data, at=self._out, target=self._destination)
        content = render_header_file(with_own_id(notice.envelope, message_id))
        write_new(name.name + _NEW, content, at=self._out, target=self._destination)
        durable.rename(name.name + _NEW, name.name, at=self._out, to=self._out)
        durable.sync(self._out)
        return name


def _any_output(name: str) -> OutputName | None:
    return parse_output(name.removesuffix(_SENT).removesuffix(_NEW))


def _write_anew(name: OutputName, content: bytes, out: int, destination: Destination) -> None:
    with contextlib.suppress(FileNotFoundError):
        durable.unlink(name.name + _NEW, at=out)
    write_new(name.name + _NEW, content, at=out, target=destination)
    durable.replace(name.name + _NEW, name.name, at=out)
    durable.sync(out)
