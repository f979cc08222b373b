"""A named queue of a real Exim as source, while that Exim works on the same messages."""

from __future__ import annotations

import threading
from collections import Counter

import pytest

from respool.spool.header_file import parse_header_file

from .conftest import EximFactory
from .exim import Exim
from .sidecar import Sidecar

pytestmark = pytest.mark.exim

MESSAGE = b"From: a@sender.example\nMessage-ID: <%d@sender.example>\nSubject: hello\n\nbody\n"


def fill(exim: Exim, count: int) -> list[str]:
    with exim.client() as client:
        return [
            client.send(MESSAGE % number, sender="s@sender.example", recipients=["a@file.example", "b@file.example"])
            for number in range(count)
        ]


def messages(exim: Exim) -> Counter[tuple[bytes, str]]:
    """(Message-ID, recipient) of every delivery."""
    return Counter(
        (delivery.content.partition(b"Message-ID: <")[2].partition(b"@")[0], delivery.recipient)
        for delivery in exim.deliveries()
    )


def each_once(count: int) -> Counter[tuple[bytes, str]]:
    return Counter({(b"%d" % n, f"{who}@file.example"): 1 for n in range(count) for who in "ab"})


@pytest.mark.parametrize("split", [False, True])
def test_while_exim_runs_the_same_queue_and_delivers_by_hand(start_exim: EximFactory, split: bool) -> None:
    """Runners of the queue, ``exim -M`` in it, and the sidecar, all at once: each recipient once."""
    exim = start_exim(queue="scan", split=split)
    sidecar = Sidecar(exim, source="queue", requeue="split = true" if split else "")
    count = 40
    ids = fill(exim, count)
    assert exim.pairs("scan") == tuple(sorted(ids))
    sidecar.start()

    def runners() -> None:
        while exim.ids("scan") and sidecar.is_running():
            exim.run_queue("scan")

    def by_hand() -> None:
        for message_id in reversed(ids):
            exim.deliver(message_id, queue="scan")

    threads = [threading.Thread(target=runners), threading.Thread(target=by_hand)]
    exim.wait_for(lambda _: "sidecar.started" in sidecar.log())
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sidecar.until(lambda: not exim.ids("scan") and not sidecar.in_state("work"))
    assert sidecar.stop() == 0
    exim.run_queue(force=True)

    assert messages(exim) == each_once(count), sidecar.log()[-3000:]
    assert exim.ids("scan") == exim.ids() == ()
    assert exim.panic_log() == ""
    for state in ("work", "deferred", "held", "corrupt"):
        assert sidecar.in_state(state) == []
    # Without a share of the sidecar's nothing was shown.
    assert 0 < sidecar.log().count("message.requeued") <= count


@pytest.mark.parametrize("split", [False, True])
def test_the_journal_of_a_killed_delivery_goes_along(start_exim: EximFactory, split: bool) -> None:
    exim = start_exim(queue="scan", split=split)
    sidecar = Sidecar(exim, source="queue", requeue="split = true" if split else "")
    (message_id,) = fill(exim, 1)
    journal = exim.spool_file(message_id, "-J", "scan")
    journal.write_text("a@file.example\n")
    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    assert exim.ids("scan") == ()
    assert not [path for path in (exim.spool / "scan" / "msglog").rglob("*") if path.is_file()]
    header = exim.spool_file(message_id, "-H")
    envelope = parse_header_file(header.read_bytes(), file=header.name)
    assert [r.address for r in envelope.recipients if not envelope.is_delivered(r)] == [b"b@file.example"]
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "b@file.example")]


def test_frozen_and_thawed_messages_keep_their_state(start_exim: EximFactory) -> None:
    exim = start_exim(queue="scan")
    frozen, thawed = fill(exim, 2)
    exim.command("-qGscan", "-Mf", frozen, thawed)
    exim.command("-qGscan", "-Mt", thawed)
    sidecar = Sidecar(exim, source="queue")
    assert sidecar.once().returncode == 0
    states = {}
    for message_id in (frozen, thawed):
        header = exim.spool_file(message_id, "-H")
        envelope = parse_header_file(header.read_bytes(), file=header.name)
        states[message_id] = envelope.is_frozen, envelope.is_manually_thawed
    assert states == {frozen: (True, False), thawed: (False, True)}
    assert exim.command("-bp").count("*** frozen ***") == 1
