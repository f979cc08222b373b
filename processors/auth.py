"""The ``auth`` processor: SPF, DKIM, ARC and DMARC of a message from its spool metadata.

It changes nothing that is sent: its results go to the processors after it and, as ACL
variables, to Exim's routers and transports.

Diagnostics: the constructor raises ConfigError for a bad network, variable name or
suffix list. process() raises nothing but OSError for a body that can't be read; DNS
trouble is a result (or a deferral, where configured).
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final, Literal

from msgspec import Meta

from ..errors import ConfigError
from ..lookups.organisational_domain import DEBIAN_LIST, PublicSuffixList
from ..spool.message import Message
from .api import Context, Processor, ProcessorConfig, Verdict, defer, proceed
from .authentication.arc_verify import ArcResult
from .authentication.authres_parse import Origin, judge_origin, parse_authentication_results
from .authentication.client import Client, find_client
from .authentication.dmarc import DmarcResult, skipped_dmarc
from .authentication.domain_names import domain_or_below
from .authentication.evaluation import DmarcSettings, evaluate_message
from .authentication.message import AuthenticatedMessage
from .authentication.received_spf import read_received_spf
from .authentication.spf import SpfResult, evaluate_spf, evaluate_spf_helo, spf_result
from .edits import Edit, set_variable
from .results import Result

_VARIABLE: Final = re.compile(r"acl_[cm](?:[0-9]|_)[A-Za-z0-9_]*")
_SPF_WORDS: Final = frozenset({"none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"})


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    spf_variable: Annotated[
        str, Meta(description="ACL variable in which Exim left $spf_result; used instead of asking again. Empty: none.")
    ] = "acl_m_sc_spf"
    spf_domain_variable: Annotated[
        str, Meta(description="ACL variable with the domain that SPF was about; without it the sender's.")
    ] = "acl_m_sc_spfdom"
    trust_header: Annotated[
        bool,
        Meta(
            description="Take SPF from an Authentication-Results field with our authserv_id."
            " Only where Exim's ACL removes such fields from what comes in and writes its own."
        ),
    ] = False
    trust_received_spf: Annotated[
        bool,
        Meta(
            description="Take SPF from the topmost Received-SPF field, if it names this client and sender."
            " Only where Exim's ACL removes such fields from what comes in and writes its own."
        ),
    ] = False
    check_helo: Annotated[
        bool, Meta(description="Check SPF of HELO beside that of MAIL FROM; a result of its own, not used by DMARC.")
    ] = False
    trusted_relays: Annotated[
        tuple[str, ...],
        Meta(description="Networks of our own relays: the client is the one that they name in Received."),
    ] = ()
    dmarc: Annotated[
        Literal["tree-walk", "public-suffix-list", "off"],
        Meta(description="How policies are found: RFC 9989, RFC 7489, or no DMARC at all."),
    ] = "tree-walk"
    public_suffix_list: Annotated[
        str, Meta(description="File with the public suffix list, for dmarc = public-suffix-list.")
    ] = DEBIAN_LIST
    dmarc_for_submission: Annotated[
        bool, Meta(description="Evaluate SPF and DMARC also for authenticated or local submission.")
    ] = False
    several_authors: Annotated[
        Literal["permerror", "strictest"],
        Meta(
            description="For a From with several domains, or several From fields: permerror, or the strictest result."
        ),
    ] = "permerror"
    trusted_sealers: Annotated[
        tuple[str, ...],
        Meta(description="ARC sealers whose word overrides a DMARC fail: domains; with a leading dot all below one."),
    ] = ()
    count_test_keys: Annotated[
        bool,
        Meta(description="Let DMARC count DKIM signatures whose key says t=y; false treats them as unsigned mail."),
    ] = True
    minimum_rsa_bits: Annotated[int, Meta(description="DKIM keys shorter than this give policy.", ge=512, le=4096)] = (
        1024
    )
    defer_attempts: Annotated[
        int, Meta(description="On DNS trouble defer the message this many times before going on with temperror.", ge=0)
    ] = 0
    variables: Annotated[bool, Meta(description="Write acl_m_arc_... and acl_m_dmarc_... for Exim.")] = True


class Auth(Processor[Config]):
    """SPF, DKIM, ARC and DMARC in one pass over the message."""

    phase = "verify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for key in ("spf_variable", "spf_domain_variable"):
            name: str = getattr(config, key)
            if name and _VARIABLE.fullmatch(name) is None:
                raise ConfigError(f"{name!r} is not an ACL variable such as acl_m_name", key=f"$.{key}")
        try:
            self._relays = tuple(ipaddress.ip_network(network) for network in config.trusted_relays)
        except ValueError as error:
            raise ConfigError(str(error), key="$.trusted_relays") from None
        self._dmarc = None if config.dmarc == "off" else _dmarc_settings(config)

    def process(self, message: Message, context: Context) -> Verdict:
        """Evaluate, and hand on results and variables."""
        client = find_client(message, self._relays)
        is_submission = not message.envelope.host_address or message.envelope.host_auth is not None
        judged = not is_submission or self.config.dmarc_for_submission
        evaluation = evaluate_message(
            AuthenticatedMessage.from_message(message),
            spf=self._spf(message, client, context) if judged else None,
            spf_helo=self._spf_helo(message, client, context) if judged and self.config.check_helo else None,
            resolver=context.resolver,
            now=context.now,
            received=float(message.envelope.received_time),
            deadline=context.deadline,
            client_address=client.address,
            minimum_rsa_bits=self.config.minimum_rsa_bits,
            dmarc=self._dmarc if judged else None,
        )
        if evaluation.trouble and context.attempt <= self.config.defer_attempts:
            return defer(evaluation.trouble)
        edits: list[Edit] = []
        if self.config.variables:
            edits += arc_variables(evaluation.arc)
            edits += dmarc_variables(evaluation.dmarc or skipped_dmarc())
        return proceed(*edits, results=evaluation.results)

    def _spf(self, message: Message, client: Client, context: Context) -> SpfResult:
        """SPF by the best carrier there is: an ACL variable, a trusted field, or asked anew."""
        if not client.relays and (carried := self._carried_spf(message)) is not None:
            return carried
        if self.config.trust_header and (carried := _header_spf(message, context.authserv_id)) is not None:
            return carried
        if self.config.trust_received_spf and (carried := _received_spf(message, client)) is not None:
            return carried
        return evaluate_spf(
            client_ip=client.address,
            helo=client.helo,
            mail_from=message.sender,
            resolver=context.resolver,
            deadline=context.deadline,
            now=context.now,
            receiver=context.hostname,
        )

    @staticmethod
    def _spf_helo(message: Message, client: Client, context: Context) -> SpfResult | None:
        """SPF of HELO, where it is not the one that is checked anyway (RFC 7208 2.3)."""
        if not message.sender or not client.helo:
            return None
        return evaluate_spf_helo(
            client_ip=client.address,
            helo=client.helo,
            resolver=context.resolver,
            deadline=context.deadline,
            now=context.now,
            receiver=context.hostname,
        )

    def _carried_spf(self, message: Message) -> SpfResult | None:
        variables = message.envelope.variables
        word = variables.get(self.config.spf_variable, b"").decode("ascii", "replace").strip()
        if word not in _SPF_WORDS:
            return None
        domain = variables.get(self.config.spf_domain_variable, b"") or _spf_domain(message)
        return _carried(Result(word), domain.decode("utf-8", "replace"), message)


def _dmarc_settings(config: Config) -> DmarcSettings:
    trusted_sealers = tuple([name for entry in config.trusted_sealers if (name := domain_or_below(entry)) is not None])
    if len(trusted_sealers) < len(config.trusted_sealers):
        raise ConfigError("not a domain, nor a dot and one", key="$.trusted_sealers")
    suffixes = PublicSuffixList.from_file(config.public_suffix_list) if config.dmarc == "public-suffix-list" else None
    return DmarcSettings(
        discovery="tree-walk" if suffixes is None else "public-suffix-list",
        organizational_domain=None if suffixes is None else suffixes.organisational_domain,
        several_authors=config.several_authors,
        trusted_sealers=trusted_sealers,
        count_test_keys=config.count_test_keys,
    )


def _spf_domain(message: Message) -> bytes:
    """The domain that SPF is about: of MAIL FROM, or HELO for the null sender."""
    return message.sender.rpartition(b"@")[2] if message.sender else message.envelope.helo_name or b""


def _carried(result: Result, domain: str, message: Message) -> SpfResult:
    return spf_result(result, domain=domain.lower(), scope="mailfrom" if message.sender else "helo")


def _header_spf(message: Message, authserv_id: str) -> SpfResult | None:
    """SPF from the topmost Authentication-Results field of ours that has it."""
    for header in message.sent_headers:
        if not header.is_named(b"Authentication-Results") or judge_origin(header.value, authserv_id) is not Origin.OURS:
            continue
        field = parse_authentication_results(header.value)
        for result in () if field is None else field.results:
            if result.method != "spf":
                continue
            for item in result.properties:
                if item.ptype == "smtp" and item.name in {"mailfrom", "helo"} and item.value != "<>":
                    return spf_result(
                        result.result,
                        domain=item.value.rpartition("@")[2].lower(),
                        scope="mailfrom" if item.name == "mailfrom" else "helo",
                        reason=result.reason,
                    )
            return _carried(result.result, _spf_domain(message).decode("utf-8", "replace"), message)
    return None


def _received_spf(message: Message, client: Client) -> SpfResult | None:
    """SPF from the topmost Received-SPF field, if it is about this client and sender."""
    for header in message.sent_headers:
        if header.is_named(b"Received-SPF"):
            return read_received_spf(
                header.value, client_address=client.address, sender=message.sender, helo=client.helo
            )
    return None


def arc_variables(arc: ArcResult) -> list[Edit]:
    """What Exim's ``$arc_...`` would say, for its routers."""
    domains = ""
    for domain in arc.domains:
        # An empty first element is a lone separator (arc.c by string_append_listele).
        domains += (":" if domains else "") + (domain or ("" if domains else ":"))
    return [
        set_variable("acl_m_arc_state", arc.result.value),
        set_variable("acl_m_arc_state_reason", _one_line(arc.reason)),
        set_variable("acl_m_arc_domains", _one_line(domains)),
        set_variable("acl_m_arc_oldest_pass", str(arc.oldest_pass or 0)),
    ]


def dmarc_variables(dmarc: DmarcResult) -> list[Edit]:
    """What Exim's ``$dmarc_...`` would say; the used domain is the author's where no record was found."""
    return [
        set_variable("acl_m_dmarc_status", dmarc.status),
        set_variable("acl_m_dmarc_status_text", _one_line(dmarc.status_text)),
        set_variable("acl_m_dmarc_used_domain", dmarc.domain or dmarc.author_domain),
        set_variable("acl_m_dmarc_domain_policy", dmarc.domain_policy),
        set_variable("acl_m_dmarc_alignment_spf", "yes" if dmarc.alignment.spf else "no"),
        set_variable("acl_m_dmarc_alignment_dkim", "yes" if dmarc.alignment.dkim else "no"),
    ]


def _one_line(text: str) -> str:
    """Printable ASCII: what strangers wrote can't break a variable, or a log line that Exim makes of it."""
    shown = text[:1000]
    if shown.isascii() and shown.isprintable():
        return shown
    return "".join([character if " " <= character <= "~" else "?" for character in shown])
