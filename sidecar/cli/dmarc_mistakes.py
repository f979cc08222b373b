"""What is commonly wrong with a domain's DMARC set-up, in words, for ``respool dmarc check``.

Diagnostics: DnsTemporaryError where DNS gave no answer.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import structs

from ...lookups.dns import Resolver
from ...processors.authentication.dmarc_discovery import Discovery
from ...processors.authentication.dmarc_record import DmarcRecord, Policy, usable_uris
from ...processors.authentication.spf_record import is_spf_record
from ...processors.report_destination import find_destinations


def find_mistakes(found: Discovery, resolver: Resolver, *, deadline: float | None = None) -> list[str]:
    """One sentence for each."""
    mistakes = list(_near_misses(found, resolver, deadline))
    record = found.record
    if record is None:
        return mistakes
    mistakes += _policies(record, at_organization=found.domain == found.organizational_domain)
    mistakes += _historic(record)
    mistakes += _addresses(record, found.domain, resolver, deadline)
    answer = resolver.txt(found.author_domain, deadline=deadline)
    records = sum(map(is_spf_record, answer.records))
    if records == 0:
        mistakes.append(
            f"{found.author_domain} has no SPF record: mail with that domain as sender passes by DKIM alone"
        )
    elif records > 1:
        mistakes.append(f"{found.author_domain} has {records} SPF records, which is an error: none of them counts")
    return mistakes


def _near_misses(found: Discovery, resolver: Resolver, deadline: float | None) -> Iterator[str]:
    for step in found.steps:
        if step.published > 1:
            yield f"_dmarc.{step.domain} has {step.published} records: all but one must go"
        elif step.published == 0:
            answer = resolver.txt(f"_dmarc.{step.domain}", deadline=deadline)
            if any(b"dmarc" in text[:40].lower() for text in answer.records):
                yield f"_dmarc.{step.domain} has a record that does not begin with v=DMARC1: it does not count"
        if step.domain == found.author_domain:
            answer = resolver.txt(step.domain, deadline=deadline)
            if any(text[:8].lower() == b"v=dmarc1" for text in answer.records):
                yield f"a DMARC record stands at {step.domain} itself: its place is _dmarc.{step.domain}"


def _policies(record: DmarcRecord, *, at_organization: bool) -> Iterator[str]:
    policy = record.policy or Policy.NONE
    reports = usable_uris(record.aggregate_uris)
    if policy is Policy.NONE and not reports:
        yield "p=none without rua: nothing is done about forged mail, and nobody hears of it"
    elif not reports:
        yield "there is no rua: nobody learns what this policy does to honest mail"
    if not at_organization:
        if record.subdomain_policy is not None or record.nonexistent_policy is not None:
            yield "sp and np have no effect here: they count at the organizational domain alone"
        return
    below = record.subdomain_policy
    if below is not None and below.severity < policy.severity:
        yield f"sp={below.value} is weaker than p={policy.value}: who forges picks a subdomain"
    invented = record.nonexistent_policy or below or policy
    if invented.severity < policy.severity and record.nonexistent_policy is None:
        yield f"np={policy.value} would protect at least subdomains that don't exist"


def _historic(record: DmarcRecord) -> Iterator[str]:
    if record.percent < 100:
        yield f"pct={record.percent} is ignored (RFC 9989): the policy counts for all mail; t=y is its successor"
    for tag in ("rf", "ri"):
        if tag in record.tags:
            yield f"{tag} is historic and can go"


def _addresses(record: DmarcRecord, domain: str, resolver: Resolver, deadline: float | None) -> Iterator[str]:
    for tag, uris in (("rua", record.aggregate_uris), ("ruf", record.failure_uris)):
        others = len(uris) - len(usable_uris(uris))
        if others:
            yield f"{tag}: {others} that are no mailto: address get no reports"
        asked = structs.replace(record, failure_uris=uris, psd="u")
        for reason in find_destinations(asked, domain, resolver=resolver, deadline=deadline).refused:
            yield f"{tag}: {reason}"
    if record.failure_uris and record.psd == "y":
        yield "ruf of a public suffix (psd=y) is ignored"
    if not record.failure_uris and "fo" in record.tags:
        yield "fo has no effect without ruf"
