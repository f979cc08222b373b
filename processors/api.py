"""What a plugin author writes against: Processor, Context, and the verdicts.

A processor sees a Message and returns a Verdict that carries edits. It never touches a
file and reaches the outside only through its Context; a crash in it can lose nothing.

Diagnostics: a processor may raise TemporaryError (the message is deferred) and
PermanentError (held); anything else is wrapped at the engine's one boundary, and
``on_error`` decides. A constructor raises ConfigError for a configuration that can't work.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, ClassVar, Generic, TypeVar, get_args, get_origin

from msgspec import Struct, field
from structlog.typing import FilteringBoundLogger

from ..lookups.dns import Resolver
from ..spool.ids import MessageId
from ..spool.message import Message
from .edits import Edit
from .named_table import table_named
from .results import AuthResult


class Phase(StrEnum):
    """Where in a pipeline a processor may stand, in order; one that goes back is refused at load."""

    VERIFY = "verify"
    MODIFY = "modify"
    SIGN = "sign"
    SEAL = "seal"

    @property
    def rank(self) -> int:
        """The place in the order, from 0."""
        return tuple(Phase).index(self)


class Proceed(Struct, frozen=True, kw_only=True, tag="proceed"):
    """Go on with the next processor, after these edits."""

    edits: tuple[Edit, ...] = ()
    results: tuple[AuthResult, ...] = ()
    reason: str = ""


class Freeze(Struct, frozen=True, kw_only=True, tag="freeze"):
    """Go on, but requeue frozen: Exim's own quarantine."""

    reason: str
    edits: tuple[Edit, ...] = ()


class Discard(Struct, frozen=True, kw_only=True, tag="discard"):
    """Drop the message: nothing is requeued, nobody is told."""

    reason: str


class Defer(Struct, frozen=True, kw_only=True, tag="defer"):
    """Try the whole message again later; retry_after in seconds, None for the engine's backoff."""

    reason: str
    retry_after: float | None = None


class Hold(Struct, frozen=True, kw_only=True, tag="hold"):
    """Keep the untouched original in ``held/`` until somebody releases or drops it."""

    reason: str


class Bounce(Struct, frozen=True, kw_only=True, tag="bounce"):
    """Tell the sender that the message is not delivered, and drop it.

    reason is for the sender to read; status is the enhanced status code (RFC 3463). Becomes
    a hold where a notice could hit somebody who never sent the message.
    """

    reason: str
    status: str = "5.7.1"


class Part(Struct, frozen=True):
    """Some recipients of a split message, with edits for them only.

    frozen, if not empty, is why this part is to be requeued frozen.
    """

    recipients: tuple[bytes, ...]
    edits: tuple[Edit, ...] = ()
    frozen: str = ""


class Split(Struct, frozen=True, kw_only=True, tag="split"):
    """Divide the message: each part runs the remaining processors as its own message.

    The first part keeps the id; recipients that no part names stay with the first.
    """

    parts: tuple[Part, ...]
    reason: str = ""


Verdict = Proceed | Freeze | Discard | Defer | Hold | Bounce | Split


def proceed(*edits: Edit, results: tuple[AuthResult, ...] = (), reason: str = "") -> Proceed:
    """Go on, with edits and results for the processors after this one."""
    return Proceed(edits=edits, results=results, reason=reason)


def freeze(reason: str, *edits: Edit) -> Freeze:
    """Go on, and requeue frozen."""
    return Freeze(reason=reason, edits=edits)


def discard(reason: str) -> Discard:
    """Drop the message."""
    return Discard(reason=reason)


def defer(reason: str, retry_after: float | None = None) -> Defer:
    """Try again later, after retry_after seconds where given."""
    return Defer(reason=reason, retry_after=retry_after)


def hold(reason: str) -> Hold:
    """Keep the original in ``held/``."""
    return Hold(reason=reason)


def bounce(reason: str, *, status: str = "5.7.1") -> Bounce:
    """Return the message to its sender with reason (a DSN, RFC 3464), or hold it: see Bounce."""
    return Bounce(reason=reason, status=status)


def split(*parts: Part, reason: str = "") -> Split:
    """Divide the message by recipients."""
    return Split(parts=parts, reason=reason)


class ProcessorConfig(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a processor's ``config`` table; unknown keys are refused."""


Config = TypeVar("Config", bound=ProcessorConfig)


class Effects:
    """What a processor wants done outside once the message is committed; see Processor.run_effect.

    Nothing of it happens if the message is deferred or held: it is processed again then.
    """

    def __init__(self) -> None:
        self.declared: list[tuple[str, bytes]] = []

    def declare(self, kind: str, payload: bytes = b"") -> None:
        """Run ``run_effect`` of this processor with kind and payload after the commit, at least once.

        Raises TypeError for another payload than bytes, ValueError for a kind that is no text of a file.
        """
        if type(kind) is not str or type(payload) is not bytes:
            raise TypeError(f"an effect is a str and bytes, not {type(kind).__name__} and {type(payload).__name__}")
        kind.encode()
        self.declared.append((kind, payload))


class Notices:
    """Messages about this one that a processor has made; each is requeued beside it, under an id of its own.

    None of them is if the message is deferred or held: it is processed again then.
    """

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> None:
        """Requeue message (see spool.local_message) when the one in hand is committed, whatever becomes of that."""
        if type(message) is not Message:
            raise TypeError(f"a notice is a Message, not {type(message).__name__}")
        self.sent.append(message)


class Effect(Struct, frozen=True, kw_only=True):
    """A declared effect that is due.

    (id, claim, processor, number) is its key: the same effect run again after a crash has
    the same key, and no other has it. claim tells repeated exports of one id apart.
    """

    id: MessageId
    claim: int
    processor: str
    number: int
    kind: str
    payload: bytes

    @property
    def key(self) -> str:
        """The key as text."""
        return f"{self.id}.{self.claim}/{self.processor}/{self.number}"


class Context(Struct, frozen=True, kw_only=True):
    """The outside, as a processor may reach it, for one message.

    now is Unix time, taken once per message; deadline a time.monotonic() value by which
    process() has to return; attempt counts from 1. results are those of the processors
    before this one, in order. released: somebody has released the message from a hold of
    this processor; a hold or bounce counts for nothing now, so process() answers with
    whatever else it has to say of the message.
    """

    hostname: str
    authserv_id: str
    resolver: Resolver
    log: FilteringBoundLogger
    now: float
    deadline: float
    attempt: int = 1
    released: bool = False
    results: tuple[AuthResult, ...] = ()
    effects: Effects = field(default_factory=Effects)
    notices: Notices = field(default_factory=Notices)

    def lookup(self, table: str, key: bytes | str) -> bytes | None:
        """The value of key in the table ``lmdb;/file`` (Exim's prefixes allowed); None if it is absent.

        The file is opened once per process and stays open. Raises TableError, which defers
        the message, and ConfigError for a text that names no table.
        """
        match = table_named(table).find(key.encode() if isinstance(key, str) else key)
        return None if match is None else match.value


class Processor(Generic[Config]):
    """Base of every processor. One instance per worker, shared by its threads.

    phase says where it may stand. config_type is found from ``Processor[MyConfig]``.
    """

    phase: ClassVar[Phase | str] = Phase.MODIFY
    config_type: ClassVar[type[ProcessorConfig]] = ProcessorConfig

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            origin = get_origin(base)
            if isinstance(origin, type) and issubclass(origin, Processor):
                (argument,) = get_args(base)
                if isinstance(argument, type) and issubclass(argument, ProcessorConfig):
                    cls.config_type = argument
        cls.phase = Phase(cls.phase)

    def __init__(self, config: Config) -> None:
        self.config = config

    def process(self, message: Message, context: Context) -> Verdict:
        """Look at message and say what shall happen. See the module's Diagnostics for what may be raised."""
        raise NotImplementedError

    def run_effect(self, effect: Effect, log: FilteringBoundLogger) -> None:
        """Carry out an effect that process() declared, after the commit and at least once.

        TemporaryError or OSError: tried again later, with the same key. Anything else is
        logged, and the effect given up.
        """
        raise NotImplementedError(f"{type(self).__name__} declares effects but has no run_effect()")
