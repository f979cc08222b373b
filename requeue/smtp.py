"""The destination that sends: outputs go to one server by SMTP instead of into a queue.

Per output: after the final reply ``out/<n>-H`` is renamed away, and that is the evidence that it
was sent. Where only some recipients got it, they are recorded first, in the non-recipients tree of
``out/<n>-H``, so that a retry is for the others alone. docs/smtp.md says what survives a crash, and
what SMTP can't guarantee.

Diagnostics: publish() raises LeftOverError, temporary while the server may yet take what
is left; ConfigError from the constructor; OSError from the disk.
"""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, Literal

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..lookups.dane import HostDane, host_preflight
from ..lookups.dns import DnsTemporaryError, Resolver
from ..spool.body import FileBody
from ..spool.editing import LONGEST_TREE_NAME, add_non_recipients
from ..spool.envelope import Recipient
from ..spool.header_file import parse_header_file, render_header_file
from ..spool.ids import IdMinter, MessageId
from ..spool.message import Message
from . import durable
from .bounce import VOUCHED, bounce_notices, refused, with_own_id
from .delivery_status import FailedRecipient, RemoteServer, wants_failure
from .destination import LeftOverError
from .group_sync import GroupSync
from .job import OUT, Job, OutputName, parse_output
from .publish import Published
from .reading import read_file
from .smtp_commands import ClientIdentity, Dialect, client_identity
from .smtp_connection import Connection, Endpoint
from .smtp_dialogue import Letter, Outcome, Refusal, make_letter
from .smtp_replies import DialogueError
from .smtp_tls import Level, make_context, plan_tls
from .stage import write_new

_SENT: Final = ".sent"
_NEW: Final = ".new"
_IDLE_UNCHECKED: Final = 0.5
_MOST_NAMED: Final = 5
#: Nothing of a transaction that ended in one of these states has been taken.
_BEFORE_DATA: Final = frozenset({"MAIL", "RSET", "XCLIENT", "EHLO"})


class SmtpSettings(Struct, frozen=True, kw_only=True):
    """How one server is talked to; sidecar/config.py says what each means."""

    host: str
    port: int
    hostname: str
    tls: Level = "verify"
    ca_file: str | None = None
    xclient: Literal["off"] | Dialect = "off"
    timeout_seconds: float = 60.0
    message_seconds: float = 600.0
    idle_seconds: float = 5.0
    messages_per_connection: int = 100
    recipients_per_message: int = 100
    refused: Literal["hold", "bounce"] = "hold"


class SmtpDestination:
    """One server, and the connections to it that the threads of a worker share."""

    def __init__(
        self,
        settings: SmtpSettings,
        *,
        resolver: Resolver,
        log: FilteringBoundLogger,
        localhost_number: int | None = None,
    ) -> None:
        self._settings = settings
        self._resolver = resolver
        self._log = log.bind(host=settings.host, port=settings.port)
        self._endpoint = Endpoint(
            host=settings.host,
            port=settings.port,
            name=settings.hostname.encode("idna" if not settings.hostname.isascii() else "ascii", "replace"),
            timeout_seconds=settings.timeout_seconds,
        )
        # One context for each: a connection's plan says which.
        self._contexts: dict[bool, ssl.SSLContext] = {}
        if settings.tls != "none":
            is_verified = settings.tls == "verify"
            self._contexts[is_verified] = make_context(verify=is_verified, ca_file=settings.ca_file)
        self._guard = threading.Lock()
        self._idle: deque[Connection] = deque()
        self._minters = {
            is_long: IdMinter(long=is_long, localhost_number=localhost_number) for is_long in (True, False)
        }

    # -- what staging asks

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
        with self._guard:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            self._quit(connection)

    # -- sending

    def publish(self, job: Job, syncs: GroupSync) -> tuple[Published, ...]:
        """Send what is left in ``out/``. See the module's Diagnostics."""
        del syncs  # each job has an out/ of its own
        deadline = time.monotonic() + self._settings.message_seconds
        published: list[Published] = []
        left: list[Refusal] = []
        out = durable.open_directory(OUT, at=job.descriptor)
        try:
            names = deque(sorted(name for name in map(parse_output, os.listdir(out)) if name is not None))
            while names:
                sending = _Sending(self, job, out, names.popleft(), deadline)
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

    def transact(
        self, letter: Letter, recipients: Sequence[Recipient], identity: ClientIdentity | None, deadline: float
    ) -> tuple[Outcome, Connection]:
        """One transaction, on an idle connection if there is one. Raises DialogueError."""
        connection = self._take(identity, deadline)
        was_used = connection is not None
        try:
            if connection is None:
                connection = self._connect(deadline)
            if identity is not None and self._settings.xclient != "off":
                connection.introduce(identity, self._settings.xclient)
            outcome = connection.send(letter, recipients, deadline=deadline)
        except DialogueError as error:
            if connection is not None:
                connection.close()
            self._log.warning("smtp.session_broke", reason=str(error), protocol_detail=error.detail)
            if was_used and error.stage in _BEFORE_DATA:
                # The server had enough of the old session, not of the message.
                self._forget_idle()
                return self.transact(letter, recipients, identity, deadline)
            raise
        except BaseException:
            # A body that can't be read leaves a transaction half done.
            if connection is not None:
                connection.close()
            raise
        self._give_back(connection)
        return outcome, connection

    def _connect(self, deadline: float) -> Connection:
        settings = self._settings
        dane: HostDane | None = None
        addresses: list[str] = []
        if settings.tls in {"dane", "dane-only"}:
            dane = host_preflight(self._resolver, settings.host, port=settings.port, deadline=deadline)
            addresses = self._addresses(deadline)
        plan = plan_tls(settings.tls, settings.host, dane)
        return Connection(self._endpoint, plan, self._contexts.get(plan.verify), deadline=deadline, addresses=addresses)

    def _addresses(self, deadline: float) -> list[str]:
        """By the resolver whose validation DANE rests on, not by the system's."""
        found: list[str] = []
        for version in (6, 4):
            try:
                found += self._resolver.addresses(self._settings.host, version, deadline=deadline).records
            except DnsTemporaryError as error:
                raise DialogueError(str(error), detail="no address") from error
        return found

    # -- connections that wait for the next message

    def _take(self, identity: ClientIdentity | None, deadline: float) -> Connection | None:
        uses_xclient = self._settings.xclient != "off"
        while True:
            with self._guard:
                connection = next(
                    (
                        one
                        for one in reversed(self._idle)
                        # What was told of another client can be replaced, not taken back.
                        if not uses_xclient or identity is not None or one.identity is None
                    ),
                    None,
                )
                if connection is not None:
                    self._idle.remove(connection)
            if connection is None:
                return None
            idle = time.monotonic() - connection.idle_since
            if idle >= self._settings.idle_seconds:
                self._quit(connection)
            elif idle < _IDLE_UNCHECKED or connection.check(deadline=deadline):
                return connection
            else:
                connection.close()

    def _give_back(self, connection: Connection) -> None:
        connection.idle_since = now = time.monotonic()
        expired: list[Connection] = []
        with self._guard:
            while self._idle and now - self._idle[0].idle_since >= self._settings.idle_seconds:
                expired.append(self._idle.popleft())
            if connection.sent < self._settings.messages_per_connection:
                self._idle.append(connection)
            else:
                expired.append(connection)
        for one in expired:
            self._quit(one)

    def _forget_idle(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _quit(self, connection: Connection) -> None:
        detail = connection.quit()
        if detail:
            self._log.info("smtp.session_ended", protocol_detail=detail, messages=connection.sent)

    @property
    def settings(self) -> SmtpSettings:
        """How the server is talked to."""
        return self._settings

    @property
    def log(self) -> FilteringBoundLogger:
        """The log, bound to the server."""
        return self._log


class _Sending:
    """One output on its way. left is who did not get it, notices the outputs that tell the sender."""

    def __init__(self, destination: SmtpDestination, job: Job, out: int, name: OutputName, deadline: float) -> None:
        self._destination = destination
        self._settings = destination.settings
        self._out, self.name, self._deadline = out, name, deadline
        content = read_file(name.name, at=out)
        envelope = parse_header_file(content, file=name.name)
        self._data = durable.open_file(envelope.id.data_name, at=out)
        body = FileBody(self._data, envelope.id.body_offset, wireformat=envelope.is_wireformat)
        self.message = Message(envelope, body)
        self.left: list[Refusal] = []
        self.notices: list[OutputName] = []
        self._log = destination.log.bind(id=str(job.id), claim=job.claim.number, output=name.number)
        self._connection: Connection | None = None

    def close(self) -> None:
        os.close(self._data)

    def run(self) -> None:
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
                outcome, self._connection = self._destination.transact(letter, batch, identity, self._deadline)
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
        for refusal in outcome.refusals[:_MOST_NAMED]:
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


def _write_anew(name: OutputName, content: bytes, out: int, destination: SmtpDestination) -> None:
    with contextlib.suppress(FileNotFoundError):
        durable.unlink(name.name + _NEW, at=out)
    write_new(name.name + _NEW, content, at=out, target=destination)
    durable.replace(name.name + _NEW, name.name, at=out)
    durable.sync(out)


def _as_error(left: Sequence[Refusal]) -> LeftOverError:
    """One sentence for all who did not get it; temporary as long as one of them may yet."""
    is_temporary = any(not refusal.is_permanent for refusal in left)
    reasons: dict[str, list[str]] = {}
    for refusal in left:
        reasons.setdefault(refusal.reason, []).append(refusal.recipient.address.decode("utf-8", "backslashreplace"))
    told = [
        f"{', '.join(addresses[:_MOST_NAMED])}{' and others' if len(addresses) > _MOST_NAMED else ''}: {reason}"
        for reason, addresses in list(reasons.items())[:_MOST_NAMED]
    ]
    sentence = "; ".join(told)
    return LeftOverError(sentence, is_permanent=not is_temporary)
