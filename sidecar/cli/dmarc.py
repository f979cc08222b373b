"""``respool dmarc check``: a domain's record, its walk, and what aligns with it, in words.

Diagnostics: exit code 0 whatever was found, 75 where DNS gave no answer; ConfigError for
an unusable zone file.
"""

from __future__ import annotations

import sys
import time
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.text import Text

from ...lookups.dns import Resolver
from ...lookups.resolver import DnsResolver
from ...lookups.zone import ZoneResolver
from ...processors.authentication.dmarc_discovery import Discovery, DmarcZone, TreeWalk
from ...processors.authentication.dmarc_record import DmarcRecord, usable_uris
from ...processors.authentication.domain_names import a_label_domain
from .dmarc_history import history
from .dmarc_mistakes import find_mistakes
from .terminal import escape

_DEADLINE_SECONDS: Final = 60.0
_ACTIONS: Final = {"none": "nothing is done", "quarantine": "treated with suspicion", "reject": "refused"}
_FAILURE_OPTIONS: Final = {
    "0": "when nothing passed",
    "1": "when anything failed",
    "d": "when a DKIM signature failed",
    "s": "when SPF failed",
}


@click.group()
def dmarc() -> None:
    """Look at DMARC records, and at the history of what was evaluated."""


dmarc.add_command(history)


@dmarc.command()
@click.argument("domain")
@click.option("--zone", metavar="FILE", type=click.Path(), help="Answer DNS from this master file alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check(domain: str, *, zone: str | None, as_json: bool) -> None:
    """Explain the DMARC policy for mail whose From is at DOMAIN."""
    author = a_label_domain(domain)
    if author is None:
        raise click.BadParameter("not a domain name", param_hint="DOMAIN")
    resolver: Resolver = DnsResolver() if zone is None else ZoneResolver.from_file(zone)
    deadline = time.monotonic() + _DEADLINE_SECONDS
    names = DmarcZone(resolver, deadline)
    found = TreeWalk(names).discover(author)
    exists = names.exists(author)
    mistakes = find_mistakes(found, resolver, deadline=deadline)
    if as_json:
        document = {**describe(found, exists=exists), "warnings": mistakes}
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
        return
    console = Console(highlight=False)
    for line in explain(found, exists=exists):
        console.print(Text(escape(line)))
    if mistakes:
        console.print("\nTo look at:")
    for mistake in mistakes:
        console.print(Text(escape(f"  {mistake}")))


def describe(found: Discovery, *, exists: bool) -> dict[str, Any]:
    """The document that ``--json`` prints."""
    record = found.record
    applies = record is not None and record.is_usable
    return {
        "domain": found.author_domain,
        "exists": exists,
        "record_domain": found.domain,
        "record": record.text if record is not None else None,
        "policy": _policy(found, record, exists=exists) if record is not None and applies else None,
        "organizational_domain": found.organizational_domain,
        "problems": record.problems if record is not None else (),
        "walk": [
            {"domain": step.domain, "record": step.record.text if step.record else None, "published": step.published}
            for step in found.steps
        ],
    }


def explain(found: Discovery, *, exists: bool) -> list[str]:
    """The same in words, one line a fact."""
    author, record = found.author_domain, found.record
    lines = [f"Mail from {author}", "", "The walk:"]
    for step in found.steps:
        if step.published > 1:
            said = f"{step.published} records, which cancel each other"
        elif step.record is None:
            said = "no DMARC record"
        else:
            said = step.record.text
        lines.append(f"  _dmarc.{step.domain}: {said}")
    lines += [
        "",
        f"Organizational domain: {found.organizational_domain or 'not found, DNS gave no answer'}",
    ]
    if record is None:
        return [*lines, "", "No record applies: DMARC says nothing about this mail."]
    lines.append(
        f"The record at {found.domain} applies" + (":" if found.domain == author else f", which is above {author}:")
    )
    if not record.is_usable:
        return [
            *lines,
            f"  It can't be used: {_bad_policy(record)}, and there is no mailto: address for reports"
            " (RFC 9989 section 4.10.1). DMARC says nothing about this mail.",
        ]
    return lines + [f"  {line}" for line in _record_lines(found, record, exists=exists)]


def _policy(found: Discovery, record: DmarcRecord, *, exists: bool) -> str:
    policy = record.policy_for(subdomain=found.domain != found.author_domain, exists=exists)
    return (policy.one_lower() if record.testing else policy).value


def _bad_policy(record: DmarcRecord) -> str:
    if record.policy is None and "p" not in record.problems:
        return "p is missing"
    return f"{', '.join(tag for tag in ('p', 'sp', 'np') if tag in record.problems)} can't be read"


def _record_lines(found: Discovery, record: DmarcRecord, *, exists: bool) -> list[str]:
    author = found.author_domain
    subdomain = found.domain != author
    tag = "p"
    if subdomain and not exists and record.nonexistent_policy is not None:
        tag = "np"
    elif subdomain and record.subdomain_policy is not None:
        tag = "sp"
    policy = _policy(found, record, exists=exists)
    lines: list[str] = []
    if record.has_bad_policy:
        lines.append(f"{_bad_policy(record)}: it acts as p=none, because reports are asked for")
    else:
        lines.append(f"Mail that fails: {_ACTIONS[policy]} ({tag}={_published(record, tag)})")
    if not exists:
        lines.append(f"{author} does not exist in DNS")
    if record.testing:
        lines.append("t=y: the owner is testing, so the policy counts one level lower")
    for name, strict in (("DKIM", record.strict_dkim), ("SPF", record.strict_spf)):
        if strict:
            lines.append(f"{name} counts only for exactly {author} (strict)")
        else:
            lines.append(f"{name} counts for {found.organizational_domain or author} and all below it (relaxed)")
    lines.append(f"Aggregate reports: {', '.join(usable_uris(record.aggregate_uris)) or 'to nobody'}")
    failures = usable_uris(record.failure_uris)
    if failures:
        when = " and ".join(_FAILURE_OPTIONS[option] for option in record.failure_options)
        lines.append(f"Failure reports: {', '.join(failures)}, {when}")
    if "pct" in record.tags:
        lines.append("pct is historic and ignored (RFC 9989)")
    if record.psd != "u":
        meaning = "a public suffix" if record.psd == "y" else "an organizational domain of its own"
        lines.append(f"psd={record.psd}: {found.domain} is {meaning}")
    if record.problems:
        lines.append(f"Not understood and ignored: {', '.join(dict.fromkeys(record.problems))}")
    return lines


def _published(record: DmarcRecord, tag: str) -> str:
    policy = {"p": record.policy, "sp": record.subdomain_policy, "np": record.nonexistent_policy}[tag]
    return policy.value if policy is not None else "none"
