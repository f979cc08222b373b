"""A worker that the system refuses what it needs to begin ends by name, not by an exception."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from respool.sidecar.preparation import prepare
from respool.sidecar.supervisor import Supervisor
from tests.fault.harness import Setup

from .test_worker_watching import Events


def test_a_ledger_that_can_t_be_opened_is_for_later(tmp_path: Path, capfd: Any) -> None:
    setup = Setup(tmp_path, source="export")
    prepared = prepare(setup.config)
    settled = setup.state / "ledger" / "settled"
    settled.unlink()
    settled.mkdir()
    log: Any = Printed()
    assert Supervisor(prepared, log, once=True, trace=False, config_file="").run() == 75
    told = capfd.readouterr()
    assert "worker.not_started" in told.out
    assert "Traceback" not in told.err


class Printed(Events):
    """The worker is another process: what it logs has to be read from its output."""

    def bind(self, **_: Any) -> Printed:
        return self

    def __getattr__(self, level: str) -> Any:
        return lambda event, **fields: print(level, event, fields, flush=True)
