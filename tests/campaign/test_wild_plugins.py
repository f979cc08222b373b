"""Plugins that do what no plugin should: the others' messages get through, and theirs is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .house import House

pytestmark = pytest.mark.campaign

MESSAGES = 120
#: What the plugin does with the messages of these numbers. tests/fault/test_misbehaving_processors.py
#: looks at each misdeed by itself; here all of them happen among the mail that all processors work on.
DEADLY = {
    7: "while True: time.sleep(1)",
    19: "while True: pass",
    31: "os._exit(0)",
    43: "os.abort()",
}
CONTAINED = {
    11: "raise RuntimeError('no')",
    23: "sys.exit(3)",
    35: "self.process(message, context)",
    47: "return 'nonsense'",
}
HARMLESS = {
    13: "os.fork()",
    25: "os.fork() or time.sleep(30)",
    37: "os.chdir('/')",
    49: "os.umask(0o777)",
    61: "threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()",
}


def test_all_misdeeds_at_once(tmp_path: Path) -> None:
    deeds = "".join(
        f"if number == {number}:\n            {deed}\n        "
        for number, deed in (DEADLY | CONTAINED | HARMLESS).items()
    )
    with House(tmp_path / "house", plugin=f"{deeds}return proceed()", deadline_seconds=1.0, is_impatient=True) as house:
        house.start()
        house.put(MESSAGES)
        house.wait_until_settled(240)
        assert house.stop() == 0, house.log()[-4000:]
        sys.stderr.write(f"\nall at once: {house.summary()}\n")
        house.assert_each_once(kept=len(DEADLY))
        assert set(house.expected) - house.arrived() == set(DEADLY)
        for event in ("worker.hung", "worker.died", "processor.failed", "processor.meddled"):
            assert f'"event":"{event}"' in house.log()


def test_descriptors_closed(tmp_path: Path) -> None:
    plugin = "if number in (7, 23): os.closerange(3, 200)\n        return proceed()"
    with House(tmp_path / "house", plugin=plugin, deadline_seconds=1.0, is_impatient=True) as house:
        house.start()
        house.put(MESSAGES)
        house.wait_until_settled(240)
        assert house.stop() == 0, house.log()[-4000:]
        sys.stderr.write(f"\ndescriptors closed: {house.summary()}\n")
        house.assert_each_once(kept=len(house.in_state("held")))


def test_memory_is_bounded_by_recycling(tmp_path: Path) -> None:
    """A plugin that keeps 4 MB of every message: its worker is replaced before it fails, or the machine suffers."""
    code = "self.kept = getattr(self, 'kept', []) + [bytearray(4 << 20)]\n        return proceed()"
    with House(tmp_path / "house", plugin=code, extra="memory_mib = 400") as house:
        house.start()
        largest = 0
        for _ in range(20):
            house.put(20)
            house.wait_until(lambda: not any(house.export.iterdir()))
            for worker in house.workers():
                largest = max(largest, _resident(worker))
        house.wait_until_settled()
        assert house.stop() == 0
        house.assert_each_once()
        sys.stderr.write(f"\nlargest worker: {largest >> 20} MiB of 1600 MiB kept\n")
        assert "worker.leaking" in house.log()
        assert "MemoryError" not in house.log()
        assert largest < 400 << 20


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except FileNotFoundError:
        return 0
