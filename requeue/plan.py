"""What shall become of a message, as a value.

The engine makes a Plan from the processors' verdicts; ``--dry-run`` prints it and stops
there; the requeue carries it out.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from msgspec import Struct

from ..spool.message import Message
from .effects import Effect


class Output(Struct, frozen=True, kw_only=True):
    """One message to publish.

    message is its final form, still under the id it was claimed with; the requeue gives
    it another one where it has to. original_body is True if the body is that of the
    claimed ``-D``, which may then be hard-linked. queue is Exim's queue name, "" for the
    default one. is_notice: a message about the claimed one, which always gets an id of
    its own.
    """

    message: Message
    original_body: bool = True
    queue: str = ""
    is_notice: bool = False


class Requeue(Struct, frozen=True, kw_only=True, tag="requeue"):
    """Publish these outputs; none at all where the message was discarded.

    reason says why there is none, or why the message is frozen. The first output may
    keep the id, all others get new ones. effects run once the outputs are published.
    """

    outputs: tuple[Output, ...] = ()
    reason: str = ""
    effects: tuple[Effect, ...] = ()


class Defer(Struct, frozen=True, kw_only=True, tag="defer"):
    """Put the message aside in ``deferred/`` until retry_at (Unix time)."""

    reason: str
    retry_at: float
    processor: str = ""


class Hold(Struct, frozen=True, kw_only=True, tag="hold"):
    """Put the untouched message into ``held/`` until an operator decides."""

    reason: str
    processor: str = ""


class SetAside(Struct, frozen=True, kw_only=True, tag="corrupt"):
    """Put the message into ``corrupt/``: it can't be read."""

    reason: str


Plan = Requeue | Defer | Hold | SetAside
