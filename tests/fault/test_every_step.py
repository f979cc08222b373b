"""Killed before and after each durable call, and each call failed: each message exactly once."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec import Struct

from .harness import Fault, Mode, Setup, run

DATA = Path(__file__).parent.parent / "data"
CAMPAIGN = bool(os.environ.get("RESPOOL_CAMPAIGN"))

PLUGIN = """
from respool import Processor, ProcessorConfig, Part, split, discard, hold, defer, proceed, replace_body

class Config(ProcessorConfig):
    pass

class SplitEach(Processor[Config]):
    def process(self, message, context):
        return split(*(Part((r.address,)) for r in message.undelivered))

class Discard(Processor[Config]):
    def process(self, message, context):
        return discard("not wanted")

class Hold(Processor[Config]):
    def process(self, message, context):
        return hold("look at it")

class Defer(Processor[Config]):
    def process(self, message, context):
        return defer("later", 3600)

class NewBody(Processor[Config]):
    def process(self, message, context):
        return proceed(replace_body(b"new body of " + message.id.encode()))
"""

HEADERS = '[[processor]]\nuse = "headers"\nconfig = { add = [{ name = "X-Checked", value = "yes" }] }\n'


class Case(Struct, frozen=True, kw_only=True):
    """One way through the house, and what is to be found at its end."""

    name: str
    source: str = "export"
    processors: str = HEADERS
    keep_original: bool = False
    before: Callable[[Setup, list[str]], None] | None = None
    outputs: int = 1
    state: str = ""
    messages: int = 1
    ordered: bool = True


def _occupy(setup: Setup, ids: list[str]) -> None:
    """Stale files of Exim under the very ids: a message gets a new one."""
    for message_id in ids:
        (setup.input / f"{message_id}-J").write_text("left@behind.example\n")


def _break(setup: Setup, ids: list[str]) -> None:
    for message_id in ids:
        path = setup.place / f"{message_id}-H"
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content.replace(b"<", b"", 1))


def _lose_header(setup: Setup, ids: list[str]) -> None:
    for message_id in ids:
        (setup.place / f"{message_id}-H").unlink()


def _journal(setup: Setup, ids: list[str]) -> None:
    for message_id in ids:
        (setup.place / f"{message_id}-J").write_text("done@example.test\n")
        (setup.spool / "in" / "msglog" / message_id).write_text("log\n")


def _use(name: str) -> str:
    return f'[[processor]]\nuse = "{{plugin}}:{name}"\n'


CASES = (
    Case(name="id-kept"),
    Case(name="one-directory-for-two", messages=2),
    Case(name="one-directory-for-two-split", processors=_use("SplitEach") + HEADERS, outputs=2, messages=2),
    Case(name="metadata-out-of-order", messages=2, ordered=False),
    Case(name="original-still-queued", keep_original=True),
    Case(name="named-queue-with-journal", source="queue", before=_journal),
    Case(name="id-taken", before=_occupy),
    Case(name="split", processors=_use("SplitEach") + HEADERS, outputs=2),
    Case(name="new-body", processors=_use("NewBody")),
    Case(name="discarded", processors=_use("Discard"), outputs=0),
    Case(name="held", processors=_use("Hold"), outputs=0, state="held"),
    Case(name="deferred", processors=_use("Defer"), outputs=0, state="deferred"),
    Case(name="broken-header-file", before=_break, outputs=0, state="corrupt"),
    Case(name="orphan", before=_lose_header, outputs=0, state="corrupt"),
)

MESSAGES = [DATA / f"spool-496/main/input/{name}-H" for name in ("1xV9Vd-0000wB-2S", "1xV9Vg-0000wS-25")]


def _make(case: Case, root: Path) -> tuple[Setup, Counter[bytes], list[str]]:
    plugin = root / "plugin.py"
    plugin.write_text(PLUGIN)
    plugin.chmod(0o600)
    processors = case.processors.replace("{plugin}", str(plugin))
    setup = Setup(root, source=case.source, processors=processors, ordered=case.ordered)
    ids = [setup.put(message, keep_original=case.keep_original) for message in MESSAGES[: case.messages]]
    bodies: Counter[bytes] = Counter()
    for message_id in ids:
        body = (setup.place / f"{message_id}-D").read_bytes().partition(b"\n")[2]
        bodies[body if case.name != "new-body" else b"new body of %b\n" % message_id.encode()] += case.outputs
    if case.before is not None:
        case.before(setup, ids)
    return setup, +bodies, ids


#: A kill after a call leaves what a kill before the next one leaves: both only in the campaign.
_QUICK: tuple[tuple[Mode, int], ...] = (("kill-before", 0), ("fail", errno.EIO))
_OTHERS: tuple[tuple[Mode, int], ...] = (
    ("kill-after", 0), ("fail", errno.ENOSPC), ("fail", errno.EACCES), ("fail", errno.EMFILE),
)  # fmt: skip
KINDS = _QUICK + _OTHERS if CAMPAIGN else _QUICK


def _faults(case: Case, mode: Mode, error: int, root: Path) -> tuple[list[Fault], int]:
    """All faults of a kind in a case, and how many calls a run makes that has nothing to do."""
    root.mkdir()
    setup, _, _ = _make(case, root)
    code, calls = run(setup)
    assert code in {0, 1}
    assert calls > 3
    _, idle = run(setup)
    return [Fault(number, mode, error) for number in range(calls)], idle


@pytest.mark.parametrize(("mode", "error"), KINDS, ids=[errno.errorcode.get(error, mode) for mode, error in KINDS])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_once(case: Case, mode: Mode, error: int, tmp_path: Path) -> None:
    faults, idle = _faults(case, mode, error, tmp_path / "count")
    for index, fault in enumerate(faults):
        root = tmp_path / str(index)
        root.mkdir()
        setup, expected, ids = _make(case, root)
        code, _ = run(setup, fault)
        assert code != 99, f"{fault} ended the sidecar with an exception"
        # Exim is quick: whatever is visible is delivered before the sidecar comes back.
        delivered = setup.deliver()
        # Once more than it takes: nothing may be published again.
        for _ in range(3):
            code, made = run(setup)
            delivered += setup.deliver()
            if made <= idle:
                break
        states = setup.states()
        assert delivered == expected, f"{fault}: {states}"
        kept = {state: names for state, names in states.items() if names}
        if case.state:
            assert set(kept) == {case.state}, f"{fault}: {states}"
            assert len(kept[case.state]) == len(ids), f"{fault}: {states}"
        else:
            assert not kept, f"{fault}: {states}"
        if not case.keep_original:
            assert not list((setup.root / "copies").glob("*-D"))
        left = [path.name for path in setup.place.iterdir()]
        assert not left, f"{fault}: {left} still in the source"
