"""``respool run``: the sidecar.

Diagnostics: ConfigError before anything is touched; afterwards an exit code.
"""

from __future__ import annotations

import sys

import click

from .. import log
from ..config import Config, errors_of, load
from ..supervisor import Supervisor, prepare


@click.command()
@click.option("-c", "--config", "config_file", required=True, metavar="FILE", help="The configuration.")
@click.option("--once", is_flag=True, help="Process what is there, then end.")
@click.option("--trace", is_flag=True, help="Log every processor's verdict and edits.")
def run(config_file: str, *, once: bool, trace: bool) -> None:
    r"""Process messages as they arrive, until SIGTERM.

    Messages in hand are finished first; what a kill interrupts, the next start finishes.

    \b
    Exit codes with --once: 0 all requeued; 1 some deferred, held or corrupt;
    75 some locked by Exim, try again.
    """
    config = load(config_file, Config)
    log.configure()
    with errors_of(config_file):
        prepared = prepare(config)
    try:
        code = Supervisor(prepared, log.get(), once=once, trace=trace).run()
    finally:
        prepared.close()
    sys.exit(code)
