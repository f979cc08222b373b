"""Where a domain's failure reports may go: its ``ruf``, as far as the receivers want them.

A record can name anybody; so an address outside of the domain's own organization counts
only if a record at the receiver's says so (RFC 9990 section 4, which RFC 9991 uses).

Diagnostics: raises nothing; an address that can't be checked now, or isn't one that can
safely be written into a header, is left out with a reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from msgspec import Struct

from ..lookups.dns import DnsTemporaryError, Resolver
from .authentication.dmarc_discovery import DmarcZone, TreeWalk
from .authentication.dmarc_record import DmarcRecord, parse_record, usable_uris
from .authentication.domain_names import a_label_domain

#: Of each record no more addresses are served, nor looked at.
MOST_DESTINATIONS: Final = 2
_MOST_CHECKED: Final = 4
#: RFC 5321 dot-atom: no quotes, so that it stands in a header and an envelope as it is.
_LOCAL_PART: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")
_LONGEST_LOCAL_PART: Final = 64


class Destination(Struct, frozen=True):
    """One address to report to; domain is its host in A-labels."""

    address: str
    domain: str


class Destinations(Struct, frozen=True):
    """Who gets a report, and why somebody who was named does not."""

    accepted: tuple[Destination, ...] = ()
    refused: tuple[str, ...] = ()


def parse_mailto(uri: str) -> Destination | None:
    """The address of a ``mailto:`` URI without its query; None for any that we would not write to."""
    scheme, _, rest = uri.partition(":")
    if scheme.lower() != "mailto":
        return None
    local, at, host = unquote_to_bytes(rest.partition("?")[0]).rpartition(b"@")
    domain = a_label_domain(host)
    if not at or domain is None or "." not in domain:
        return None
    if len(local) > _LONGEST_LOCAL_PART or _LOCAL_PART.fullmatch(local) is None:
        return None
    return Destination(f"{local.decode('ascii')}@{domain}", domain)


def find_destinations(
    record: DmarcRecord, policy_domain: str, *, resolver: Resolver, deadline: float | None = None
) -> Destinations:
    """The addresses of record's ``ruf`` that may get a failure report.

    policy_domain is where the record was found. ``psd=y`` has none: a public suffix does
    not speak for those below it (RFC 9991).
    """
    if record.psd == "y":
        return Destinations(refused=("ruf of a public suffix (psd=y) is ignored",))
    walk = TreeWalk(DmarcZone(resolver, deadline))
    accepted: dict[str, Destination] = {}
    refused: list[str] = []
    for uri in usable_uris(record.failure_uris)[:_MOST_CHECKED]:
        destination = parse_mailto(uri)
        if destination is None:
            refused.append("an address that can't be written to")
            continue
        try:
            found = _authorized(destination, policy_domain, walk, resolver, deadline)
        except DnsTemporaryError as error:
            refused.append(f"{destination.domain}: {error}")
            continue
        if not found:
            refused.append(f"{destination.domain} does not ask for reports about {policy_domain}")
        accepted.update((each.address, each) for each in found)
    return Destinations(tuple(accepted.values())[:MOST_DESTINATIONS], tuple(refused))


def _authorized(
    destination: Destination, policy_domain: str, walk: TreeWalk, resolver: Resolver, deadline: float | None
) -> Sequence[Destination]:
    """The destination if it wants the reports, or where it wants them instead; nothing if it does not."""
    if destination.domain == policy_domain:
        return (destination,)
    if walk.organizational_domain(destination.domain) == walk.organizational_domain(policy_domain):
        return (destination,)
    answer = resolver.txt(f"{policy_domain}._report._dmarc.{destination.domain}", deadline=deadline)
    consents = [found for text in answer.records if (found := parse_record(text)) is not None]
    if not consents:
        return ()
    for consent in consents:
        # The receiver may name another mailbox, on the same host only: else it could pass the burden on.
        named = [parse_mailto(uri) for uri in usable_uris(consent.failure_uris)]
        if "ruf" in consent.tags:
            return tuple(each for each in named if each is not None and each.domain == destination.domain)
    return (destination,)
