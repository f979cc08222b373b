"""Effects: what shall happen outside once a message is committed, at least once each.

A processor declares them; they stand in ``out/plan.json``, which is written and synced
only where there are any, and run when the message is settled. After a crash they run
again under the same key: whoever receives one can know a repeat.

Diagnostics: read_effects() and parse_plan() raise SpoolFormatError for a plan that was tampered with.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import msgspec
from msgspec import Struct

from ..errors import SpoolFormatError
from . import durable
from .job import OUT, PLAN, Job


class Effect(Struct, frozen=True, kw_only=True):
    """One effect: of which processor, its number among those of the message, what kind, and what with."""

    processor: str
    number: int
    kind: str
    payload: bytes = b""


class StoredPlan(Struct, frozen=True, kw_only=True):
    """What recovery can't read from the staged files themselves."""

    effects: tuple[Effect, ...] = ()


RunEffects = Callable[[Job, tuple[Effect, ...]], None]


def render_plan(effects: tuple[Effect, ...]) -> bytes:
    """The content of ``plan.json``."""
    return msgspec.json.format(msgspec.json.encode(StoredPlan(effects=effects)), indent=2) + b"\n"


def read_effects(job: Job) -> tuple[Effect, ...]:
    """The effects of a committed job; none where it has no plan.json."""
    try:
        descriptor = durable.open_file(f"{OUT}/{PLAN}", at=job.descriptor)
    except FileNotFoundError:
        return ()
    try:
        content = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    finally:
        os.close(descriptor)
    return parse_plan(content)


def parse_plan(content: bytes) -> tuple[Effect, ...]:
    """The effects in what render_plan() made. Raises SpoolFormatError."""
    try:
        return msgspec.json.decode(content, type=StoredPlan).effects
    except msgspec.DecodeError as error:
        raise SpoolFormatError(file=PLAN, line=1, column=1, expected="a plan", found=str(error)[:80]) from error
