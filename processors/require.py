"""``require``: what a message has to meet, and what becomes of one that does not.

Conditions are those of ``when`` (docs/processors/conditions.md). One that names recipients
has to hold for every recipient still to be delivered: with ``when`` and ``split`` on the
entry the message is divided first, and the verdict concerns the part alone.

Diagnostics: ConfigError for conditions that could never hold and for a setting that does
not go with ``otherwise``; a table in trouble raises TableError, which defers the message.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Final, Literal, assert_never

from msgspec import Meta

from ..errors import ConfigError
from ..spool.message import Message
from .api import Context, Phase, Processor, ProcessorConfig, Verdict, bounce, defer, discard, freeze, hold, proceed
from .conditions import Condition, parse_condition

_PERMANENT_STATUS: Final = re.compile(r"5\.[0-9]{1,3}\.[0-9]{1,3}")


class RequireConfig(ProcessorConfig, frozen=True):
    """What has to hold, and the verdict if it does not."""

    conditions: Annotated[
        dict[str, Any] | None,
        Meta(
            description="What has to hold, written as `when` is; unset: nothing can meet it, and the entry's `when` "
            "alone decides whom the verdict hits."
        ),
    ] = None
    otherwise: Annotated[
        Literal["hold", "freeze", "defer", "bounce", "discard"],
        Meta(description="The verdict on a message that does not meet them."),
    ] = "hold"
    reason: Annotated[
        str,
        Meta(
            description="Why: for the log and `respool held list`; with bounce the sender reads it. Unset: names the "
            "conditions.",
            max_length=500,
        ),
    ] = ""
    retry_after_seconds: Annotated[
        Annotated[float, Meta(gt=0, le=604800)] | None,
        Meta(description="With defer: when it is tried again; unset: after the usual, growing pause."),
    ] = None
    status: Annotated[str, Meta(description="With bounce: the enhanced status code (RFC 3463).")] = "5.7.1"


class Require(Processor[RequireConfig]):
    """A verdict on messages that do not meet conditions."""

    phase = Phase.MODIFY

    def __init__(self, config: RequireConfig) -> None:
        super().__init__(config)
        if config.retry_after_seconds is not None and config.otherwise != "defer":
            raise ConfigError('only goes with otherwise = "defer"', key="config.retry_after_seconds")
        # A bounce is for good (RFC 3464 2.3.3): 4.x.x would say that somebody still tries.
        if _PERMANENT_STATUS.fullmatch(config.status) is None:
            raise ConfigError(f'"{config.status}" is no status such as 5.7.1', key="config.status")
        if not config.reason.isprintable():
            raise ConfigError("one line of printable text is expected", key="config.reason")
        self._condition: Condition | None = None
        if config.conditions is not None:
            self._condition = parse_condition(config.conditions, key="config.conditions")
        self._verdict = _verdict(config)

    def process(self, message: Message, context: Context) -> Verdict:
        """See Processor."""
        return proceed() if self._is_met(message, context) else self._verdict

    def _is_met(self, message: Message, context: Context) -> bool:
        if self._condition is None:
            return False
        chosen = self._condition.chosen(message, context.results)
        return chosen is not None and chosen >= {recipient.address for recipient in message.undelivered}


def _verdict(config: RequireConfig) -> Verdict:
    reason = config.reason
    if not reason:
        named = ", ".join(sorted(config.conditions or ()))
        reason = f"it does not meet the conditions on {named}" if named else "required by the configuration"
    match config.otherwise:
        case "hold":
            return hold(reason)
        case "freeze":
            return freeze(reason)
        case "defer":
            return defer(reason, config.retry_after_seconds)
        case "bounce":
            return bounce(config.reason or "the message does not meet this site's policy", status=config.status)
        case "discard":
            return discard(reason)
        case _:
            assert_never(config.otherwise)
