"""In which order names are handed out, and that none is forgotten or waits for ever."""

from __future__ import annotations

import threading
import zlib

from respool.sidecar.intake import Intake
from respool.spool.directory import Found
from respool.spool.ids import MessageId, encode_base62


class Clock:
    """Time that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def found(second: int, number: int = 0) -> Found:
    return Found(MessageId(f"{encode_base62(1_800_000_000 + second, 6)}-{encode_base62(number, 6)}-00"))


def take(intake: Intake) -> Found:
    taken = intake.take()
    assert taken is not None
    assert isinstance(taken[0], Found)
    return taken[0]


def test_a_backlog_goes_oldest_first() -> None:
    intake = Intake()
    names = [found(second) for second in range(50)]
    intake.offer_all(names)
    assert [take(intake) for _ in names] == names


def test_new_mail_takes_turns_with_a_long_backlog() -> None:
    intake = Intake()
    intake.offer_all(found(second) for second in range(100_000))
    new = [found(200_000 + second) for second in range(10)]
    for name in new:
        intake.offer(name)
    first = [take(intake) for _ in range(20)]
    assert [name for name in first if name in new] == new
    assert [name for name in first if name not in new] == [found(second) for second in range(10)]


def test_a_flood_of_new_mail_does_not_starve_the_backlog() -> None:
    intake = Intake()
    intake.offer_all(found(second) for second in range(10))
    taken: list[Found] = []
    for number in range(40):
        intake.offer(found(500, number))
        intake.offer(found(501, number))
        taken.append(take(intake))
    assert [name for name in taken if name.id.received_time < 1_800_000_100] == [found(second) for second in range(10)]


def test_locked_messages_neither_starve_nor_are_starved() -> None:
    clock = Clock()
    intake = Intake(clock=clock)
    locked = [found(second) for second in range(1000)]
    intake.offer_all(locked)
    for name in locked:
        assert take(intake) == name
        intake.again(name, 0.001)
    intake.offer_all(found(5000 + second) for second in range(1000))
    clock.now += 1
    first = [take(intake) for _ in range(100)]
    assert 40 <= sum(name in locked for name in first) <= 60


def test_the_wait_for_a_locked_message_doubles_up_to_two_seconds() -> None:
    clock = Clock()
    intake = Intake(clock=clock)
    intake.offer(found(1))
    waits: list[float] = []
    for _ in range(15):
        taken = intake.take()
        assert taken is not None
        name, wait = taken
        waits.append(wait)
        intake.again(name, wait)
        clock.now += wait
    assert waits == [min(0.001 * 2**n, 2.0) for n in range(15)]


def test_a_name_is_known_once_until_it_is_done() -> None:
    intake = Intake()
    for _ in range(3):
        intake.offer(found(1))
        intake.offer_all([found(1), found(2)])
    assert intake.waiting() == 2
    name = take(intake)
    intake.offer_all([name])
    intake.done(name)
    assert intake.waiting() == 1
    intake.offer_all([name])
    assert intake.waiting() == 2


def test_an_event_while_the_name_is_in_hand_is_not_lost() -> None:
    # -H comes, somebody looks, -D comes, somebody says that it was not there.
    intake = Intake()
    intake.offer(found(1))
    name = take(intake)
    intake.offer(name)
    intake.done(name)
    assert take(intake) == name
    intake.done(name)
    assert intake.waiting() == 0


def of_worker(number: int, count: int, *, how_many: int) -> list[Found]:
    names = (found(second) for second in range(10_000))
    return [name for name in names if zlib.crc32(name.id.encode()) % count == number][:how_many]


def test_another_workers_names_come_after_ones_own_and_do_come() -> None:
    clock = Clock()
    intake = Intake(0, 2, clock=clock)
    mine, other = of_worker(0, 2, how_many=20), of_worker(1, 2, how_many=20)
    intake.offer_all(sorted(mine + other))
    clock.now += 1
    assert [take(intake) for _ in mine] == mine
    assert [take(intake) for _ in other] == other


def test_another_workers_names_are_not_left_lying_by_a_busy_one() -> None:
    clock = Clock()
    intake = Intake(0, 2, clock=clock)
    mine, other = of_worker(0, 2, how_many=1000), of_worker(1, 2, how_many=5)
    intake.offer_all(sorted(mine + other))
    clock.now += 60
    assert {take(intake) for _ in range(12)} >= set(other)


def test_a_free_worker_leaves_anothers_names_a_moment() -> None:
    clock = Clock()
    intake = Intake(0, 2, clock=clock)
    (name,) = of_worker(1, 2, how_many=1)
    intake.offer(name)
    taken: list[Found] = []
    thread = threading.Thread(target=lambda: taken.append(take(intake)))
    thread.start()
    thread.join(0.02)
    assert taken == []
    clock.now += 0.05
    thread.join(60)
    assert taken == [name]


def test_closing_ends_every_wait() -> None:
    intake = Intake()
    results: list[object] = []
    threads = [threading.Thread(target=lambda: results.append(intake.take())) for _ in range(3)]
    for thread in threads:
        thread.start()
    intake.close()
    for thread in threads:
        thread.join(60)
    assert results == [None] * 3
