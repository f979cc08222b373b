"""``respool auth``: what SPF, DKIM, ARC and DMARC say of a message.

Diagnostics: exit code 0 also for a *fail* of authentication; ConfigError for an
unusable zone file, PermanentError and SpoolFormatError for a message that can't be read.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import time
from typing import Any, Final

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ...lookups.dns import Resolver
from ...lookups.organisational_domain import DEBIAN_LIST, PublicSuffixList
from ...lookups.resolver import DnsResolver
from ...lookups.zone import ZoneResolver
from ...processors.authentication.authres import render_authentication_results
from ...processors.authentication.evaluation import DmarcSettings, Evaluation, evaluate_message
from ...processors.authentication.spf import evaluate_spf
from .message_path import Subject, open_subjects
from .terminal import escape

_DEADLINE_SECONDS: Final = 60.0
_STYLES: Final = {"pass": "green", "fail": "bold red", "softfail": "yellow", "temperror": "magenta", "permerror": "red"}


@click.command()
@click.argument("path", metavar="PATH", type=click.Path(exists=True))
@click.option("--ip", help="Address of the client; default: what -H says.")
@click.option("--helo", help="Name that the client gave in HELO; default: what -H says.")
@click.option("--mail-from", help='Envelope sender, "" for the null sender; default: what -H says.')
@click.option("--zone", metavar="FILE", type=click.Path(), help="Answer DNS from this master file alone.")
@click.option("--authserv-id", metavar="ID", help="Our id in Authentication-Results; default: the host's name.")
@click.option("--suffix-list", is_flag=True, help="DMARC by the public suffix list (RFC 7489), not the tree walk.")
@click.option("--suffix-list-file", metavar="FILE", default=DEBIAN_LIST, show_default=True, help="Where that list is.")
@click.option("--trusted-sealer", multiple=True, metavar="DOMAIN", help="An ARC sealer that is believed. Repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a message.")
def auth(
    path: str,
    *,
    ip: str | None,
    helo: str | None,
    mail_from: str | None,
    zone: str | None,
    authserv_id: str | None,
    suffix_list: bool,
    suffix_list_file: str,
    trusted_sealer: tuple[str, ...],
    as_json: bool,
) -> None:
    """Evaluate SPF, DKIM, ARC and DMARC of a message.

    PATH is a -H file with its -D beside it, a directory with such pairs, or an .eml.
    """
    if ip is not None:
        try:
            ip = str(ipaddress.ip_address(ip))
        except ValueError:
            raise click.BadParameter(f"{ip!r} is not an IP address", param_hint="--ip") from None
    if authserv_id is not None and not (authserv_id and authserv_id.isascii() and authserv_id.isprintable()):
        raise click.BadParameter("has to be printable ASCII", param_hint="--authserv-id")
    settings = DmarcSettings(trusted_sealers=trusted_sealer)
    if suffix_list:
        organisational_domain = PublicSuffixList.from_file(suffix_list_file).organisational_domain
        settings = DmarcSettings(
            discovery="public-suffix-list",
            organizational_domain=organisational_domain,
            trusted_sealers=trusted_sealer,
        )
    resolver: Resolver = DnsResolver() if zone is None else ZoneResolver.from_file(zone)
    identity = authserv_id or socket.gethostname()
    console = Console(highlight=False)
    for subject in open_subjects(path):
        evaluation = _evaluate(subject, resolver, settings, ip=ip, helo=helo, mail_from=mail_from)
        value = render_authentication_results(identity, evaluation.results)
        if as_json:
            sys.stdout.buffer.write(msgspec.json.encode(describe(evaluation, value)) + b"\n")
            sys.stdout.buffer.flush()
        else:
            _show(console, subject.name, evaluation, value)


def _evaluate(
    subject: Subject,
    resolver: Resolver,
    settings: DmarcSettings,
    *,
    ip: str | None,
    helo: str | None,
    mail_from: str | None,
) -> Evaluation:
    now, deadline = time.time(), time.monotonic() + _DEADLINE_SECONDS
    client_ip = subject.client_ip if ip is None else ip
    sender = subject.sender if mail_from is None else os.fsencode(mail_from.removeprefix("<").removesuffix(">"))
    spf = evaluate_spf(
        client_ip=client_ip,
        helo=subject.helo if helo is None else os.fsencode(helo),
        mail_from=sender or b"",
        resolver=resolver,
        deadline=deadline,
        now=now,
        receiver=socket.gethostname(),
    )
    return evaluate_message(
        subject.message,
        spf=spf,
        resolver=resolver,
        now=now,
        received=subject.received,
        deadline=deadline,
        client_address=client_ip,
        dmarc=settings,
    )


def describe(evaluation: Evaluation, value: str) -> dict[str, Any]:
    """The document that ``--json`` prints; value is the Authentication-Results value."""
    spf, arc, dmarc = evaluation.spf, evaluation.arc, evaluation.dmarc
    document: dict[str, Any] = {}
    if spf is not None:
        document["spf"] = {
            "result": spf.result.value,
            "domain": spf.domain,
            "scope": spf.scope,
            "mechanism": spf.mechanism,
            "explanation": spf.explanation,
            "reason": spf.reason,
        }
    document["dkim"] = [
        {
            "result": dkim.result.value,
            "domain": dkim.domain,
            "selector": dkim.selector,
            "algorithm": dkim.algorithm,
            "reason": dkim.reason,
        }
        for dkim in evaluation.dkim
    ]
    document["arc"] = {
        "result": arc.result.value,
        "reason": arc.reason,
        "instance": arc.instance,
        "oldest_pass": arc.oldest_pass,
        "domains": arc.domains,
    }
    if dmarc is not None:
        document["dmarc"] = {
            "result": dmarc.result.value,
            "status": dmarc.status,
            "policy": dmarc.policy,
            "disposition": dmarc.disposition,
            "domain": dmarc.domain,
            "author_domain": dmarc.author_domain,
            "organizational_domain": dmarc.organizational_domain,
            "alignment": {"spf": dmarc.alignment.spf, "dkim": dmarc.alignment.dkim},
            "override": dmarc.override,
            "reason": dmarc.reason,
        }
    document["authentication_results"] = value
    return document


def _show(console: Console, name: str, evaluation: Evaluation, value: str) -> None:
    table = Table(title=Text(escape(name)), title_justify="left", show_header=False, box=None, pad_edge=False)
    for column in ("method", "result", "about"):
        table.add_column(column, overflow="fold")
    for method, result, about in _rows(evaluation):
        table.add_row(Text(method), Text(result, style=_STYLES.get(result, "")), Text(escape(about)))
    console.print(table)
    console.print(Text("Authentication-Results: " + "\n".join(map(escape, value.split("\n"))).replace("\\t", "    ")))
    console.print()


def _rows(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    spf, arc, dmarc = evaluation.spf, evaluation.arc, evaluation.dmarc
    if spf is not None:
        words = [
            f"{spf.domain} ({spf.scope})",
            spf.mechanism and f"matched {spf.mechanism}",
            spf.reason,
            spf.explanation,
        ]
        rows.append(("spf", spf.result.value, "; ".join(filter(None, words))))
    for dkim in evaluation.dkim:
        key = f"{dkim.selector}._domainkey.{dkim.domain}" if dkim.domain else ""
        rows.append(("dkim", dkim.result.value, "; ".join(filter(None, [key, dkim.algorithm, dkim.reason]))))
    if arc.instance:
        words = [f"{arc.instance} {'set' if arc.instance == 1 else 'sets'} by {', '.join(arc.domains)}", arc.reason]
        if arc.oldest_pass is not None:
            words.append("unchanged since the first" if not arc.oldest_pass else f"unchanged since {arc.oldest_pass}")
        rows.append(("arc", arc.result.value, "; ".join(filter(None, words))))
    else:
        rows.append(("arc", arc.result.value, arc.reason))
    if dmarc is not None:
        words = [f"author {dmarc.author_domain or 'unknown'}"]
        if dmarc.domain:
            aligned = [name for name in ("spf", "dkim") if getattr(dmarc.alignment, name)]
            words.append(f"aligned by {' and '.join(aligned)}" if aligned else "nothing aligned")
            words.append(f"policy {dmarc.policy} from _dmarc.{dmarc.domain}")
            words.append(f"to be done: {dmarc.disposition}")
        words.append(dmarc.reason)
        rows.append(("dmarc", dmarc.result.value, "; ".join(filter(None, words))))
        rows.append(("", dmarc.status, "the same in Exim's words"))
    return rows
