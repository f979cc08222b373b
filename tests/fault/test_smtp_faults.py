"""Sending by SMTP with a server that dies, and with a sidecar that dies: the table of docs/smtp.md."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Literal

import pytest

from respool.requeue.smtp_server import SmtpServer

from ..scripted_smtp import EXTENSIONS, Death, ScriptedSmtp
from ..smtp_setup import SmtpSetup
from .harness import Fault, Mode, run

A, B, C = b"a@one.example", b"b@two.example", b"c@three.example"
CAMPAIGN = bool(os.environ.get("RESPOOL_CAMPAIGN"))

#: greeting, EHLO, MAIL, three RCPT, BDAT: the replies of one transaction, QUIT's behind them.
FINAL = 6
PLAIN = tuple(name for name in EXTENSIONS if name not in {b"CHUNKING", b"PIPELINING"})


def counted(server: ScriptedSmtp) -> Counter[bytes]:
    return Counter(recipient for taken in server.messages for recipient in taken.recipients)


def everybody(times: int = 1) -> Counter[bytes]:
    return Counter({b"<%b>" % address: times for address in (A, B, C)})


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("when", ["before", "within", "after"])
@pytest.mark.parametrize("chunking", [True, False])
def test_the_server_dies_at_each_reply(
    tmp_path: Path,
    when: Literal["before", "within", "after"],
    how: Literal["close", "reset"],
    *,
    chunking: bool,
) -> None:
    final = FINAL if chunking else FINAL + 1
    for number in range(final + 2):
        with ScriptedSmtp(extensions=EXTENSIONS if chunking else PLAIN) as server:
            server.server.death = Death(number, when, how)
            setup = SmtpSetup(tmp_path / str(number), server.port)
            setup.write(A, B, C)
            first = setup.once()
            if number > final:
                # Died at QUIT: that concerns nobody.
                assert (first, counted(server)) == (0, everybody())
                continue
            assert (first, len(setup.states()["deferred"])) == (1, 1), number
            # Only a server that takes a message and dies before it can say so has it twice.
            was_taken = number == final and when != "before"
            assert counted(server) == (everybody() if was_taken else Counter())
            setup.make_due()
            assert setup.once() == 0
            assert counted(server) == everybody(2 if was_taken else 1), number
            assert not any(setup.states().values())


@pytest.mark.parametrize("mode", ["kill-before", "kill-after"])
def test_the_sidecar_dies_at_each_change(tmp_path: Path, mode: Mode) -> None:
    with ScriptedSmtp() as server:
        setup = SmtpSetup(tmp_path / "count", server.port, recipients_per_message=1)
        setup.write(A, B, C)
        code, calls = run(setup)
        assert (code, counted(server)) == (0, everybody())
    doubled: list[int] = []
    for number in range(0, calls, 1 if CAMPAIGN else 3):
        with ScriptedSmtp() as server:
            setup = SmtpSetup(tmp_path / str(number), server.port, recipients_per_message=1)
            setup.write(A, B, C)
            code, _ = run(setup, Fault(number, mode))
            # A call that fails, as an unlink of what is not there, is not killed after.
            assert code < 0 or mode == "kill-after"
            assert run(setup)[0] == 0
            given = counted(server)
            assert set(given) == set(everybody()), number
            # One recipient at most: the one whose reply was not yet recorded.
            assert sorted(given.values(), reverse=True)[1:] == [1, 1], (number, given)
            assert max(given.values()) <= 2
            if given != everybody():
                doubled.append(number)
            assert not any(setup.states().values())
    # Between reply and record lie a few calls for each recipient, and no more.
    assert len(doubled) <= calls // 2


@pytest.mark.parametrize("mode", ["kill-before", "kill-after"])
def test_the_sidecar_dies_while_it_bounces(tmp_path: Path, mode: Mode) -> None:
    def answer(command: bytes) -> bytes | None:
        return b"550 5.1.1 nobody" if b"two" in command else None

    calls = 0
    for number in range(-1, 1000, 1 if CAMPAIGN else 4):
        if number > calls:
            break
        with ScriptedSmtp() as server:
            server.server.answer = answer
            setup = SmtpSetup(tmp_path / str(number), server.port, refused="bounce")
            setup.write(A, B)
            code, made = run(setup, Fault(number, mode) if number >= 0 else None)
            calls = calls or made
            assert code < 0 or mode == "kill-after" or not 0 <= number < calls, number
            assert run(setup)[0] == 0
            given = counted(server)
            assert given[b"<b@two.example>"] == 0
            assert 1 <= given[b"<a@one.example>"] <= 2
            # The notice may come twice, never not at all.
            assert 1 <= given[b"<alice@sender.example>"] <= 2, number
            assert not any(setup.states().values())
    assert calls > 0


def test_killed_between_reply_and_rename_is_sent_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing that SMTP can't guarantee, shown."""
    real = SmtpServer._give_back

    def die(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        os._exit(42)

    with ScriptedSmtp() as server:
        setup = SmtpSetup(tmp_path, server.port)
        setup.write(A)
        with monkeypatch.context() as patch:
            patch.setattr(SmtpServer, "_give_back", die)
            assert run(setup)[0] == 42
        assert run(setup)[0] == 0
        assert counted(server) == Counter({b"<a@one.example>": 2})
