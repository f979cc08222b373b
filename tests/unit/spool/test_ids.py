import threading
import time

import pytest

from respool.spool.ids import IdMinter, MessageId, decode_base62, encode_base62


def test_the_worked_examples_of_both_shapes() -> None:
    old, new = MessageId("1xV9D2-0007Yr-05"), MessageId("1xV9DW-000000007cS-1lp7")
    assert (old.received_time, decode_base62(old[7:13]), decode_base62(old[14:])) == (1795360228, 29069, 5)
    assert (new.received_time, decode_base62(new[7:18]), decode_base62(new[19:])) == (1795360258, 29292, 422165)
    assert (old.body_offset, new.body_offset) == (19, 26)
    assert (old.split_directory, new.split_directory) == ("2", "W")
    assert (old.data_name, new.header_name, new.journal_name) == (f"{old}-D", f"{new}-H", f"{new}-J")


@pytest.mark.parametrize(
    "text",
    ["", "1xV9D2-0007Yr-05-H", "1xV9D2-0007Yr-0", "1xV9D2_0007Yr-05", "../../etc-passwd-00", "1xV9D2-0007Yr-0\n",
     "1xV9D2-0007Yr-05\n", "１xV9D2-0007Yr-05", "1xV9DW-000000007cS-1lp"],
)  # fmt: skip
def test_other_text_is_no_id(text: str) -> None:
    with pytest.raises(ValueError):
        MessageId(text)


def test_digits_there_and_back() -> None:
    for number in (0, 61, 62, 3843, 1795360228):
        assert decode_base62(encode_base62(number, 6)) == number
    assert encode_base62(62**2 + 5, 2) == "05"


@pytest.mark.parametrize("long", [True, False])
def test_minted_ids_are_new_and_sorted_by_time(long: bool) -> None:
    minter = IdMinter(long=long)
    minted = [minter.mint() for _ in range(8)]
    assert len(set(minted)) == 8
    assert all(message_id.is_long == long for message_id in minted)
    assert minted == sorted(minted)
    assert abs(minted[0].received_time - time.time()) <= 2


@pytest.mark.parametrize(("long", "number", "low", "high"), [(True, 3, 1_500_000, 2_000_000), (False, 3, 600, 800)])
def test_the_fraction_carries_the_localhost_number(long: bool, number: int, low: int, high: int) -> None:
    message_id = IdMinter(long=long, localhost_number=number).mint()
    assert low <= decode_base62(message_id.rpartition("-")[2]) < high


def test_threads_never_share_a_tick() -> None:
    minter = IdMinter(long=True)
    minted: list[MessageId] = []
    threads = [threading.Thread(target=lambda: minted.extend(minter.mint() for _ in range(50))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(minted)) == 200


@pytest.mark.parametrize(
    ("long", "number", "fraction"),
    [(True, None, 123_457), (True, 0, 61_728), (True, 16, 8_061_728), (False, None, 24), (False, 2, 424)],
)
def test_the_parts_of_a_minted_id(
    long: bool, number: int | None, fraction: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arithmetic of receive.c: microseconds, their halves where hosts share a spool, or ticks of 5 ms."""
    monkeypatch.setattr(time, "time_ns", lambda: 1_795_360_258_000_000_000)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: 7_000_000_000)
    minter = IdMinter(long=long, localhost_number=number)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: 7_123_457_999)
    monkeypatch.setattr("os.getpid", lambda: 29292)
    seconds, pid, rest = minter.mint().split("-")
    assert decode_base62(seconds) == 1_795_360_258
    assert decode_base62(pid) == 29292
    assert decode_base62(rest) == fraction


@pytest.mark.parametrize(("long", "tick"), [(True, 1e-6), (False, 5e-3)])
def test_a_second_id_waits_for_the_next_tick(long: bool, tick: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 7_000_000_000
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        assert len(slept) < 10, "it does not wait for the tick, but sleeps and looks again"
        now += round(seconds * 1e9)

    monkeypatch.setattr(time, "time_ns", lambda: 7_000_000_000)
    monkeypatch.setattr(time, "clock_gettime_ns", lambda _clock: now)
    monkeypatch.setattr(time, "sleep", sleep)
    minter = IdMinter(long=long)
    first = minter.mint()
    now += round(tick * 1e9 / 4) // 1000 * 1000
    second = minter.mint()
    assert second > first
    assert len(slept) == 1
    assert tick / 2 < slept[0] < tick * 1.001


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        # Base 36: of 2026, of 2001, and all digits of letters.
        ("TOWXYC-00000000MLO-0WHL", int("TOWXYC", 36)),
        ("GJDGXR-000MLO-RS", 999_999_999),
        ("ZZZZZZ-000MLO-RS", 36**6 - 1),
        # From here on, in base 62 it would be of 2242.
        ("9NKUO8-000MLO-RS", int("9NKUO8", 36)),
        ("9NKUO7-000MLO-RS", 2**33 - 1),
        # Base 62: of today, of the next century, and what no base 36 has.
        ("1xV9D2-0007Yr-05", 1795360228),
        ("9000AB-000MLO-RS", decode_base62("9000AB")),
        ("TOWXYc-000MLO-RS", decode_base62("TOWXYc")),
    ],
)
def test_the_time_of_a_base_36_id_is_read_as_such(text: str, seconds: int) -> None:
    assert MessageId(text).received_time == seconds
