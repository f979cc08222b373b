"""Key material never leaves its file: no command, log, trace, metric or page shows a canary.

The canaries are a private key's own numbers, in every spelling that a dump of it would have,
and an SRS secret. What fails is made to fail with the secret in hand, as a plugin's bug would.
"""

from __future__ import annotations

import base64
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from respool.sidecar.web.passwords import hash_line
from tests.docs.command_line import commands
from tests.fault.harness import Setup
from tests.unit.sidecar.test_hostile_source import GOOD

SECRET = "canary-secret-3f9a1c77"
PASSWORD = "canary-password-81b2"

#: It fails with a key and a secret among its local variables, and says so in its exception's neighbours.
CARELESS = """
from respool import Context, Message, Processor, ProcessorConfig, Verdict

class Config(ProcessorConfig):
    key_file: str
    secret_file: str

class Careless(Processor[Config]):
    phase = "modify"

    def process(self, message: Message, context: Context) -> Verdict:
        with open(self.config.key_file) as file:
            key = file.read()
        with open(self.config.secret_file) as file:
            secret = file.read()
        raise RuntimeError(f"a bug, with {len(key) + len(secret)} bytes in hand\\x1b[31m")
"""


class House:
    """A sidecar's whole configuration, with keys and secrets in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.setup = Setup(root, source="export")
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        numbers = key.private_numbers()
        middle = pem.splitlines()[8]
        raw = numbers.d.to_bytes(256, "big")[:24]
        self.canaries = [
            SECRET.encode(), base64.b64encode(SECRET.encode()), SECRET.encode().hex().encode(), PASSWORD.encode(),
            middle, middle[:40], raw, raw.hex().encode(), str(numbers.d)[:40].encode(), str(numbers.p)[:40].encode(),
        ]  # fmt: skip
        for name, content in {"key.pem": pem, "secret": SECRET.encode() + b"\n"}.items():
            (root / name).write_bytes(content)
            (root / name).chmod(0o600)
        (root / "passwords").write_text(hash_line("op", PASSWORD) + "\n")
        (root / "passwords").chmod(0o600)
        (root / "careless.py").write_text(CARELESS)
        self.config = root / "respool.toml"
        self.config.write_text(f"""
hostname = "mx.example.org"
authserv_id = "example.org"
state_directory = "{self.setup.state}"
workers = 1
[source]
kind = "export"
directory = "{self.setup.export}"
[requeue]
kind = "spool"
spool_directory = "{self.setup.spool}"
notify = "none"
quoters = []
[dns]
zone_file = "/dev/null"
[web]
password_file = "{root}/passwords"
[[processor]]
use = "srs"
config = {{ domain = "example.org", secret_file = "{root}/secret", local_domains = "example.org" }}
[[processor]]
use = "{root}/careless.py:Careless"
on_error = "hold"
config = {{ key_file = "{root}/key.pem", secret_file = "{root}/secret" }}
[[processor]]
use = "dkim-sign"
config = {{ keys = [{{ domain = "example.org", selector = "s", key_file = "{root}/key.pem" }}] }}
[[processor]]
use = "arc-seal"
config = {{ domain = "example.org", selector = "s", key_file = "{root}/key.pem" }}
""")

    def check(self, shown: bytes, what: str) -> None:
        for canary in self.canaries:
            assert canary not in shown, f"{what} shows {canary[:16]!r}"

    def command(self, *words: str, stdin: bytes = b"") -> bytes:
        done = subprocess.run(
            [sys.executable, "-m", "respool", *words], capture_output=True, input=stdin, check=False, timeout=120,
            cwd=self.root,
        )  # fmt: skip
        return done.stdout + done.stderr

    def on_terminal(self, *words: str) -> bytes:
        """What a command writes where its error output is a terminal."""
        master, slave = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "respool", *words], stdin=slave, stdout=slave, stderr=slave, cwd=self.root
        ) as child:
            os.close(slave)
            shown = b"".join(read_all(master))
            child.wait(60)
        os.close(master)
        return shown


def read_all(descriptor: int) -> Iterator[bytes]:
    try:
        while piece := os.read(descriptor, 65536):
            yield piece
    except OSError:  # EIO: the other end is closed
        return


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def test_the_canaries_would_be_found(house: House) -> None:
    with pytest.raises(AssertionError):
        house.check((house.root / "key.pem").read_bytes(), "the file itself")
    with pytest.raises(AssertionError):
        house.check((house.root / "secret").read_bytes(), "the file itself")


def test_a_failing_run_shows_no_secret(house: House) -> None:
    house.setup.put(GOOD)
    shown = house.command("run", "--once", "--trace", "-c", str(house.config))
    assert b"a bug, with" in shown
    assert b"Traceback" in shown
    house.check(shown, "run --trace")
    # What is kept, and what other programs read.
    for path in house.setup.state.rglob("*"):
        if path.is_file():
            house.check(path.read_bytes(), str(path))
    for words in (
        ["held", "list"],
        ["status"],
        ["status", "--json"],
        ["doctor"],
        ["config", "check"],
        ["ledger", "list"],
    ):
        house.check(house.command(*words, "-c", str(house.config)), " ".join(words))


def test_a_failing_run_on_a_terminal_shows_no_secret_and_steers_nothing(house: House) -> None:
    house.setup.put(GOOD)
    shown = house.on_terminal("run", "--once", "--trace", "-c", str(house.config))
    assert b"a bug, with" in shown
    assert b"Traceback" in shown
    house.check(shown, "run --trace on a terminal")
    # Colours are ours; the exception's own is written as an escape.
    assert b"in hand\x1b" not in shown
    assert b"in hand\\x1b[31m" in shown


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "odd characters": lambda pem: pem[:900] + b"!!!!" + pem[900:],
    "another kind": lambda pem: pem.replace(b"PRIVATE", b"PRIVATF"),
    "cut off": lambda pem: pem[:-60],
    "no first line": lambda pem: b"\n".join(pem.splitlines()[1:]),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_keys_that_can_not_be_read_are_not_shown_either(house: House, broken: str) -> None:
    key = house.root / "key.pem"
    key.write_bytes(BROKEN[broken](key.read_bytes()))
    for words in (["config", "check"], ["run", "--once"], ["doctor"]):
        house.check(house.command(*words, "-c", str(house.config)), " ".join(words))


@pytest.mark.parametrize(
    ("old", "new"),
    [("careless.py:", "key.pem:"), ("/secret", "/key.pem"), ("/passwords", "/secret"), ("/dev/null", "{}/key.pem")],
)
def test_the_wrong_file_under_a_key_that_names_one_is_not_shown(house: House, old: str, new: str) -> None:
    text = house.config.read_text()
    assert old in text
    house.config.write_text(text.replace(old, new.format(house.root)))
    for words in (["config", "check"], ["run", "--once"]):
        house.check(house.command(*words, "-c", str(house.config)), f"{words} with {new} for {old}")


def test_no_command_shows_what_it_can_not_read(house: House) -> None:
    """Each command with a private key where it expects another file."""
    from respool.sidecar.cli import cli

    key = str(house.root / "key.pem")
    tried = 0
    for path, command in commands(cli, "respool"):
        words = path.split()[1:]
        if words[0] in {"completion", "plugin", "demo", "web"}:
            continue
        arguments: list[str] = []
        for parameter in command.params:
            if parameter.param_type_name == "argument" and parameter.required:
                arguments.append(key)
            elif parameter.required or "--config" in parameter.opts:
                arguments += [parameter.opts[0], key]
        tried += 1
        house.check(house.command(*words, *arguments), " ".join(words))
    assert tried > 15
