"""The dccifd client against a protocol-exact dccifd: answers, trouble, the circuit breaker."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respool.errors import ConfigError
from respool.lookups.dcc import DccAnswer, DccClient, DccError, DccRequest, parse_answer

from .dccifd import Dccifd, Request

REQUEST = DccRequest(
    client_address="192.0.2.1",
    client_name=b"mail.example.org",
    helo=b"helo.example.org",
    sender=b"alice@example.org",
    recipients=(b"a@one.example", b"b@two.example"),
)
CONTENT = (b"Subject: x\r\n\r\n", b"one\r\n", b"two\r\n")


def test_unix_socket(tmp_path: Path) -> None:
    with Dccifd(str(tmp_path / "dccifd")) as daemon:
        answer = DccClient(daemon.address).check(REQUEST, CONTENT)
    assert answer == DccAnswer(
        result="A",
        recipients="AA",
        header=(b"X-DCC-test-Metrics", b"dcc.example 1234; Body=1 Fuz1=2\n\tFuz2=many rep=90%"),
        counts=(("Body", 1), ("Fuz1", 2), ("Fuz2", float("inf")), ("rep", 90)),
    )
    assert daemon.requests == [
        Request(
            options=(b"header", b"no-grey"),
            client_address=b"192.0.2.1",
            client_name=b"mail.example.org",
            helo=b"helo.example.org",
            sender=b"alice@example.org",
            recipients=(b"a@one.example", b"b@two.example"),
            message=b"".join(CONTENT),
        )
    ]


@pytest.mark.parametrize("form", ["{} {}", "{}:{}"])
def test_tcp(form: str) -> None:
    with Dccifd() as daemon:
        assert DccClient(form.format(*daemon.address.split())).check(REQUEST, CONTENT).result == "A"
    assert len(daemon.requests) == 1


def test_local_submission_from_the_null_sender() -> None:
    with Dccifd() as daemon:
        DccClient(daemon.address).check(DccRequest(recipients=(b"a@one.example",)), CONTENT)
    (request,) = daemon.requests
    assert (request.client_address, request.client_name, request.helo, request.sender) == (
        b"127.0.0.1", b"", b"", b"<>",
    )  # fmt: skip


def test_strangers_write_no_lines() -> None:
    """Nothing from a message adds a line, or a user whose white list would count."""
    hostile = DccRequest(
        client_address="192.0.2.1",
        client_name=b"a\rb\nc",
        helo=b"x\nevil@x\n\nSubject: y",
        sender=b"a@b\rc",
        recipients=(b"victim@one.example\rroot", b"\n", b"x\x00y"),
    )
    with Dccifd() as daemon:
        DccClient(daemon.address).check(hostile, CONTENT)
    (request,) = daemon.requests
    assert request.client_name == b"a?b?c"
    assert request.helo == b"x?evil@x??Subject: y"
    assert request.sender == b"a@b?c"
    assert request.recipients == (b"victim@one.example?root", b"?", b"x?y")
    assert request.message == b"".join(CONTENT)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"A\nAA\n\n", DccAnswer(result="A", recipients="AA")),
        (b"R\nRR\n\n", DccAnswer(result="R", recipients="RR")),
        (b"G\nGG\n", DccAnswer(result="G", recipients="GG")),
        (b"T\n", DccAnswer(result="T")),
        (b"S\nAR\n\n", DccAnswer(result="A", recipients="AR")),
        (b"A\nA\n\n", DccAnswer(result="A")),
        (b"A\nAX\n\n", DccAnswer(result="A")),
        (b"A\r\nAA\r\n\r\n", DccAnswer(result="A", recipients="AA")),
        (b"A\nAA\nX-DCC-a: b\n\n", DccAnswer(result="A", recipients="AA", header=(b"X-DCC-a", b"b"))),
        (b"A\nAA\nX-DCC-a: b", DccAnswer(result="A", recipients="AA", header=(b"X-DCC-a", b"b"))),
        (b"A\nAA\nX-DCC-a: b\nBcc: x\n\n", DccAnswer(result="A", recipients="AA")),
        (b"A\nAA\nSubject: b\n\n", DccAnswer(result="A", recipients="AA")),
        (b"A\nAA\nX-DCC-a: b\x00\n\n", DccAnswer(result="A", recipients="AA")),
        (b"A\nAA\nX-DCC-a: b\xff\n\n", DccAnswer(result="A", recipients="AA")),
        (b"", None),
        (b"A", None),
        (b"AB\n", None),
        (b"X\nAA\n", None),
        (b"\nA\nAA\n", None),
    ],
)
def test_answers(content: bytes, expected: DccAnswer | None) -> None:
    assert parse_answer(content, 2) == expected


def test_a_long_header_is_kept_whole() -> None:
    field = b"X-DCC-long-Metrics: " + b"host 1; " + b" ".join(b"Fuz%d=%d" % (n, n) for n in range(60)) + b"\n"
    answer = parse_answer(b"A\nA\n" + field + b"\n", 1)
    assert answer is not None
    assert answer.header is not None
    assert len(answer.header[1]) > 400
    assert len(answer.counts) == 60


@given(st.binary(max_size=400) | st.from_regex(rb"[ARGTS]\n[ARG]{0,3}\nX-DCC[^\n]{0,30}(\n[ \t][^\n]{0,20}){0,3}\n\n"))
def test_no_answer_raises(content: bytes) -> None:
    answer = parse_answer(content, 2)
    if answer is not None and answer.header is not None:
        name, value = answer.header
        assert name.upper().startswith(b"X-DCC")
        assert all(line[:1] in {b" ", b"\t"} and line.strip() for line in value.split(b"\n")[1:])


def test_hostile_answer_is_read_in_bounded_time_and_memory() -> None:
    assert parse_answer(b"A\nAA\nX-DCC-a:" + b" \t" * 32_000 + b"\xff\n\n", 2) == DccAnswer(result="A", recipients="AA")
    with Dccifd(answer=lambda _: b"A\n" + b"x" * 10_000_000) as daemon, pytest.raises(DccError):
        DccClient(daemon.address).check(REQUEST, CONTENT)


def test_an_answer_before_the_end_of_the_message() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(1024)
            connection.sendall(b"R\nRR\n\n")
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65536):
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    content = (b"x" * 65536 for _ in range(100))
    assert DccClient(f"127.0.0.1:{listener.getsockname()[1]}").check(REQUEST, content).result == "R"
    thread.join(10)
    listener.close()


def test_timeouts() -> None:
    with Dccifd(answer=lambda _: None) as daemon:
        with pytest.raises(DccError, match="timed out"):
            DccClient(daemon.address, timeout_seconds=0.2).check(REQUEST, CONTENT)
        client = DccClient(daemon.address)
        with pytest.raises(DccError, match="timed out"):
            client.check(REQUEST, CONTENT, deadline=time.monotonic() + 0.2)
        with pytest.raises(DccError, match="timed out"):
            client.check(REQUEST, CONTENT, deadline=time.monotonic() - 1)


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(DccError, match="No such file"):
        DccClient(str(tmp_path / "dccifd")).check(REQUEST, CONTENT)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(DccError, match="refused"):
            DccClient(f"127.0.0.1 {unused.getsockname()[1]}").check(REQUEST, CONTENT)


def test_circuit_breaker() -> None:
    now = [0.0]
    answers: list[bytes] = [b"", b"A\nAA\n\n", b"", b""]
    with Dccifd(answer=lambda _: answers.pop(0)) as daemon:
        client = DccClient(daemon.address, failures_before_pause=2, pause_seconds=30, clock=lambda: now[0])

        def fails(reason: str) -> None:
            with pytest.raises(DccError, match=reason):
                client.check(REQUEST, CONTENT)

        fails("protocol")
        assert client.check(REQUEST, CONTENT).result == "A"  # one failure is no row of them
        fails("protocol")
        fails("protocol")
        for _ in range(5):
            fails("left alone after 2 failures")
        assert daemon.connections == 4
        now[0] = 31.0
        answers[:] = [b"", b"A\nAA\n\n"]
        fails("protocol")  # one tries, and the pause begins anew
        fails("left alone after 3 failures")
        now[0] = 62.0
        assert client.check(REQUEST, CONTENT).result == "A"
        answers[:] = [b"R\nRR\n\n"]
        assert client.check(REQUEST, CONTENT).result == "R"
        assert daemon.connections == 7


@pytest.mark.parametrize(
    "address", ["", "relative/path", "localhost", "host:0", "host:70000", "::1:25", "/" + "x" * 200, "a b c"]
)
def test_refused_addresses(address: str) -> None:
    with pytest.raises(ConfigError):
        DccClient(address)
