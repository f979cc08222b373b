"""The ``dmarc-history`` processor: one record a message, for aggregate reports by OpenDMARC's tools.

The record is declared as an effect: it is written after the message is committed, at
least once, and a repeat is the same to the byte, so that the importer's key (reporter,
time, job) knows it.

Diagnostics: the constructor raises ConfigError for a path that can't work; process()
raises nothing; run_effect() TemporaryError or OSError, after which it is run again.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from ..spool.message import Message
from .api import Context, Effect, Processor, ProcessorConfig, Verdict, proceed
from .authentication.dmarc import DmarcResult
from .dmarc_history_file import append, check_history_path
from .dmarc_history_record import ACCEPT, QUARANTINE, REJECT, record_of, render_record
from .dmarc_policy import ACTION_VARIABLE

#: What dmarc-policy left in its variable, as the history file's ``action``.
_ACTIONS: Final = {b"reject": REJECT, b"quarantine": QUARANTINE, b"freeze": QUARANTINE}
_DISPOSITIONS: Final = {"reject": REJECT, "quarantine": QUARANTINE, "none": ACCEPT}


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    file: Annotated[str, Meta(description="The history file; made where it is missing, its directory is not.")]
    importer: Annotated[
        Literal["1.4", "1.3"],
        Meta(description="The oldest opendmarc-import that reads it: 1.3 knows neither selectors nor ARC."),
    ] = "1.4"
    routers_act: Annotated[
        bool,
        Meta(
            description="Exim's routers act on acl_m_dmarc_status: record what the policy asks for"
            " where no dmarc-policy has decided."
        ),
    ] = False
    sync: Annotated[
        bool, Meta(description="Sync each record to disk, so that a power cut loses none; costs an fsync a message.")
    ] = False


class DmarcHistory(Processor[Config]):
    """Writes the history file."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_history_path(config.file, key="config.file")

    def process(self, message: Message, context: Context) -> Verdict:
        """Declare the record of message, if it has one."""
        action = self._action(message, context)
        record = record_of(message, context.results, reporter=context.hostname, now=context.now, action=action)
        if record is None:
            return proceed(reason="nothing to record")
        modern = self.config.importer == "1.4"
        context.effects.declare("record", render_record(record, selectors=modern, arc=modern))
        return proceed(reason=f"recorded with action {action}")

    def run_effect(self, effect: Effect, log: FilteringBoundLogger) -> None:
        """Append the record."""
        append(self.config.file, effect.payload, sync=self.config.sync)
        log.debug("dmarc.recorded", key=effect.key)

    def _action(self, message: Message, context: Context) -> int:
        decided = message.envelope.variables.get(ACTION_VARIABLE)
        if decided is not None:
            return _ACTIONS.get(decided, ACCEPT)
        dmarc = next((result for result in context.results if isinstance(result, DmarcResult)), None)
        if dmarc is None or not self.config.routers_act:
            return ACCEPT
        return _DISPOSITIONS[dmarc.disposition]
