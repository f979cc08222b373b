"""``respool run``: the sidecar.

Diagnostics: ConfigError before anything is touched; afterwards an exit code.
"""

from __future__ import annotations

import signal
import sys

import click

from .. import log
from ..config import Config, errors_of, load
from ..preparation import prepare
from ..supervisor import Supervisor


@click.command()
@click.option("-c", "--config", "config_file", required=True, metavar="FILE", help="The configuration.")
@click.option("--once", is_flag=True, help="Process what is there, then end.")
@click.option("--trace", is_flag=True, help="Log every processor's verdict and edits.")
def run(config_file: str, *, once: bool, trace: bool) -> None:
    r"""Process messages as they arrive, until SIGTERM.

    Messages in hand are finished first; what a kill interrupts, the next start finishes.

    SIGHUP: read FILE, keys and tables again and go on with all of it, or, if any of it
    can't be used, with all of the old. state_directory, source and the place of requeue
    can't change.

    \b
    Exit codes with --once: 0 all requeued; 1 some deferred, held or corrupt;
    75 some locked by Exim, try again.
    """
    # From here on it asks for a reload, and one that comes too early must not end us.
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGHUP,))
    config = load(config_file, Config)
    log.configure()
    with errors_of(config_file):
        prepared = prepare(config)
    sys.exit(Supervisor(prepared, log.get(), once=once, trace=trace, config_file=config_file).run())
