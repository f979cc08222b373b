"""Plugins that do what no plugin should: the others' messages get through, and theirs is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from .house import House

pytestmark = pytest.mark.campaign

MESSAGES = 60
#: The numbers of the messages at which the plugin does it.
AT = "number in (7, 23)"

#: What the plugin does, how many messages are held for it in the end, and a word of the log that names it.
WILD = {
    "hangs": ("while True: time.sleep(1)", 2, "worker.hung"),
    "spins": ("while True: pass", 2, "worker.hung"),
    "raises": ("raise RuntimeError('no')", 0, "processor.failed"),
    "raises SystemExit": ("sys.exit(3)", 0, "processor.failed"),
    "raises KeyboardInterrupt": ("raise KeyboardInterrupt", 0, "processor.failed"),
    "raises GeneratorExit": ("raise GeneratorExit", 0, "processor.failed"),
    "recurses": ("self.process(message, context)", 0, "processor.failed"),
    "ends the process": ("os._exit(0)", 2, "worker.died"),
    "kills the process": ("os.kill(os.getpid(), signal.SIGKILL)", 2, "worker.died"),
    "aborts": ("os.abort()", 2, "worker.died"),
    "forks": ("os.fork()", 0, ""),
    "forks and waits": ("os.fork() or time.sleep(30)", 0, ""),
    "changes directory": ("os.chdir('/')", 0, ""),
    "changes the umask": ("os.umask(0o777)", 0, ""),
    "closes descriptors": ("os.closerange(3, 200)", 2, "worker.descriptors_lost"),
    "leaves a thread": ("threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()", 0, ""),
    "returns nonsense": ("return 'nonsense'", 0, "processor.failed"),
    "returns an edit out of range": (
        "from respool import RemoveHeader; return proceed(RemoveHeader(99999))", 0, "processor.failed",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WILD)
def test_contained_and_named(tmp_path: Path, what: str) -> None:
    code, kept, event = WILD[what]
    plugin = f"if {AT}: {code}\n        return proceed()"
    with House(tmp_path / "house", plugin=plugin, deadline_seconds=1.0) as house:
        house.start()
        house.put(MESSAGES)
        house.wait_until_settled(240)
        assert house.stop() == 0, house.log()[-4000:]
        sys.stderr.write(f"\n{what}: {house.summary()}\n")
        house.assert_each_once(kept=len(house.in_state("held")) if kept < 0 else kept)
        assert event in house.log()


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
