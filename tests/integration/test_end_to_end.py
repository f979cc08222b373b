"""One real message from Exim's hand and back into it; then many, with kills."""

from __future__ import annotations

import random
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from .conftest import EximFactory
from .exim import Exim
from .queuefile import run_attempt
from .sidecar import Sidecar

pytestmark = pytest.mark.exim

MESSAGE = b"""Authentication-Results: example.org; spf=pass smtp.mailfrom=sender.example
From: Alice <alice@sender.example>
To: a@file.example
Subject: =?utf-8?q?a_real_message?=
Date: Sun, 22 Nov 2026 12:00:00 +0000
Message-ID: <one@sender.example>
MIME-Version: 1.0
Content-Type: text/plain; charset=utf-8
Content-Transfer-Encoding: 8bit

Hello,

  f\xc3\xbcnf  spaces and a trailing one 
.leading dot

-- 
Alice
""".replace(b"\n", b"\r\n")


def make_key(directory: Path) -> tuple[Path, bytes]:
    """A new RSA key: the file, and the TXT record."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    path = directory / "s1.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    path.chmod(0o600)
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    return path, b"v=DKIM1; k=rsa; p=" + b"".join(public.splitlines()[1:-1])


def seal(key: Path) -> str:
    return f"""
[[processor]]
use = "headers"
config = {{ add = [{{ name = "X-Checked", value = "yes", at = "end" }}] }}
[[processor]]
use = "arc-seal"
config = {{ domain = "example.org", selector = "s1", key_file = "{key}" }}
"""


def test_sealed_requeued_delivered_verified(exim: Exim) -> None:
    key, record = make_key(exim.directory)
    sidecar = Sidecar(exim, processors=seal(key))
    message_id = exim.receive(MESSAGE)
    before_header = exim.spool_file(message_id, "-H").read_bytes()
    before_body = exim.spool_file(message_id, "-D").read_bytes()
    run_attempt(exim.spool, message_id, sidecar.export)
    assert exim.ids() == ()

    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    assert exim.pairs() == (message_id,)
    assert exim.spool_file(message_id, "-D").read_bytes() == before_body
    after_header = exim.spool_file(message_id, "-H").read_bytes()
    head, _, headers = after_header.partition(b"\n\n")
    old_head, _, old_headers = before_header.partition(b"\n\n")
    assert head.replace(b"-aclm _respool 1\n1\n", b"") == old_head
    assert old_headers in headers
    owner = exim.spool_file(message_id, "-D").stat()
    new = exim.spool_file(message_id, "-H").stat()
    assert (new.st_uid, new.st_gid, new.st_mode) == (owner.st_uid, owner.st_gid, owner.st_mode)

    exim.deliver(message_id)
    (delivery,) = exim.deliveries()
    assert delivery.recipient == "a@file.example"
    assert "_respool" not in delivery.content.decode("utf-8", "replace")
    content = delivery.content
    assert content.startswith(b"ARC-Seal: ")
    end = b"X-Checked: yes\n\n" + MESSAGE.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")
    assert content.endswith(end)
    assert content == b"".join(_records(headers)) + end.removeprefix(b"X-Checked: yes\n")

    wire = content.replace(b"\n", b"\r\n")

    def answer(name: bytes, timeout: int = 5) -> bytes:
        assert timeout > 0
        return record if name.rstrip(b".") == b"s1._domainkey.example.org" else b""

    dns: Any = answer
    result_word, _, reason = dkim.arc_verify(wire, dnsfunc=dns)
    assert result_word == b"pass", reason


def _records(section: bytes) -> list[bytes]:
    texts: list[bytes] = []
    position = 0
    while position < len(section):
        digits = section[position:].split(b" ", 1)[0][:5]
        length = int(bytes(byte for byte in digits if chr(byte).isdigit()))
        start = position + max(3, len(str(length))) + 2
        if section[start - 2 : start - 1] != b"*":
            texts.append(section[start : start + length])
        position = start + length
    return texts


@pytest.mark.system("perl", "perl:Mail::DKIM::ARC::Verifier")
def test_seal_verified_by_mail_dkim(exim: Exim) -> None:
    key, record = make_key(exim.directory)
    sidecar = Sidecar(exim, processors=seal(key))
    message_id = exim.receive(MESSAGE)
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 0
    exim.deliver(message_id)
    (delivery,) = exim.deliveries()
    script = r"""
use Mail::DKIM::ARC::Verifier; use Mail::DKIM::DNS; use Net::DNS;
my $record = $ENV{KEY_RECORD};
{ no warnings; *Mail::DKIM::DNS::query = sub {
    my ($name) = @_;
    return Net::DNS::RR->new(name => $name, type => 'TXT', txtdata => [$record =~ /(.{1,200})/g]); }; }
my $v = Mail::DKIM::ARC::Verifier->new();
while (<STDIN>) { $v->PRINT($_); } $v->CLOSE; print $v->result, "\n", $v->result_detail, "\n";
"""
    answer = subprocess.run(
        ["perl", "-e", script],
        input=delivery.content.replace(b"\n", b"\r\n"), capture_output=True, check=True,
        env={"PATH": "/usr/bin:/bin", "KEY_RECORD": record.decode()},
    )  # fmt: skip
    assert answer.stdout.splitlines()[0] == b"pass", answer.stdout + answer.stderr


def test_broken_header_file_among_good_ones(exim: Exim) -> None:
    sidecar = Sidecar(exim)
    ids = [exim.receive(MESSAGE) for _ in range(5)]
    for message_id in ids:
        run_attempt(exim.spool, message_id, sidecar.export)
    broken = sidecar.export / f"{ids[2]}-H"
    broken.write_bytes(broken.read_bytes().replace(b"<sender@sender.example>", b"sender@sender.example", 1))
    result = sidecar.once()
    assert result.returncode == 1
    assert exim.pairs() == tuple(sorted(set(ids) - {ids[2]}))
    (name,) = sidecar.in_state("corrupt")
    assert name.startswith(ids[2])
    assert sorted(p.name for p in (sidecar.state / "corrupt" / name).iterdir()) == [
        f"{ids[2]}-D", f"{ids[2]}-H", "status.json",
    ]  # fmt: skip
    log = result.stderr.decode()
    assert f"{ids[2]}-H:3:1: expected" in log, log
    assert "sender@sender.example" in log


def test_a_locked_message_waits_for_its_exim(exim: Exim) -> None:
    from .queuefile import ExportingExim

    sidecar = Sidecar(exim)
    message_id = exim.receive(MESSAGE)
    sidecar.start()
    try:
        with ExportingExim(exim.spool, message_id, sidecar.export, pause=["exported"]) as attempt:
            attempt.wait_for("exported")
            time.sleep(1.0)
            assert (sidecar.export / f"{message_id}-H").exists(), "claimed under Exim's lock"
            attempt.go_on()
            assert attempt.wait() == 0
            sidecar.wait_until_idle()
    finally:
        assert sidecar.stop() == 0
    assert exim.pairs() == (message_id,)


def test_original_still_queued_gets_a_new_id(exim: Exim) -> None:
    sidecar = Sidecar(exim)
    message_id = exim.receive(MESSAGE, recipients=("a@file.example", "b@file.example"))
    run_attempt(exim.spool, message_id, sidecar.export, deferring=("b@file.example",))
    assert sidecar.once().returncode == 0
    ids = exim.pairs()
    assert message_id in ids
    assert len(ids) == 2
    (new_id,) = set(ids) - {message_id}
    assert exim.spool_file(new_id, "-D").read_bytes().startswith(f"{new_id}-D\n".encode())


def test_named_queue_as_source(start_exim: EximFactory) -> None:
    exim = start_exim(queue="scan")
    sidecar = Sidecar(exim, source="queue")
    message_id = exim.receive(MESSAGE, recipients=("a@file.example", "b@file.example"))
    assert exim.pairs("scan") == (message_id,)
    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    assert exim.ids("scan") == ()
    exim.deliver(message_id)
    assert Counter(exim.delivered()) == {(message_id, "a@file.example"): 1, (message_id, "b@file.example"): 1}
    assert not list((exim.spool / "scan" / "msglog").glob("*"))


PAUSING = """
import itertools, time
from respool import Processor, ProcessorConfig, proceed

class Config(ProcessorConfig):
    most: int

class Pausing(Processor[Config]):
    taken = itertools.count()

    def process(self, message, context):
        while next(self.taken) >= self.config.most:
            time.sleep(60)
        return proceed()
"""


def test_killed_among_200_messages_while_another_empties_the_target(exim: Exim) -> None:
    """Each exactly once, whenever the sidecar and all its workers die.

    A worker processes no more than ten before it is killed: so there is always one to be killed, however long it
    takes to see some of them come out.
    """
    plugin = exim.directory / "pausing.py"
    plugin.write_text(PAUSING)
    plugin.chmod(0o644)
    sidecar = Sidecar(exim, processors=f'[[processor]]\nuse = "{plugin}:Pausing"\nconfig = {{ most = 10 }}\n')
    count = 200
    with exim.client() as client:
        ids = [
            client.send(
                MESSAGE.replace(b"<one@", b"<%d@" % number), recipients=["a@file.example"], sender="s@sender.example"
            )
            for number in range(count)
        ]
    for message_id in ids:
        run_attempt_quickly(exim, message_id, sidecar.export)
    random_generator = random.Random(4711)
    taken: Counter[str] = Counter()
    for _ in range(8):
        sidecar.start()
        wanted = sum(taken.values()) + random_generator.randrange(1, 20)

        def has_come(wanted: int = wanted) -> bool:
            taken.update(take_published(exim))
            return sum(taken.values()) >= wanted

        sidecar.until(has_come)
        sidecar.kill()
        assert any(sidecar.export.iterdir()) or sidecar.in_state("work"), sidecar.log()[-2000:]
    sidecar.configuration.write_text(sidecar.configuration.read_text().replace("most = 10", "most = 1000"))
    sidecar.start()
    sidecar.wait_until_idle()
    assert sidecar.stop() == 0
    taken += take_published(exim)
    assert len(taken) == count
    assert set(taken.values()) == {1}
    for state in ("work", "deferred", "held", "corrupt"):
        assert sidecar.in_state(state) == []


def run_attempt_quickly(exim: Exim, message_id: str, export: Path) -> None:
    """An export whose Exim has finished: both files moved, with no process for each."""
    for suffix in ("-H", "-D"):
        exim.spool_file(message_id, suffix).rename(export / f"{message_id}{suffix}")
    (exim.spool / "msglog" / message_id).unlink(missing_ok=True)


def take_published(exim: Exim) -> Counter[str]:
    """Deliver everything visible and unlocked, as Exim does: under the lock, -D goes first. By Message-ID."""
    import fcntl

    taken: Counter[str] = Counter()
    for header in list(exim.input_directory().glob("*-H")):
        data = header.with_name(header.name[:-1] + "D")
        try:
            file = data.open("r+b")
        except FileNotFoundError:
            continue
        with file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, len(data.name) + 1, 0, 0)
                text = header.read_text(errors="replace")
            except (BlockingIOError, FileNotFoundError):
                continue
            data.unlink()
            header.unlink()
            taken[text.partition("Message-ID: <")[2].partition("@")[0]] += 1
    return taken


@pytest.mark.parametrize(
    ("published", "status", "mailbox"), [("-all", "reject", "quarantine"), ("+all", "accept", "inbox")]
)
def test_exim_acts_on_the_dmarc_status_that_respool_wrote(
    exim: Exim, published: str, status: str, mailbox: str
) -> None:
    (exim.directory / "dns.zone").write_text(
        f'sender.example. TXT "v=spf1 {published}"\n_dmarc.sender.example. TXT "v=DMARC1; p=reject"\n'
    )
    sidecar = Sidecar(exim, processors='[[processor]]\nuse = "auth"\n[[processor]]\nuse = "authentication-results"\n')
    message_id = exim.receive(MESSAGE)
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 0
    exim.deliver(message_id)
    (delivery,) = exim.deliveries()
    assert delivery.variables["acl_m_dmarc_status"] == status
    assert delivery.mailbox == mailbox
    # What came with our id was forged, and is gone; ours says what was found.
    assert delivery.content.count(b"Authentication-Results: example.org") == 1
    assert (b"dmarc=pass" if status == "accept" else b"dmarc=fail") in delivery.content
