"""A sidecar with every processor, as a process of its own, and all that it depends on, each ready to be broken.

The messages are the samples, each under an id and with a number of its own; a thread takes
what is published as Exim does (the lock, then ``-D`` and ``-H``), and counts the numbers.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from respool import add_header
from respool.lookups.table_build import build as build_table
from respool.requeue.state import GONE, STATES
from respool.spool import editing
from respool.spool.envelope import Envelope
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import IdMinter, MessageId, decode_base62, encode_base62
from tests.conftest import CHECKOUT
from tests.fault.test_misbehaving_processors import SIDECAR
from tests.sidecar_process import RUN, SidecarProcess
from tests.unit.lookups.dccifd import Dccifd

from .broken_dns import BrokenDns

SAMPLES: Final = CHECKOUT / "samples" / "spool"
_DEFAULT_PLUGIN: Final = "return proceed()"

_PLUGIN: Final = """\
import os, signal, sys, threading, time
from respool import Processor, ProcessorConfig, proceed

class Config(ProcessorConfig, frozen=True):
    pass

class Wayward(Processor[Config]):
    phase = "modify"

    def process(self, message, context):
        header = next((one for one in message.headers if one.name.lower() == b"x-number"), None)
        number = int(header.value) if header else 0
        {code}
"""


class House(SidecarProcess):
    """Everything below root; ``with House(root) as house``. Nothing runs until start()."""

    def __init__(
        self,
        root: Path,
        *,
        plugin: str = _DEFAULT_PLUGIN,
        extra: str = "",
        deadline_seconds: float = 20.0,
        is_impatient: bool = False,
        scan_seconds: float = 0.5,
    ):
        super().__init__(root / "respool.toml", root / "log", program=("-c", SIDECAR) if is_impatient else RUN)
        self.root = root
        self.export, self.state, self.input = root / "export", root / "state", root / "spool" / "input"
        for directory in (self.export, self.input, root / "keys", root / "tables"):
            directory.mkdir(parents=True, mode=0o750)
        zone = "".join(path.read_text() for path in sorted(SAMPLES.glob("*/dns.zone")))
        self.dns = BrokenDns(zone)
        self.dcc = Dccifd()
        self.key = root / "keys" / "rsa.pem"
        self.write_key()
        self.routes, self.table = root / "tables" / "routes", root / "tables" / "routes.mdb"
        self.routes.write_text("example.test: route=mailboxes.example.test\nother.example: queue=outside\n")
        self.build_table()
        (root / "srs.secret").write_text("a secret of the campaign\n")
        (root / "srs.secret").chmod(0o600)
        self.plugin = root / "wayward.py"
        self.plugin.write_text(_PLUGIN.format(code=plugin))
        self.plugin.chmod(0o644)
        self.configuration.write_text(self._text(extra, deadline_seconds, scan_seconds))
        self._minter = IdMinter(long=True)
        self._samples = itertools.cycle(_load_samples())
        self._count = itertools.count(1)
        self._ended = threading.Event()
        self._exim = threading.Thread(target=self._take_all, name="exim")
        #: Each open recipient of each message by its number; 0 for what has none.
        self.expected: dict[int, frozenset[bytes]] = {}
        self._recipients = 0
        self.delivered: Counter[tuple[int, bytes]] = Counter()
        self.failures: list[str] = []

    def _text(self, extra: str, deadline_seconds: float, scan_seconds: float) -> str:
        root, key = self.root, f'domain = "example.test", selector = "s", key_file = "{self.key}"'
        return f"""
hostname = "mx.example.test"
state_directory = "{self.state}"
workers = 2
threads = 4
scan_seconds = {scan_seconds}
deadline_seconds = {deadline_seconds}
{extra}
[source]
kind = "export"
directory = "{self.export}"
[requeue]
kind = "spool"
spool_directory = "{root}/spool"
notify = "none"
[dns]
nameservers = ["{self.dns.address}"]
[deferral]
first_seconds = 0.3
longest_seconds = 1.0
[[processor]]
use = "auth"
config = {{ trusted_sealers = ["lists.example"], defer_attempts = 1 }}
[[processor]]
use = "authentication-results"
[[processor]]
use = "dmarc-policy"
[[processor]]
use = "dane"
[[processor]]
use = "dcc"
config = {{ address = "{self.dcc.address.replace(" ", ":")}", timeout_seconds = 1.0, pause_seconds = 0.5 }}
[[processor]]
use = "route"
config = {{ tables = [{{ by = "domain", table = "lmdb;{self.table}" }}] }}
[[processor]]
use = "srs"
config = {{ domain = "example.test", secret_file = "{root}/srs.secret", local_domains = ["example.test"] }}
[[processor]]
use = "{self.plugin}:Wayward"
on_error = "skip"
[[processor]]
use = "dkim-sign"
config = {{ keys = [{{ {key}, from_domains = ["remote.example"] }}] }}
[[processor]]
use = "arc-seal"
config = {{ {key} }}
"""

    def __enter__(self) -> House:
        self.dns.__enter__()
        self.dcc.__enter__()
        self._exim.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._ended.set()
        self._exim.join()
        self.dcc.__exit__(None, None, None)
        self.dns.__exit__()

    # What it depends on.

    def write_key(self) -> None:
        """A new private key, whole at every moment."""
        key = generate_private_key(public_exponent=65537, key_size=2048)
        new = self.key.with_suffix(".new")
        new.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        new.chmod(0o600)
        new.rename(self.key)

    def build_table(self) -> None:
        """The table of routes anew, by our own builder."""
        build_table(str(self.routes), str(self.table))

    # Mail.

    def put(self, count: int, *, clock_offset: int = 0, ids: Iterable[MessageId] = ()) -> list[MessageId]:
        """So many messages into the export directory, as Exim puts them: hard links under their names. Their ids.

        clock_offset: seconds by which the clock of this Exim is wrong; ids: those that it gives, not new ones.
        """
        given, used = iter(ids), list[MessageId]()
        for _ in range(count):
            envelope, body = next(self._samples)
            number, message_id = next(self._count), next(given, None) or _shifted(self._minter.mint(), clock_offset)
            used.append(message_id)
            envelope = editing.with_id(envelope, message_id)
            envelope = envelope.replace(received_time=int(time.time()) + clock_offset)
            envelope = editing.add_header(envelope, add_header("X-Number", str(number)).header)
            self.put_pair(message_id, render_header_file(envelope), b"%b\n%b" % (message_id.data_name.encode(), body))
            self.expected[number] = frozenset(_open_recipients(envelope))
            self._recipients += len(self.expected[number])
        return used

    def mint(self) -> MessageId:
        """An id that no other message here has."""
        return self._minter.mint()

    def put_pair(self, message_id: MessageId, header_file: bytes, data_file: bytes) -> None:
        """One pair, the header file last."""
        for name, content in ((message_id.data_name, data_file), (message_id.header_name, header_file)):
            new = self.root / f"new-{name}"
            new.write_bytes(content)
            new.chmod(0o640)
            new.rename(self.export / name)

    def _take_all(self) -> None:
        while not self._ended.wait(0.05):
            for header in [*self.input.parent.glob("input/*-H"), *self.input.parent.glob("*/input/*-H")]:
                with contextlib.suppress(BlockingIOError):
                    self._deliver(header)

    def _deliver(self, header: Path) -> None:
        data = header.with_name(header.name[:-1] + "D")
        try:
            with data.open("rb+") as file:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, len(data.name) + 1)
                content = header.read_bytes()
                envelope = parse_header_file(content, file=header.name)
                if file.readline() != data.name.encode() + b"\n":
                    self.failures.append(f"{data.name}: begins with another name")
                number = _number(envelope)
                self.delivered.update((number, recipient) for recipient in _open_recipients(envelope))
                data.unlink()
                header.unlink()
        except BlockingIOError:
            raise
        except Exception as error:  # noqa: BLE001 this thread reports what it finds, whatever that is
            self.failures.append(f"{header.name}: {error!r}")
            header.rename(self.root / header.name)

    # What became of it.

    def in_state(self, state: str) -> list[str]:
        """The names in a state directory, but for directories that a worker has emptied and keeps, or removes."""
        try:
            return sorted(name for name in os.listdir(self.state / state) if not name.startswith(GONE))
        except FileNotFoundError:
            return []

    def states(self) -> dict[str, int]:
        """How many messages are in each state where there are any."""
        return {state: count for state in STATES if (count := len(self.in_state(state)))}

    def wait_until(self, condition: Callable[[], Any], seconds: float = 120) -> None:
        """Until condition holds; AssertionError with the end of the log if it never does."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"{self.summary()}\n{self.log()[-4000:]}"
            time.sleep(0.05)

    def wait_until_settled(self, seconds: float = 120) -> None:
        """Until nothing is in the source, in hand, deferred, or waiting for Exim."""
        self.wait_until(lambda: not self._is_busy(), seconds)

    def _is_busy(self) -> bool:
        return bool(
            any(self.export.iterdir()) or self.in_state("work") or self.in_state("deferred")
            or any(self.input.parent.glob("**/*-H"))
        )  # fmt: skip

    def summary(self) -> str:
        """For people."""
        twice = sum(1 for (number, _), count in self.delivered.items() if number and count > 1)
        return (
            f"{len(self.expected)} put in, {len(self.arrived())} delivered, {twice} twice, states {self.states()}, "
            f"source {len(list(self.export.iterdir()))}, failures {self.failures[:3]}"
        )

    def arrived(self) -> set[int]:
        """The numbers of messages that all their recipients have."""
        return {
            number for number, recipients in self.expected.items()
            if all((number, recipient) in self.delivered for recipient in recipients)
        }  # fmt: skip

    def outstanding(self) -> int:
        """How many recipients have not got theirs yet; cheap."""
        return self._recipients - len(self.delivered)

    def assert_each_once(self, *, kept: int = 0) -> None:
        """Each message delivered exactly once to each recipient, but for kept that are held; nothing else delivered."""
        where = f"{self.summary()}\n{self.log()[-4000:]}"
        assert not self.failures, where
        numbered = {key: count for key, count in self.delivered.items() if key[0]}
        assert set(numbered.values()) <= {1}, where
        assert all(recipient in self.expected[number] for number, recipient in numbered), where
        assert len(self.arrived()) + kept == len(self.expected), where
        assert len(self.in_state("held")) == kept, where


def _shifted(message_id: MessageId, seconds: int) -> MessageId:
    """The id that Exim would have minted with its clock wrong by so many seconds."""
    return (
        MessageId(encode_base62(decode_base62(message_id[:6]) + seconds, 6) + message_id[6:]) if seconds else message_id
    )


def _number(envelope: Envelope) -> int:
    return next((int(header.value) for header in envelope.headers if header.name.lower() == b"x-number"), 0)


def _open_recipients(envelope: Envelope) -> Iterator[bytes]:
    return (recipient.address for recipient in envelope.recipients if not envelope.is_delivered(recipient))


def _load_samples() -> list[tuple[Envelope, bytes]]:
    return list(_readable_samples())


def _readable_samples() -> Iterator[tuple[Envelope, bytes]]:
    for path in sorted(SAMPLES.glob("*/*-H")):
        if path.parent.name == "malformed-header-file":
            continue
        envelope = parse_header_file(path.read_bytes(), file=path.name)
        yield envelope, path.with_name(envelope.id.data_name).read_bytes()[envelope.id.body_offset :]
