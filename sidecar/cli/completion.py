"""``respool completion``: what a shell needs to complete commands, options and file names.

Diagnostics: none; an unknown shell is a usage error.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_RESPOOL_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script by which SHELL completes respool's commands, options and file names.

    It asks respool itself, so it needs no renewal after an upgrade. The wheel brings the
    scripts along in share/: they work at once where respool is installed below /usr or
    /usr/local, not from a virtual environment of its own.
    """
    click.echo(script(shell), nl=False)


def script(shell: str) -> str:
    """The script for a shell."""
    kind = get_completion_class(shell)
    if kind is None:
        raise AssertionError(f"click knows {shell}")
    # Without BashComplete's own look at the version of the bash that happens to be here.
    made = kind(click.Group(), {}, "respool", _VARIABLE)
    return made.source_template % made.source_vars() + "\n"
