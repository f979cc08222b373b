"""The ``dmarc-failure-report`` processor: tells a domain about single messages that failed (RFC 9991).

Nothing is sent unless this processor is configured: a report shows a stranger something
of our users' mail. It is sent only where the domain's record asks for it, to addresses
that agreed, about mail that is no report itself, within limits, and with names taken out.

Diagnostics: the constructor raises ConfigError; process() raises nothing: a report that
can't be made or sent is no reason to stop a message.
"""

from __future__ import annotations

import os
import re
from typing import Annotated, Final, Literal

from msgspec import Meta

from ..errors import ConfigError, TemporaryError
from ..lookups.dns import DnsTemporaryError
from ..spool.local_message import new_local_message
from ..spool.message import Message
from .api import Context, Processor, ProcessorConfig, Verdict, proceed
from .authentication.authres import render_authentication_results
from .authentication.client import client_address
from .authentication.dkim_verify import DkimResult
from .authentication.dmarc import DmarcResult
from .authentication.domain_names import a_label_domain, is_at_or_below
from .authentication.spf import SpfResult
from .authentication.spf_record import is_spf_record
from .dmarc_policy import ACTION_VARIABLE
from .feedback_report import AuthFailure, Delivery, FailedSignature, FeedbackReport, render_report
from .report_destination import Destination, find_destinations
from .report_limit import ReportLimit
from .report_redaction import DEFAULT_FIELDS, Redaction
from .results import Result

_ADDRESS: Final = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@([A-Za-z0-9.-]{1,253})")
_FIELD_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,64}")
_SHORTEST_KEY: Final = 16
_MOST_RECIPIENTS: Final = 10
#: DKIM outcomes that are a failure of a signature, not of DNS or of our rules.
_FAILED_DKIM: Final = frozenset({Result.FAIL, Result.PERMERROR, Result.NEUTRAL})
_FAILED_SPF: Final = frozenset({Result.FAIL, Result.SOFTFAIL})
_DELIVERIES: Final[dict[bytes, Delivery]] = {b"quarantine": "spam", b"freeze": "policy", b"reject": "reject"}


class Config(ProcessorConfig, frozen=True, kw_only=True):
    """What the administrator may set."""

    sender: Annotated[
        str,
        Meta(
            description="Address that reports come from, in From and the envelope (Exim's dmarc_forensic_sender);"
            " its domain should pass DMARC. Empty: postmaster at hostname, with the null sender."
        ),
    ] = ""
    limit_file: Annotated[
        str, Meta(description="File in which all workers count what they send; made where it is missing.")
    ]
    per_hour: Annotated[int, Meta(description="Reports in an hour, all together.", ge=1, le=100_000)] = 100
    per_domain_hour: Annotated[int, Meta(description="Reports in an hour to one domain.", ge=1, le=100_000)] = 10
    fields: Annotated[
        tuple[str, ...],
        Meta(description="Header fields of the message that a report shows; Subject is not among them."),
    ] = DEFAULT_FIELDS
    recipients: Annotated[bool, Meta(description="Name the envelope recipients too, their local parts redacted.")] = (
        False
    )
    redact: Annotated[
        Literal["local-parts", "none"],
        Meta(description="Whether local parts of addresses outside of the author's domain are taken out (RFC 6590)."),
    ] = "local-parts"
    redaction_key_file: Annotated[
        str,
        Meta(
            description="Secret of 16 bytes or more, by which one address is always redacted to one word."
            " Empty: to `redacted`."
        ),
    ] = ""
    passing_mail: Annotated[
        bool, Meta(description="Report mail that passed DMARC, too, where fo asks for it (1, d, s).")
    ] = True


class DmarcFailureReport(Processor[Config]):
    """Sends failure reports."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.sender:
            match = _ADDRESS.fullmatch(config.sender)
            if match is None or a_label_domain(match[1]) is None:
                raise ConfigError(f"{config.sender!r} is no plain address", key="config.sender")
        directory = os.path.dirname(config.limit_file)
        if not os.path.isabs(config.limit_file) or not os.path.isdir(directory):
            raise ConfigError(f"{directory or config.limit_file} is no directory", key="config.limit_file")
        for name in config.fields:
            if _FIELD_NAME.fullmatch(name) is None:
                raise ConfigError(f"{name!r} is no name of a header field", key="config.fields")
        self._fields = frozenset(name.lower().encode() for name in config.fields)
        self._key = _read_key(config.redaction_key_file) if config.redaction_key_file else b""
        self._limit = ReportLimit(
            config.limit_file, per_hour=config.per_hour, per_domain_hour=config.per_domain_hour
        )  # fmt: skip

    def process(self, message: Message, context: Context) -> Verdict:
        """Send what is to be sent; the message itself goes on as it is."""
        dmarc = next((result for result in context.results if isinstance(result, DmarcResult)), None)
        why_not, kind = self._kind(message, context, dmarc)
        if why_not or dmarc is None or dmarc.record is None:
            return proceed(reason=f"no report: {why_not}")
        found = find_destinations(dmarc.record, dmarc.domain, resolver=context.resolver, deadline=context.deadline)
        for reason in found.refused:
            context.log.info("dmarc.report_refused", domain=dmarc.domain, reason=reason)
        sent = 0
        for destination in found.accepted:
            try:
                incidents = self._limit.take(destination.domain, context.now)
            except TemporaryError as error:
                context.log.warning("dmarc.report_failed", error=error)
                break
            if not incidents:
                context.log.info("dmarc.report_held_back", domain=destination.domain)
                continue
            self._send(message, context, dmarc, kind, destination, incidents)
            sent += 1
        return proceed(reason=f"{sent} reports")

    def _kind(self, message: Message, context: Context, dmarc: DmarcResult | None) -> tuple[str, AuthFailure]:
        """Why there is no report, or the kind of failure that is reported (``fo``, RFC 9989 4.7)."""
        if dmarc is None or dmarc.record is None or dmarc.result not in {Result.PASS, Result.FAIL}:
            return "DMARC has no outcome", "dmarc"
        if not dmarc.record.failure_uris:
            return "nobody asks for one", "dmarc"
        if dmarc.override:
            return f"{dmarc.override}: {dmarc.override_reason}", "dmarc"
        automatic = why_automatic(message)
        if automatic:
            return automatic, "dmarc"
        options = dmarc.record.failure_options
        passed = dmarc.result is Result.PASS
        if passed and not self.config.passing_mail:
            return "it passed", "dmarc"
        if not passed and ("0" in options or "1" in options):
            return "", "dmarc"
        if "1" in options and not (dmarc.alignment.spf and dmarc.alignment.dkim):
            return "", "dmarc"
        # The first is the one that DMARC is about; HELO's may follow.
        spf = next((result for result in context.results if isinstance(result, SpfResult)), None)
        for result in context.results:
            if "d" in options and isinstance(result, DkimResult) and result.domain and result.result in _FAILED_DKIM:
                return "", "bodyhash" if "body" in result.reason.lower() else "signature"
        if "s" in options and spf is not None and spf.result in _FAILED_SPF:
            return "", "spf"
        return f"fo={':'.join(options)} does not ask for it", "dmarc"

    def _send(
        self,
        message: Message,
        context: Context,
        dmarc: DmarcResult,
        kind: AuthFailure,
        destination: Destination,
        incidents: int,
    ) -> None:
        report = self._report(message, context, dmarc, kind, incidents)
        sender = self.config.sender or f"postmaster@{context.hostname}"
        rendered = render_report(report, sender=sender, receiver=destination.address)
        context.notices.send(
            new_local_message(
                message.id,
                sender=self.config.sender.encode(),
                recipients=[destination.address.encode()],
                headers=rendered.headers,
                body=rendered.body,
                hostname=context.hostname,
                now=context.now,
            )
        )
        context.log.info(
            "dmarc.reported", author_domain=dmarc.author_domain, to=destination.domain, incidents=incidents
        )  # fmt: skip

    def _report(
        self, message: Message, context: Context, dmarc: DmarcResult, kind: AuthFailure, incidents: int
    ) -> FeedbackReport:
        # A record at a top-level domain without psd=y makes that the organization; its users are not one.
        own = dmarc.organizational_domain if "." in dmarc.organizational_domain else dmarc.author_domain
        redaction = Redaction(own, self._key, redacts=self.config.redact == "local-parts")
        spf = next((result for result in context.results if isinstance(result, SpfResult)), None)
        recipients = message.undelivered[:_MOST_RECIPIENTS] if self.config.recipients else ()
        failed: list[Literal["dkim", "spf"]] = []
        if not dmarc.alignment.dkim:
            failed.append("dkim")
        if not dmarc.alignment.spf:
            failed.append("spf")
        spf_domain = a_label_domain(spf.domain) if spf is not None and not dmarc.alignment.spf else None
        return FeedbackReport(
            auth_failure=kind,
            author_domain=dmarc.author_domain,
            policy_domain=dmarc.domain,
            policy=dmarc.policy or "none",
            results=redaction.text(render_authentication_results(context.authserv_id, context.results).encode()).decode(
                "ascii", "replace"
            ),
            failed=tuple(failed),
            mail_from=redaction.address(message.sender) if message.sender else b"",
            recipients=tuple(redaction.address(recipient.address) for recipient in recipients),
            source_ip=client_address(message),
            arrived=float(message.envelope.received_time),
            delivery=_DELIVERIES.get(message.envelope.variables.get(ACTION_VARIABLE, b""), ""),
            reporting_host=context.hostname,
            message_id=str(message.id),
            incidents=incidents,
            signatures=tuple(_failed_signatures(context, own)),
            spf_domain=spf_domain or "",
            spf_record=_spf_record(spf_domain, context) if spf_domain else "",
            headers=redaction.headers(message.headers, self._fields),
        )


def why_automatic(message: Message) -> str:
    """Why no report may be sent about message: a report about a report would go round for ever."""
    if not message.sender:
        return "its sender is empty"
    for header in message.sent_headers:
        name = header.name.lower()
        if name == b"auto-submitted" and header.value.strip().lower()[:2] != b"no":
            return "it was sent by a program"
        if name == b"content-type" and header.value.strip().lower().startswith(b"multipart/report"):
            return "it is a report"
    return ""


def _failed_signatures(context: Context, own: str) -> list[FailedSignature]:
    """Signatures of the author's own organization that did not verify."""
    return [
        FailedSignature(result.domain, result.identity or f"@{result.domain}", result.selector)
        for result in context.results
        if isinstance(result, DkimResult) and result.result is not Result.PASS and is_at_or_below(result.domain, own)
    ]


def _spf_record(domain: str, context: Context) -> str:
    """The SPF record that was looked at, from the resolver's cache as a rule; empty where there is none now."""
    try:
        answer = context.resolver.txt(domain, deadline=context.deadline)
    except DnsTemporaryError:
        return ""
    return next((text.decode("ascii", "replace") for text in answer.records if is_spf_record(text)), "")


def _read_key(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            key = file.read(4096).strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", key="config.redaction_key_file") from error
    if len(key) < _SHORTEST_KEY:
        raise ConfigError(f"{path}: a key has {_SHORTEST_KEY} bytes or more", key="config.redaction_key_file")
    return key
