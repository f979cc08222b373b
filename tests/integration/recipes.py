"""The recipes of samples/exim as arguments of Exim(), so that tests run what administrators install.

Debian's Exim lacks queuefile; there the transport is replaced by a pipe that links the two files, and
all else is Exim's. With an Exim that has it (RESPOOL_EXIM) the transport of the sample is used.

Diagnostics: AssertionError where the sample's transport is no longer what the pipe stands in for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .exim import has_queuefile
from .exim_configuration import queuefile_by_pipe

SAMPLES: Final = Path(__file__).resolve().parents[2] / "samples" / "exim"


def sample(name: str) -> str:
    """The text of one of the files."""
    return (SAMPLES / name).read_text()


def macros(**values: str) -> str:
    """macros.conf with other values; exports go to ``export`` in Exim's temporary directory."""
    named = {"RESPOOL_EXPORT": "@DIRECTORY@/export", **values}
    return "".join(f"{name} = {value}\n" for name, value in named.items()) + sample("macros.conf")


def export_transport() -> str:
    """queuefile-transports.conf, or what stands in for it."""
    text = sample("queuefile-transports.conf")
    assert "\nrespool_export:\n  driver = queuefile\n  directory = RESPOOL_EXPORT\n" in text
    return text if has_queuefile() else queuefile_by_pipe("respool_export", "RESPOOL_EXPORT")


def export_recipe(**values: str) -> dict[str, str]:
    """Arguments of Exim() that make it export all that respool has not seen.

    ``exim = start_exim(**export_recipe()); export = exim.make_directory("export")``. What has
    ``acl_m_respool`` is delivered as the harness delivers.
    """
    return {
        "main": macros(**values),
        "routers": sample("queuefile-routers.conf"),
        "transports": export_transport(),
        "retry": sample("queuefile-retry.conf"),
    }


def queue_recipe(**values: str) -> dict[str, str]:
    """Arguments of Exim() that make it take all mail into the queue ``scan`` and hold it there."""
    return {"main": macros(**values), "mail_acl": sample("named-queue-mail.acl")}
