"""The main job on the samples that ship with respool, in a directory of its own.

Everything is real: the samples are put into an export directory, keys are made, the
configuration is a file that ``respool run -c`` takes as well, and the sidecar's own code
claims, processes and requeues into a spool. Only DNS is a file, so that nothing is asked
of the network, and nobody is told of the result, since there is no Exim.

Diagnostics: run() raises ConfigError for a directory that can't be used; what becomes of
a message is in its Shown.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import threading
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from msgspec import Struct

from ..errors import ConfigError, SpoolFormatError
from ..lookups.table_build import build as build_table
from ..processors.api import Proceed
from ..requeue.plan import Requeue
from ..spool.body import BytesBody
from ..spool.header_file import parse_header_file
from ..spool.message import Message
from . import difference, log
from .config import Config, load
from .difference import Change
from .engine import Report
from .preparation import prepare
from .retrace import StepShown, open_recipients, retrace, step_document
from .sample_cases import Case
from .sample_cases import load as load_cases
from .worker_setup import make_worker

#: The demonstration's own names; the samples were received by this host.
HOSTNAME: Final = "mx.example.test"
DOMAIN: Final = "example.test"
SELECTOR: Final = "demo"
TRUSTED_SEALER: Final = "lists.example"

_MARK: Final = ".respool-demo"
_MADE: Final = (
    "export", "spool", "state", "keys", "tables", "dns.zone", "respool.toml", "respool.log", "result.json", _MARK,
)  # fmt: skip
_RSA_BITS: Final = 2048

#: Who is known where: what the table of the demonstration says, as lsearch lines.
_ROUTES: Final = """\
example.test:     route=mailboxes.example.test
例え.test:        route=mailboxes.example.test
other.example:    route=relay.other.example; queue=outside
"""


class OutputShown(Struct, frozen=True, kw_only=True):
    """One message that was published: its id, Exim's queue, the path of its ``-H`` and its open recipients."""

    id: str
    queue: str
    path: str
    recipients: tuple[str, ...]
    changes: tuple[Change, ...]


class Shown(Struct, frozen=True, kw_only=True):
    """Everything that there is to show of one sample.

    results are by method, several of one joined by commas. surprises says where the
    outcome is not what ``expect.toml`` has; empty as long as respool does what it should.
    """

    case: Case
    state: str
    reason: str
    results: dict[str, str]
    steps: tuple[StepShown, ...]
    outputs: tuple[OutputShown, ...]
    surprises: tuple[str, ...]


class Demonstration(Struct, frozen=True, kw_only=True):
    """A finished run: where everything lies, and what became of each sample in the order of their ids."""

    directory: str
    processors: tuple[str, ...]
    shown: tuple[Shown, ...]

    @property
    def is_as_expected(self) -> bool:
        """True if no sample gave a surprise."""
        return not any(shown.surprises for shown in self.shown)


def run(directory: str, cases: tuple[Case, ...] | None = None) -> Demonstration:
    """Set everything up below directory, run the sidecar once, and say what happened. Raises ConfigError.

    directory is made, or is empty, or holds an earlier demonstration, which is replaced.
    """
    chosen = load_cases() if cases is None else cases
    directory = os.path.abspath(directory)
    try:
        _make_room(directory)
        path = _set_up(directory, chosen)
    except OSError as error:
        raise ConfigError(f"{error.filename or directory}: {error.strerror}") from error
    config = load(path, Config)
    prepared = prepare(config)
    collected = _Collector(directory, {case.id: case for case in chosen}, len(prepared.steps))
    try:
        with open(os.path.join(directory, "respool.log"), "wb") as file:
            make_worker(prepared, log.to_file(file), once=True, trace=True, report=collected).run()
    finally:
        prepared.close()
    names = tuple(step.name for step in prepared.steps)
    return Demonstration(directory=directory, processors=names, shown=tuple(collected.in_order()))


# Setting up


def _make_room(directory: str) -> None:
    os.makedirs(directory, mode=0o700, exist_ok=True)
    found = os.listdir(directory)
    if found and _MARK not in found:
        raise ConfigError(f"{directory} holds other things: name a directory that is new or empty")
    for name in _MADE:
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _set_up(directory: str, cases: tuple[Case, ...]) -> str:
    """Write everything that a sidecar needs; the path of its configuration."""
    _write(directory, _MARK, b"Made by `respool demo`, which replaces all of this when it runs here again.\n")
    for name in ("export", "spool/input", "keys", "tables"):
        os.makedirs(os.path.join(directory, name), mode=0o750)
    for case in cases:
        _write(directory, f"export/{case.id.data_name}", case.data_file)
        _write(directory, f"export/{case.id.header_name}", case.header_file)
    key = generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    _write(directory, f"keys/{SELECTOR}.pem", private, mode=0o600)
    _write(directory, "dns.zone", _zone(cases, key).encode())
    _write(directory, "tables/routes", _ROUTES.encode())
    build_table(os.path.join(directory, "tables/routes"), os.path.join(directory, "tables/routes.mdb"))
    _write(directory, "respool.toml", _configuration(directory).encode())
    return os.path.join(directory, "respool.toml")


def _write(directory: str, name: str, content: bytes, *, mode: int = 0o640) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with open(os.open(os.path.join(directory, name), flags, mode), "wb") as file:
        file.write(content)


def _zone(cases: tuple[Case, ...], key: RSAPrivateKey) -> str:
    """One master file: our own key, and what each case needs."""
    public = base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()
    record = f"v=DKIM1; k=rsa; p={public}"
    strings = "\n    ".join(f'"{record[start : start + 70]}"' for start in range(0, len(record), 70))
    ours = f"; The public half of keys/{SELECTOR}.pem.\n{SELECTOR}._domainkey.{DOMAIN}. TXT ( {strings} )\n"
    return "\n".join((ours, *(f"; Sample {case.name}\n{case.zone}" for case in cases)))


def _configuration(directory: str) -> str:
    def place(name: str) -> str:
        return json.dumps(os.path.join(directory, name))

    table = json.dumps("lmdb;" + os.path.join(directory, "tables/routes.mdb"))
    return f"""\
# The configuration of this demonstration. `respool run -c` takes it, too.
hostname = "{HOSTNAME}"
authserv_id = "{HOSTNAME}"
state_directory = {place("state")}
workers = 1
orphan_seconds = 0

[source]
kind = "export"
directory = {place("export")}

[requeue]
kind = "spool"
spool_directory = {place("spool")}
notify = "none"                 # there is no Exim here

[dns]
zone_file = {place("dns.zone")}

[[processor]]
use = "auth"
config = {{ trusted_sealers = ["{TRUSTED_SEALER}"] }}

[[processor]]
use = "route"
config = {{ tables = [{{ by = "domain", table = {table} }}] }}

[[processor]]
use = "authentication-results"

[[processor]]
use = "arc-seal"
config = {{ domain = "{DOMAIN}", selector = "{SELECTOR}", key_file = {place(f"keys/{SELECTOR}.pem")} }}
"""


# What happened


class _Collector:
    """Takes the engine's reports; called by several threads, while the files of the message are still open."""

    def __init__(self, directory: str, cases: dict[str, Case], count: int) -> None:
        self._directory = directory
        self._count = count
        self._cases = cases
        self._guard = threading.Lock()
        self._shown: dict[str, Shown] = {}

    def __call__(self, report: Report) -> None:
        case = self._cases[report.id]
        shown = _show(case, report, self._directory, self._count)
        with self._guard:
            self._shown[report.id] = shown

    def in_order(self) -> Iterator[Shown]:
        """By id; a sample of which nothing was heard has the state ``lost``, which is a defect."""
        for message_id, case in self._cases.items():
            if message_id in self._shown:
                yield self._shown[message_id]
            else:
                surprise = "nothing was heard of it"
                yield Shown(
                    case=case, state="lost", reason=surprise, results={}, steps=(), outputs=(), surprises=(surprise,)
                )


def _show(case: Case, report: Report, directory: str, count: int) -> Shown:
    """count: how many processors there are."""
    plan, trace = report.outcome.plan, report.outcome.trace
    try:
        envelope = parse_header_file(case.header_file, file=case.id.header_name)
        body = BytesBody(case.data_file[case.id.body_offset :], wireformat=envelope.is_wireformat)
        before = Message(envelope, body)
    except SpoolFormatError:
        before = None
    outputs: list[OutputShown] = []
    if isinstance(plan, Requeue) and before is not None:
        for output, published in zip(plan.outputs, report.published, strict=True):
            # The demonstration replaces no body; what it has of the original is another object with the same bytes.
            after = Message(output.message.envelope, before.body)
            place = os.path.join("spool", published.queue, "input", published.id.header_name)
            outputs.append(
                OutputShown(
                    id=str(published.id),
                    queue=published.queue,
                    path=os.path.join(directory, place),
                    recipients=open_recipients(after),
                    changes=difference.compare(before, after, queue=published.queue),
                )
            )
    results: dict[str, list[str]] = {}
    for traced in trace:
        if isinstance(traced.verdict, Proceed):
            for result in traced.verdict.results:
                results.setdefault(result.method, []).append(result.result.value)
    shown = Shown(
        case=case,
        state=report.state,
        reason=getattr(plan, "reason", ""),
        results={method: ",".join(words) for method, words in results.items()},
        steps=tuple(retrace(before, trace, count)) if before is not None else (),
        outputs=tuple(outputs),
        surprises=(),
    )
    return msgspec.structs.replace(shown, surprises=tuple(_surprises(shown)))


def _surprises(shown: Shown) -> Iterator[str]:
    """Where the outcome is not what the case expects."""
    expected = shown.case.expectation
    changes = shown.outputs[0].changes if shown.outputs else ()
    variables = {change.name: change.after for change in changes if change.what == "variable"}
    added = tuple(change.name for change in changes if change.what == "header" and change.after is not None)
    removed = tuple(_unfolded(change.before) for change in changes if change.what == "header" and change.before)
    comparisons: dict[str, tuple[Any, Any]] = {
        "state": (expected.state, shown.state),
        "results": (expected.results, shown.results),
        "added": (expected.added, added),
        "removed": (expected.removed, removed),
        "outputs": (
            tuple((output.recipients, output.queue) for output in expected.outputs),
            tuple((output.recipients, output.queue) for output in shown.outputs),
        ),
    }
    for name, value in expected.variables.items():
        found = variables.get(name)
        comparisons[name] = (value, None if found is None else found.decode("utf-8", "backslashreplace"))
    for what, (wanted, found) in comparisons.items():
        if wanted != found:
            yield f"{what}: expected {wanted!r}, found {found!r}"
    if expected.reason not in shown.reason:
        yield f"reason: expected {expected.reason!r} in {shown.reason!r}"


def _unfolded(raw: bytes) -> str:
    return b" ".join(raw.split()).decode("utf-8", "backslashreplace")


def document(demonstration: Demonstration) -> dict[str, Any]:
    """What ``--json`` prints, and what lies in ``result.json``."""
    return {
        "directory": demonstration.directory,
        "processors": list(demonstration.processors),
        "as_expected": demonstration.is_as_expected,
        "messages": [_message_document(shown) for shown in demonstration.shown],
    }


def _message_document(shown: Shown) -> dict[str, Any]:
    return {
        "case": shown.case.name,
        "title": shown.case.title,
        "id": str(shown.case.id),
        "state": shown.state,
        "reason": shown.reason,
        "results": shown.results,
        "processors": [step_document(step) for step in shown.steps],
        "outputs": [
            {
                "id": output.id,
                "queue": output.queue,
                "path": output.path,
                "recipients": list(output.recipients),
                "changes": difference.document(output.changes),
            }
            for output in shown.outputs
        ],
        "surprises": list(shown.surprises),
    }
