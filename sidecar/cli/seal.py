"""``respool seal``: the ARC set that would be added to a message.

Diagnostics: ConfigError for a key or names that can't be used, TemporaryError while the
chain can't be verified for DNS; exit code 1 where RFC 8617 allows no set, or there is
nothing to vouch for.
"""

from __future__ import annotations

import sys
import time

import click
import msgspec

from ...errors import TemporaryError
from ...lookups.dns import Resolver
from ...lookups.resolver import DnsResolver
from ...lookups.zone import ZoneResolver
from ...processors.authentication.arc_seal import DEFAULT_SEALED_HEADERS, ArcSetFields, NotSealed, Sealer
from ...processors.authentication.arc_seal import seal as make_set
from ...processors.authentication.arc_verify import ArcSignatures
from ...processors.authentication.authres_parse import Origin, judge_origin, parse_authentication_results
from ...processors.authentication.body_hash import SIGNING_REQUEST
from ...processors.authentication.keys import KeyLookup, load_signing_key
from ...processors.authentication.message import AuthenticatedMessage
from ...processors.authentication.signature_check import Times
from ...processors.authentication.signing import check_names
from ...spool.envelope import Header
from .message_json import text
from .message_path import Subject, open_subjects
from .terminal import escape, escape_lines

_DEADLINE_SECONDS = 60.0


@click.command()
@click.argument("path", metavar="PATH", type=click.Path(exists=True))
@click.option("--domain", required=True, help="Signing domain (d=).")
@click.option("--selector", required=True, help="Selector (s=): where below the domain the public key stands.")
@click.option("--key", "key_file", required=True, metavar="FILE", help="Private key in PEM, not readable by others.")
@click.option("--authserv-id", required=True, metavar="ID", help="Whose Authentication-Results are sealed.")
@click.option(
    "--results",
    metavar="TEXT",
    help="Seal these results, such as 'spf=pass smtp.mailfrom=example.org', as well as those of the message.",
)
@click.option("--zone", metavar="FILE", type=click.Path(), help="Answer DNS from this master file alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, one document a message.")
def seal(
    path: str,
    *,
    domain: str,
    selector: str,
    key_file: str,
    authserv_id: str,
    results: str | None,
    zone: str | None,
    as_json: bool,
) -> None:
    r"""Print the ARC set for a message: three header fields for its top.

    PATH is a -H file with its -D beside it, a directory with such pairs, or an .eml. An
    earlier chain is verified first, which asks DNS. Nothing is changed.

    \b
    Exit codes: 0 sealed; 1 no set for some message, and standard error says why;
    75 DNS gave no answer about an earlier chain; 78 the key or a name can't be used.
    """
    check_names(domain, selector)
    sealer = Sealer(
        authserv_id=authserv_id,
        domain=domain,
        selector=selector,
        key=load_signing_key(key_file),
        headers=DEFAULT_SEALED_HEADERS,
    )
    given = None if results is None else _results_field(authserv_id, results)
    resolver: Resolver = DnsResolver() if zone is None else ZoneResolver.from_file(zone)
    failed = False
    for subject in open_subjects(path):
        made = _seal(subject, sealer, given, resolver)
        if isinstance(made, NotSealed):
            failed = True
            click.echo(f"respool: {escape(subject.name)}: not sealed: {escape(made.reason)}", err=True)
        elif as_json:
            document = {
                "path": subject.name,
                "instance": made.instance,
                "headers": [{"name": text(header.name), "value": text(header.value)} for header in made.headers],
            }
            sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
        else:
            content = b"".join(header.raw for header in made.headers)
            sys.stdout.buffer.write(escape_lines(content).encode() if sys.stdout.isatty() else content)
    sys.stdout.buffer.flush()
    sys.exit(1 if failed else 0)


def _results_field(authserv_id: str, results: str) -> Header:
    """The Authentication-Results field that --results stands for."""
    try:
        field = Header.make(b"Authentication-Results", f"{authserv_id}; {results}".encode())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--results") from None
    if judge_origin(field.value, authserv_id) is not Origin.OURS:
        raise click.BadParameter("no authserv-id could be read in its place", param_hint="--authserv-id")
    parsed = parse_authentication_results(field.value)
    if parsed is None or not parsed.results:
        raise click.BadParameter("expected results as in RFC 8601, such as 'spf=pass'", param_hint="--results")
    return field


def _seal(subject: Subject, sealer: Sealer, given: Header | None, resolver: Resolver) -> ArcSetFields | NotSealed:
    message = subject.message
    if given is not None:
        message = AuthenticatedMessage((given.raw, *message.fields), message.body)
    now = time.time()
    signatures = ArcSignatures(message)
    message.will_need((SIGNING_REQUEST,))
    keys = KeyLookup(resolver, time.monotonic() + _DEADLINE_SECONDS)
    verified = signatures.verify(keys, Times.of(now, subject.received), client_address=subject.client_ip)
    if verified.temporary:
        raise TemporaryError(f"{subject.name}: ARC chain not verified: {verified.reason}")
    return make_set(message, verified, sealer, now=now, client_address=subject.client_ip)
