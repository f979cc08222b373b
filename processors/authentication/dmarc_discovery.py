"""Where a DMARC policy is found, and which domain is organizational: RFC 9989 section 4.10.

Two ways: the tree walk of RFC 9989, and the public suffix list of RFC 7489 for those
who still want it. Both look at DNS through one DmarcZone, which asks each name once per
message however many identifiers are compared.

Diagnostics: DnsTemporaryError passes through; dmarc.py makes temperror of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

from ...lookups.dns import DnsTemporaryError, Resolver
from .dmarc_record import DmarcRecord, parse_record
from .domain_names import parent_domain

MAX_QUERIES: Final = 8
#: Names longer than this are cut to it after the first query (RFC 9989 4.10).
_LABELS_AFTER_CUT: Final = 7


class Step(Struct, frozen=True):
    """One query of a walk: the name (without ``_dmarc.``), its record, and how many were published."""

    domain: str
    record: DmarcRecord | None
    published: int


class Discovery(Struct, frozen=True, kw_only=True):
    """What policy discovery found for an author domain.

    record is None where no policy applies; domain is where it was found.
    organizational_domain is the author's, empty where DNS trouble kept it hidden (the
    policy was found before). steps are the queries in order.
    """

    author_domain: str
    organizational_domain: str
    domain: str = ""
    record: DmarcRecord | None = None
    steps: tuple[Step, ...] = ()


class DmarcZone:
    """DNS as DMARC sees it: at most one record per name, each asked for once."""

    def __init__(self, resolver: Resolver, deadline: float | None) -> None:
        self._resolver = resolver
        self._deadline = deadline
        self._steps: dict[str, Step] = {}

    def at(self, domain: str) -> Step:
        """The record of domain; several cancel each other (RFC 9989 4.10 step 2)."""
        step = self._steps.get(domain)
        if step is None:
            answer = self._resolver.txt(f"_dmarc.{domain}", deadline=self._deadline)
            records = [record for text in answer.records if (record := parse_record(text)) is not None]
            step = Step(domain, records[0] if len(records) == 1 else None, len(records))
            self._steps[domain] = step
        return step

    def exists(self, domain: str) -> bool:
        """False only if DNS says NXDOMAIN for the name itself (RFC 8020)."""
        return self._resolver.addresses(domain, 4, deadline=self._deadline).exists


class PolicySource(Protocol):
    """One way of finding policies and organizational domains."""

    def discover(self, author_domain: str) -> Discovery:
        """The policy for mail from author_domain."""
        ...

    def organizational_domain(self, domain: str) -> str:
        """The organizational domain of any identifier, for relaxed alignment."""
        ...


class TreeWalk:
    """RFC 9989: policy and organizational domain by walking up the tree."""

    def __init__(self, zone: DmarcZone) -> None:
        self._zone = zone
        self._organizational: dict[str, str] = {}

    def walk(self, domain: str) -> tuple[Step, ...]:
        """The queries from domain upwards, ended by psd=y or psd=n or the top (section 4.10)."""
        steps: list[Step] = []
        name = domain
        while name and len(steps) < MAX_QUERIES:
            step = self._zone.at(name)
            steps.append(step)
            if step.record is not None and step.record.psd in {"y", "n"}:
                break
            name = next_target(name)
        return tuple(steps)

    def discover(self, author_domain: str) -> Discovery:
        """See PolicySource: the author domain's record, else the organizational one's, else the PSD's (4.10.1)."""
        first = self._zone.at(author_domain)
        found = first if first.record is not None else None
        try:
            steps = self.walk(author_domain)
        except DnsTemporaryError:
            if found is None:
                raise
            # The policy is known; what lies above matters only to relaxed alignment, which will ask again.
            return Discovery(
                author_domain=author_domain,
                organizational_domain="",
                domain=found.domain,
                record=found.record,
                steps=(first,),
            )
        organizational = select_organizational_domain(author_domain, steps)
        self._organizational[author_domain] = organizational
        if found is None:
            by_domain = {step.domain: step for step in steps if step.record is not None}
            found = by_domain.get(organizational)
            if found is None and by_domain:
                last = steps[-1]
                found = last if last.record is not None and last.record.psd == "y" else None
        return Discovery(
            author_domain=author_domain,
            organizational_domain=organizational,
            domain=found.domain if found is not None else "",
            record=found.record if found is not None else None,
            steps=steps,
        )

    def organizational_domain(self, domain: str) -> str:
        """See PolicySource (section 4.10.2)."""
        known = self._organizational.get(domain)
        if known is None:
            known = self._organizational[domain] = select_organizational_domain(domain, self.walk(domain))
        return known


def next_target(name: str) -> str:
    """The next name of a walk: one label fewer, or the last seven of eight and more (section 4.10 steps 4-5)."""
    labels = name.split(".")
    if len(labels) > _LABELS_AFTER_CUT:
        return ".".join(labels[-_LABELS_AFTER_CUT:])
    return parent_domain(name)


def select_organizational_domain(start: str, steps: tuple[Step, ...]) -> str:
    """The organizational domain among the records of a walk that began at start (section 4.10.2)."""
    shortest = start
    for step in steps:
        if step.record is None:
            continue
        if step.record.psd == "n":
            return step.domain
        if step.record.psd == "y" and step.domain != start:
            return one_label_below(start, step.domain)
        shortest = step.domain
    return shortest


def one_label_below(name: str, ancestor: str) -> str:
    """The ancestor of name (or name itself) with one label more than ancestor."""
    count = ancestor.count(".") + 2
    return ".".join(name.split(".")[-count:])


class PublicSuffixes:
    """RFC 7489: the author domain's record, else that of the domain one below a public suffix."""

    def __init__(self, zone: DmarcZone, organizational_domain: Callable[[str], str]) -> None:
        self._zone = zone
        self._organizational_domain = organizational_domain

    def discover(self, author_domain: str) -> Discovery:
        """See PolicySource (RFC 7489 6.6.3)."""
        organizational = self.organizational_domain(author_domain)
        steps = [self._zone.at(author_domain)]
        # Several records end the search (RFC 7489 6.6.3 steps 3 and 5); none leads on.
        if not steps[0].published and organizational != author_domain:
            steps.append(self._zone.at(organizational))
        found = steps[-1]
        return Discovery(
            author_domain=author_domain,
            organizational_domain=organizational,
            domain=found.domain if found.record is not None else "",
            record=found.record,
            steps=tuple(steps),
        )

    def organizational_domain(self, domain: str) -> str:
        """See PolicySource; a public suffix is its own."""
        return self._organizational_domain(domain) or domain
