"""A processor that does what no processor should: the field X-Do of a message says what."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from typing import Any

from respool import (
    AddHeader,
    AddRecipient,
    Context,
    Header,
    InsertIntoBody,
    Message,
    PermanentError,
    Proceed,
    Processor,
    ProcessorConfig,
    Recipient,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    SetSender,
    TemporaryError,
    defer,
    hold,
    proceed,
    split,
)

KEPT: list[int] = []
KEPT_MEMORY: list[bytearray] = []


class TextlessError(Exception):
    """Whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class LyingBody:
    """A body that breaks when it is read again."""

    size, wireformat = 6, False

    def __init__(self) -> None:
        self.reads = 0

    def chunks(self) -> Any:
        self.reads += 1
        yield b"hello\n" if self.reads == 1 else "no bytes"


def raises(error: BaseException) -> Any:
    raise error


def forks() -> Any:
    if os.fork() == 0:
        return proceed()  # the child goes on as if it were the worker
    return proceed()


def forks_and_stays() -> Any:
    if os.fork() == 0:
        time.sleep(600)
    return proceed()


def loops() -> Any:
    while True:
        pass


def blocks() -> Any:
    return threading.Event().wait()


def hogs() -> Any:
    taken = []
    while True:
        # Never touched: at the limit long before the deadline, however busy the machine is.
        taken.append(bytes(16 << 20))


def leaves_a_thread() -> Any:
    threading.Thread(target=time.sleep, args=(600,), name="left over").start()
    return proceed()


def thread_that_fails() -> Any:
    thread = threading.Thread(target=raises, args=(ValueError("in a thread"),), name="failing")
    thread.start()
    thread.join()
    return proceed()


def leaks() -> Any:
    KEPT.extend(os.open("/etc/hostname", os.O_RDONLY) for _ in range(20))
    return proceed()


def keeps_memory() -> Any:
    KEPT_MEMORY.append(bytearray(8 << 20))
    return proceed()


def closes_descriptors() -> Any:
    os.closerange(3, 200)
    return proceed()


def closes_the_sources_descriptor() -> Any:
    """As a descriptor closed twice does, when it is another's by then; the number is another file's at once."""
    for descriptor in range(3, 200):
        if (
            os.path.exists(f"/proc/self/fd/{descriptor}")
            and os.readlink(f"/proc/self/fd/{descriptor}")[-7:] == "/source"
        ):
            os.close(descriptor)
            KEPT.append(os.open("/etc", os.O_RDONLY))
    return proceed()


def changes_the_process() -> Any:
    os.chdir("/")
    os.umask(0o777)
    return proceed()


def changes_a_signal() -> Any:
    return signal.signal(signal.SIGTERM, signal.SIG_IGN)


def recurses() -> Any:
    return recurses()


def breaks_the_line() -> Any:
    return proceed(AddHeader(Header(" ", b"X-Ok: 1\nBcc: victim@example.net\n\nbody\n")))


def forges_a_recipient() -> Any:
    return proceed(AddRecipient(Recipient(address=b"a@b.example", raw=b"a@b.example\nc@d.example\n")))


DEEDS: dict[str, Any] = {
    # Contained at the boundary: on_error decides.
    "raises": lambda: raises(KeyError("x")),
    "system-exit": lambda: sys.exit(3),
    "keyboard-interrupt": lambda: raises(KeyboardInterrupt()),
    "generator-exit": lambda: raises(GeneratorExit()),
    "memory-error": lambda: raises(MemoryError()),
    "textless": lambda: raises(TextlessError()),
    "recursion": recurses,
    "none": lambda: None,
    "text": lambda: "proceed",
    "class": lambda: Proceed,
    "edits-no-tuple": lambda: Proceed(edits=[RemoveHeader(0)]),  # type: ignore[arg-type]
    "edit-no-edit": lambda: proceed("X: y"),  # type: ignore[arg-type]
    "out-of-range": lambda: proceed(RemoveHeader(10**6)),
    "negative": lambda: proceed(RemoveHeader(-1)),
    "index-no-number": lambda: proceed(RemoveHeader("0")),  # type: ignore[arg-type]
    "sender-text": lambda: proceed(SetSender("a@b.example")),  # type: ignore[arg-type]
    "sender-lines": lambda: proceed(SetSender(b"a@b.example>\n-local\n<")),
    "header-injection": breaks_the_line,
    "recipient-injection": forges_a_recipient,
    "nobody-left": lambda: proceed(RemoveRecipient(b"bob@example.org")),
    "no-parts": split,
    "reason-no-text": lambda: hold(b"bytes"),  # type: ignore[arg-type]
    "wait-nan": lambda: defer("later", float("nan")),
    "body": lambda: proceed(ReplaceBody(LyingBody())),
    "place-outside": lambda: proceed(InsertIntoBody(10**9, b"x\n")),
    "place-no-number": lambda: proceed(InsertIntoBody("0", b"x\n")),  # type: ignore[arg-type]
    "results": lambda: Proceed(results=("dmarc=pass",)),  # type: ignore[arg-type]
    "signal": changes_a_signal,
    # Carried out, with what is wrong in it made harmless.
    "surrogate": lambda: hold("\udcff" * 3),
    "long-reason": lambda: hold("x" * 10_000_000),
    "permanent-odd": lambda: raises(PermanentError(123)),  # type: ignore[arg-type]
    "temporary-odd": lambda: raises(TemporaryError("soon", retry_after="tomorrow")),  # type: ignore[arg-type]
    # The process as a whole.
    "forks": forks,
    "forks-and-stays": forks_and_stays,
    "leaks": leaks,
    "keeps-memory": keeps_memory,
    "closes-descriptors": closes_descriptors,
    "closes-a-descriptor": closes_the_sources_descriptor,
    "leaves-a-thread": leaves_a_thread,
    "thread-that-fails": thread_that_fails,
    "changes-the-process": changes_the_process,
    "exits": lambda: os._exit(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "loops": loops,
    "blocks": blocks,
    "hogs": hogs,
}


class Misbehaving(Processor[ProcessorConfig]):
    """Does what the field X-Do says."""

    phase = "modify"

    def process(self, message: Message, context: Context) -> Any:
        """See Processor."""
        del context
        for header in message.sent_headers:
            if header.is_named(b"X-Do"):
                return DEEDS[header.value.strip().decode()]()
        return proceed()
