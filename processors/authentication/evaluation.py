"""Everything that can be authenticated about one message, in one pass: SPF, DKIM, ARC, DMARC.

The ``auth`` processor and the command line both come through here.

Diagnostics: raises nothing for what a message or DNS holds; OSError of reading the body
goes through, and the caller defers the message.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal

from msgspec import Struct

from ...lookups.dns import Resolver
from ..results import AuthResult, Result
from .arc_verify import ArcResult
from .authres_parse import parse_arc_authentication_results
from .body_hash import BodyHashRequest
from .dkim_verify import DkimResult
from .dmarc import DmarcResult, Identifier, evaluate_dmarc, override_dmarc
from .message import AuthenticatedMessage
from .spf import SpfResult
from .verification import verify_signatures


class DmarcSettings(Struct, frozen=True, kw_only=True):
    """How DMARC is evaluated; see evaluate_dmarc(), and identifiers() for count_test_keys."""

    discovery: Literal["tree-walk", "public-suffix-list"] = "tree-walk"
    organizational_domain: Callable[[str], str] | None = None
    several_authors: Literal["permerror", "strictest"] = "permerror"
    trusted_sealers: tuple[str, ...] = ()
    count_test_keys: bool = True


class Evaluation(Struct, frozen=True, kw_only=True):
    """What was found. spf and dmarc are None where they were not looked at; so is spf_helo, that of HELO besides."""

    spf: SpfResult | None
    dkim: tuple[DkimResult, ...]
    arc: ArcResult
    dmarc: DmarcResult | None
    spf_helo: SpfResult | None = None

    @property
    def results(self) -> tuple[AuthResult, ...]:
        """All of them, in the order of Exim's ``${authresults}``."""
        return (
            *(() if self.spf is None else (self.spf,)),
            *(() if self.spf_helo is None else (self.spf_helo,)),
            *self.dkim,
            *(() if self.dmarc is None else (self.dmarc,)),
            self.arc,
        )

    @property
    def trouble(self) -> str:
        """Why another attempt may say more: DNS trouble in words; empty where there was none."""
        for result in self.results:
            if result.result is Result.TEMPERROR:
                return f"{result.method}: {result.reason or 'temporary error'}"
        return f"arc: {self.arc.reason or 'temporary error'}" if self.arc.temporary else ""


def evaluate_message(
    message: AuthenticatedMessage,
    *,
    spf: SpfResult | None,
    resolver: Resolver,
    now: float,
    received: float | None = None,
    deadline: float | None = None,
    client_address: str = "",
    minimum_rsa_bits: int = 1024,
    dmarc: DmarcSettings | None = None,
    spf_helo: SpfResult | None = None,
    also: Collection[BodyHashRequest] = (),
) -> Evaluation:
    """Verify the signatures and evaluate DMARC with the given SPF result.

    now and received, when the message came, are Unix times, deadline is a
    time.monotonic() value. spf is None for a message that came from nowhere (local
    submission); dmarc None leaves DMARC out. spf_helo is passed on
    to the results: DMARC does not look at it (RFC 9989 4.4). also is that of
    verify_signatures().
    """
    dkim, arc = verify_signatures(
        message,
        resolver,
        now=now,
        received=received,
        deadline=deadline,
        client_address=client_address,
        minimum_rsa_bits=minimum_rsa_bits,
        also=also,
    )
    result = None
    if dmarc is not None:
        result = evaluate_dmarc(
            message.values(b"from"),
            identifiers=identifiers(spf, dkim, count_test_keys=dmarc.count_test_keys),
            resolver=resolver,
            deadline=deadline,
            discovery=dmarc.discovery,
            organizational_domain=dmarc.organizational_domain,
            several_authors=dmarc.several_authors,
        )
        if result.result is Result.FAIL and dmarc.trusted_sealers:
            reason = find_trusted_seal(arc, result.author_domain, dmarc.trusted_sealers)
            if reason:
                result = override_dmarc(result, kind="trusted_forwarder", reason=reason)
    return Evaluation(spf=spf, dkim=tuple(dkim), arc=arc, dmarc=result, spf_helo=spf_helo)


def identifiers(spf: SpfResult | None, dkim: Sequence[DkimResult], *, count_test_keys: bool = True) -> list[Identifier]:
    """What DMARC compares with the author domain: SPF's domain and each signature's ``d=``; passes come first.

    A key with ``t=y`` (RFC 6376 3.6.1): the letter has such mail treated as unsigned, so
    that a failing test does no harm. A passing one is counted all the same unless
    count_test_keys is false: the flag is left standing for years, and under p=reject the
    letter would refuse mail that proved its origin. A
    failing one counts for nothing in any case.
    """
    found = [] if spf is None else [Identifier("spf", spf.domain, spf.result)]
    found += [
        Identifier("dkim", result.domain, result.result)
        for result in dkim
        if result.domain and (count_test_keys or not result.testing)
    ]
    return sorted(found, key=lambda identifier: identifier.result is not Result.PASS)


def find_trusted_seal(arc: ArcResult, author_domain: str, trusted_sealers: Sequence[str]) -> str:
    """Which trusted sealer saw this author pass DMARC, in words; empty if none did.

    The chain must pass, and every sealer from the newest down to the one that is
    believed must be trusted: each of them could have changed what it passed on.
    """
    if arc.result is not Result.PASS:
        return ""
    for arc_set in sorted(arc.sets, key=lambda each: each.instance, reverse=True):
        if arc_set.aar is None or not is_trusted(arc_set.seal_domain, trusted_sealers):
            return ""
        read = parse_arc_authentication_results(arc_set.aar.value)
        if read is None or read[0] != arc_set.instance:
            return ""
        for result in read[1].results:
            if (
                result.method == "dmarc"
                and result.result is Result.PASS
                and any(
                    (item.ptype, item.name, item.value.lower()) == ("header", "from", author_domain)
                    for item in result.properties
                )
            ):
                return f"sealed by {arc_set.seal_domain} (i={arc_set.instance}), which saw dmarc=pass"
    return ""


def is_trusted(sealer: str, trusted_sealers: Sequence[str]) -> bool:
    """True for a domain on the list, or below one that is listed with a leading dot."""
    return any(
        sealer.endswith(entry.lower()) if entry.startswith(".") else sealer == entry.lower()
        for entry in trusted_sealers
        if entry
    )
