"""What ``respool exim-config --write`` leaves, included by a real Exim: the steps of the README, one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import EximFactory
from .exim import Exim
from .exim_configuration import EXIM
from .sidecar import Sidecar

pytestmark = pytest.mark.exim

MESSAGE = (
    b"Authentication-Results: mx.example.org; dmarc=pass header.from=bank.example\r\n"
    b"From: a@sender.example\r\nSubject: hello\r\n\r\nfirst line\r\n"
)


def respool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "respool", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def recipe(tmp_path: Path) -> Iterator[Path]:
    """The files, for a queue called filter, where Exim's user can read them: ACLs are read without root's rights."""
    configuration = tmp_path / "respool.toml"
    configuration.write_text(
        'authserv_id = "mx.example.org"\nstate_directory = "/var/spool/exim4/respool"\n'
        '[source]\nkind = "queue"\nspool_directory = "/var/spool/exim4"\nqueue = "filter"\n'
        '[requeue]\nkind = "spool"\nspool_directory = "/var/spool/exim4"\n'
        '[[processor]]\nuse = "route"\n[processor.config]\nvariable = "acl_m_next_hop"\n'
        'tables = [{ by = "domain", table = "lmdb;/etc/respool/routes.mdb" }]\n'
        '[[processor]]\nuse = "dcc"\n[[processor]]\nuse = "dane"\n'
    )
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        written = respool("exim-config", "-c", str(configuration), "--write", f"{place}/exim")
        assert written.returncode == 0, written.stderr
        yield Path(place, "exim")


def including(recipe: Path, start_exim: EximFactory) -> Exim:
    def text(*names: str) -> str:
        return "\n".join((recipe / name).read_text() for name in names)

    return start_exim(
        main=text("macros.conf"),
        mail_acl=text("named-queue-mail.acl"),
        data_acl=text("strip-authentication-results.acl", "record-data.acl"),
        hold=False,
    )


def test_a_message_goes_through_the_queue_and_is_delivered(recipe: Path, start_exim: EximFactory) -> None:
    exim = including(recipe, start_exim)
    message_id = exim.receive(MESSAGE)
    assert exim.pairs("filter") == (message_id,)
    assert exim.pairs() == ()

    processors = '[[processor]]\nuse = "auth"\n[[processor]]\nuse = "authentication-results"\n'
    sidecar = Sidecar(exim, source="queue", queue="filter", processors=processors)
    checked = respool("config", "check", "-c", str(sidecar.configuration))
    assert checked.returncode == 0, checked.stderr
    done = sidecar.once()
    assert done.returncode == 0, done.stderr
    assert exim.pairs("filter") == ()
    assert exim.pairs() == (message_id,)

    exim.deliver(message_id)
    (delivery,) = exim.deliveries()
    assert delivery.variables["acl_m_respool"] == "1"
    assert b"bank.example" not in delivery.content
    assert b"Authentication-Results: " in delivery.content


@pytest.mark.exim("DANE")
def test_exim_takes_the_files_as_includes(recipe: Path, tmp_path: Path) -> None:
    configuration = tmp_path / "exim.conf"
    configuration.write_text(
        f"primary_hostname = mx.example\n.include {recipe}/macros.conf\ndomainlist local_domains = mx.example\n"
        "acl_smtp_mail = mail\nacl_smtp_data = data\nacl_smtp_dkim = dkim\nbegin acl\n"
        f"mail:\n.include {recipe}/named-queue-mail.acl\n  accept\n"
        f"data:\n.include {recipe}/strip-authentication-results.acl\n.include {recipe}/record-data.acl\n  accept\n"
        f"dkim:\n.include {recipe}/record-dkim.acl\n  accept\n"
        f"begin routers\n.include {recipe}/route-routers.conf\n.include {recipe}/dcc-routers.conf\n"
        f"begin transports\n.include {recipe}/dcc-transports.conf\n"
        f"remote_smtp:\n  driver = smtp\n.include {recipe}/dane-options.conf\n"
    )
    done = subprocess.run([EXIM, "-C", str(configuration), "-bV"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    def shown(*what: str) -> str:
        command = [EXIM, "-C", str(configuration), "-bP", *what]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout

    assert "filter" in shown("macro", "RESPOOL_QUEUE")
    assert "route_data = $acl_m_next_hop\n" in shown("router", "respool_route")
    assert "\nhosts_require_dane = ${if and{{def:acl_m_dane}" in shown("transport", "remote_smtp")
