"""Effects that a batch owes: written down before the message is done, struck out when they have run.

A batch knows by ``-H`` in DEST what is done, and never looks at such a message again. So the
effects that its processors declared stand in ``DEST/.respool/<id>-effects`` before ``-H``
appears; what is still there when a run is resumed is run then. At least once, therefore, each with its
key, whose claim is always 0 here. A message that was discarded leaves nothing in DEST: a
resumed run processes it again, and its effects with it.

Diagnostics: OSError from the system; run() also what Pipeline.run_effects() raises: the note
stays, and the effects are owed.
"""

from __future__ import annotations

import contextlib
from typing import Final

from structlog.typing import FilteringBoundLogger

from ..errors import SpoolFormatError
from ..requeue import durable
from ..requeue.effects import parse_plan
from ..requeue.reading import read_file
from ..spool.directory import list_names
from ..spool.ids import MessageId, parse_id
from .pipeline import Pipeline

_NOTE: Final = "-effects"
_NO_CLAIM: Final = 0


def note_name(message_id: MessageId) -> str:
    """The name of the note in the staging directory."""
    return message_id + _NOTE


def is_note(name: str) -> bool:
    """True for a name in the staging directory that is a note of effects."""
    return name.endswith(_NOTE)


def owing(staging: int) -> set[MessageId]:
    """The messages that have a note."""
    ids = (parse_id(name.removesuffix(_NOTE)) for name in list_names(staging) if is_note(name))
    return {message_id for message_id in ids if message_id is not None}


def run(staging: int, message_id: MessageId, pipeline: Pipeline, log: FilteringBoundLogger) -> bool:
    """Run what a committed message owes, and strike it out; False if it owes nothing."""
    try:
        content = read_file(note_name(message_id), at=staging)
    except FileNotFoundError:
        return False
    # A torn note was never that of a message that is done.
    with contextlib.suppress(SpoolFormatError):
        pipeline.run_effects(message_id, _NO_CLAIM, parse_plan(content), log)
    durable.unlink(note_name(message_id), at=staging)
    return True
