"""Whether a processor keeps the contract: what ``respool plugin test`` checks, and tests may with check_contract().

Each message is processed twice. The first round may open what stays open (tables,
connections); after the second nothing more may be open or running, and every verdict has
to be the one of the first.

Diagnostics: raises nothing that the processor raises; faults are values.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
from msgspec import Struct

from ..errors import PermanentError, TemporaryError, sentence
from ..spool.header_file import render_header_file
from ..spool.message import Message
from .api import Context, Processor, Verdict
from .edits import apply, divide
from .verdict_check import check_verdict

_EXIT_FORKED: Final = 70
#: Seconds after the deadline until a processor that still runs is left alone.
_GRACE: Final = 2.0


class Answer(Struct, frozen=True, kw_only=True):
    """What a processor said of one message; error is what it raised instead, as text."""

    message: Message
    verdict: Verdict | None
    error: str
    seconds: float


class Contract(Struct, frozen=True, kw_only=True):
    """What came of check_contract(): an answer for each message, and every way in which the contract was broken."""

    answers: tuple[Answer, ...]
    faults: tuple[str, ...]


def check_contract(
    processor: Processor[Any],
    messages: Iterable[Message],
    make_context: Callable[[Message], Context],
) -> Contract:
    """Run processor on messages, each in the context that make_context gives, and look at what it leaves behind.

    The deadline is the context's. A processor that does not come back ends the check: its
    thread can't be ended.
    """
    faults: list[str] = []
    given = tuple(messages)
    state = _process_state()
    first: list[Answer] = []
    open_before: set[str] = set()
    threads_before: set[threading.Thread] = set()
    for round_number in (1, 2):
        if round_number == 2:
            open_before, threads_before = _open_descriptors(), set(threading.enumerate())
        for number, message in enumerate(given):
            before = _content(message)
            answer = _ask(processor, message, make_context(message), faults)
            if answer is None:
                return Contract(answers=tuple(first), faults=tuple(faults))
            if round_number == 1:
                first.append(answer)
            elif _words(answer) != _words(first[number]):
                faults.append(f"{message.id}: another answer the second time: it does not depend on the message alone")
            if _content(message) != before:
                faults.append(f"{message.id}: it changed the message it was given; edits say what shall change")
        changed = [name for name, value in _process_state().items() if value != state[name]]
        if changed:
            faults.append(f"it changed what belongs to the whole process: {', '.join(changed)}")
            state = _process_state()
    left = threading.enumerate()
    names = [thread.name for thread in left if thread not in threads_before]
    if names:
        faults.append(f"{len(names)} threads left running, {names[0]} for one")
    leaked = _open_descriptors() - open_before
    if leaked:
        faults.append(f"{len(leaked)} descriptors left open, {sorted(leaked)[0].partition(' ')[2]} for one")
    return Contract(answers=tuple(first), faults=tuple(dict.fromkeys(faults)))


def _ask(processor: Processor[Any], message: Message, context: Context, faults: list[str]) -> Answer | None:
    """One answer; None if there is none in time."""
    answers: list[Answer] = []
    thread = threading.Thread(
        target=lambda: answers.append(_answer(processor, message, context, faults)),
        name="respool-contract",
        daemon=True,
    )
    started = time.monotonic()
    thread.start()
    thread.join(max(0.0, context.deadline - started) + _GRACE)
    if not answers:
        frame = sys._current_frames().get(thread.ident or 0)
        where = traceback.extract_stack(frame)[-1] if frame is not None else None
        place = f" at {where.filename}:{where.lineno}" if where is not None else ""
        faults.append(f"{message.id}: no answer, {_GRACE:.0f} seconds after the deadline{place}")
        return None
    answer = answers[0]
    if started + answer.seconds > context.deadline:
        faults.append(f"{message.id}: it took {answer.seconds:.1f} seconds, past the deadline")
    return answer


def _answer(processor: Processor[Any], message: Message, context: Context, faults: list[str]) -> Answer:
    started, process = time.monotonic(), os.getpid()
    verdict: Verdict | None = None
    error = ""
    try:
        verdict = check_verdict(processor.process(message, context), message)
        carry_out(message, verdict)
    except (TemporaryError, PermanentError) as raised:
        error = f"{type(raised).__name__}: {sentence(raised)}"
    except BaseException as raised:  # noqa: BLE001 as at the engine's boundary: this is its rehearsal
        verdict, error = None, f"{type(raised).__name__}: {sentence(raised)}"
        faults.append(f"{message.id}: {error}{_line_of(raised)}")
    if os.getpid() != process:
        os._exit(_EXIT_FORKED)
    return Answer(message=message, verdict=verdict, error=error, seconds=time.monotonic() - started)


def _line_of(raised: BaseException) -> str:
    frames = traceback.extract_tb(raised.__traceback__)
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def carry_out(message: Message, verdict: Verdict) -> tuple[Message, ...]:
    """The messages that go on after verdict; ValueError for edits that don't fit."""
    parts = getattr(verdict, "parts", None)
    if parts is not None:
        divided = divide(message, tuple(part.recipients for part in parts))
        made = zip(parts, divided, strict=True)
        return tuple(apply(one, part.edits).message for part, one in made if one is not None)
    edits = getattr(verdict, "edits", None)
    return () if edits is None else (apply(message, edits).message,)


def _content(message: Message) -> bytes:
    return render_header_file(message.envelope) + b"".join(message.body.chunks())


def _words(answer: Answer) -> tuple[bytes, str]:
    return msgspec.json.encode(answer.verdict, enc_hook=_encoded), answer.error


def _encoded(value: Any) -> Any:
    chunks = getattr(value, "chunks", None)
    return repr(value) if chunks is None else b"".join(chunks())


def _process_state() -> dict[str, Any]:
    """What a process has once, and all its threads share."""
    umask = os.umask(0o077)
    os.umask(umask)
    return {
        "umask": umask,
        "working directory": os.getcwd(),
        "environment": dict(os.environ),
        "signal handlers": {number: signal.getsignal(number) for number in signal.valid_signals()},
        "interval timer": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "sys.path": tuple(sys.path),
    }


def _open_descriptors() -> set[str]:
    found: set[str] = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{descriptor} {os.readlink(f'/proc/self/fd/{descriptor}')}")
        except OSError:
            continue  # the one that listed them
    return found
