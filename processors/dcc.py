"""``dcc``: ask the Distributed Checksum Clearinghouses how bulky a message is.

The ``X-DCC`` field and ``acl_m_dcc_result`` (A, R or G; T where dccifd gave no answer) are
what Exim's routers and the reader's filter act on; a verdict on bulk is a choice. Where
dccifd fails, a message goes on as if nobody had asked. An answer that differs between
recipients, as white lists make it, divides the message.

Diagnostics: the constructor raises ConfigError for a bad address, option or threshold.
process() raises DccError (a TemporaryError) only with on_failure = "defer", and OSError for
a body that can't be read.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from ..errors import ConfigError
from ..lookups.dcc import DccAnswer, DccClient, DccError, DccRequest
from ..spool.body import wire_chunks
from ..spool.message import Message
from .api import Context, Part, Phase, Processor, ProcessorConfig, Verdict, discard, freeze, hold, proceed, split
from .authentication.client import canonical_address, find_client
from .edits import Edit, RemoveHeader, RemoveRecipient, add_header, set_variable

OPTIONS: Final = (
    "body", "cksums", "grey-off", "grey-query", "header", "log", "no-grey", "no-reject", "query", "rcvd-nxt", "spam",
)  # fmt: skip

OnBulk = Literal["proceed", "freeze", "hold", "discard"]

_VARIABLE: Final = "acl_m_dcc_result"
#: Exim's ACL may say here who the client really was (dcc.c).
_OVERRIDE: Final = "acl_m_dcc_override_client_ip"


class DccConfig(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    address: Annotated[str, Meta(description="dccifd: /path/of/socket, or host:port.")] = "/var/dcc/dccifd"
    options: Annotated[
        tuple[str, ...],
        Meta(description="Options for dccifd. Without no-grey it greylists, which means nothing after acceptance."),
    ] = ("header", "no-grey")
    timeout_seconds: Annotated[float, Meta(description="For one message.", gt=0)] = 10.0
    failures_before_pause: Annotated[
        int, Meta(description="After so many failures in a row dccifd is left alone for a while.", ge=1)
    ] = 3
    pause_seconds: Annotated[float, Meta(description="How long it is left alone.", ge=0)] = 60.0
    on_failure: Annotated[
        Literal["neutral", "defer"], Meta(description="Without an answer: go on as if unasked, or try again later.")
    ] = "neutral"
    header: Annotated[bool, Meta(description="Add the X-DCC field, and remove those that came in.")] = True
    thresholds: Annotated[
        dict[str, int | Literal["many"]],
        Meta(
            description='Counts from which a message is bulk whatever dccifd\'s letter: { Body = 100, Fuz2 = "many" }.'
        ),
    ] = msgspec.field(default_factory=dict[str, int | Literal["many"]])
    on_bulk: Annotated[OnBulk, Meta(description="The verdict on bulk (R).")] = "proceed"
    submission: Annotated[
        bool, Meta(description="Ask about what authenticated clients and local programs send, too.")
    ] = False


class Dcc(Processor[DccConfig]):
    """Ask dccifd, and write down what it says."""

    phase = Phase.MODIFY

    def __init__(self, config: DccConfig) -> None:
        super().__init__(config)
        for option in config.options:
            if option not in OPTIONS:
                near = difflib.get_close_matches(option, OPTIONS, n=1)
                hint = f'did you mean "{near[0]}"?' if near else f"known are {', '.join(OPTIONS)}"
                raise ConfigError(f'dccifd has no option "{option}"; {hint}', key="config.options")
        self._thresholds = {
            name.lower(): float("inf") if count == "many" else float(count) for name, count in config.thresholds.items()
        }
        try:
            self._client = DccClient(
                config.address,
                timeout_seconds=config.timeout_seconds,
                failures_before_pause=config.failures_before_pause,
                pause_seconds=config.pause_seconds,
            )
        except ConfigError as error:
            raise ConfigError(error.reason, key="config.address") from error

    def process(self, message: Message, context: Context) -> Verdict:
        """Ask about message, and hand on the answer."""
        envelope = message.envelope
        if not self.config.submission and (not envelope.host_address or envelope.host_auth is not None):
            return proceed()
        recipients = tuple(dict.fromkeys(recipient.address for recipient in message.undelivered))
        client = find_client(message)
        override = canonical_address(envelope.variables.get(_OVERRIDE, b""))
        request = DccRequest(
            client_address=override or client.address,
            client_name=b"" if override else envelope.host_name or b"",
            helo=client.helo,
            sender=message.sender,
            recipients=recipients,
            options=self.config.options,
        )
        try:
            answer = self._client.check(request, _content(message), deadline=context.deadline)
        except DccError as error:
            if self.config.on_failure == "defer":
                raise
            context.log.warning("dcc.failed", reason=str(error))
            return proceed(*self._removed(message), set_variable(_VARIABLE, "T"), reason=str(error))
        # A released message gets all but the hold.
        on_bulk = "proceed" if context.released and self.config.on_bulk == "hold" else self.config.on_bulk
        return self._verdict(message, answer, recipients, on_bulk)

    def _verdict(self, message: Message, answer: DccAnswer, recipients: tuple[bytes, ...], on_bulk: OnBulk) -> Verdict:
        edits = self._removed(message)
        if self.config.header and answer.header is not None:
            edits.append(add_header(*answer.header))
        reason = f"bulk, says DCC: {_shown(answer)}"
        letters = dict(zip(recipients, answer.recipients, strict=False)) or dict.fromkeys(recipients, answer.result)
        if self._exceeds(answer):
            letters = {
                address: "R" if letter == "A" and answer.result == "A" else letter
                for address, letter in letters.items()
            }
        groups: dict[str, list[bytes]] = {}
        for address, letter in letters.items():
            groups.setdefault(letter, []).append(address)
        if len(groups) <= 1:
            letter = next(iter(groups), answer.result)
            edits.append(set_variable(_VARIABLE, letter))
            return _judged(letter, reason, edits, on_bulk)
        if on_bulk == "hold" and "R" in groups:
            return hold(reason)  # a hold is of the whole message
        if on_bulk == "discard" and "R" in groups:
            dropped = groups.pop("R")
            edits += [RemoveRecipient(address) for address in dropped]
            if len(groups) == 1:
                edits.append(set_variable(_VARIABLE, next(iter(groups))))
                return proceed(*edits, reason=reason)
        parts = [
            Part(
                tuple(addresses),
                (*(edits if number == 0 else _for_others(edits)), set_variable(_VARIABLE, letter)),
                reason if letter == "R" and on_bulk == "freeze" else "",
            )
            for number, (letter, addresses) in enumerate(groups.items())
        ]
        return split(*parts, reason="recipients for whom DCC says different things")

    def _exceeds(self, answer: DccAnswer) -> bool:
        return any(count >= self._thresholds.get(name.lower(), float("nan")) for name, count in answer.counts)

    def _removed(self, message: Message) -> list[Edit]:
        """Fields that the sender may have made up."""
        if not self.config.header:
            return []
        return [
            RemoveHeader(index)
            for index, field in enumerate(message.headers)
            if field.is_sent and field.name.lower().startswith(b"x-dcc-")
        ]


def _judged(letter: str, reason: str, edits: list[Edit], on_bulk: OnBulk) -> Verdict:
    if letter != "R" or on_bulk == "proceed":
        return proceed(*edits)
    if on_bulk == "freeze":
        return freeze(reason, *edits)
    return hold(reason) if on_bulk == "hold" else discard(reason)


def _for_others(edits: list[Edit]) -> list[Edit]:
    """What every part gets: not the removal of recipients, who are all in the first."""
    return [edit for edit in edits if not isinstance(edit, RemoveRecipient)]


def _shown(answer: DccAnswer) -> str:
    counts = (f"{name}={'many' if count == float('inf') else int(count)}" for name, count in answer.counts)
    return " ".join(counts) or answer.result


def _content(message: Message) -> Iterator[bytes]:
    """The message as it goes over SMTP."""
    yield b"".join(field.raw for field in message.sent_headers).replace(b"\n", b"\r\n") + b"\r\n"
    yield from wire_chunks(message.body)
