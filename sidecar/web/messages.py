"""Messages as the web page shows them: lists, one message, its journey.

What a journey can tell: what Exim wrote into ``-H``, what is remembered beside a message
in its directory, and the last messages that each worker remembers. The log knows more,
and is not read.

Diagnostics: PermanentError for a message that is not there; OSError from the system.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator

from msgspec import Struct

from ...errors import PermanentError, SpoolFormatError
from ...requeue import durable
from ...requeue.hold import LOOP
from ...requeue.job import Job, Status
from ...requeue.reading import read_file
from ...requeue.state import STATES, Claim, StateDirectory, parse_claim
from ...spool.body import FileBody
from ...spool.envelope import Envelope
from ...spool.header_file import parse_header_file
from ...spool.journal import merge_journal
from ...spool.message import Message
from ..cli.terminal import escape
from ..config import Config, SpoolRequeue
from ..measure import Ended
from ..overview import recent, short_name
from .preview import decoded, preview, source

PAGE: int = 50


class Row(Struct, frozen=True, kw_only=True):
    """One message of a list. All texts are escaped for people, not for HTML."""

    claim: Claim
    status: Status
    sender: str = ""
    subject: str = ""
    recipients: int = 0
    error: str = ""


class Step(Struct, frozen=True, kw_only=True):
    """One station of a journey. time is Unix time, 0 where nobody knows it; kind colours it."""

    title: str
    detail: str = ""
    time: float = 0.0
    kind: str = ""


class Detail(Struct, frozen=True, kw_only=True):
    """One message: its row and all that there is to read of it."""

    row: Row
    place: str
    envelope: Envelope | None
    size: int
    recipients: tuple[tuple[str, bool], ...]
    headers: tuple[tuple[str, str], ...]
    journey: tuple[Step, ...]


def list_page(state: StateDirectory, place: str, page: int) -> tuple[list[Row], int]:
    """One page of a state's messages, in claim order, and how many pages there are."""
    claims = state.list(place)
    pages = max(1, -(-len(claims) // PAGE))
    chosen = claims[(page - 1) * PAGE : page * PAGE]
    rows: list[Row] = []
    for claim in chosen:
        with contextlib.suppress(PermanentError), _opened(state, place, claim) as job:
            rows.append(_row(job))
    return rows, pages


def detail(config: Config, state: StateDirectory, place: str, name: str) -> Detail:
    """Everything about one message. Raises PermanentError."""
    claim = _claim(name)
    with _opened(state, place, claim) as job:
        row = _row(job)
        with contextlib.suppress(OSError, SpoolFormatError), _message(job) as message:
            envelope = message.envelope
            return Detail(
                row=row, place=place, envelope=envelope, size=message.size,
                recipients=tuple((escape(one.address), envelope.is_delivered(one)) for one in envelope.recipients),
                headers=tuple(
                    (escape(header.name or b""), decoded(header.value)) for header in message.sent_headers[:200]
                ),
                journey=tuple(_journey(config, place, row, envelope)),
            )  # fmt: skip
    return Detail(
        row=row, place=place, envelope=None, size=0, recipients=(), headers=(),
        journey=tuple(_journey(config, place, row, None)),
    )  # fmt: skip


def text(state: StateDirectory, place: str, name: str, *, as_source: bool) -> str:
    """A message as plain text. Raises PermanentError."""
    with _opened(state, place, _claim(name)) as job:
        try:
            with _message(job) as message:
                return source(message) if as_source else preview(message)
        except FileNotFoundError:
            return "Half of this message is not there.\n"
        except SpoolFormatError as error:
            return f"This message can't be read: {escape(str(error))}\n"


def find(config: Config, state: StateDirectory, wanted: str) -> tuple[list[tuple[str, Claim]], list[Ended]]:
    """Where a message is, by its id or an id that it was requeued under: places, and what workers remember."""
    places = [
        (place, claim) for place in STATES for claim in state.list(place) if wanted in {str(claim.id), claim.name}
    ]
    remembered = [ended for ended in recent(config) if wanted == ended.id or wanted in ended.outputs]
    return places, remembered


def ended_journey(config: Config, ended: Ended) -> list[Step]:
    """The journey of a message that is no longer with respool."""
    return [_claimed(ended.claim), *_ran(ended), *_after(config, ended)]


def _claim(name: str) -> Claim:
    claim = parse_claim(name)
    if claim is None:
        raise PermanentError("this is not the name of a message")
    return claim


@contextlib.contextmanager
def _opened(state: StateDirectory, place: str, claim: Claim) -> Generator[Job]:
    if place not in STATES:
        raise PermanentError("there is no such queue")
    try:
        descriptor = durable.open_directory(claim.name, at=state.states[place])
    except FileNotFoundError:
        raise PermanentError(f"{claim.id} is no longer here") from None
    try:
        # Only read: its owner, if there is one, replaces files as a whole.
        yield Job(state, place, claim, descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _message(job: Job) -> Generator[Message]:
    envelope = _envelope(job)
    data = durable.open_file(job.id.data_name, at=job.descriptor)
    try:
        yield Message(envelope, FileBody(data, job.id.body_offset, wireformat=envelope.is_wireformat))
    finally:
        os.close(data)


def _envelope(job: Job) -> Envelope:
    envelope = parse_header_file(read_file(job.id.header_name, at=job.descriptor), file=job.id.header_name)
    with contextlib.suppress(FileNotFoundError):
        envelope = merge_journal(envelope, read_file(job.id.journal_name, at=job.descriptor))
    return envelope


def _row(job: Job) -> Row:
    status = job.read_status()
    try:
        envelope = _envelope(job)
    except FileNotFoundError:
        return Row(claim=job.claim, status=status, error="no -H file")
    except (SpoolFormatError, OSError) as error:
        return Row(claim=job.claim, status=status, error=escape(str(error)))
    subject = next((header.value for header in envelope.headers if (header.name or b"").lower() == b"subject"), b"")
    return Row(
        claim=job.claim, status=status, sender=escape(envelope.sender), subject=decoded(subject),
        recipients=len(envelope.recipients),
    )  # fmt: skip


def _journey(config: Config, place: str, row: Row, envelope: Envelope | None) -> Iterator[Step]:
    if envelope is not None:
        host = escape(envelope.host_address or b"")
        name = escape(envelope.host_name or envelope.helo_name or b"")
        origin = f"from {name} [{host}]" if host else f"from {escape(envelope.login)} on this host"
        protocol = escape(envelope.received_protocol or b"")
        yield Step(title="Received by Exim", detail=f"{origin} {protocol}".rstrip(), time=float(envelope.received_time))
    yield _claimed(row.claim.number)
    remembered = [ended for ended in recent(config) if ended.claim == row.claim.number and ended.id == row.claim.id]
    for ended in reversed(remembered):
        yield from _ran(ended)
    status = row.status
    if not remembered and place in {"held", "deferred"}:
        yield Step(
            title="Processed",
            detail="each worker remembers its last messages only, and this is none of them: the log has the rest",
        )
    if status.crashes:
        yield Step(title=f"The worker died {status.crashes} times with it in hand", kind="bad")
    if status.released:
        yield Step(
            title="Released by an operator", detail=f"holds overridden: {', '.join(map(short_name, status.released))}"
        )
    match place:
        case "held":
            by = f" by {escape(short_name(status.processor))}" if status.processor else ""
            why = " (a loop)" if status.processor == LOOP else ""
            yield Step(title=f"Held{by}{why}", detail=escape(status.reason), time=status.since, kind="held")
        case "deferred":
            by = f" by {escape(short_name(status.processor))}" if status.processor else ""
            yield Step(
                title=f"Deferred{by}, attempt {status.attempt}", detail=escape(status.reason), time=status.since,
                kind="deferred",
            )  # fmt: skip
            yield Step(title="Next attempt", time=status.retry_at)
        case "corrupt":
            yield Step(title="Set aside: can't be read", detail=escape(status.reason), time=status.since, kind="bad")
        case _:
            yield Step(title="In hand now")


def _claimed(number: int) -> Step:
    return Step(title="Claimed by respool", detail=f"claim {number}")


def _ran(ended: Ended) -> Iterator[Step]:
    for ran in ended.ran:
        detail = f"{ran.answer}, {ran.seconds * 1000:.3g} ms"
        kind = {"failed": "bad", "hold": "held", "defer": "deferred"}.get(ran.answer, "")
        yield Step(
            title=escape(short_name(ran.processor)),
            detail=f"{detail}: {escape(ran.reason)}" if ran.reason else detail,
            kind=kind,
        )


def _after(config: Config, ended: Ended) -> Iterator[Step]:
    if ended.state != "requeued":
        yield Step(title=ended.state.capitalize(), detail=escape(ended.reason), time=ended.time)
        return
    detail = ", ".join(ended.outputs)
    yield Step(title="Requeued", detail=f"as {detail}" if detail else "", time=ended.time, kind="good")
    requeue = config.requeue
    if isinstance(requeue, SpoolRequeue):
        for output in ended.outputs:
            queue = os.path.join(requeue.spool_directory, requeue.queue, "input")
            paths = (os.path.join(queue, f"{output}-H"), os.path.join(queue, output[5:6], f"{output}-H"))
            if any(map(os.path.exists, paths)):
                yield Step(title=f"{output} is in Exim's queue")
            else:
                yield Step(
                    title=f"{output} is no longer in Exim's queue", detail="delivered or removed: Exim's log tells"
                )
