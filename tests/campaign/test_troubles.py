"""Everything that the sidecar depends on, broken while mail flows, and mended: each message exactly once."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fault.conditions import may_mount, mounted

from .broken_dns import MOODS, Mood
from .house import House

pytestmark = pytest.mark.campaign

BEFORE, DURING, AFTER = 20, 60, 20


def through(house: House, trouble: Callable[[], None], relief: Callable[[], None], *, seconds: float = 6.0) -> None:
    """Mail before, during and after a trouble; all of it has to arrive."""
    house.put(BEFORE)
    house.start()
    house.wait_until(lambda: len(house.arrived()) >= BEFORE // 2)
    trouble()
    for _ in range(DURING // 10):
        house.put(10)
        time.sleep(seconds * 10 / DURING)
    relief()
    house.put(AFTER)
    house.wait_until_settled()
    assert house.stop() == 0, house.log()[-4000:]
    house.assert_each_once()
    sys.stderr.write(f"\n{os.environ.get('PYTEST_CURRENT_TEST', '')}: {house.summary()}\n")


@pytest.mark.parametrize("mood", MOODS)
def test_dns_in_every_mood(tmp_path: Path, mood: Mood) -> None:
    with House(tmp_path / "house") as house:

        def get(new: Mood) -> Callable[[], None]:
            return lambda: setattr(house.dns, "mood", new)

        through(house, get(mood), get("well"))
        assert house.dns.asked


def test_dccifd_goes_away(tmp_path: Path) -> None:
    with House(tmp_path / "house") as house:
        through(house, lambda: setattr(house.dcc, "answer", lambda _: None), lambda: None)


@pytest.mark.parametrize("how", ["gone", "garbage", "truncated", "emptied", "unreadable", "rebuilt"])
def test_table_of_routes(tmp_path: Path, how: str) -> None:
    with House(tmp_path / "house") as house:

        def break_it() -> None:
            content = house.table.read_bytes()
            new = house.table.with_suffix(".broken")
            match how:
                case "gone":
                    house.table.unlink()
                case "garbage":
                    new.write_bytes(random.Random(1).randbytes(len(content)))
                    new.rename(house.table)
                case "truncated":
                    new.write_bytes(content[: len(content) // 2])
                    new.rename(house.table)
                case "emptied":
                    new.write_bytes(b"")
                    new.rename(house.table)
                case "unreadable":
                    new.mkdir()
                    house.table.unlink()
                    new.rename(house.table)
                case _:
                    for number in range(30):
                        house.routes.write_text(
                            "example.test: route=a.example.test\nother.example: queue=outside\n"
                            + "".join(f"d{n}.example: route=b.example\n" for n in range(number * 100))
                        )
                        house.build_table()

        def mend() -> None:
            if house.table.is_dir():
                house.table.rmdir()
            house.build_table()

        through(house, break_it, mend)


def test_key_file_vanishes(tmp_path: Path) -> None:
    with House(tmp_path / "house") as house:
        through(house, house.key.unlink, house.write_key)


def test_key_file_vanishes_and_workers_die(tmp_path: Path) -> None:
    """A new worker that finds no key is no reason to lose anything, nor to give up."""
    with House(tmp_path / "house") as house:

        def break_it() -> None:
            house.key.unlink()
            for worker in house.workers():
                os.kill(worker, signal.SIGKILL)

        through(house, break_it, house.write_key)


def test_signals_in_storms(tmp_path: Path) -> None:
    with House(tmp_path / "house") as house:
        chance = random.Random(3)

        def storm() -> None:
            for _ in range(300):
                house.signal(chance.choice([signal.SIGHUP, signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH]))
                for worker in house.workers():
                    os.kill(worker, chance.choice([signal.SIGHUP, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG]))
                time.sleep(0.005)

        through(house, storm, lambda: None)


def test_workers_killed_and_stopped(tmp_path: Path) -> None:
    with House(tmp_path / "house") as house:
        chance = random.Random(4)

        def storm() -> None:
            for _ in range(12):
                house.put(5)
                for worker in house.workers():
                    if chance.random() < 0.5:
                        os.kill(worker, signal.SIGKILL)
                time.sleep(0.5)

        through(house, storm, lambda: None)


def test_killed_whole_and_started_again(tmp_path: Path) -> None:
    with House(tmp_path / "house") as house:
        chance = random.Random(5)
        house.put(10)
        for _ in range(15):
            house.put(10)
            house.start()
            time.sleep(chance.uniform(0.5, 2.0))
            house.kill()
        house.start()
        house.wait_until_settled()
        assert house.stop() == 0
        house.assert_each_once()


@pytest.mark.parametrize("seconds", [-3600, 3600, 90 * 86400])
def test_the_clock_jumps(tmp_path: Path, seconds: int) -> None:
    """The wall clock of the sidecar alone, by a module that every worker imports."""
    code = (
        "if number == 25: time.time_now = time.time\n"
        f"        if number == 25: time.time = lambda real=time.time_now: real() + {seconds}\n"
        "        return proceed()"
    )
    with House(tmp_path / "house", plugin=code) as house:
        through(house, lambda: None, lambda: None)


def test_reloads_in_storms(tmp_path: Path) -> None:
    """SIGHUP upon SIGHUP, the file good and bad by turns: the old workers finish what they have in hand."""
    with House(tmp_path / "house") as house:
        good, chance = house.configuration.read_text(), random.Random(7)

        def storm() -> None:
            for _ in range(60):
                bad = chance.random() < 0.3
                house.configuration.write_text("nonsense = [" if bad else good + f"# {chance.random()}\n")
                house.signal(signal.SIGHUP)
                time.sleep(chance.uniform(0, 0.3))
            house.configuration.write_text(good)
            house.signal(signal.SIGHUP)

        through(house, storm, lambda: None)
        assert '"event":"sidecar.reloaded"' in house.log()
        assert '"event":"sidecar.reload_refused"' in house.log()


#: What a plugin does to the thread that watches the source, by the name of the class that it is of.
_ITS_THREAD = "(one for one in threading.enumerate() if type(one).__name__ == 'InotifyFD')"
OBSERVER = {
    "descriptor closed": f"[os.close(vars(one)['_inotify_fd']) for one in {_ITS_THREAD}]",
    "descriptor another's": f"[os.dup2(os.open('/dev/zero', 0), vars(one)['_inotify_fd']) for one in {_ITS_THREAD}]",
    "thread killed": f"[__import__('ctypes').pythonapi.PyThreadState_SetAsyncExc(__import__('ctypes').c_ulong(one.ident),"
    f" __import__('ctypes').py_object(SystemExit)) for one in {_ITS_THREAD}]",
}


@pytest.mark.parametrize("how", OBSERVER)
def test_the_observer_dies(tmp_path: Path, how: str) -> None:
    # Once: a part of a message that was divided would do it to whoever has the descriptor by then.
    code = (
        "if number in (8, 40) and number not in self.__dict__.setdefault('done', set()):\n"
        f"            self.done.add(number); {OBSERVER[how]}\n        return proceed()"
    )
    # No scan comes to the rescue: mail goes on because the observer is started again.
    with House(tmp_path / "house", plugin=code, scan_seconds=3600) as house:
        through(house, lambda: None, lambda: None)
        assert '"event":"watch.died"' in house.log()


@pytest.mark.skipif(not may_mount(), reason="only who may mount")
@pytest.mark.parametrize("kind", ["tmpfs", "ext4"])
def test_a_small_disk_is_full(tmp_path: Path, kind: str) -> None:
    """Everything is on it, the log too; what is in the source by then has to arrive once there is room."""
    with mounted(tmp_path, kind) as disk, House(disk.place / "house") as house:
        house.put(150)
        house.start()
        house.wait_until(lambda: len(house.arrived()) >= 10)
        for _ in range(3):
            disk.fill()
            time.sleep(4)
            disk.relieve()
            house.put(20)
        house.wait_until_settled()
        assert house.stop() == 0
        house.assert_each_once()
        sys.stderr.write(f"\n{kind} full three times: {house.summary()}\n")


def test_the_clock_of_the_exporting_exim_is_set_back(tmp_path: Path) -> None:
    """Ids go back by an hour; and when the clock passes the same seconds again, ids come a second time."""
    with House(tmp_path / "house") as house:
        house.start()
        first = house.put(50)
        again = house.put(50, clock_offset=-3600)
        assert max(again) < min(first)
        house.wait_until_settled()
        house.put(100, clock_offset=-3600, ids=[*again, *first])
        house.wait_until_settled()
        assert house.stop() == 0
        house.assert_each_once()
        sys.stderr.write(f"\nclock set back: {house.summary()}\n")


_GROW = """
import sys, lmdb
size = 4 << 20
for number in range(200):
    size += 1 << 20
    with lmdb.open(sys.argv[1], subdir=False, map_size=size) as environment, environment.begin(write=True) as change:
        for entry in range(200):
            change.put(b"filler-%d-%d" % (number, entry), b"x" * 400)
    print(number, flush=True)
"""


def test_the_table_of_routes_is_resized_by_another_process(tmp_path: Path) -> None:
    """Written in place, its map larger each time: readers have mapped less than there is."""
    with House(tmp_path / "house") as house:
        writers: list[subprocess.Popen[bytes]] = []

        def begin() -> None:
            command = [sys.executable, "-c", _GROW, str(house.table)]
            writers.append(subprocess.Popen(command, stdout=subprocess.PIPE))

        def end() -> None:
            (writer,) = writers
            writer.terminate()
            grown = writer.communicate(timeout=30)[0].count(b"\n")
            sys.stderr.write(f"\nresized {grown} times, to {house.table.stat().st_size >> 20} MiB")
            assert grown > 10

        through(house, begin, end)
        assert "could not be read" not in house.log()


def test_malformed_pairs_among_good_ones(tmp_path: Path) -> None:
    chance = random.Random(6)
    with House(tmp_path / "house") as house:
        house.start()
        bad = int(os.environ.get("RESPOOL_CAMPAIGN_MALFORMED", "10000"))
        for _ in range(bad // 100):
            house.put(2)
            put_malformed(house, chance, 100)
        house.wait_until_settled(1200)
        assert house.stop() == 0
        sys.stderr.write(f"\n{bad} malformed: {house.summary()}\n")
        assert not house.failures, house.failures
        # A mutation may leave a message that Exim would take as well: these have no number.
        assert house.arrived() == set(house.expected)
        assert all(count == 1 for (number, _), count in house.delivered.items() if number)
        assert len(house.in_state("corrupt")) + len(house.in_state("held")) <= bad


def put_malformed(house: House, chance: random.Random, count: int) -> None:
    """Pairs that begin as good ones and had bytes changed, lines removed, or ends cut off in -H or -D."""
    good = [path for path in sorted(Path("samples/spool").glob("*/*-H")) if "malformed" not in str(path)]
    for _ in range(count):
        path = chance.choice(good)
        old = path.name.removesuffix("-H")
        message_id = house.mint()
        header = path.read_bytes().replace(old.encode(), message_id.encode(), 1)
        data = path.with_name(f"{old}-D").read_bytes().replace(old.encode(), message_id.encode(), 1)
        match chance.randrange(6):
            case 0:
                header = header[: chance.randrange(len(header))]
            case 1:
                header = chance.randbytes(chance.randrange(3000))
            case 2:
                lines = header.split(b"\n")
                del lines[chance.randrange(1, 8)]
                header = b"\n".join(lines)
            case 3:
                data = data[: chance.randrange(len(old) + 2)]
            case 4:
                place = chance.randrange(len(message_id) + 3, len(header))
                header = header[:place] + bytes([chance.randrange(256)]) * chance.randrange(1, 5) + header[place + 1 :]
            case _:
                data = chance.randbytes(200)
        house.put_pair(message_id, header, data)
