"""Somebody who may write to the source, and renames and links under the sidecar's hands while it works.

No policy allows that: a start is refused where others can write. This is the second wall.
Whatever he does, nothing outside is read, written or removed, and the messages that he lets
alone get through once.
"""

from __future__ import annotations

import contextlib
import os
import random
import threading
from pathlib import Path

import pytest

from respool import ConfigError
from respool.processors.registry import find
from respool.requeue import ledger
from respool.requeue.job import parse_output
from respool.requeue.state import StateDirectory, parse_claim
from respool.sidecar.config import Config, decode
from respool.sidecar.web.passwords import PasswordFile, hash_line
from respool.spool.ids import parse_id
from tests.fault.harness import Setup, run
from tests.unit.sidecar.test_hostile_source import pair

SECRET = b"1xV9Va-000000-00-D\nnot for others\n"


def fresh_id(kind: str, number: int) -> str:
    return f"1xV9V{kind}-00{number:04d}-00"


class Attacker(threading.Thread):
    """Plays with the names of some messages until told to stop."""

    def __init__(self, setup: Setup, ids: list[str], outside: Path) -> None:
        super().__init__()
        self.setup, self.ids, self.outside = setup, ids, outside
        self.random = random.Random(12)
        self.stopping = threading.Event()
        self.moves = 0

    def run(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(OSError):
                self.move()
                self.moves += 1

    def move(self) -> None:
        name = self.random.choice(self.ids) + self.random.choice(("-D", "-H"))
        path, spare = self.setup.export / name, self.outside / f"spare.{self.random.randrange(4)}"
        match self.random.randrange(8):
            case 0:
                os.rename(path, spare)
            case 1:
                os.rename(spare, path)
            case 2:
                path.unlink()
                path.symlink_to(self.outside / "secret")
            case 3:
                path.unlink()
                os.link(self.outside / "secret", path)
            case 4:
                path.unlink()
                os.mkfifo(path)
            case 5:
                os.rename(path, self.setup.export / (self.random.choice(self.ids) + name[-2:]))
            case 6:
                split = self.setup.export / name[5]
                if split.is_symlink():
                    split.unlink()
                    split.mkdir()
                else:
                    split.rmdir()
                    split.symlink_to(self.outside)
            case _:
                # In the state directory, too, as far as its names can be guessed.
                os.symlink(self.outside, self.setup.state / "work" / f"{name[:-2]}.{self.random.randrange(1, 60)}")


@pytest.mark.parametrize("seed", range(2))
def test_a_racing_attacker_gets_nothing_outside_touched(tmp_path: Path, seed: int) -> None:
    setup = Setup(tmp_path, source="export")
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "secret"
    secret.write_bytes(SECRET)
    secret.chmod(0o600)
    before = secret.stat()
    victims = [fresh_id("a", number) for number in range(24)]
    good = [fresh_id("b", number) for number in range(12)]
    for message_id in victims + good:
        pair(setup, message_id)
    attacker = Attacker(setup, victims, outside)
    attacker.random.seed(seed)
    attacker.start()
    try:
        runs = 0
        while runs < 3 or attacker.moves <= 50:
            runs += 1
            # 78: what the attacker made is no directory of a message; a start may be refused for it.
            assert run(setup)[0] in {0, 1, 75, 78}
    finally:
        attacker.stopping.set()
        attacker.join()
    for path in (setup.state / "work").iterdir():
        if path.is_symlink():
            path.unlink()
    assert run(setup)[0] in {0, 1, 75}

    after = secret.stat()
    assert secret.read_bytes() == SECRET
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    assert {path.name for path in outside.iterdir()} <= {"secret", *(f"spare.{number}" for number in range(4))}
    published = {path.name[:-2] for path in setup.input.glob("*-H")}
    assert set(good) <= published
    for path in setup.input.iterdir():
        assert not path.is_symlink()
        assert b"not for others" not in path.read_bytes()


@pytest.mark.parametrize(
    "name",
    ["../1xV9Va-000000-00", "1xV9Va-000000-00/", "1xV9Va-000000-00\0", "1xV9Va-000000-00\n", "1xV9Va-000000-0\u0661", "x" * 5000,
     "", ".", "..", "1xV9Va-000000-00.1/../../x", "\udcff", "1xV9Va\uff0d000000-00", "1xV9V/-000000-00"],
)  # fmt: skip
def test_a_name_is_an_id_or_nothing(name: str) -> None:
    assert parse_id(name) is None
    for claim in (name, f"{name}.1", f"1xV9Va-000000-00.{name}", f"{name}.01", f"{name}.1\n"):
        assert parse_claim(claim) is None
    for output in (f"{name}-H", f"0@{name}/-H", f"0@a@{name}-H"):
        parsed = parse_output(output)
        assert parsed is None or (parsed.name == output and "/" not in output)


def test_a_ledger_behind_a_link_is_refused(tmp_path: Path) -> None:
    setup = Setup(tmp_path, source="export")
    assert run(setup)[0] == 0
    state = StateDirectory(str(setup.state))
    try:
        for name in (setup.state / ledger.DIRECTORY).iterdir():
            kept = name.rename(tmp_path / "kept")
            target = tmp_path / "target"
            target.write_bytes(b"x" * 200_000)
            name.symlink_to(target)
            owner = target.stat()
            with pytest.raises(OSError, match="no regular file"):
                ledger.Ledger(state, expiry_seconds=1, largest=1 << 24)
            assert target.read_bytes() == b"x" * 200_000
            assert target.stat().st_uid == owner.st_uid
            name.unlink()
            kept.rename(name)
    finally:
        state.close()


def test_a_plugin_that_others_can_replace_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)
    plugin = directory / "p.py"
    plugin.write_text(
        "from respool import Processor, ProcessorConfig\nclass P(Processor[ProcessorConfig]):\n    pass\n"
    )
    plugin.chmod(0o644)
    assert find(f"{plugin}:P").__name__ == "P"
    directory.chmod(0o777)
    with pytest.raises(ConfigError, match="can be replaced by others"):
        find(f"{plugin}:P")
    # Nor by a link from elsewhere; a sticky directory keeps others from renaming.
    (tmp_path / "link.py").symlink_to(plugin)
    with pytest.raises(ConfigError, match="can be replaced by others"):
        find(f"{tmp_path}/link.py:P")
    directory.chmod(0o1777)
    assert find(f"{plugin}:P").__name__ == "P"
    # Under a name of its own: what reads the source of every loaded module would wait for this one (Hypothesis does).
    pipe = directory / "pipe.py"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        find(f"{pipe}:P")


def test_a_password_file_that_is_none_does_not_hang(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    os.mkfifo(path, 0o600)
    with pytest.raises(ConfigError, match="no regular file"):
        PasswordFile(str(path))
    path.unlink()
    path.write_text(hash_line("op", "correct horse") + "\n")
    path.chmod(0o640)
    os.chown(path, 12345, -1)
    with pytest.raises(ConfigError, match="no regular file of root's"):
        PasswordFile(str(path))


def test_a_configured_queue_is_one_name(tmp_path: Path) -> None:
    from respool.sidecar.preparation import prepare

    setup = Setup(tmp_path, source="export")
    for queue in ("../up", "a@b", ".."):
        text = f"""
state_directory = "{setup.state}"
[source]
kind = "export"
directory = "{setup.export}"
[requeue]
kind = "spool"
spool_directory = "{setup.spool}"
queue = "{queue}"
notify = "none"
quoters = []
"""
        with pytest.raises(ConfigError, match="not the name of a queue"):
            prepare(decode(text.encode(), Config, file="test.toml"))
