"""``respool srs forward`` and ``respool srs reverse``: SRS by hand.

Diagnostics: exit code 1 if an address can't be rewritten, each reported; ConfigError for
an unusable secret file.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import click
import msgspec

from ...errors import ConfigError
from ...processors.authentication.domain_names import a_label_domain
from ...processors.srs_codec import Srs, SrsCodec
from ...processors.srs_settings import Dialect, make_codec, read_secrets
from .terminal import escape


@click.group()
def srs() -> None:
    """Rewrite senders as a forwarder does, and read such addresses back."""


def _options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each address."),
        click.option("--max-age-days", type=click.IntRange(0, 1023), help="Default: 10 for exim, 21 for standard."),
        click.option(
            "--secret-file",
            required=True,
            type=click.Path(dir_okay=False),
            help="Secrets, one a line; the first signs.",
        ),
        click.option(
            "--dialect",
            type=click.Choice(["exim", "standard"]),
            default="exim",
            show_default=True,
            help="exim: of Exim's srs_encode and inbound_srs; standard: of postsrsd and libsrs2.",
        ),
        click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True),
    ):
        command = option(command)
    return command


@srs.command()
@_options
@click.option("--domain", required=True, help="The forwarder's domain.")
def forward(
    addresses: tuple[str, ...],
    *,
    dialect: Dialect,
    secret_file: str,
    domain: str,
    max_age_days: int | None,
    as_json: bool,
) -> None:
    """Print the address at --domain that stands for each ADDRESS."""
    if (name := a_label_domain(domain)) is None:
        raise click.BadParameter("not a domain name", param_hint="--domain")
    codec = _codec(dialect, secret_file, max_age_days)
    now = time.time()
    _print_all(addresses, lambda address: codec.forward(address, name, now), as_json=as_json)


@srs.command()
@_options
def reverse(
    addresses: tuple[str, ...], *, dialect: Dialect, secret_file: str, max_age_days: int | None, as_json: bool
) -> None:
    """Print the address that each ADDRESS stands for."""
    codec = _codec(dialect, secret_file, max_age_days)
    now = time.time()
    _print_all(addresses, lambda address: codec.reverse(address, now), as_json=as_json)


def _codec(dialect: Dialect, secret_file: str, max_age_days: int | None) -> SrsCodec:
    try:
        return make_codec(dialect, read_secrets(secret_file), max_age_days=max_age_days)
    except ConfigError as error:
        raise ConfigError(error.reason, key="--secret-file") from error


def _print_all(addresses: tuple[str, ...], rewrite: Callable[[bytes], Srs], *, as_json: bool) -> None:
    failed = False
    for address in addresses:
        found = rewrite(os.fsencode(address))
        failed = failed or bool(found.problem)
        if as_json:
            document: dict[str, Any] = {"address": address, "result": None, "problem": found.problem or None}
            if not found.problem:
                document["result"] = found.address.decode("utf-8", "backslashreplace")
            click.echo(msgspec.json.encode(document))
        elif found.problem:
            click.echo(f"respool: {escape(address)}: {escape(found.problem)}", err=True)
        else:
            click.echo(escape(found.address))
    if failed:
        sys.exit(1)
