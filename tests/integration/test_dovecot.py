"""lookups.dovecot against Debian's Dovecot, started privately."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from respool.errors import ConfigError, TemporaryError
from respool.lookups.dovecot import DovecotAuth

from .dovecot import Dovecot

USERS = {"anna@example.test": "correct horse", "zoe@example.test": "pässwörd"}

pytestmark = pytest.mark.system("dovecot")


@pytest.fixture(scope="module")
def dovecot() -> Iterator[Dovecot]:
    running = Dovecot(USERS)
    running.start()
    try:
        yield running
    finally:
        running.stop()


def clients(dovecot: Dovecot) -> dict[str, DovecotAuth]:
    return {
        "unix": DovecotAuth(str(dovecot.socket)),
        "inet": DovecotAuth(f"127.0.0.1 {dovecot.port}"),
        "tls": DovecotAuth(f"127.0.0.1 {dovecot.tls_port}", tls=True, ca_file=str(dovecot.certificate)),
    }


@pytest.mark.parametrize("way", ["unix", "inet", "tls"])
def test_right_and_wrong_passwords(dovecot: Dovecot, way: str) -> None:
    client = clients(dovecot)[way]
    for name, password in USERS.items():
        assert client.check(name, password, remote="127.0.0.1") == name
        assert client.check(name, password + "x") is None
    assert client.check("ANNA@example.test", "correct horse") == "anna@example.test"
    assert client.check("nobody@example.test", "correct horse") is None
    assert client.check("anna@example.test", "") is None
    assert client.check("", "correct horse") is None
    assert client.check("anna@example.test\0", "correct horse") is None


def test_dovecot_knows_who_asks_and_for_whom(dovecot: Dovecot) -> None:
    assert clients(dovecot)["unix"].check("anna@example.test", "wrong", remote="192.0.2.7") is None
    assert "anna@example.test,192.0.2.7" in dovecot.log()


def test_many_at_once(dovecot: Dovecot) -> None:
    client = clients(dovecot)["unix"]
    answers: list[str | None] = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.check("anna@example.test", "correct horse")))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == ["anna@example.test"] * 20


def test_dovecot_gives_no_tls_of_its_own(dovecot: Dovecot) -> None:
    """Why a tunnel stands for TLS here: a listener of its auth service says hello in the clear in spite of ssl = yes."""
    with socket.create_connection(("127.0.0.1", dovecot.ssl_port), timeout=60) as connection:
        assert connection.recv(8) == b"VERSION\t"
    client = DovecotAuth(f"127.0.0.1 {dovecot.ssl_port}", tls=True, ca_file=str(dovecot.certificate))
    with pytest.raises(TemporaryError):
        client.check("anna@example.test", "correct horse")
    assert "correct horse" not in dovecot.log()


def test_a_certificate_that_nobody_vouches_for_gets_no_password(dovecot: Dovecot) -> None:
    client = DovecotAuth(f"127.0.0.1 {dovecot.tls_port}", tls=True)
    with pytest.raises(TemporaryError, match="certificate"):
        client.check("anna@example.test", "correct horse")
    assert "correct horse" not in dovecot.log()


def test_a_plain_client_at_the_tls_port_is_told_so_in_time(dovecot: Dovecot) -> None:
    client = DovecotAuth(f"127.0.0.1 {dovecot.tls_port}", timeout=1.0)  # the tunnel waits for TLS
    with pytest.raises(TemporaryError):
        client.check("anna@example.test", "correct horse")


def test_the_master_socket_is_refused(dovecot: Dovecot) -> None:
    with pytest.raises(TemporaryError, match="auth-master"):
        DovecotAuth(str(dovecot.master_socket), timeout=2.0).check("anna@example.test", "correct horse")


def test_no_password_in_the_clear_to_another_host() -> None:
    with pytest.raises(ConfigError, match="TLS or not at all"):
        DovecotAuth("192.0.2.1 12345")
