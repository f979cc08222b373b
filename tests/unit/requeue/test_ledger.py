"""The ledger: who was first owns a recipient, whatever happens to the others."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from respool.requeue import durable, ledger_file
from respool.requeue import ledger as ledgers
from respool.requeue.ledger import Ledger, key_of, open_for_reading, renew, restore
from respool.requeue.ledger_file import LedgerError
from respool.requeue.state import Claim, StateDirectory
from respool.sidecar.config import LedgerSection
from respool.spool.ids import MessageId

ID = MessageId("1xV9DW-000000007cS-1lp7")
RECIPIENTS = (b"a@x.example", b"b@x.example", b"c@x.example")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    opened = StateDirectory(str(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def ledger(state: StateDirectory) -> Iterator[Ledger]:
    opened = Ledger(state)
    yield opened
    opened.close()


def claim(state: StateDirectory, number: int, place: str = "work") -> Claim:
    made = Claim(number, ID)
    os.mkdir(made.name, dir_fd=state.states[place])
    return made


def test_the_first_claim_owns_and_later_ones_get_the_rest(state: StateDirectory, ledger: Ledger) -> None:
    first, second = claim(state, 1), claim(state, 2)
    assert ledger.put(first, 7, RECIPIENTS[:2]) == set(RECIPIENTS[:2])
    assert ledger.put(second, 7, RECIPIENTS) == {RECIPIENTS[2]}
    # The same question has the same answer.
    assert ledger.put(first, 7, RECIPIENTS[:2]) == set(RECIPIENTS[:2])
    assert ledger.put(second, 7, RECIPIENTS) == {RECIPIENTS[2]}
    # Another reception that happens to have the id is another message.
    assert ledger.put(second, 8, RECIPIENTS) == set(RECIPIENTS)


@pytest.mark.parametrize("place", ["work", "deferred", "held", "corrupt"])
def test_an_entry_counts_while_its_claim_is_in_any_state(state: StateDirectory, ledger: Ledger, place: str) -> None:
    ledger.put(claim(state, 1, place), 7, RECIPIENTS)
    assert ledger.put(claim(state, 2), 7, RECIPIENTS) == frozenset()


def test_an_entry_whose_claim_is_gone_blocks_nobody(state: StateDirectory, ledger: Ledger) -> None:
    ledger.put(Claim(1, ID), 7, RECIPIENTS)
    assert ledger.put(claim(state, 2), 7, RECIPIENTS) == set(RECIPIENTS)


def test_settled_entries_count_without_a_directory_until_they_expire(
    state: StateDirectory, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = claim(state, 1)
    ledger.settle(first, 7, ledger.put(first, 7, RECIPIENTS))
    os.rmdir(first.name, dir_fd=state.states["work"])
    assert ledger.put(claim(state, 2), 7, RECIPIENTS) == frozenset()
    assert ledger.owned_by(first, 7, RECIPIENTS) == set(RECIPIENTS)
    assert ledger.sweep() == 0
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 15 * 86400)
    assert ledger.put(Claim(3, ID), 7, RECIPIENTS) == set(RECIPIENTS)
    assert ledger.sweep() == 3
    assert [entry.settled for entry in ledger.entries()] == [False] * 3


def test_sweep_goes_through_a_large_ledger_in_pieces(
    state: StateDirectory, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_SWEPT_AT_ONCE", 10)
    ledger.settle(Claim(1, ID), 7, [b"r%d@x.example" % number for number in range(35)])
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 15 * 86400)
    assert [ledger.sweep() for _ in range(5)] == [10, 10, 10, 5, 0]


def test_settled_survives_and_owned_is_restored_in_claim_order(state: StateDirectory, tmp_path: Path) -> None:
    before = Ledger(state)
    settled, older, younger = Claim(1, ID), claim(state, 2, "held"), claim(state, 3)
    before.settle(settled, 7, RECIPIENTS[:1])
    before.close()
    renew(state)
    after = Ledger(state)
    assert restore(after, state, lambda _place, _claim: (7, RECIPIENTS)) == 2
    assert after.owned_by(older, 7, RECIPIENTS) == set(RECIPIENTS[1:])
    assert after.owned_by(younger, 7, RECIPIENTS) == frozenset()
    after.close()
    assert [(entry.claim, entry.settled) for entry in open_for_reading(str(tmp_path))] == [
        (2, False), (2, False), (1, True),
    ]  # fmt: skip


def test_the_map_grows_and_stops_at_its_bound(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_FIRST_SIZE", 1 << 16)
    ledger = Ledger(state, largest=1 << 20)
    names = [b"%d@%b.example" % (number, b"x" * 200) for number in range(20000)]
    with pytest.raises(LedgerError, match="largest size"):
        ledger.settle(Claim(1, ID), 7, names)
    # What fits still goes in.
    ledger.settle(Claim(1, ID), 7, names[:1500])
    assert len(ledger.owned_by(Claim(1, ID), 7, names)) == 1500
    ledger.close()


def test_threads_share_commits_and_each_recipient_has_one_owner(
    state: StateDirectory, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits = 0
    real = ledger_file.commit

    def counted(transaction: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 1:
            # Two others at least come during the first, however fast the disk is; they share the next.
            deadline = time.monotonic() + 60
            while len(ledger._owned._waiting) < 2 and time.monotonic() < deadline:
                time.sleep(0.001)
        real(transaction)

    monkeypatch.setattr(ledger_file, "commit", counted)
    claims = [claim(state, number) for number in range(1, 17)]
    answers: dict[int, frozenset[bytes]] = {}
    barrier = threading.Barrier(len(claims))

    def put(mine: Claim) -> None:
        barrier.wait()
        answers[mine.number] = ledger.put(mine, 7, RECIPIENTS)
        ledger.settle(mine, 7, answers[mine.number])

    threads = [threading.Thread(target=put, args=(mine,)) for mine in claims]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(map(len, answers.values())) == len(RECIPIENTS)
    assert set().union(*answers.values()) == set(RECIPIENTS)
    assert commits < 2 * len(claims)


def test_processes_grow_the_map_under_each_other(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_FIRST_SIZE", 1 << 16)
    children: list[int] = []
    for number in (1, 2, 3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                mine = Ledger(state)
                for round_ in range(30):
                    names = [b"%d.%d@%b.example" % (number, round_ * 20 + n, b"x" * 200) for n in range(20)]
                    mine.settle(Claim(number, ID), 7, names)
                mine.close()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    ledger = Ledger(state)
    assert sum(1 for _ in ledger.entries()) == 3 * 600
    ledger.close()


def test_keys_sort_by_id_and_hold_any_recipient() -> None:
    assert len(key_of(ID, 7, b"x" * 100000)) == 23 + 8 + 16
    assert key_of(ID, 7, b"a") != key_of(ID, 7, b"b") != key_of(ID, 8, b"b")


def test_an_entry_expires_at_its_second(state: StateDirectory, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_800_000_000
    monkeypatch.setattr(time, "time", lambda: float(now))
    ledger.settle(Claim(1, ID), 7, RECIPIENTS)
    expiry = int(ledgers.EXPIRY_SECONDS)
    monkeypatch.setattr(time, "time", lambda: float(now + expiry - 1))
    assert ledger.put(claim(state, 2), 7, RECIPIENTS) == frozenset()
    assert ledger.sweep() == 0
    monkeypatch.setattr(time, "time", lambda: float(now + expiry))
    assert ledger.put(claim(state, 3), 7, RECIPIENTS) == set(RECIPIENTS)
    assert ledger.sweep() == len(RECIPIENTS)


def test_an_entry_shows_the_begin_of_a_long_recipient(ledger: Ledger) -> None:
    ledger.settle(Claim(1, ID), 7, [b"x" * 1000])
    (entry,) = ledger.entries()
    assert entry.recipient == b"x" * 320
    assert (entry.id, entry.received_time, entry.claim, entry.settled) == (ID, 7, 1, True)


def test_entries_of_the_ids_that_begin_so(ledger: Ledger) -> None:
    other = MessageId("1xV9DX-000000007cS-1lp7")
    ledger.settle(Claim(1, ID), 7, RECIPIENTS)
    ledger.settle(Claim(2, other), 7, RECIPIENTS[:1])
    assert [entry.id for entry in ledger.entries(ID)] == [ID] * 3
    assert [entry.id for entry in ledger.entries("1xV9D")] == [ID] * 3 + [other]
    assert list(ledger.entries("1xV9E")) == []


def test_what_is_settled_leaves_the_entries_of_work_under_way(state: StateDirectory, ledger: Ledger) -> None:
    first = claim(state, 1)
    ledger.settle(first, 7, ledger.put(first, 7, RECIPIENTS[:2]))
    ledger.put(claim(state, 2), 7, RECIPIENTS)
    assert [(entry.claim, entry.settled) for entry in ledger.entries()] == [(2, False), (1, True), (1, True)]


def test_what_is_settled_is_let_go_at_the_end(state: StateDirectory, tmp_path: Path) -> None:
    ledger = Ledger(state)
    first = claim(state, 1)
    ledger.settle(first, 7, ledger.put(first, 7, RECIPIENTS))
    ledger.close()
    assert [entry.settled for entry in open_for_reading(str(tmp_path))] == [True] * 3


def test_a_claim_that_changes_its_state_during_the_look_is_found(
    state: StateDirectory, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = claim(state, 1)
    ledger.put(moving, 7, RECIPIENTS)
    looks = 0
    real = durable.exists

    def exists(name: str, *, at: int) -> os.stat_result | None:
        nonlocal looks
        looks += 1
        # Gone from where it will be looked for, and not yet where it was looked for.
        return None if looks <= len(state.states) else real(name, at=at)

    monkeypatch.setattr(durable, "exists", exists)
    assert ledger.put(claim(state, 2), 7, RECIPIENTS) == frozenset()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_belongs_to_the_owner_of_the_state_directory(tmp_path: Path) -> None:
    os.chown(tmp_path, 65534, 65533)
    state = StateDirectory(str(tmp_path))
    ledger = Ledger(state)
    ledger.close()
    state.close()
    made = [tmp_path / "ledger", *(tmp_path / "ledger").iterdir()]
    assert len(made) == 5
    assert {(path.stat().st_uid, path.stat().st_gid) for path in made} == {(65534, 65533)}


def test_all_who_wait_during_a_commit_share_the_next(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = 5
    commits = 0
    entered = threading.Event()
    real = ledger_file.commit

    def commit(transaction: Any) -> None:
        nonlocal commits
        commits += 1
        if commits == 1:
            entered.set()
            deadline = time.monotonic() + 60
            while len(ledger._settled._waiting) < waiting and time.monotonic() < deadline:
                time.sleep(0.001)
        real(transaction)

    monkeypatch.setattr(ledger_file, "commit", commit)
    names = [b"%d@x.example" % number for number in range(waiting + 1)]
    threads = [threading.Thread(target=ledger.settle, args=(Claim(1, ID), 7, [name])) for name in names]
    threads[0].start()
    assert entered.wait(60)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join()
    assert commits == 2
    assert {entry.recipient for entry in ledger.entries()} == set(names)


def test_a_sweep_goes_on_behind_what_stays_and_begins_anew_at_the_end(
    state: StateDirectory, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledgers, "_SWEPT_AT_ONCE", 10)
    start = time.time()
    for number, age in enumerate([0] * 25 + [15] * 4):
        monkeypatch.setattr(time, "time", lambda age=age: start - age * 86400)
        # Keys are in order of the time of reception.
        ledger.settle(Claim(1, ID), number, [b"r@x.example"])
    monkeypatch.setattr(time, "time", lambda: start)
    assert [ledger.sweep() for _ in range(3)] == [0, 0, 4]
    assert len([*ledger.entries()]) == 25
    monkeypatch.setattr(time, "time", lambda: start + 15 * 86400)
    assert [ledger.sweep() for _ in range(4)] == [10, 10, 5, 0]


def test_a_sweep_lets_go_of_what_is_settled(state: StateDirectory, ledger: Ledger) -> None:
    first = claim(state, 1)
    ledger.settle(first, 7, ledger.put(first, 7, RECIPIENTS))
    assert sum(not entry.settled for entry in ledger.entries()) == 3
    ledger.sweep()
    assert sum(not entry.settled for entry in ledger.entries()) == 0


def test_who_owned_what_is_forgotten_and_what_is_settled_stays(state: StateDirectory) -> None:
    ledger = Ledger(state)
    ledger.put(claim(state, 1), 7, RECIPIENTS[:1])
    ledger.settle(Claim(2, ID), 7, RECIPIENTS[1:])
    ledger.close()
    renew(state)
    ledger = Ledger(state)
    assert [(entry.settled, entry.claim) for entry in ledger.entries()] == [(True, 2), (True, 2)]
    ledger.close()
    renew(state)


def test_its_directory_is_durable_once_it_is_there(state: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(durable, "sync", synced.append)
    Ledger(state).close()
    assert synced == [state.descriptor]
    Ledger(state).close()
    assert synced == [state.descriptor]


def test_only_what_is_settled_is_synced_and_a_look_writes_nothing(
    state: StateDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[str, bool, bool]] = []

    class Noted(ledger_file.LmdbFile):
        def __init__(self, path: str, largest: int, *, synced: bool, read_only: bool = False) -> None:
            opened.append((os.path.basename(path), synced, read_only))
            super().__init__(path, largest, synced=synced, read_only=read_only)

    monkeypatch.setattr(ledgers, "LmdbFile", Noted)
    Ledger(state).close()
    assert opened == [("owned", False, False), ("settled", True, False)]
    assert [*open_for_reading(str(tmp_path))] == []
    assert [(name, read_only) for name, _, read_only in opened[2:]] == [("owned", True), ("settled", True)]


def test_nothing_stays_open(state: StateDirectory, tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    Ledger(state).close()
    assert len([*open_for_reading(str(tmp_path))]) == 0
    assert os.listdir("/proc/self/fd") == before


def test_without_a_word_it_is_as_the_configuration_has_it() -> None:
    section = LedgerSection()
    defaults = Ledger.__init__.__kwdefaults__
    assert defaults == {"expiry_seconds": section.expire_days * 86400, "largest": section.largest_mib << 20}
