"""The sample messages that ship with respool: one folder a case, read through importlib.resources.

A case is a ``-H`` and a ``-D``, ``about.md`` (a title and what there is to see),
``dns.zone`` (what DNS says of it) and ``expect.toml`` (what shall become of it).

Diagnostics: load() raises ConfigError naming the file for a case that isn't whole; that
is a defect of the installation.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ..errors import ConfigError
from ..spool.ids import MessageId


class ExpectedOutput(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One message in the spool."""

    recipients: Annotated[tuple[str, ...], Meta(description="Who is still to get it.")]
    queue: Annotated[str, Meta(description="Exim's queue; empty for the default one.")] = ""


class Expectation(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``expect.toml``: what the pipeline of the demonstration makes of the message."""

    state: Annotated[
        Literal["requeued", "discarded", "deferred", "held", "corrupt"], Meta(description="Where the message ends.")
    ]
    reason: Annotated[str, Meta(description="What the reason has to contain.")] = ""
    results: Annotated[
        dict[str, str], Meta(description="Method to result; several results of one method joined by commas.")
    ] = {}
    added: Annotated[tuple[str, ...], Meta(description="Names of the fields added, top to bottom.")] = ()
    removed: Annotated[tuple[str, ...], Meta(description="The fields removed, whole, folds as single spaces.")] = ()
    variables: Annotated[
        dict[str, str], Meta(description="ACL variables of the first output that Exim will see, among others.")
    ] = {}
    outputs: Annotated[tuple[ExpectedOutput, ...], Meta(description="What lies in the spool afterwards.")] = ()


class Case(Struct, frozen=True, kw_only=True):
    """One sample: its folder's name, its texts, its two files."""

    name: str
    title: str
    about: str
    id: MessageId
    header_file: bytes
    data_file: bytes
    zone: str
    expectation: Expectation


def load() -> tuple[Case, ...]:
    """All cases, by the time of their messages, as the sidecar takes them. Raises ConfigError."""
    folder = files("respool.samples") / "spool"
    cases = [_read(entry) for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(("_", "."))]
    return tuple(sorted(cases, key=lambda case: case.id))


def _read(folder: Traversable) -> Case:
    names = [entry.name for entry in folder.iterdir() if entry.name.endswith("-H")]
    if len(names) != 1:
        raise ConfigError("expected one -H file", file=str(folder))
    message_id = MessageId(names[0].removesuffix("-H"))
    try:
        about = (folder / "about.md").read_text("utf-8")
        expectation = msgspec.toml.decode((folder / "expect.toml").read_bytes(), type=Expectation)
        return Case(
            name=folder.name,
            title=about.partition("\n")[0].removeprefix("# "),
            about=about,
            id=message_id,
            header_file=(folder / message_id.header_name).read_bytes(),
            data_file=(folder / message_id.data_name).read_bytes(),
            zone=(folder / "dns.zone").read_text("utf-8"),
            expectation=expectation,
        )
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(str(error), file=str(folder)) from error
