"""The ``dmarc-policy`` processor: what is done with mail that fails DMARC.

``auth`` says what the author domain asks for; this one decides. By itself it does nothing
but say so in ``acl_m_dmarc_reason``. What it decided stands in ``acl_m_dmarc_action``, for
Exim's routers and for ``dmarc-history``.

Diagnostics: the constructor raises ConfigError; process() raises TableError (the message
is deferred) where an exception asks a table that can't be read, and nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError
from ..spool.message import Message
from .api import (
    Context,
    Effect,
    Part,
    Processor,
    ProcessorConfig,
    Split,
    Verdict,
    bounce,
    discard,
    freeze,
    hold,
    proceed,
)  # fmt: skip
from .authentication.dkim_verify import DkimResult
from .authentication.dmarc import DmarcResult
from .authentication.spf import SpfResult
from .conditions import Subject, When, compile_condition
from .dmarc_history_file import append, check_history_path
from .dmarc_history_record import DISCARD, REJECT, record_of, render_record
from .edits import Edit, RemoveRecipient, set_variable
from .patterns import DomainPatterns
from .results import Result

ACTION_VARIABLE: Final = "acl_m_dmarc_action"
REASON_VARIABLE: Final = "acl_m_dmarc_reason"

Action = Literal["annotate", "mark", "freeze", "hold", "bounce", "discard"]
Kind = Literal["local_policy", "mailing_list", "trusted_forwarder", "other"]
_BUCKETS: Final = 10_000
_LONGEST_REASON: Final = 400


class ExceptionEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Mail that is let through although it fails."""

    when: Annotated[When, Meta(description="On which mail: docs/processors/conditions.md.")]
    reason: Annotated[str, Meta(description="Why, in words, for the log and for people.", min_length=1)]
    kind: Annotated[Kind, Meta(description="What kind of override it is, in the words of aggregate reports.")] = (
        "local_policy"
    )


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    quarantine: Annotated[Action, Meta(description="What is done where the policy is quarantine.")] = "annotate"
    reject: Annotated[Action, Meta(description="What is done where the policy is reject.")] = "annotate"
    unreadable_from: Annotated[
        Action | None,
        Meta(description="What is done where From can't be trusted to mean one author; unset: as for reject."),
    ] = None
    enforce_percent: Annotated[
        float,
        Meta(
            description="Of how much failing mail this is done; the rest is annotated. By the message's id, so that"
            " it is the same at each attempt.",
            ge=0,
            le=100,
        ),
    ] = 100.0
    exceptions: Annotated[tuple[ExceptionEntry, ...], Meta(description="Mail that is let through.")] = ()
    mailing_lists: Annotated[
        tuple[str, ...],
        Meta(
            description='Domains of mailing lists ("lists.example.org", "*.example.org", tables) whose mail is let'
            " through if it has a List-Id, and SPF or DKIM passes for that domain."
        ),
    ] = ()
    history_file: Annotated[
        str,
        Meta(
            description="Where discarded and bounced mail is recorded, which a dmarc-history after this one"
            " never sees: the same file. Empty: not at all."
        ),
    ] = ""


class Decision(Struct, frozen=True, kw_only=True):
    """What is to be done, and why. kind is the override's, empty where there is none."""

    action: Action
    disposition: Literal["none", "quarantine", "reject"] = "none"
    reason: str
    kind: str = ""


class DmarcPolicy(Processor[Config]):
    """Decides over mail that fails DMARC."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._exceptions = tuple(
            (compile_condition(entry.when, key=f"config.exceptions[{number}].when"), entry)
            for number, entry in enumerate(config.exceptions)
        )
        self._lists = DomainPatterns(config.mailing_lists, key="config.mailing_lists") if config.mailing_lists else None
        if config.history_file:
            check_history_path(config.history_file, key="config.history_file")
        ending = {config.quarantine, config.reject, config.unreadable_from} & {"hold", "bounce"}
        for number, (condition, _) in enumerate(self._exceptions):
            if condition.names_recipients and ending:
                raise ConfigError(
                    f"{min(map(str, ending))} concerns all recipients: for an exception by recipients give this"
                    " processor a when with not, and split = true",
                    key=f"config.exceptions[{number}].when",
                )

    def process(self, message: Message, context: Context) -> Verdict:
        """Decide, and say why."""
        dmarc = next((result for result in context.results if isinstance(result, DmarcResult)), None)
        if dmarc is None:
            return proceed(*_variables("none", "not evaluated"), reason="DMARC was not evaluated")
        decision = self.decide(message, context, dmarc)
        exempt: frozenset[bytes] = frozenset()
        why = ""
        if decision.action != "annotate":
            exempt, why = self._exempt_recipients(message, context)
        if decision.disposition != "none" or decision.kind:
            context.log.info(
                "dmarc.decided",
                action=decision.action,
                disposition=decision.disposition,
                override=decision.kind or None,
                reason=decision.reason,
                author_domain=dmarc.author_domain,
                exempt=len(exempt) or None,
            )
        verdict = self._verdict(message, decision, exempt, why)
        self._record(message, context, verdict)
        return verdict

    def decide(self, message: Message, context: Context, dmarc: DmarcResult) -> Decision:
        """What is to be done with message as a whole; exceptions by recipients come later."""
        if dmarc.override:
            return Decision(action="annotate", reason=dmarc.override_reason, kind=dmarc.override)
        is_unreadable = dmarc.status == "nofrom"
        if is_unreadable:
            action = self.config.unreadable_from or self.config.reject
            disposition: Literal["none", "quarantine", "reject"] = "reject"
            reason = f"From names no author that can be trusted: {dmarc.reason}"
        elif dmarc.disposition != "none":
            disposition = dmarc.disposition
            action = self.config.quarantine if disposition == "quarantine" else self.config.reject
            lowered = " (one level lower, t=y)" if dmarc.record is not None and dmarc.record.testing else ""
            reason = f"{dmarc.author_domain} failed DMARC; {dmarc.domain} asks for {disposition}{lowered}"
        else:
            return Decision(action="annotate", reason=_all_well(dmarc))
        override = self._override(message, context)
        if override is not None:
            kind, why = override
            return Decision(action="annotate", reason=f"{reason}; let through: {why}", kind=kind)
        if action != "annotate" and not is_sampled(message, self.config.enforce_percent):
            why = f"not among the {self.config.enforce_percent:g} % that are enforced"
            return Decision(action="annotate", reason=f"{reason}; {why}", kind="sampled_out")
        if context.released and action in {"hold", "bounce"}:
            return Decision(action="annotate", reason=f"{reason}; released by an operator", kind="local_policy")
        return Decision(action=action, disposition=disposition, reason=reason)

    def run_effect(self, effect: Effect, log: FilteringBoundLogger) -> None:
        """Append the history record of a message that ended here."""
        append(self.config.history_file, effect.payload)
        log.debug("dmarc.recorded", key=effect.key)

    def _override(self, message: Message, context: Context) -> tuple[str, str] | None:
        """The kind and reason of the first exception that holds for the whole message."""
        subject = Subject(message, context.results)
        for condition, entry in self._exceptions:
            if condition.names_recipients:
                chosen = condition.chosen(message, context.results)
                if chosen and chosen == frozenset(recipient.address for recipient in message.undelivered):
                    return entry.kind, entry.reason
            elif condition.holds_for_message(subject):
                return entry.kind, entry.reason
        name = self._mailing_list(message, context)
        return ("mailing_list", f"mailing list at {name}") if name else None

    def _exempt_recipients(self, message: Message, context: Context) -> tuple[frozenset[bytes], str]:
        """The recipients that an exception names, where others are left, and the reason of the first."""
        exempt: frozenset[bytes] = frozenset()
        why = ""
        for condition, entry in self._exceptions:
            if condition.names_recipients and (chosen := condition.chosen(message, context.results)):
                exempt, why = exempt | chosen, why or entry.reason
        return exempt, why

    def _mailing_list(self, message: Message, context: Context) -> str:
        """The domain of a listed mailing list that this mail provably comes from; empty if there is none."""
        if self._lists is None or not any(header.is_named(b"List-Id") for header in message.sent_headers):
            return ""
        for result in context.results:
            if not isinstance(result, SpfResult | DkimResult) or result.result is not Result.PASS:
                continue
            if self._lists.match(result.domain.encode()):
                return result.domain
        return ""

    def _verdict(self, message: Message, decision: Decision, exempt: frozenset[bytes], why: str) -> Verdict:
        told = _variables(_told(decision), decision.reason)
        let_through = _variables("none", f"{decision.reason}; let through: {why}")
        others = tuple({recipient.address for recipient in message.undelivered} - exempt)
        match decision.action:
            case "annotate":
                return proceed(*told, reason=decision.reason)
            case _ if exempt and not others:
                return proceed(*let_through, reason=f"{decision.reason}; let through: {why}")
            case "mark" if exempt:
                return Split(parts=(Part(tuple(exempt), let_through), Part(others, told)), reason=decision.reason)
            case "mark":
                return proceed(*told, reason=decision.reason)
            case "freeze" if exempt:
                parts = (Part(tuple(exempt), let_through), Part(others, told, frozen=decision.reason))
                return Split(parts=parts, reason=decision.reason)
            case "freeze":
                return freeze(decision.reason, *told)
            case "discard" if exempt:
                return proceed(*map(RemoveRecipient, others), *let_through, reason=decision.reason)
            case "discard":
                return discard(decision.reason)
            case "bounce":
                return bounce(decision.reason)
            case "hold":
                return hold(decision.reason)

    def _record(self, message: Message, context: Context, verdict: Verdict) -> None:
        """Declare a history record for what ends here, which no later processor sees."""
        action = {"Discard": DISCARD, "Bounce": REJECT}.get(type(verdict).__name__)
        if action is None or not self.config.history_file:
            return
        record = record_of(message, context.results, reporter=context.hostname, now=context.now, action=action)
        if record is not None:
            context.effects.declare("record", render_record(record))


def is_sampled(message: Message, percent: float) -> bool:
    """True for percent of all messages: by a hash of the id, so that nobody outside can choose."""
    digest = hashlib.sha256(b"dmarc-policy " + str(message.id).encode()).digest()
    return int.from_bytes(digest[:8]) % _BUCKETS < percent * _BUCKETS / 100


def _told(decision: Decision) -> str:
    """The word in acl_m_dmarc_action."""
    if decision.action == "mark":
        return decision.disposition
    return "freeze" if decision.action == "freeze" else "none"


def _variables(action: str, reason: str) -> tuple[Edit, ...]:
    line = "".join(character if " " <= character <= "~" else "?" for character in reason[:_LONGEST_REASON])
    return set_variable(ACTION_VARIABLE, action), set_variable(REASON_VARIABLE, line)


def _all_well(dmarc: DmarcResult) -> str:
    match dmarc.result:
        case Result.PASS:
            return f"{dmarc.author_domain} passed"
        case Result.FAIL:
            return f"{dmarc.author_domain} failed DMARC; {dmarc.domain} asks for nothing"
        case Result.TEMPERROR:
            return f"DNS trouble: {dmarc.reason}"
        case _:
            return f"{dmarc.author_domain or 'the author'} has no policy"
