"""The disk full, read-only, or closed to us while messages come: the intake stops and goes on by itself."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest
from _pytest.mark import ParameterSet
from msgspec import Struct

from respool.sidecar.obstacles import Obstacle
from respool.sidecar.overview import Overview, look

from .conditions import NOBODY, Disk, House, may_mount, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount, and become somebody else")
_EXT4: Final = pytest.mark.system("mkfs.ext4", "chattr")
#: No package brings the right to mount: without it they are left to those who have it.
_ON_TMPFS: Final = () if may_mount() else (pytest.mark.campaign,)

_FIRST, _LATER = 80, 10

Change = Callable[[Disk, House], None]


class Condition(Struct, frozen=True, kw_only=True):
    """Something that happens to a disk, or to a directory on it, and how it ends."""

    name: str
    begin: Change
    end: Change
    kind: str = ""
    user: int = NOBODY
    files: int = 0
    key: str = "$.state_directory"
    says: str
    advises: str


def _mode(directory: Callable[[House], Path], mode: int) -> Change:
    return lambda _, house: directory(house).chmod(mode)


def _attribute(directory: Callable[[House], Path], how: str) -> Change:
    def change(_: Disk, house: House) -> None:
        subprocess.run(["chattr", how, directory(house)], check=True)

    return change


def _target(house: House) -> Path:
    return house.setup.input


def _work(house: House) -> Path:
    return house.setup.state / "work"


def _source(house: House) -> Path:
    return house.setup.place


def _conditions() -> Iterator[Condition]:
    for kind in ("tmpfs", "ext4"):
        yield Condition(
            name=f"{kind}-full", kind=kind, begin=lambda disk, _: disk.fill(), end=lambda disk, _: disk.relieve(),
            says="no space is left", advises="make room",
        )  # fmt: skip
        yield Condition(
            name=f"{kind}-without-inodes", kind=kind, files=1500, begin=lambda disk, _: disk.use_all_files(),
            end=lambda disk, _: disk.relieve(), says="no inodes are left", advises="remove files",
        )  # fmt: skip
    for place, key in ((_target, "$.requeue"), (_work, "$.state_directory"), (_source, "$.source")):
        for mode in (0o500, 0o000):
            yield Condition(
                name=f"{place.__name__[1:]}-mode-{mode:03o}", begin=_mode(place, mode), end=_mode(place, 0o750),
                key=key, says=f"uid {NOBODY} may not change it", advises="chown or chmod",
            )  # fmt: skip
        yield Condition(
            name=f"{place.__name__[1:]}-immutable", kind="ext4", user=0, begin=_attribute(place, "+i"),
            end=_attribute(place, "-i"), key=key, says="may not be changed", advises="chattr -i",
        )  # fmt: skip


@pytest.fixture
def root() -> Iterator[Path]:
    """A directory that nobody may enter: pytest's own is root's alone."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


CONDITIONS = tuple(_conditions())
#: The others only in the campaign: each costs some seconds.
_QUICK: Final = {"tmpfs-full", "target-mode-500", "work-mode-000", "source-mode-000"}


def _parameters() -> Iterator[ParameterSet]:
    for one in CONDITIONS:
        marks = [] if one.name in _QUICK else [pytest.mark.campaign]
        needs = {"ext4": [_EXT4], "tmpfs": [*_ON_TMPFS]}.get(one.kind, [])
        yield pytest.param(one, id=one.name, marks=[*marks, *needs])


@pytest.mark.parametrize("condition", tuple(_parameters()))
def test_the_intake_stops_and_goes_on_by_itself(condition: Condition, root: Path) -> None:
    with mounted(root, condition.kind, files=condition.files) as disk:
        house = House(root, disk.place, user=condition.user)
        try:
            house.start()
            _begin_midway(house, lambda: condition.begin(disk, house))
            obstacle, *others = house.until(lambda: _obstacles(house))
            assert others == []
            assert obstacle.key == condition.key
            assert condition.says in obstacle.what
            assert condition.advises in obstacle.advice
            event = house.until(
                lambda: next(
                    (e for e in house.events("intake.paused") if str(obstacle.path) in str(e["obstacles"])), None
                )
            )
            assert condition.advises in event["advice"][0]
            seen = house.until(lambda: _seen(house, "paused"))
            assert 0 < seen.paused_since <= seen.time
            # What is published already may go; of the rest nothing is given up.
            house.deliver()
            before = sum(house.delivered.values())
            assert before < sum(house.expected.values())
            states = house.setup.states()
            assert not states["held"]
            assert not states["corrupt"]
            condition.end(disk, house)
            house.until(lambda: _seen(house, "working"), delivering=True)
            house.put(_LATER)
            house.until(house.is_done, delivering=True)
            assert house.events("intake.resumed")
            assert _obstacles(house) == ()
            assert house.stop() == 0
        finally:
            condition.end(disk, house)
            house.kill()
        assert house.delivered == house.expected
        assert not list(house.setup.place.iterdir())
        assert not list((house.setup.state / "work").iterdir())


def _begin_midway(house: House, begin: Callable[[], None]) -> None:
    """Begin it when some messages have gone through, some are in hand, and many still wait: however slow this is."""
    house.put(_FIRST)
    house.until(lambda: sum(house.delivered.values()) >= 5, delivering=True)
    with house.standing_still():
        waiting = len([*house.setup.place.glob("*-H")])
        house.put(max(0, _FIRST // 2 - waiting))
        begin()


def _obstacles(house: House) -> tuple[Obstacle, ...]:
    return look(house.setup.config).obstacles


def _seen(house: House, condition: str) -> Overview | None:
    overview = look(house.setup.config)
    return overview if overview.condition == condition else None


@_EXT4
@pytest.mark.campaign
def test_a_disk_that_the_kernel_made_read_only(root: Path) -> None:
    """Nothing can be written any more: respool stays and says so; mounted again, all goes on."""
    with mounted(root, "ext4") as disk:
        house = House(root, disk.place)
        try:
            house.start()

            def abort() -> None:
                # Exim, too, makes durable what it has done.
                os.sync()
                disk.abort()

            _begin_midway(house, abort)
            event = house.until(lambda: next(iter(house.events("intake.paused")), None))
            assert "Read-only file system" in event["error"]
            (obstacle,) = house.until(lambda: _seen(house, "paused")).obstacles
            assert "read-only" in obstacle.what
            assert house.stop() == 0
            assert not house.events("worker.died")
            disk.unmount()
            assert disk.mount()
            house.start()
            house.put(_LATER)
            house.until(house.is_done, delivering=True)
            assert house.stop() == 0
        finally:
            house.kill()
        assert house.delivered == house.expected
        assert not list(house.setup.place.iterdir())


@pytest.mark.parametrize(
    "kind",
    [pytest.param("tmpfs", marks=_ON_TMPFS), pytest.param("ext4", marks=[_EXT4, pytest.mark.campaign])],
)
def test_started_on_a_full_disk(root: Path, kind: str) -> None:
    """It can't begin, says why and that this will pass; with room it goes on where it was killed."""
    with mounted(root, kind) as disk:
        house = House(root, disk.place)
        try:
            house.put(_FIRST)
            disk.fill()
            house.start()
            assert house.wait() == 75
            assert "no space is left" in house.tail()
            disk.relieve()
            house.start()
            house.until(lambda: sum(house.delivered.values()) >= 5, delivering=True)
            house.kill()
            disk.fill()
            # All that it needs to begin is there already.
            house.start()
            house.until(lambda: _seen(house, "paused"))
            house.until(lambda: house.events("intake.paused"))
            disk.relieve()
            house.until(house.is_done, delivering=True)
            assert house.stop() == 0
        finally:
            house.kill()
        assert house.delivered == house.expected


def test_a_log_that_can_not_be_written_stops_no_mail(root: Path) -> None:
    house = House(root, root)
    try:
        house.start(log_to="/dev/full")
        house.put(_LATER)
        house.until(house.is_done, delivering=True)
        assert house.stop() == 0
    finally:
        house.kill()
    assert house.delivered == house.expected


def test_a_file_that_is_closed_to_us_stops_nobody_else(root: Path) -> None:
    """Root copied a pair into the source by hand: the others go on, without a pause of the intake."""
    house = House(root, root, user=NOBODY)
    try:
        house.put(1)
        closed = [*house.setup.place.iterdir()]
        for path in closed:
            path.chmod(0o600)
            os.chown(path, 0, 0)
        house.start()
        house.until(lambda: house.events("message.unreadable"))
        house.put(_LATER)
        house.until(lambda: sum(house.delivered.values()) == _LATER, delivering=True)
        assert not house.events("intake.paused")
        house.until(lambda: _seen(house, "working"))
        for path in closed:
            os.chown(path, NOBODY, NOBODY)
        assert house.stop() == 0
        house.start()
        house.until(house.is_done, delivering=True)
        assert house.stop() == 0
    finally:
        house.kill()
    assert house.delivered == house.expected
