"""DMARC: what the author domain asks to be done with a message (RFC 9989, or RFC 7489's way of looking).

SPF and DKIM are given as results; this module looks for the policy, compares the
identifiers and says what applies. Exim's own eight status words stand beside the
result of RFC 8601, so that Exim's conditions go on working.

Diagnostics: raises nothing. DNS trouble is temperror, a From that can't be trusted
permerror; reason says why in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal

from msgspec import Struct, structs

from ...lookups.dns import DnsTemporaryError, Resolver
from ..results import AuthResult, Property, Result
from .author import Author, find_author
from .dmarc_discovery import Discovery, DmarcZone, PolicySource, PublicSuffixes, TreeWalk
from .dmarc_record import DmarcRecord, Policy
from .domain_names import a_label_domain

#: Exim's $dmarc_status_text for each $dmarc_status (dmarc.c).
STATUS_TEXTS: Final = {
    "accept": "Accept",
    "reject": "Reject",
    "quarantine": "Quarantine",
    "none": "None, Accept",
    "norecord": "No DMARC record",
    "nofrom": "No From: domain found",
    "temperror": "Internal Policy Error",
    "off": "",
}
PolicyWord = Literal["none", "quarantine", "reject"]
Status = Literal["accept", "reject", "quarantine", "none", "norecord", "nofrom", "temperror", "off"]

#: Results that make alignment worth asking for.
_COUNTED: Final = frozenset({Result.PASS, Result.TEMPERROR})
#: Signatures beyond this are not compared; each may cost a walk.
MAX_IDENTIFIERS: Final = 16


class Alignment(Struct, frozen=True):
    """Which mechanism passed for an identifier that belongs to the author domain."""

    spf: bool = False
    dkim: bool = False


class DmarcResult(AuthResult, frozen=True, kw_only=True):
    """DMARC's outcome for one message.

    result is the word of RFC 8601, status and status_text Exim's. policy is what the
    record asks for this message (p, sp or np, lowered by t=y), domain_policy the
    record's ``p``; both empty without a record. disposition is what is to be done:
    ``none`` for a pass and after a local override, else policy. domain is where the
    record was found. override names a local override (RFC 9990 words), override_reason
    says why.
    """

    status: Status = "none"
    status_text: str = ""
    policy: Literal["", "none", "quarantine", "reject"] = ""
    disposition: Literal["none", "quarantine", "reject"] = "none"
    domain_policy: str = ""
    author_domain: str = ""
    domain: str = ""
    organizational_domain: str = ""
    alignment: Alignment = Alignment()
    record: DmarcRecord | None = None
    override: str = ""
    override_reason: str = ""


class Identifier(Struct, frozen=True):
    """A domain that SPF or DKIM speaks for, and what it says."""

    method: Literal["spf", "dkim"]
    domain: str
    result: Result


def skipped_dmarc() -> DmarcResult:
    """DMARC was not looked at (authenticated or local submission): Exim's status is then ``none``."""
    return DmarcResult(method="dmarc", result=Result.NONE, status="none", reason="not evaluated")


def evaluate_dmarc(
    from_values: Sequence[bytes],
    *,
    identifiers: Sequence[Identifier],
    resolver: Resolver,
    deadline: float | None = None,
    discovery: Literal["tree-walk", "public-suffix-list"] = "tree-walk",
    organizational_domain: Callable[[str], str] | None = None,
    several_authors: Literal["permerror", "strictest"] = "permerror",
) -> DmarcResult:
    """Evaluate a message by the values of its From fields and what SPF and DKIM said.

    organizational_domain is needed for ``public-suffix-list``: a domain to its
    organizational domain. several_authors says what becomes of a From with more than one
    domain, or of several From fields: no evaluation, or the result of the strictest.
    ValueError if the suffix list is asked for without the function.
    """
    zone = DmarcZone(resolver, deadline)
    source: PolicySource
    if discovery == "public-suffix-list":
        if organizational_domain is None:
            raise ValueError("public-suffix-list needs organizational_domain")
        source = PublicSuffixes(zone, organizational_domain)
    else:
        source = TreeWalk(zone)
    author = find_author(from_values)
    refused = _refuse(author, several_authors)
    if refused is not None:
        return refused
    results = [_evaluate(domain, identifiers, zone, source) for domain in author.domains]
    return results[0] if len(results) == 1 else max(results, key=_strictness)


def _refuse(author: Author, several_authors: str) -> DmarcResult | None:
    """A result without evaluation, where From names nobody or cannot be trusted (RFC 9989 5.3.1)."""
    reason = ""
    if author.problem and (several_authors == "permerror" or author.fields < 2 or not author.domains):
        reason = author.problem
    elif not author.domains:
        reason = "no author domain" if author.fields else "no From field"
    elif len(author.domains) > 1 and several_authors == "permerror":
        reason = f"From names {len(author.domains)} domains"
    if not reason:
        return None
    return DmarcResult(
        method="dmarc",
        result=Result.PERMERROR,
        status="nofrom",
        status_text=STATUS_TEXTS["nofrom"],
        reason=reason,
        author_domain=author.domains[0] if author.domains else "",
        properties=tuple(Property("header", "from", domain) for domain in author.domains[:1]),
    )


def _strictness(result: DmarcResult) -> tuple[int, int]:
    """Which of several authors' results stands: a fail by its policy, then doubt, then no policy, then pass."""
    order = {Result.FAIL: 3, Result.TEMPERROR: 2, Result.NONE: 1}
    severity = Policy(result.disposition).severity
    return (order.get(result.result, 0) if severity or result.result is not Result.FAIL else 2, severity)


def _evaluate(
    author_domain: str, identifiers: Sequence[Identifier], zone: DmarcZone, source: PolicySource
) -> DmarcResult:
    try:
        discovery = source.discover(author_domain)
    except DnsTemporaryError as error:
        return _outcome(author_domain, Result.TEMPERROR, "temperror", reason=str(error))
    record = discovery.record
    if record is None or not record.is_usable:
        reason = "" if record is None else f"unusable record at {discovery.domain}"
        nothing = _outcome(author_domain, Result.NONE, "norecord", reason=reason)
        return structs.replace(nothing, organizational_domain=discovery.organizational_domain)
    try:
        exists = True
        if discovery.domain != author_domain and record.nonexistent_policy is not None:
            exists = zone.exists(author_domain)
    except DnsTemporaryError as error:
        return _outcome(author_domain, Result.TEMPERROR, "temperror", reason=str(error), discovery=discovery)
    policy = record.policy_for(subdomain=discovery.domain != author_domain, exists=exists)
    if record.testing:
        policy = policy.one_lower()
    alignment, trouble = _align(author_domain, identifiers, record, source)
    if alignment.spf or alignment.dkim:
        result, status, trouble = Result.PASS, "accept", ""
    elif trouble:
        # Nobody can say that the author did not authenticate (RFC 9989 5.3.5).
        result, status = Result.TEMPERROR, "temperror"
    else:
        result, status = Result.FAIL, policy.value
    return _outcome(
        author_domain, result, status, reason=trouble, discovery=discovery, policy=policy, alignment=alignment
    )


def _align(
    author_domain: str, identifiers: Sequence[Identifier], record: DmarcRecord, source: PolicySource
) -> tuple[Alignment, str]:
    """Alignment of what passed (RFC 9989 4.4), and why nothing can be said where DNS failed."""
    spf = dkim = False
    trouble = ""
    for identifier in identifiers[:MAX_IDENTIFIERS]:
        if identifier.result not in _COUNTED:
            continue
        if identifier.result is Result.PASS and (spf if identifier.method == "spf" else dkim):
            continue
        strict = record.strict_spf if identifier.method == "spf" else record.strict_dkim
        try:
            aligned = _is_aligned(identifier.domain, author_domain, source, strict=strict)
        except DnsTemporaryError as error:
            trouble = trouble or str(error)
            continue
        if not aligned:
            continue
        if identifier.result is Result.TEMPERROR:
            trouble = trouble or f"{identifier.method.upper()} of {identifier.domain}: temporary error"
        elif identifier.method == "spf":
            spf = True
        else:
            dkim = True
    return Alignment(spf, dkim), trouble


def _is_aligned(identifier: str, author_domain: str, source: PolicySource, *, strict: bool) -> bool:
    domain = a_label_domain(identifier)
    if domain is None:
        return False
    if domain == author_domain:
        return True
    if strict or not _share_top(domain, author_domain):
        return False
    return source.organizational_domain(author_domain) == source.organizational_domain(domain)


def _share_top(one: str, other: str) -> bool:
    """False where two names differ in the last label: then nothing above them is common, and no walk is needed."""
    return one.rpartition(".")[2] == other.rpartition(".")[2]


def _outcome(
    author_domain: str,
    result: Result,
    status: str,
    *,
    reason: str = "",
    discovery: Discovery | None = None,
    policy: Policy | None = None,
    alignment: Alignment | None = None,
) -> DmarcResult:
    properties = [Property("header", "from", author_domain)]
    asked_for: PolicyWord | None = None if policy is None else policy.value
    if asked_for is not None:
        properties.append(Property("policy", "dmarc", asked_for))
    record = discovery.record if discovery is not None else None
    return DmarcResult(
        method="dmarc",
        result=result,
        reason=reason,
        properties=tuple(properties),
        status=_STATUS[status],
        status_text=STATUS_TEXTS[status],
        policy=asked_for or "",
        disposition=asked_for or "none" if result is Result.FAIL else "none",
        domain_policy=(record.policy or Policy.NONE).value if record is not None else "",
        author_domain=author_domain,
        domain=discovery.domain if discovery is not None else "",
        organizational_domain=discovery.organizational_domain if discovery is not None else "",
        alignment=alignment or Alignment(),
        record=record,
    )


_STATUS: Final[dict[str, Status]] = {
    "accept": "accept",
    "reject": "reject",
    "quarantine": "quarantine",
    "none": "none",
    "norecord": "norecord",
    "temperror": "temperror",
}


def override_dmarc(result: DmarcResult, *, kind: str, reason: str) -> DmarcResult:
    """The same result, not acted upon: a local decision with its reason (RFC 9989 5.4, 7.4).

    kind is a word of RFC 9990 (``trusted_forwarder``, ``mailing_list``, ``local_policy``).
    The result stays what it is; Exim's status becomes ``accept``, so that routers let
    the message through.
    """
    return structs.replace(
        result,
        status="accept",
        status_text=f"Accept ({kind}: {reason})",
        disposition="none",
        override=kind,
        override_reason=reason,
        reason="; ".join(part for part in (result.reason, f"{kind}: {reason}") if part),
    )
