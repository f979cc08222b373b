"""The configuration: TOML, decoded into frozen structs.

Diagnostics: load() raises ConfigError naming the file, the key, what was expected and,
for an unknown key, where it belongs or the nearest known one.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import tomllib
from collections.abc import Generator
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from ..errors import ConfigError
from ..processors.conditions import When
from .config_hint import hint
from .config_lines import line_of

_Positive = Annotated[float, Meta(gt=0)]


class _Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of every table: unknown keys are refused."""


class ExportSource(_Section, frozen=True, kw_only=True, tag_field="kind", tag="export"):
    """Pairs that Exim's queuefile transport hard-links into a directory."""

    directory: Annotated[str, Meta(description="The export directory.")]


class QueueSource(_Section, frozen=True, kw_only=True, tag_field="kind", tag="queue"):
    """A named queue of Exim (`queue = NAME` with `control = queue_only` in an ACL)."""

    spool_directory: Annotated[str, Meta(description="Exim's spool_directory.")]
    queue: Annotated[str, Meta(description="Name of the queue to take messages from.", min_length=1, max_length=64)]


class DirectorySource(_Section, frozen=True, kw_only=True, tag_field="kind", tag="directory"):
    """An archive of pairs that no Exim uses. New ones: `-D` first, then `-H` by a rename (half of one looks whole)."""

    directory: Annotated[str, Meta(description="The directory with the pairs.")]


class SpoolRequeue(_Section, frozen=True, kw_only=True, tag_field="kind", tag="spool"):
    """Into the spool of a running Exim."""

    spool_directory: Annotated[str, Meta(description="Exim's spool_directory.")]
    queue: Annotated[str, Meta(description="Destination queue; empty for the default one.", max_length=64)] = ""
    id: Annotated[Literal["keep", "new"], Meta(description="Keep message ids where that is safe, or always mint.")] = (
        "keep"
    )
    notify: Annotated[
        Literal["auto", "socket", "command", "none"],
        Meta(
            description="How Exim is told: by its notifier socket, by `exim -Mc`, by the one that works (auto), "
            "or not at all. Its periodic runner is needed in any case."
        ),
    ] = "auto"
    notifier_socket: Annotated[
        str,
        Meta(description="Exim's notifier_socket; empty for its default, exim_daemon_notify in the spool directory."),
    ] = ""
    id_format: Annotated[
        Literal["same", "short", "long"],
        Meta(description="Ids that the destination reads: short before Exim 4.97; same: as in the source."),
    ] = "same"
    quoters: Annotated[
        tuple[str, ...] | None,
        Meta(
            description="Lookup types of the destination, for values marked as quoted for one: a message with any "
            "other is held. Unset: what `exim -bV` says."
        ),
    ] = None
    split: Annotated[
        bool | None, Meta(description="Whether the spool is split; unset: found out by looking at it.")
    ] = None
    localhost_number: Annotated[
        Annotated[int, Meta(ge=0, le=16)] | None, Meta(description="Exim's localhost_number, if it is set.")
    ] = None


class DirectoryRequeue(_Section, frozen=True, kw_only=True, tag_field="kind", tag="directory"):
    """Into a plain directory of pairs."""

    directory: Annotated[str, Meta(description="The directory to publish into.")]
    id: Annotated[Literal["keep", "new"], Meta(description="Keep message ids where that is safe, or always mint.")] = (
        "keep"
    )


class SmtpRequeue(_Section, frozen=True, kw_only=True, tag_field="kind", tag="smtp"):
    """To a server, by SMTP."""

    host: Annotated[
        str, Meta(description="Name or address of the server; its MX records are not asked for.", min_length=1)
    ]
    port: Annotated[int, Meta(description="Its port.", ge=1, le=65535)] = 25
    tls: Annotated[
        Literal["none", "may", "encrypt", "verify", "dane", "dane-only"],
        Meta(
            description="none: plain text; may: TLS if offered; encrypt: TLS, unverified; verify: TLS and WebPKI; "
            "dane: DANE if the host has it (RFC 7672), else as may; dane-only: DANE."
        ),
    ] = "verify"
    ca_file: Annotated[
        str | None, Meta(description="CA certificates for tls = verify, in PEM; unset: the system's.")
    ] = None
    xclient: Annotated[
        Literal["off", "auto", "exim", "postfix"],
        Meta(description="Tell the server of the original client, in the dialect of Exim or Postfix."),
    ] = "off"
    timeout_seconds: Annotated[
        _Positive, Meta(description="How long a reply may take; twice that for the end of a message.", le=600)
    ] = 60.0
    message_seconds: Annotated[
        _Positive, Meta(description="How long a message may take, all recipients together.", le=3600)
    ] = 600.0
    idle_seconds: Annotated[
        float, Meta(description="How long a connection waits for the next message; 0: not at all.", ge=0)
    ] = 5.0
    messages_per_connection: Annotated[int, Meta(description="Messages that one connection carries.", ge=1)] = 100
    recipients_per_message: Annotated[
        int, Meta(description="Recipients in one transaction; more take another one.", ge=1, le=1000)
    ] = 100
    refused: Annotated[
        Literal["hold", "bounce"],
        Meta(description="What happens where the server refuses for good; bounce: if somebody vouches for the sender."),
    ] = "hold"


class EximSection(_Section, frozen=True, kw_only=True):
    """The Exim beside which respool runs."""

    command: Annotated[str, Meta(description="Exim's program.")] = "/usr/sbin/exim"


class LedgerSection(_Section, frozen=True, kw_only=True):
    """What is remembered of exports, so that each recipient gets a message once."""

    expire_days: Annotated[
        _Positive, Meta(description="How long settled recipients are remembered: longer than Exim retries.")
    ] = 14.0
    largest_mib: Annotated[int, Meta(description="Size that its files may reach; then the intake stops.", ge=16)] = 1024


class DeferralSection(_Section, frozen=True, kw_only=True):
    """When deferred messages are tried again."""

    first_seconds: Annotated[_Positive, Meta(description="Wait before the second attempt; doubled for each other.")] = (
        60.0
    )
    longest_seconds: Annotated[_Positive, Meta(description="The longest wait between two attempts.")] = 3600.0
    hold_after_hours: Annotated[
        _Positive, Meta(description="A message that is still deferred after so long is held instead.")
    ] = 96.0


class HeldSection(_Section, frozen=True, kw_only=True):
    """What is done about held messages that nobody looks at."""

    drop_after_days: Annotated[
        _Positive | None, Meta(description="A message held for so long is dropped; unset: never.")
    ] = None


class MetricsSection(_Section, frozen=True, kw_only=True):
    """Where the sidecar answers Prometheus and health checks: docs/metrics.md."""

    listen: Annotated[
        str,
        Meta(description="Address and port for /metrics, /health and /ready, as 127.0.0.1:9610; empty: none."),
    ] = ""


class WebSection(_Section, frozen=True, kw_only=True):
    """The web page of ``respool web``: docs/web.md."""

    listen: Annotated[
        str, Meta(description="Address and port. Off this machine only behind a proxy that speaks TLS.")
    ] = "127.0.0.1:9611"
    operators: Annotated[
        tuple[str, ...],
        Meta(description="Dovecot's names of those who may log in; anybody else is refused, whatever the password."),
    ] = ()
    dovecot_socket: Annotated[
        str,
        Meta(description="Dovecot's auth socket: a path, or host and port with a space between; empty: not asked."),
    ] = ""
    dovecot_tls: Annotated[bool, Meta(description="TLS to Dovecot's auth service on host and port.")] = False
    dovecot_ca_file: Annotated[
        str, Meta(description="Whom to trust then; empty for the certificates of the system.")
    ] = ""
    password_file: Annotated[
        str, Meta(description="File of names and hashed passwords, of `respool web --hash`, instead of Dovecot.")
    ] = ""
    secure_cookie: Annotated[
        bool, Meta(description="Send the session's cookie over HTTPS only: for a proxy that speaks TLS.")
    ] = False
    session_minutes: Annotated[_Positive, Meta(description="An idle session ends after so long.")] = 30.0


class DnsSection(_Section, frozen=True, kw_only=True):
    """Where DNS is asked."""

    nameservers: Annotated[
        tuple[str, ...], Meta(description="Addresses of resolvers; empty for those of the system.")
    ] = ()
    zone_file: Annotated[
        str | None, Meta(description="Answer from this master file and ask nobody: for tests and demonstrations.")
    ] = None


class ProcessorEntry(_Section, frozen=True, kw_only=True):
    """One step of the pipeline."""

    use: Annotated[str, Meta(description="Name of a processor, or /path/to/file.py:ClassName.")]
    on_error: Annotated[
        Literal["defer", "skip", "hold"], Meta(description="What happens to a message if the processor fails.")
    ] = "defer"
    when: Annotated[
        When | None, Meta(description="On which messages it runs: docs/processors/conditions.md; unset: on all.")
    ] = None
    split: Annotated[
        bool,
        Meta(description="Divide a message of which when holds for some recipients only: it runs for their part."),
    ] = False
    config: Annotated[dict[str, Any], Meta(description="The processor's own settings.")] = {}


def _hostname() -> str:
    return socket.getfqdn()


class PipelineConfig(_Section, frozen=True, kw_only=True):
    """What every use of respool needs: who we are, where DNS is asked, the processors."""

    hostname: Annotated[str, Meta(description="This host's name; default: the system's.", min_length=1)] = (
        msgspec.field(default_factory=_hostname)
    )
    authserv_id: Annotated[str, Meta(description="Our id in Authentication-Results; default: hostname.")] = ""
    deadline_seconds: Annotated[_Positive, Meta(description="Time that the processors may take for one message.")] = (
        60.0
    )
    memory_mib: Annotated[
        int,
        Meta(
            description="Memory that a worker process may take, mapped files not counted; a processor that asks for "
            "more fails with MemoryError.",
            ge=128,
            le=1 << 20,
        ),
    ] = 2048
    dns: DnsSection = DnsSection()
    processor: tuple[ProcessorEntry, ...] = ()

    @property
    def our_authserv_id(self) -> str:
        """authserv_id, or the host's name where it is not set."""
        return self.authserv_id or self.hostname


class Config(PipelineConfig, frozen=True, kw_only=True):
    """The whole file. One file, one source: a second export directory is a second sidecar."""

    state_directory: Annotated[
        str, Meta(description="Where respool keeps its work; on the filesystem of source and target.")
    ]
    source: ExportSource | QueueSource | DirectorySource
    requeue: SpoolRequeue | DirectoryRequeue | SmtpRequeue
    workers: Annotated[int, Meta(description="Worker processes; default: one a core.", ge=1, le=256)] = msgspec.field(
        default_factory=lambda: len(os.sched_getaffinity(0))
    )
    threads: Annotated[int, Meta(description="Messages in hand at once in each worker.", ge=1, le=256)] = 8
    affinity: Annotated[
        bool, Meta(description="Keep each worker on one processor, where its threads hand over to each other faster.")
    ] = True
    scan_seconds: Annotated[
        _Positive, Meta(description="How often the source is looked at, whatever the events say.")
    ] = 30.0
    watch: Annotated[
        Literal["auto", "poll"],
        Meta(
            description="auto: new mail is noticed at once; poll: by scanning alone, for a file system without events."
        ),
    ] = "auto"
    orphan_seconds: Annotated[
        float, Meta(description="How long half a message is waited for before it is set aside.", ge=0)
    ] = 600.0
    mode: Annotated[
        Literal["process", "observe"],
        Meta(description="observe: log what would be done, requeue every message unchanged."),
    ] = "process"
    exim: EximSection = EximSection()
    ledger: LedgerSection = LedgerSection()
    deferral: DeferralSection = DeferralSection()
    held: HeldSection = HeldSection()
    metrics: MetricsSection = MetricsSection()
    web: WebSection = WebSection()


class BatchConfig(PipelineConfig, frozen=True, kw_only=True):
    """The same file as ``respool batch`` reads it: what concerns the sidecar alone is not looked at."""

    workers: Annotated[int, Meta(ge=1, le=256)] = msgspec.field(default_factory=lambda: len(os.sched_getaffinity(0)))
    state_directory: Any = None
    source: Any = None
    requeue: Any = None
    threads: Any = None
    affinity: Any = None
    scan_seconds: Any = None
    watch: Any = None
    orphan_seconds: Any = None
    mode: Any = None
    exim: Any = None
    ledger: Any = None
    deferral: Any = None
    held: Any = None
    metrics: Any = None
    web: Any = None


_Type = TypeVar("_Type", bound=PipelineConfig)


def load(path: str, kind: type[_Type]) -> _Type:
    """Read and decode a file as kind. Raises ConfigError."""
    return decode(read(path), kind, file=path)


def read(path: str) -> bytes:
    """The content of a configuration file. Raises ConfigError."""
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ConfigError(error.strerror or "can't be read", file=path) from error


@contextlib.contextmanager
def errors_of(path: str) -> Generator[None]:
    """Whatever ConfigError is raised within names the configuration at path, and what other file it is about."""
    try:
        yield
    except ConfigError as error:
        if error.file == path:
            raise
        reason = f"{error.file}: {error.reason}" if error.file else error.reason
        raise ConfigError(reason, file=path, key=error.key, line=_line(path, error.key)) from error


def _line(path: str, key: str) -> int:
    try:
        with open(path, "rb") as file:
            return line_of(file.read(), key)
    except OSError:
        return 0


def decode(content: bytes, kind: type[_Type], *, file: str) -> _Type:
    """Decode TOML as kind. Raises ConfigError naming file."""
    try:
        return msgspec.toml.decode(content, type=kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        field = _FIELD.search(reason)
        table = place.strip("`") or "$"
        key = table + (f".{field[1]}" if field is not None else "")
        if field is not None and "unknown" in reason:
            reason += hint(Config, tomllib.loads(content.decode()), table, field[1])
        raise ConfigError(reason, file=file, key=key, line=line_of(content, key)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        line = _AT_LINE.search(str(error))
        raise ConfigError(f"not TOML: {error}", file=file, line=int(line[1]) if line else 0) from error


_AT_LINE: Final = re.compile(r"\(at line (\d+),")
_FIELD: Final = re.compile(r"(?:unknown|required) field `([^`]*)`")
