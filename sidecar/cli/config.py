"""``respool config check`` and ``respool config example``.

Diagnostics: ConfigError (exit code 78) naming file, key, what was expected and the
nearest known name.
"""

from __future__ import annotations

import sys

import click
import msgspec

from ..config import Config, load
from ..config_check import check as check_config
from ..config_example import EximPlaces, detect, example
from .terminal import output, plain


@click.group()
def config() -> None:
    """Check a configuration, or print a commented one."""


@config.command("check")
@click.option("-c", "--config", "config_file", required=True, metavar="FILE", help="The configuration.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def check_command(config_file: str, *, as_json: bool) -> None:
    r"""Load everything that FILE names, as `respool run` would, and change nothing.

    Processors are made, keys and tables read, directories looked at. A sidecar that runs
    with FILE is not disturbed.

    \b
    Exit codes: 0 it can be used; 78 it can't, and standard error says where and why.
    """
    checked = check_config(config_file, load(config_file, Config))
    if as_json:
        sys.stdout.buffer.write(msgspec.json.encode(checked) + b"\n")
        return
    console = output()
    console.print(plain(f"{config_file}: can be used"))
    for name, value in (
        ("hostname", f"{checked.hostname}, authserv_id {checked.authserv_id}"),
        ("source", checked.source),
        ("requeue", checked.requeue),
        ("processors", " → ".join(checked.processors) or "none: messages go on as they are"),
    ):
        console.print(plain(f"  {name:<11} {value}"))
    for warning in checked.warnings:
        console.print(plain(f"  warning: {warning}", "yellow"))


@config.command("example")
@click.option("--debian", is_flag=True, help="Debian's places, whatever this machine has.")
def example_command(*, debian: bool) -> None:
    """Print a commented configuration with every setting there is.

    The places are those of the Exim of this machine, or Debian's where there is none.
    """
    sys.stdout.buffer.write(example(EximPlaces() if debian else detect()).encode())
