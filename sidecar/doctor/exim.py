"""Exim beside the sidecar: version, spool, the recipe in its configuration, its daemon.

Diagnostics: the checks raise nothing; an Exim that can't be asked is a finding.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from typing import Final

from ...requeue.exim_program import is_privilege_lost
from ...requeue.notify import Notifier
from ..config import Config, ExportSource, QueueSource, SpoolRequeue
from .finding import Finding, Findings, ok, problem, warning

_ASK_SECONDS: Final = 20.0
_VERSION: Final = re.compile(r"^Exim version (\S+)", re.MULTILINE)
#: The form in which `exim -bP config` prints it: macros replaced, comments gone.
_QUEUE_ONLY: Final = re.compile(r"^\s*(?:warn\s+|accept\s+)?control\s*=\s*queue_only\b", re.MULTILINE)
_RUNNER: Final = re.compile(r"-q[filq]*+(?:G(?P<queue>[^/]{0,64})/)?(?P<interval>\d{1,9}[smhdw])")


def check_exim(config: Config) -> Findings:
    """What matters of the Exim that the configuration names."""
    if not isinstance(config.source, ExportSource | QueueSource) and not isinstance(config.requeue, SpoolRequeue):
        yield ok("exim", "none is concerned: source and target are plain directories")
        return
    version = ask(config, "-bV")
    if version is None:
        advice = "set exim.command to Exim's program (Debian: /usr/sbin/exim4)"
        yield problem("exim", f"{config.exim.command} can't be asked", advice)
        return
    yield from _program(config, version)
    text = ask(config, "-bP", "config")
    if text is None or "# Exim Configuration" not in text[:200]:
        yield warning(
            "recipe", f"Exim does not show its configuration to {_me()}",
            "run the doctor as root or as Exim's user: only they may see it",
        )  # fmt: skip
    elif isinstance(config.source, QueueSource):
        yield _queue_recipe(config.source.queue, text)
    elif isinstance(config.source, ExportSource):
        yield _export_recipe(config.source.directory, text)
    if isinstance(config.requeue, SpoolRequeue):
        yield from _daemon(config, config.requeue)


def ask(config: Config, *arguments: str) -> str | None:
    """What Exim prints; None where it can't be started or says no."""
    try:
        answer = subprocess.run(
            [config.exim.command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True,
            timeout=_ASK_SECONDS,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.decode("utf-8", "backslashreplace")


def _me() -> str:
    return "root" if os.geteuid() == 0 else f"uid {os.geteuid()}"


def _program(config: Config, version: str) -> Findings:
    number = _VERSION.search(version)
    has_queuefile = "queuefile" in version.lower()
    shown = f"{config.exim.command} {number[1] if number else 'of unknown version'}"
    shown += ", with queuefile" if has_queuefile else ", without queuefile"
    if isinstance(config.source, ExportSource) and not has_queuefile:
        yield problem("exim", shown, 'build Exim with EXPERIMENTAL_QUEUEFILE, or take source.kind = "queue"')
    else:
        yield ok("exim", shown)
    spool = setting(config, "spool_directory")
    if isinstance(config.requeue, SpoolRequeue) and spool:
        ours = config.requeue.spool_directory
        if os.path.realpath(spool) == os.path.realpath(ours):
            yield ok("exim's spool", spool)
        else:
            yield problem(
                "exim's spool", f"Exim has {spool}, requeue.spool_directory is {ours}", f'set it to "{spool}"'
            )


def setting(config: Config, name: str) -> str:
    """A main option of Exim's configuration; "" where it is not set or can't be asked."""
    return (ask(config, "-bP", name) or "").partition("\n")[0].partition("=")[2].strip()


def _queue_recipe(queue: str, text: str) -> Finding:
    advice = "respool exim-config -c FILE prints it, samples/exim/README.md says where it belongs"
    uses = re.search(rf"^\s*(?:\w+\s+)?queue\s*=.*(?<![\w.-]){re.escape(queue)}(?![\w.-])", text, re.MULTILINE)
    if uses is None:
        return problem("recipe", f'no ACL of Exim puts mail into the queue "{queue}": none will come', advice)
    if _QUEUE_ONLY.search(text) is None:
        return problem("recipe", f'"queue = {queue}" without "control = queue_only": Exim delivers at once', advice)
    return ok("recipe", f'an ACL puts mail into the queue "{queue}", and holds it there')


def _export_recipe(directory: str, text: str) -> Finding:
    advice = "respool exim-config -c FILE prints it, samples/exim/README.md says where it belongs"
    if re.search(r"^\s*driver\s*=\s*queuefile\b", text, re.MULTILINE) is None:
        return problem("recipe", "no transport of Exim exports by queuefile: no mail will come", advice)
    if re.search(rf"^\s*directory\s*=\s*{re.escape(directory)}/?\s*$", text, re.MULTILINE) is None:
        return problem("recipe", f"no transport of Exim has directory = {directory}", advice)
    if "acl_m_respool" not in text:
        return problem("recipe", "no router looks at acl_m_respool: what was requeued is exported again", advice)
    return ok("recipe", f"a transport exports into {directory}, and requeued mail is let past")


def _daemon(config: Config, requeue: SpoolRequeue) -> Findings:
    """Whether somebody delivers what is requeued: a runner, and sooner than that the notifier socket."""
    command = _command_line(setting(config, "pid_file_path") or f"{requeue.spool_directory}/exim-daemon.pid")
    if command is None:
        yield warning(
            "queue runner", "no daemon of Exim is to be seen by its pid file",
            "start one with an interval (-bd -q10m): without it requeued mail waits; one in a container is not seen",
        )  # fmt: skip
    else:
        yield _runner(config, command)
    if requeue.notify in {"auto", "socket"}:
        yield _socket(config, requeue)
    if requeue.notify == "command" and is_privilege_lost():
        yield problem("telling exim", "exim -Mc does nothing under no_new_privs", 'set requeue.notify = "socket"')


def _command_line(pid_file: str) -> str | None:
    try:
        with open(pid_file, encoding="ascii") as file:
            process = int(file.read(32))
        with open(f"/proc/{process}/cmdline", "rb") as file:
            return file.read(4096).replace(b"\0", b" ").decode("utf-8", "backslashreplace").strip()
    except (OSError, ValueError):
        return None


def _runner(config: Config, command: str) -> Finding:
    runners = list(_RUNNER.finditer(command))
    if isinstance(config.source, QueueSource):
        for runner in runners:
            if runner["queue"] == config.source.queue:
                return problem(
                    "queue runner", f"Exim's daemon runs the queue {config.source.queue}, which respool takes from",
                    f"take -qG{config.source.queue}/… out of the daemon's options",
                )  # fmt: skip
    if not any(not runner["queue"] for runner in runners):
        return warning(
            "queue runner", f"{command}: no interval", "start the daemon with one (-q10m): notes can get lost"
        )
    return ok("queue runner", command)


def _socket(config: Config, requeue: SpoolRequeue) -> Finding:
    notifier = Notifier.for_spool(requeue.spool_directory, requeue.notifier_socket)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            # Of datagrams this sends nothing (unix(7)).
            channel.connect(notifier.address)
        except OSError as error:
            shown = notifier.address.replace(b"\0", b"@").decode("utf-8", "backslashreplace")
            return warning(
                "telling exim", f"{shown}: {error.strerror}",
                "start Exim's daemon with -bd and -q; from another network namespace it can't be reached: "
                'then notify = "none" and a short interval',
            )  # fmt: skip
        finally:
            notifier.close()
    return ok("telling exim", "its notifier socket listens")
