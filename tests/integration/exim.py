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

from .smtp_client import SmtpClient

#: RESPOOL_EXIM names another Exim to test with: a newer one, or one that has queuefile.
EXIM: Final = os.environ.get("RESPOOL_EXIM", "/usr/sbin/exim4")
EXIM_USER: Final = "Debian-exim"
_ID: Final = re.compile(r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{11}-[0-9A-Za-z]{4}|[0-9A-Za-z]{6}-[0-9A-Za-z]{2})")
#: ACL variables that every delivery file tells.
RECORDED: Final = (
    "acl_c_helo", "acl_m_sender", "acl_m_lines", "acl_m_respool", "acl_m_route", "acl_m_dmarc_status",
    "acl_m_arc_state", "acl_m_dane", "acl_m_dcc_result",
)  # fmt: skip

_QUEUEFILE_SCRIPT: Final = """\
# queuefile.sh SPOOL EXPORT ID QUEUE: what the queuefile transport does; 75 is a defer.
cat >/dev/null
input=$1${4:+/$4}/input
[ -e "$input/$3-D" ] || input=$input/$(printf %s "$3" | cut -c6)
ln "$input/$3-H" "$2/$3-H" || exit 75
ln "$input/$3-D" "$2/$3-D" || { rm -f "$2/$3-H"; exit 75; }
"""


def has_queuefile() -> bool:
    """Whether EXIM is built with the queuefile transport."""
    output = subprocess.run([EXIM, "-bV"], check=False, capture_output=True).stdout
    return re.search(rb"(?m)^Transports:.*\bqueuefile\b", output) is not None


def queuefile_by_pipe(name: str, directory: str) -> str:
    """A transport called name that does what queuefile does, within Exim's own delivery process.

    So the lock, the journal and the unlinks around it are Exim's.
    """
    return f"""
{name}:
  driver = pipe
  user = {EXIM_USER}
  command = /bin/sh @DIRECTORY@/queuefile.sh @DIRECTORY@/spool {directory} $message_exim_id "$queue_name"
  temp_errors = 75
  log_output
"""


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

    split and wireformat set the options of those names. hold makes every reception end with
    ``control = queue_only``; queue names the queue it goes to. run_interval is the time of
    ``-q`` of the daemon, None for no queue runner. listen=False starts no daemon. extra text for
    the configuration: main, mail_acl and data_acl (statements before the accept), routers and
    retry (before all others), transports; ``@DIRECTORY@`` in them becomes the temporary directory.
    base is where that is made.
    """

    def __init__(
        self,
        *,
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
        (self.directory / "queuefile.sh").write_text(_QUEUEFILE_SCRIPT)
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
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = int(probe.getsockname()[1])
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
        deadline = time.monotonic() + 20
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
        """Stop the daemon and whatever it started; nothing happens if there is none."""
        daemon, self._daemon = self._daemon, None
        if daemon is None:
            return
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()
        # Deliveries under way are in the daemon's session.
        with suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        while _is_session_alive(daemon.pid):
            time.sleep(0.01)

    # -- the configuration

    def write_configuration(self) -> None:
        """Write the configuration file anew, as the attributes stand."""
        self.configuration.write_text(self._configuration_text().replace("@DIRECTORY@", str(self.directory)))
        self.configuration.chmod(0o644)

    def _configuration_text(self) -> str:
        held = "  warn control = queue_only\n" if self.hold else ""
        queued = f"  warn queue = {self.queue}\n" if self.queue else ""
        number = "" if self._localhost_number is None else f"localhost_number = {self._localhost_number}"
        chunking = "*" if self._remote_chunking else ""
        return f"""\
primary_hostname = mx.example
exim_path = {EXIM}
spool_directory = {self.spool}
log_file_path = {self.log_directory}/%s.log
pid_file_path = {self.directory}/spool/exim.pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
daemon_startup_retries = 0
split_spool_directory = {str(self.split).lower()}
spool_wireformat = {str(self.wireformat).lower()}
{number}
# Without it the daemon's children would be executed anew, and lose their rights because of -C.
deliver_drop_privilege
keep_environment =
# Nothing may ask the network.
host_lookup =
rfc1413_hosts =
dns_csa_search_limit = 0
smtp_accept_max = 200
smtp_accept_max_per_connection = 0
smtp_accept_queue_per_connection = 0
recipients_max = 0
check_spool_space = 0
check_spool_inodes = 0
check_log_space = 0
check_log_inodes = 0
tls_advertise_hosts =
chunking_advertise_hosts = *
dsn_advertise_hosts = *
.ifdef _HAVE_I18N
smtputf8_advertise_hosts = *
.endif
auth_advertise_hosts = *
log_selector = +pid +queue_run +smtp_confirmation +received_recipients
acl_smtp_connect = accept_undisturbed
acl_smtp_mail = accept_mail
acl_smtp_rcpt = accept_undisturbed
acl_smtp_data = accept_data
{self._main}

begin acl
accept_undisturbed:
  accept control = dkim_disable_verify
accept_mail:
  warn set acl_c_helo = $sender_helo_name
       set acl_m_sender = $sender_address
       set acl_m_lines = one\\ntwo
{held}{queued}{self._mail_acl}
  accept
accept_data:
{self._data_acl}
  accept

begin routers
{self._routers}
deferring:
  driver = redirect
  domains = defer.example
  allow_defer
  data = :defer: this domain always defers
refusing:
  driver = redirect
  domains = fail.example
  allow_fail
  data = :fail: this domain always refuses
listing:
  driver = redirect
  domains = list.example
  one_time
  data = x@file.example, y@file.example
routed_smtp:
  driver = manualroute
  condition = ${{if match{{$acl_m_route}}{{^127\\\\.0\\\\.0\\\\.1::}}}}
  route_data = $acl_m_route
  transport = remote
  self = send
routed:
  driver = accept
  condition = ${{if def:acl_m_route}}
  transport = routed
quarantine:
  driver = accept
  condition = ${{if inlist{{$acl_m_dmarc_status}}{{quarantine:reject}}}}
  transport = quarantine
remote:
  driver = manualroute
  domains = remote.example
  route_data = 127.0.0.1::{self._remote_port or 1}
  transport = remote
  self = send
inbox:
  driver = accept
  transport = inbox

begin transports
{self._transports}
remote:
  driver = smtp
  allow_localhost
  hosts_avoid_tls = *
  hosts_try_chunking = {chunking}
.ifdef _HAVE_DANE
  hosts_try_dane =
.endif
  hosts_try_fastopen =
{"".join(self.mailbox_transport(name) for name in ("inbox", "routed", "quarantine"))}
begin retry
{self._retry}
* * F,4d,1m

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_prompts = :
  server_condition = true
  server_set_id = $auth2
"""

    def mailbox_transport(self, name: str) -> str:
        """The text of a transport called name that writes each delivery into a file of its own."""
        told = "".join(f"{variable}: ${{escape:${variable}}}\\n" for variable in RECORDED)
        return f"""\
{name}:
  driver = appendfile
  user = {EXIM_USER}
  directory = {self.mail_directory}/{name}
  maildir_format
  create_directory
  directory_mode = 0750
  # With neither string set, Exim 4.96 loses the body of a message in wire format.
  check_string = "\\001never\\001"
  escape_string = "\\001never\\001"
  message_prefix = "id: $message_exim_id\\nrecipient: $local_part@$domain\\nsender: $sender_address\\n\\
    queue: $queue_name\\n{told}\\n"
  message_suffix =
"""

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
        while _is_session_alive(process.pid):
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

    def wait_for(self, condition: Callable[[Exim], bool], *, timeout_seconds: float = 30) -> None:
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


def _is_session_alive(leader: int) -> bool:
    try:
        os.killpg(leader, 0)
    except ProcessLookupError:
        return False
    # A zombie that its new parent hasn't reaped counts for kill, but does nothing any more.
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, group = path.read_text(errors="replace").rpartition(")")[2].split()[:3]
            if int(group) == leader and state != "Z":
                return True
    return False


def _parse_delivery(path: Path) -> Delivery:
    prefix, _, content = path.read_bytes().partition(b"\n\n")
    fields = dict(line.decode("utf-8", "surrogateescape").split(": ", 1) for line in prefix.split(b"\n"))
    variables = {name: fields[name] for name in RECORDED if fields[name]}
    return Delivery(
        id=fields["id"], recipient=fields["recipient"], sender=fields["sender"], queue=fields["queue"],
        mailbox=path.parent.parent.name, variables=variables, content=content,
    )  # fmt: skip
