"""SRS with its counterparts: Exim's srs_encode and inbound_srs, postsrsd, Mail::SRS."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.processors.srs_codec import EximSrs, StandardSrs

from ..conftest import EXIM_COMMAND
from ..ports import free_port
from ..scripted_smtp import ScriptedSmtp
from .exim import Exim
from .queuefile import run_attempt
from .sidecar import Sidecar

SECRET = "a rather long secret"
SENDERS = [
    "alice@example.org", "Alice.Smith+news@Mail.Example.ORG", "x=y=z@a-b.example", "o'neill@example.org",
    *(f"user{number}@example{number}.org" for number in range(60)),
]  # fmt: skip
QUOTED = ['"fred["@test.ex', '"a b"@example.org']


def expand(*texts: str) -> list[str]:
    """What Exim makes of each text, one process for all."""
    result = subprocess.run(
        [EXIM_COMMAND, "-be"], input="\n".join(texts) + "\n", capture_output=True, check=True, text=True
    )  # fmt: skip
    return [line.removeprefix("> ") for line in result.stdout.splitlines()[: len(texts)]]


@pytest.mark.exim("SRS")
def test_exim_writes_what_we_write() -> None:
    senders = SENDERS + QUOTED
    theirs = expand(*(f"${{srs_encode{{{SECRET}}}{{{sender}}}{{fwd.example}}}}" for sender in senders))
    codec = EximSrs([SECRET.encode()])
    assert theirs == [codec.forward(sender.encode(), "fwd.example", time.time()).address.decode() for sender in senders]


@pytest.mark.exim("SRS")
def test_exim_reads_what_we_write() -> None:
    codec = EximSrs([SECRET.encode()])
    ours = [codec.forward(sender.encode(), "fwd.example", time.time()).address.decode() for sender in SENDERS]
    questions = [
        f"${{if inbound_srs{{{address.rpartition('@')[0]}}}{{{SECRET}}}{{yes $srs_recipient}}{{no}}}}"
        for address in ours
    ]
    assert expand(*questions) == [f"yes {sender.lower()}" for sender in SENDERS]
    (forged,) = expand(questions[0].replace("alice", "mallory"))
    assert forged == "no"


@pytest.mark.exim("SRS")
def test_exim_and_we_agree_on_age_and_forgery() -> None:
    """The same addresses, good and bad, get the same answer from both."""
    now = time.time()
    codec = EximSrs([SECRET.encode()])
    local_parts = [
        codec.forward(b"alice@example.org", "x", now - days * 86_400).address.decode().removesuffix("@x")
        for days in (0, 1, 9, 10, 11, 12, 500, 1023, -1)
    ]
    good = local_parts[0]
    local_parts += [
        good.upper().replace("SRS0", "srs0"), good.replace("SRS0", "sRs0"), good.replace("alice", "ALICE"),
        good.replace("example", "EXAMPLE"), good[:5] + "0000" + good[9:], good[:5] + good[6:], good + "=x", good[:-1],
        "SRS0", "SRS0=x", "alice", good.replace("SRS0", "SRS1"),
    ]  # fmt: skip
    theirs = expand(*(f"${{if inbound_srs{{{text}}}{{{SECRET}}}{{$srs_recipient}}{{}}}}" for text in local_parts))
    ours = [codec.reverse(text.encode() + b"@fwd.example", now).address.decode() for text in local_parts]
    assert ours == theirs


@pytest.mark.exim("SRS")
def test_live_forward_and_bounce(exim: Exim, smtp_sink: ScriptedSmtp) -> None:
    """A forwarded message leaves Exim with our sender; its bounce comes back to the first one."""
    secret = exim.directory / "srs.secret"
    secret.write_text(SECRET + "\n")
    secret.chmod(0o600)
    processors = f"""
[[processor]]
use = "srs"
config = {{ domain = "fwd.example", secret_file = "{secret}", local_domains = "file.example" }}
"""
    sidecar = Sidecar(exim, processors=processors)
    message = b"From: a@sender.example\r\nSubject: x\r\n\r\nHello\r\n"
    message_id = exim.receive(message, recipients=("away@elsewhere.example", "here@file.example"))
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 0
    for part in exim.pairs():
        exim.deliver(part)
    senders = {delivery.recipient: delivery.sender for delivery in exim.deliveries()}
    assert senders["here@file.example"] == "sender@sender.example"
    rewritten = senders["away@elsewhere.example"]
    assert rewritten.startswith("SRS0=")
    assert rewritten.endswith("=sender.example=sender@fwd.example")

    bounce_id = exim.receive(message, sender="", recipients=(rewritten,))
    run_attempt(exim.spool, bounce_id, sidecar.export)
    assert sidecar.once().returncode == 0
    exim.deliver(bounce_id)
    (bounce,) = [delivery for delivery in exim.deliveries() if delivery.id == bounce_id]
    assert (bounce.recipient, bounce.sender) == ("sender@sender.example", "")


class Postsrsd:
    """Debian's postsrsd on two free ports of loopback: one answer a line."""

    def __init__(self, directory: Path) -> None:
        secret = directory / "postsrsd.secret"
        secret.write_text(SECRET + "\n")
        self.forward_port, self.reverse_port = free_port(), free_port()
        self.process = subprocess.Popen(
            [
                "postsrsd", f"-s{secret}", "-dfwd.example", f"-f{self.forward_port}", f"-r{self.reverse_port}", "-4",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"] + ":/usr/sbin"},
        )  # fmt: skip

    def ask(self, port: int, addresses: list[str]) -> list[str]:
        with _connected(port) as connection, connection.makefile("rwb") as stream:
            answers: list[str] = []
            for address in addresses:
                stream.write(f"get {address.replace('%', '%25').replace('+', '%2B')}\n".encode())
                stream.flush()
                code, _, text = stream.readline().decode().rstrip("\n").partition(" ")
                answers.append(text if code == "200" else "")
            return answers

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def _connected(port: int) -> socket.socket:
    end = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=60)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


@pytest.fixture
def postsrsd(tmp_path: Path) -> Iterator[Postsrsd]:
    daemon = Postsrsd(tmp_path)
    yield daemon
    daemon.stop()


CODEC = StandardSrs([SECRET.encode()])


def ours(address: str, domain: str = "fwd.example") -> str:
    return CODEC.forward(address.encode(), domain, time.time()).address.decode()


def back(address: str) -> str:
    return CODEC.reverse(address.encode(), time.time()).address.decode()


@pytest.mark.system("postsrsd")
def test_postsrsd(postsrsd: Postsrsd) -> None:
    theirs = postsrsd.ask(postsrsd.forward_port, SENDERS)
    assert theirs == list(map(ours, SENDERS))
    assert [back(address) for address in theirs] == SENDERS
    assert postsrsd.ask(postsrsd.reverse_port, [ours(sender) for sender in SENDERS]) == SENDERS
    # It reads SRS1; it writes none, since it leaves SRS addresses of others alone.
    first = [ours(sender, "first.example") for sender in SENDERS]
    assert postsrsd.ask(postsrsd.reverse_port, [ours(address) for address in first]) == first


@pytest.mark.system("postsrsd")
def test_postsrsd_refuses_what_we_refuse(postsrsd: Postsrsd) -> None:
    good = ours("alice@example.org")
    now = time.time()
    old = [
        CODEC.forward(b"alice@example.org", "fwd.example", now - days * 86_400).address.decode()
        for days in (0, 20, 21, 22, 23, 600, -1)
    ]
    changed = [
        good.upper(), good.lower(), good.replace("alice", "mallory"), good[:5] + "AAAA" + good[9:], good[:5] + good[6:],
        good.replace("SRS0=", "SRS0+"), good.replace("SRS0=", "SRS0-"), good.replace("SRS0=", "SRS1="),
    ]  # fmt: skip
    assert postsrsd.ask(postsrsd.reverse_port, old + changed) == [back(address) for address in old + changed]


MAIL_SRS = r"""
use Mail::SRS; my $srs = Mail::SRS->new(Secret => [$ENV{SECRET}], MaxAge => 21, HashLength => 4, HashMin => 4);
while (my $line = <STDIN>) { chomp $line; my ($what, $address) = split / /, $line, 2;
  my $answer = eval { $what eq 'forward' ? $srs->forward($address, 'fwd.example') : $srs->reverse($address) };
  print defined $answer ? $answer : '', "\n"; }
"""


@pytest.mark.system("perl", "perl:Mail::SRS")
def test_mail_srs() -> None:
    def ask(what: str, addresses: list[str]) -> list[str]:
        result = subprocess.run(
            ["perl", "-e", MAIL_SRS], input="".join(f"{what} {address}\n" for address in addresses),
            capture_output=True, check=True, text=True, env={"PATH": os.environ["PATH"], "SECRET": SECRET},
        )  # fmt: skip
        return result.stdout.split("\n")[:-1]

    theirs = ask("forward", SENDERS)
    assert theirs == list(map(ours, SENDERS))
    assert [back(address) for address in theirs] == SENDERS
    first = [ours(sender, "first.example") for sender in SENDERS]
    theirs = ask("forward", first)
    assert theirs == list(map(ours, first))
    assert [back(address) for address in theirs] == first
    assert ask("reverse", [ours(sender) for sender in SENDERS]) == SENDERS
    assert ask("reverse", [ours(address) for address in first]) == first
