"""The parts of the web page that need no browser: passwords, limits, sessions, the text of a message."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from respool.errors import ConfigError, TemporaryError
from respool.sidecar.config import WebSection
from respool.sidecar.web.passwords import Limits, Operator, PasswordFile, hash_line, make_authenticator
from respool.sidecar.web.preview import decoded, preview, source, text_of_html
from respool.sidecar.web.sessions import Sessions
from respool.spool.body import BytesBody
from respool.spool.editing import add_header, remove_header
from respool.spool.envelope import Header
from respool.spool.header_file import parse_header_file
from respool.spool.message import Message
from tests.spool_corpus import SAMPLES


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_password_file(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text(f"# who\n\n{hash_line('anna', 'secret words')}\n")
    path.chmod(0o640)
    passwords = PasswordFile(str(path))
    anna = passwords.check("anna", "secret words", remote="")
    assert anna is not None
    assert anna.name == "anna"
    for name, word in (
        ("anna", "secret word"),
        ("anna", ""),
        ("bob", "secret words"),
        ("# who", ""),
        ("anna", "x" * 9999),
    ):
        assert passwords.check(name, word, remote="") is None
    path.write_text(hash_line("bob", "other words"))
    bob = passwords.check("bob", "other words", remote="")
    assert bob is not None
    assert bob.name == "bob"
    assert passwords.check("anna", "secret words", remote="") is None
    path.unlink()
    with pytest.raises(TemporaryError):
        passwords.check("bob", "other words", remote="")


def test_who_is_removed_or_gets_another_password_is_known_no_more(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    both = hash_line("anna", "secret words"), hash_line("bob", "other words")
    path.write_text("\n".join(both))
    path.chmod(0o640)
    passwords = PasswordFile(str(path))
    anna, bob = passwords.check("anna", "secret words", remote=""), passwords.check("bob", "other words", remote="")
    assert anna is not None
    assert bob is not None
    assert passwords.still_knows(anna)
    path.write_text(both[1])
    assert (passwords.still_knows(anna), passwords.still_knows(bob)) == (False, True)
    path.write_text(hash_line("bob", "a new one"))
    assert not passwords.still_knows(bob)
    path.unlink()
    with pytest.raises(TemporaryError):
        passwords.still_knows(bob)


@pytest.mark.parametrize(
    "line",
    ["anna", "anna:scrypt:1:8:1:AA==", "anna:md5:32768:8:1:AAAA:" + "A" * 44, "anna:scrypt:1048576:64:64:AAAA:" + "A" * 44,
     "anna:scrypt:32768:8:1:!:" + "A" * 44, "anna:scrypt:32768:8:1:AAAA:AAAA",
     *(f"anna:scrypt:{figures}:AAAA:" + "A" * 44 for figures in ("-2:8:1", "0:8:1", "1:8:1", "1000:8:1", "1024:0:1", "1024:8:-1"))],
)  # fmt: skip
def test_lines_that_are_none(tmp_path: Path, line: str) -> None:
    path = tmp_path / "passwords"
    path.write_text(line)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=":1: "):
        PasswordFile(str(path))


def test_a_password_file_that_all_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "passwords"
    path.write_text(hash_line("anna", "secret words"))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 640"):
        PasswordFile(str(path))


def test_somebody_must_say_who_may_log_in() -> None:
    for section in (WebSection(), WebSection(dovecot_socket="/x", password_file="/y"), WebSection(dovecot_socket="/x"),
                    WebSection(dovecot_socket="192.0.2.1 99", operators=("a",))):  # fmt: skip
        with pytest.raises(ConfigError):
            make_authenticator(section)


def test_limits_by_name_address_and_in_all() -> None:
    clock = Clock()
    limits = Limits(clock)
    assert [limits.begin("anna", f"10.0.0.{number}") for number in range(6)] == [True] * 5 + [False]
    assert limits.begin("bob", "10.0.0.1")
    limits.succeeded("bob", "10.0.0.1")
    clock.now += Limits.WINDOW_SECONDS + 1
    assert limits.begin("anna", "10.0.0.1")
    assert [limits.begin(f"name{number}", "10.0.0.9") for number in range(21)] == [True] * 20 + [False]
    assert sum(limits.begin(f"other{number}", f"10.1.{number}.1") for number in range(200)) == 79


def test_sessions_end() -> None:
    clock = Clock()
    sessions = Sessions(600, clock)
    token = sessions.begin(Operator("anna"))
    found = sessions.find(token)
    assert found is not None
    assert (found.operator.name, found.owns(found.form_token), found.owns("é")) == ("anna", True, False)
    assert sessions.find(token + "x") is None
    clock.now += 599
    assert sessions.find(token) is not None
    clock.now += 601
    assert sessions.find(token) is None
    token = sessions.begin(Operator("anna"))
    for _ in range(100):
        clock.now += 500
        sessions.find(token)
    assert sessions.find(token) is None  # twelve hours
    token = sessions.begin(Operator("anna"))
    sessions.end(token)
    assert sessions.find(token) is None


def message(body: bytes, *headers: bytes) -> Message:
    envelope = parse_header_file(SAMPLES[0].header_data, file="x")
    fields = tuple(Header(" ", raw) for raw in headers)
    for _ in envelope.headers:
        envelope = remove_header(envelope, 0)
    for header in reversed(fields):
        envelope = add_header(envelope, header)
    return Message(envelope, BytesBody(body))


def test_parts_are_decoded_and_nothing_steers() -> None:
    body = (
        b"--b\nContent-Type: text/plain; charset=iso-8859-1\nContent-Transfer-Encoding: quoted-printable\n\ncaf=E9 =1B[2J\n"
        b"--b\nContent-Type: text/html\n\n<style>p{}</style><p>one<br>two<img src=x><script>bad()</script>three\n"
        b"--b\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\nAAAA\n--b--\n"
    )
    text = preview(message(body, b"Subject: =?utf-8?b?w6k=?=\n", b"Content-Type: multipart/mixed; boundary=b\n"))
    assert text.startswith("Subject: é\n")
    assert "café \\x1b[2J" in text
    assert "one\ntwothree" in text
    assert "bad()" not in text
    assert "[a part that is not shown: image/png]" in text


@pytest.mark.parametrize("body", [b"<" * 400_000, b"<a" * 200_000, b"<script>" * 50_000, b"&" * 400_000, b"\n" * 400_000,
                                  b"--b\n" * 100_000, b"Content-Type: multipart/mixed; boundary=b\n\n--b\n" * 9000])  # fmt: skip
def test_hostile_bodies_end(body: bytes) -> None:
    """Quadratic behaviour would take minutes, and the whole run's limit of time would show it."""
    for kind in (b"text/html", b"multipart/mixed; boundary=b", b"message/rfc822"):
        assert isinstance(preview(message(body, b"Content-Type: " + kind + b"\n")), str)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400), st.binary(max_size=200))
def test_anything_is_shown(field: bytes, body: bytes) -> None:
    raw = b"Content-Type: " + field.replace(b"\n", b" ").replace(b"\0", b"") + b"\n"
    for text in (preview(message(body, raw)), source(message(body, raw)), decoded(field)):
        assert not any(ord(character) < 32 and character not in "\n\t" for character in text)


def test_text_between_tags() -> None:
    assert text_of_html("a<b>c</b>&lt;x&gt;<!-- d --><ScRipt>e</sCript>f") == "ac<x>f"
    assert text_of_html("a<b") == "a"
    assert text_of_html("<script>a") == ""
