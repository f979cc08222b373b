"""The command line. Scripts depend on it: docs/command-line.md.

Exit codes: 0 done; 1 some messages failed, each reported; 2 usage; 75 temporary trouble;
78 bad configuration.

Diagnostics: main() raises nothing but SystemExit; every error is one sentence on
standard error saying what happened, to what, and what to do.
"""

from __future__ import annotations

import difflib
import importlib
import sys
from typing import Final

import click

from ...errors import ConfigError, RespoolError, TemporaryError
from .examples import epilog

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_TEMPORARY: Final = 75
EXIT_CONFIG: Final = 78

#: A name that was given stands for nothing that can be used.
_WRONG_NAME: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)

#: Command -> module of this package and object in it; a module is imported when its command is called.
COMMANDS: Final = {
    "auth": "auth:auth",
    "batch": "batch:batch",
    "check": "check:check",
    "completion": "completion:completion",
    "config": "config:config",
    "deferred": "deferred:deferred",
    "demo": "demo:demo",
    "dmarc": "dmarc:dmarc",
    "doctor": "doctor:doctor",
    "exim-config": "exim_config:exim_config",
    "held": "held:held",
    "ledger": "ledger:ledger",
    "list": "mailq:list_messages",
    "lookup": "tables:lookup",
    "plugin": "plugin:plugin",
    "run": "run:run",
    "seal": "seal:seal",
    "show": "show:show",
    "srs": "srs:srs",
    "status": "status:status",
    "table": "tables:table",
    "web": "web:web",
}


#: Parameters so named are paths, and completed as such.
_FILES: Final = frozenset({"FILE", "PATH", "DIR", "SRC", "DEST", "D"})


class _Commands(click.Group):
    """Imports a command when it is called, and knows what a misspelt one was meant to be."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        command: click.Command = getattr(importlib.import_module(f".{module}", __name__), name)
        _prepare(command, cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if near:
                raise click.UsageError(f"No such command '{args[0]}'. Did you mean '{near[0]}'?", ctx) from error
            raise


def _prepare(command: click.Command, words: str) -> None:
    r"""Put examples into the help, and let files be completed.

    Of ``\b`` in help texts, which are raw strings, becomes the backspace by which click leaves lines as they are.
    """
    command.help = (command.help or "").replace("\\b\n", "\b\n")
    command.epilog = epilog(words) or command.epilog
    for parameter in command.params:
        if parameter.type is click.STRING and (parameter.metavar or (parameter.name or "").upper()) in _FILES:
            parameter.type = click.Path()
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _prepare(inner, f"{words} {inner.name}")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="respool", message="%(prog)s %(version)s")
def cli() -> None:
    """Process the messages that Exim exports from its spool, and hand them back exactly once."""


def main() -> None:
    """The ``respool`` command."""
    try:
        cli.main(prog_name="respool", standalone_mode=True)
    except ConfigError as error:
        _fail(error, EXIT_CONFIG)
    except TemporaryError as error:
        _fail(error, EXIT_TEMPORARY)
    except RespoolError as error:
        _fail(error, EXIT_FAILED)
    except BrokenPipeError:
        # The reader of our output has gone; there is nobody to tell.
        sys.stderr.close()
        sys.exit(EXIT_FAILED)
    except OSError as error:
        where = f"{error.filename}: {error.strerror}" if error.filename and error.strerror else str(error)
        _fail(RespoolError(where), EXIT_USAGE if isinstance(error, _WRONG_NAME) else EXIT_TEMPORARY)


def _fail(error: RespoolError, code: int) -> None:
    from .terminal import escape

    click.echo(f"respool: {escape(str(error))}", err=True)
    sys.exit(code)
