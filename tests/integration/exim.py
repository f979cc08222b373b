"""A private Exim: its own configuration, spool, logs and loopback port, in a temporary directory.

It receives over SMTP into a queue that holds, delivers on demand, and writes each delivery into a
file of its own, so that a doubled delivery is counted as two. It must be started by root: with
``-C`` any other caller loses Exim's privileges (exim.c).

Its routers, in this order (routers given to the constructor come first):

====================  =======================================================================
domain or variable    what happens
====================  =======================================================================
``defer.example``     deferred at routing, again and again
``fail.example``      refused at routing, so bounced
``list.example``      redirected to ``x@file.example`` and ``y@file.example`` with one_time
``acl_m_route``       ``127.0.0.1::PORT``: sent there over SMTP; else into mailbox ``routed``
``acl_m_dmarc_status``  ``quarantine`` (and ``reject``): into mailbox ``quarantine``
``remote.example``    sent over SMTP to remote_port on loopback
all others            into mailbox ``inbox``
====================  =======================================================================

Diagnostics: EximError when the daemon doesn't come up or a command runs out of time, with the
output of Exim; SmtpRefusedError (smtp_client.py) when it refuses a message.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from msgspec import Struct

from ..ports import free_port
from .exim_configuration import EXIM, EXIM_USER, QUEUEFILE_SCRIPT, RECORDED, configuration_text
from .smtp_client import SmtpClient

_ID: Final = re.compile(r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{11}-[0-9A-Za-z]{4}|[0-9A-Za-z]{6}-[0-9A-Za-z]{2})")


def has_queuefile() -> bool:
    """Whether EXIM is built with the queuefile transport."""
    with tempfile.NamedTemporaryFile("w", prefix="exim.") as configuration:
        # Without a name of its own Exim would ask the DNS for the machine's.
        configuration.write("primary_hostname = mx.example\n")
        configuration.flush()
        command = [EXIM, "-C", configuration.name, "-bP", "macros"]
        output = subprocess.run(command, check=False, capture_output=True).stdout
    return b"_DRIVER_TRANSPORT_QUEUEFILE=y" in output.split()


class EximError(Exception):
    """Exim didn't do what it was started for; the text is its own output."""


class Delivery(Struct, frozen=True, kw_only=True):
    """One delivery into a mailbox file.

    content is the message as Exim wrote it, with LF line ends; variables are the ACL variables
    that Exim saw while delivering, escaped as ``${escape:}`` does, empty ones left out.
    """

    id: str
    recipient: str
    sender: str
    queue: str
    mailbox: str
    variables: Mapping[str, str]
    content: bytes


class Exim:
    """See the module. ``with Exim(queue="scan", run_interval="2s") as exim: ...``

    hostname is its primary_hostname: a client that says it is called the same is looked up in the
    DNS, so two Exims that talk to each other need two. split and wireformat set the options of
    those names. hold makes every reception end with ``control = queue_only``; queue names the
    queue it goes to. run_interval is the time of ``-q`` of the daemon, None for no queue runner.
    listen=False starts no daemon. remote_port is where mail for ``remote.example`` is sent.
    Extra text for the configuration: main, mail_acl and data_acl (statements before the accept),
    routers and retry (before all others), transports; ``@DIRECTORY@`` in them becomes the
    temporary directory.
    base is where that is made.
    """

    def __init__(
        self,
        *,
        hostname: str = "mx.example",
        split: bool = False,
        wireformat: bool = False,
        hold: bool = True,
        queue: str = "",
        run_interval: str | None = None,
        listen: bool = True,
        remote_port: int | None = None,
        remote_chunking: bool = True,
        localhost_number: int | None = None,
        main: str = "",
        mail_acl: str = "",
        data_acl: str = "",
        routers: str = "",
        transports: str = "",
        retry: str = "",
        base: Path | None = None,
    ) -> None:
        self.hostname = hostname
        self.split, self.wireformat, self.hold, self.queue = split, wireformat, hold, queue
        self._run_interval, self._listen = run_interval, listen
        self._remote_port, self._remote_chunking = remote_port, remote_chunking
        self._localhost_number = localhost_number
        self._main, self._mail_acl, self._data_acl = main, mail_acl, data_acl
        self._routers, self._transports, self._retry = routers, transports, retry
        account = pwd.getpwnam(EXIM_USER)
        self.uid, self.gid = account.pw_uid, account.pw_gid
        self.port = 0
        self._daemon: subprocess.Popen[bytes] | None = None
        self._base = base

    # -- coming and going

    def __enter__(self) -> Self:
        # Short: the notifier's abstract address may have 107 bytes (unix(7)).
        self.directory = Path(tempfile.mkdtemp(prefix="exim.", dir=self._base))
        self.directory.chmod(0o755)
        self.spool = self._make_directory("spool", 0o750)
        self.log_directory = self._make_directory("log", 0o750)
        self.mail_directory = self._make_directory("mail", 0o750)
        self.configuration = self.directory / "exim.conf"
        (self.directory / "queuefile.sh").write_text(QUEUEFILE_SCRIPT)
        try:
            self.write_configuration()
            if self._listen:
                self.start_daemon()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the daemon and remove everything."""
        self.stop_daemon()
        while processes := self._processes():
            for process in processes:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.01)
        shutil.rmtree(self.directory)

    def _make_directory(self, name: str, mode: int) -> Path:
        path = self.directory / name
        path.mkdir()
        os.chown(path, self.uid, self.gid)
        path.chmod(mode)
        return path

    def make_directory(self, name: str, mode: int = 0o750) -> Path:
        """A directory beside the spool, on its filesystem, owned by Exim's user: for exports, states."""
        return self._make_directory(name, mode)

    def start_daemon(self) -> None:
        """Start ``exim -bd`` on a free port and wait until it answers."""
        for _ in range(5):
            self.port = free_port()
            self.write_configuration()
            interval = () if self._run_interval is None else (f"-q{self._run_interval}",)
            with (self.log_directory / "daemon.out").open("ab") as output:
                self._daemon = subprocess.Popen(
                    [EXIM, "-C", str(self.configuration), "-bdf", *interval],
                    stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
                )  # fmt: skip
            if self._wait_for_port(self._daemon):
                return
            # Most likely somebody took the port between probe and bind.
            self.stop_daemon()
        raise EximError(f"the daemon doesn't answer:\n{self._daemon_output()}")

    def _wait_for_port(self, daemon: subprocess.Popen[bytes]) -> bool:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and daemon.poll() is None:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=5) as session:
                    if session.recv(3) == b"220":
                        session.sendall(b"QUIT\r\n")
                        return True
            except OSError:
                time.sleep(0.02)
        return False

    def _daemon_output(self) -> str:
        files = ("daemon.out", "panic.log", "main.log")
        found = [self.log_directory / name for name in files if (self.log_directory / name).exists()]
        return "\n".join(path.read_text(errors="backslashreplace") for path in found)

    def stop_daemon(self) -> None:
        """Stop the daemon; nothing happens if there is none. What it has started goes on."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _processes(self) -> list[int]:
        """The processes of this Exim, without the daemon and the sessions that it serves.

        Known by the configuration's name in the command line: Exim detaches its background
        deliveries from session and parent, and clears their environment.
        """
        name = os.fsencode(self.configuration)
        daemon = self._daemon.pid if self._daemon is not None else 0
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                # Empty for a zombie.
                if name in (path / "cmdline").read_bytes().split(b"\0") and os.getpgid(int(path.name)) != daemon:
                    found.append(int(path.name))
        return found

    # -- the configuration

    def write_configuration(self) -> None:
        """Write the configuration file anew, as the attributes stand."""
        self.configuration.write_text(configuration_text(self).replace("@DIRECTORY@", str(self.directory)))
        self.configuration.chmod(0o644)

    # -- mail in

    def client(self, helo: str = "client.example") -> SmtpClient:
        """An SMTP session with the daemon."""
        return SmtpClient(self.port, helo=helo)

    def receive(
        self,
        message: bytes,
        sender: str = "sender@sender.example",
        recipients: Sequence[str] = ("a@file.example",),
        *,
        helo: str = "client.example",
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] | Mapping[str, Sequence[str]] = (),
        chunking: bool = False,
        authenticated: str | None = None,
    ) -> str:
        """Send one message over SMTP, in a session of its own, and return its id.

        For SMTPUTF8 give mail_options ``("SMTPUTF8", "BODY=8BITMIME")``; for DSN ``RET=`` and
        ``ENVID=`` there, ``NOTIFY=`` and ``ORCPT=`` in rcpt_options; a wire-format body needs
        chunking (BDAT) and wireformat.
        """
        with self.client(helo) as client:
            if authenticated is not None:
                client.authenticate(authenticated)
            return client.send(
                message,
                sender=sender,
                recipients=recipients,
                mail_options=mail_options,
                rcpt_options=rcpt_options,
                chunking=chunking,
            )

    def submit(
        self, message: bytes, sender: str = "sender@sender.example", recipients: Sequence[str] = ("a@file.example",)
    ) -> str:
        """Submit one message locally, on the command line (``-odq``), and return its id."""
        before = set(self.ids())
        self.command("-odq", "-oi", "-f", sender, "--", *recipients, content=message)
        (message_id,) = set(self.ids()) - before
        return message_id

    # -- the spool

    def input_directory(self, queue: str = "") -> Path:
        """``input`` of a queue, without the subdirectory of a split spool."""
        return (self.spool / queue if queue else self.spool) / "input"

    def spool_file(self, message_id: str, suffix: str, queue: str = "") -> Path:
        """Where Exim keeps ``<id><suffix>`` (``-H``, ``-D``, ``-J``), as split says."""
        directory = self.input_directory(queue)
        return (directory / message_id[5] if self.split else directory) / (message_id + suffix)

    def _names(self, queue: str, suffix: str) -> set[str]:
        directory = self.input_directory(queue)
        paths = [*directory.glob(f"*{suffix}"), *directory.glob(f"?/*{suffix}")]
        names = {path.name.removesuffix(suffix) for path in paths}
        return {name for name in names if _ID.fullmatch(name)}

    def pairs(self, queue: str = "") -> tuple[str, ...]:
        """The ids of which both files are in a queue, sorted, in either layout."""
        return tuple(sorted(self._names(queue, "-H") & self._names(queue, "-D")))

    def ids(self, queue: str = "") -> tuple[str, ...]:
        """The ids of which any file is in a queue, sorted: halves show here and not in pairs()."""
        return tuple(sorted(self._names(queue, "-H") | self._names(queue, "-D") | self._names(queue, "-J")))

    # -- mail out

    def command(self, *arguments: str, content: bytes = b"", timeout_seconds: float = 120) -> str:
        """Run ``exim -C configuration arguments`` to its end; its output, whatever its status."""
        process = subprocess.Popen(
            [EXIM, "-C", str(self.configuration), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            output, _ = process.communicate(content, timeout_seconds)
        except subprocess.TimeoutExpired as error:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise EximError(f"{' '.join(arguments)} ran out of time:\n{output!r}") from error
        # A bounce that it made is delivered by a process that it doesn't wait for.
        deadline = time.monotonic() + timeout_seconds
        while self._processes():
            if time.monotonic() > deadline:
                raise EximError(f"{' '.join(arguments)} left processes behind")
            time.sleep(0.01)
        return output.decode("utf-8", "backslashreplace")

    def deliver(self, *message_ids: str, queue: str = "") -> str:
        """``exim -M``: one forced delivery attempt for each, ended when this returns."""
        return self.command(*((f"-qG{queue}",) if queue else ()), "-M", *message_ids)

    def run_queue(self, queue: str = "", *, force: bool = False) -> str:
        """One queue run, ended when this returns; force ignores retry times and thaws (``-qff``)."""
        return self.command(("-qff" if force else "-q") + (f"G{queue}" if queue else ""), timeout_seconds=600)

    def deliveries(self) -> tuple[Delivery, ...]:
        """Everything delivered into the mailboxes so far."""
        return tuple(_parse_delivery(path) for path in sorted(self.mail_directory.glob("*/new/*")))

    def delivered(self) -> list[tuple[str, str]]:
        """(id, recipient) of every delivery, sorted: a double stands twice."""
        return sorted((delivery.id, delivery.recipient) for delivery in self.deliveries())

    def wait_for(self, condition: Callable[[Exim], bool], *, timeout_seconds: float = 60) -> None:
        """Wait until condition(self) holds; EximError with the log if it doesn't in time."""
        deadline = time.monotonic() + timeout_seconds
        while not condition(self):
            if time.monotonic() > deadline:
                raise EximError(f"not in {timeout_seconds} seconds; the log:\n{self.log()}")
            time.sleep(0.05)

    # -- what Exim says

    def has(self, feature: str) -> bool:
        """Whether this Exim is built with a feature (``SPF``, ``I18N``, ``DANE``), by its own macros."""
        return f"_HAVE_{feature}=y" in self.command("-bP", "macros").split()

    def log(self) -> str:
        """The main log so far."""
        return self._read_log("main.log")

    def panic_log(self) -> str:
        """The panic log so far; empty in a healthy run."""
        return self._read_log("panic.log")

    def _read_log(self, name: str) -> str:
        path = self.log_directory / name
        return path.read_text(errors="backslashreplace") if path.exists() else ""

    @property
    def notifier_address(self) -> bytes:
        """The daemon's notifier socket: an abstract address (daemon.c)."""
        return b"\0" + os.fsencode(self.spool / "exim_daemon_notify")


def _parse_delivery(path: Path) -> Delivery:
    prefix, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.decode("utf-8", "surrogateescape").split(": ", 1) for line in prefix.split(b"\n"))
    variables = {name: fields[name] for name in RECORDED if fields[name]}
    return Delivery(
        id=fields["id"], recipient=fields["recipient"], sender=fields["sender"], queue=fields["queue"],
        mailbox=path.parent.parent.name, variables=variables, content=content,
    )  # fmt: skip
