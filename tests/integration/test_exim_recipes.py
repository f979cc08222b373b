"""The recipes in samples/exim, each in a real Exim."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from typing import Final

import pytest

from .conftest import EximFactory
from .exim import Exim
from .exim_configuration import EXIM
from .queuefile import HeaderFile
from .recipes import SAMPLES, export_recipe, export_transport, macros, queue_recipe, sample
from .smtp_client import SmtpRefusedError

pytestmark = pytest.mark.exim

MESSAGE: Final = b"From: a@sender.example\nSubject: hello\n\nfirst line\n"
RECIPIENTS: Final = ("a@file.example", "b@file.example", "c@list.example")
FINALLY: Final = ["a@file.example", "b@file.example", "x@file.example", "y@file.example"]


@pytest.fixture
def exporting(start_exim: EximFactory) -> Exim:
    exim = start_exim(**export_recipe())
    exim.make_directory("export")
    return exim


def requeue_by_hand(exim: Exim, message_id: str) -> None:
    """Put an export back into the spool with the variable that ends the loop."""
    header_file = exim.directory / "export" / f"{message_id}-H"
    content = header_file.read_bytes().replace(b"\n-body_linecount", b"\n-aclm _respool 1\n1\n-body_linecount", 1)
    header_file.write_bytes(content)
    for suffix in ("-D", "-H"):
        os.rename(exim.directory / "export" / f"{message_id}{suffix}", exim.spool_file(message_id, suffix))


def test_a_message_with_many_recipients_is_exported_once(exporting: Exim) -> None:
    message_id = exporting.receive(MESSAGE, recipients=RECIPIENTS)
    exporting.deliver(message_id)

    export = exporting.directory / "export"
    assert sorted(os.listdir(export)) == [f"{message_id}-D", f"{message_id}-H"]
    header_file = HeaderFile((export / f"{message_id}-H").read_bytes())
    assert header_file.recipients == [address.encode() for address in RECIPIENTS]
    assert header_file.done == set()
    assert exporting.ids() == ()
    assert (export / f"{message_id}-D").stat().st_nlink == 1
    assert exporting.deliveries() == ()
    assert f"{message_id} Completed" in exporting.log()


def test_what_is_requeued_is_delivered_and_not_exported_again(exporting: Exim) -> None:
    message_id = exporting.receive(MESSAGE, recipients=RECIPIENTS)
    exporting.deliver(message_id)
    requeue_by_hand(exporting, message_id)
    exporting.deliver(message_id)
    assert [recipient for _, recipient in exporting.delivered()] == FINALLY
    assert {delivery.variables["acl_m_respool"] for delivery in exporting.deliveries()} == {"1"}
    assert os.listdir(exporting.directory / "export") == []
    assert exporting.panic_log() == ""


def test_nobody_reaches_the_domain_of_the_exports(exporting: Exim) -> None:
    message_id = exporting.receive(MESSAGE, recipients=["all@respool.invalid", "a@file.example"])
    exporting.deliver(message_id)
    assert len(os.listdir(exporting.directory / "export")) == 2
    requeue_by_hand(exporting, message_id)
    exporting.deliver(message_id)
    assert (message_id, "a@file.example") in exporting.delivered()
    assert "** all@respool.invalid R=respool_refuse" in exporting.log()


def test_routing_is_shown_by_exim(exporting: Exim) -> None:
    output = exporting.command("-bt", "a@file.example", "b@anywhere.example")
    assert output.count("router = respool_export, transport = respool_export") == 2
    assert output.count("<-- ") == 2


def test_an_export_that_fails_waits_and_is_not_bounced(exporting: Exim) -> None:
    (exporting.directory / "export").rmdir()
    message_id = exporting.receive(MESSAGE, recipients=RECIPIENTS)
    exporting.deliver(message_id)
    assert exporting.pairs() == (message_id,)
    assert exporting.deliveries() == ()
    exporting.make_directory("export")
    exporting.deliver(message_id)
    assert len(os.listdir(exporting.directory / "export")) == 2
    assert exporting.ids() == ()


def test_mail_that_is_not_wanted_goes_its_way(start_exim: EximFactory) -> None:
    exim = start_exim(**export_recipe(RESPOOL_WANTED="!eq {$sender_address}{plain@sender.example}"))
    exim.make_directory("export")
    plain, wanted = exim.receive(MESSAGE, sender="plain@sender.example"), exim.receive(MESSAGE)
    exim.deliver(plain, wanted)
    assert exim.delivered() == [(plain, "a@file.example")]
    assert sorted(os.listdir(exim.directory / "export")) == [f"{wanted}-D", f"{wanted}-H"]


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("chunking", [False, True])
def test_a_named_queue_takes_in_and_holds(start_exim: EximFactory, split: bool, chunking: bool) -> None:
    exim = start_exim(**queue_recipe(), hold=False, split=split)
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS, chunking=chunking)
    assert exim.pairs("scan") == (message_id,)
    assert exim.spool_file(message_id, "-H", "scan").exists()
    assert exim.ids() == ()
    assert "no immediate delivery: queued in scan by ACL" in exim.log()
    exim.run_queue(force=True)
    assert exim.deliveries() == ()
    # Taken over by hand, as respool does, it is mail like any other.
    target = exim.spool_file(message_id, "-D").parent
    for directory in (exim.input_directory(), target):
        if not directory.exists():
            directory.mkdir()
            os.chown(directory, exim.uid, exim.gid)
    for suffix in ("-D", "-H"):
        os.rename(exim.spool_file(message_id, suffix, "scan"), target / f"{message_id}{suffix}")
    exim.run_queue()
    assert [recipient for _, recipient in exim.delivered()] == FINALLY


def test_a_named_queue_takes_only_what_is_wanted_within_one_session(start_exim: EximFactory) -> None:
    exim = start_exim(
        **queue_recipe(RESPOOL_WANTED="!eq {$sender_address}{plain@sender.example}", RESPOOL_QUEUE="respool"),
        hold=False,
    )
    with exim.client() as client:
        wanted = [client.send(MESSAGE)]
        plain = client.send(MESSAGE, sender="plain@sender.example")
        wanted.append(client.send(MESSAGE))
    exim.wait_for(lambda exim: exim.delivered() == [(plain, "a@file.example")])
    assert exim.pairs("respool") == tuple(sorted(wanted))


FORGED: Final = (
    b"Authentication-Results: mx.example.org; spf=pass\n",
    b"authentication-results:mx.example.org 1; spf=pass\n",
    b"Authentication-Results : MX.EXAMPLE.ORG; spf=pass\n",
    b"Authentication-Results:\n mx.example.org;\n spf=pass\n",
    b'Authentication-Results: "mx.example.org"; spf=pass\n',
    b'Authentication-Results: "mx.exam\\ple.org"; spf=pass\n',
    b"Authentication-Results: (a;b) mx.example.org; spf=pass\n",
    b"Authentication-Results: mx.example.org(c); spf=pass\n",
    b"Authentication-Results: mx.example.org.; spf=pass\n",
    b"Authentication-Results: \vmx.example.org; spf=pass\n",
    "Authentication-Results: mx.exämple.org; spf=pass\n".encode(),
)
HIDDEN: Final = (
    b"Authentication-Results\n : mx.example.org; spf=pass\n",
    b"Authentication-Results \n\t:\n mx.example.org; spf=pass\n",
    b"Authentication-Results\v: mx.example.org; spf=pass\n",
)
FOREIGN: Final = (
    b"Authentication-Results: mx.other.example; spf=pass\n",
    b"Authentication-Results: mx.example.org.other.example; spf=pass\n",
    b"Authentication-Results: mxxexample.org; spf=pass\n",
    b"Authentication-Results: other.example;\n spf=pass\n mx.example.org;\n (mx.example.org)\n",
    b"ARC-Authentication-Results: i=1; mx.example.org; spf=pass\n",
    b"X-Authentication-Results: mx.example.org; spf=pass\n",
)


@pytest.fixture
def stripping(start_exim: EximFactory) -> Exim:
    return start_exim(main=macros(), data_acl=sample("strip-authentication-results.acl"))


def sent_headers(exim: Exim, message_id: str) -> bytes:
    exim.deliver(message_id)
    (delivery,) = exim.deliveries()
    return delivery.content.partition(b"\n\n")[0] + b"\n"


@pytest.mark.parametrize("forged", FORGED)
def test_forged_results_are_stripped(stripping: Exim, forged: bytes) -> None:
    message_id = stripping.receive(FOREIGN[4] + forged + MESSAGE)
    headers = sent_headers(stripping, message_id)
    assert b"spf=pass" not in headers.replace(FOREIGN[4], b"")
    assert FOREIGN[4] in headers
    assert stripping.panic_log() == ""


@pytest.mark.parametrize("forged", HIDDEN)
def test_forged_results_with_a_fold_before_the_colon_do_not_get_in(stripping: Exim, forged: bytes) -> None:
    try:
        message_id = stripping.receive(forged + MESSAGE)
    except SmtpRefusedError as refused:  # Exim before 4.97 can't remove them
        assert (refused.code, "malformed header field" in refused.text) == (550, True)
    else:
        assert b"spf=pass" not in sent_headers(stripping, message_id)
    assert stripping.panic_log() == ""


@pytest.mark.parametrize("foreign", FOREIGN)
def test_foreign_results_are_kept(stripping: Exim, foreign: bytes) -> None:
    assert foreign in sent_headers(stripping, stripping.receive(foreign + MESSAGE))


def test_results_are_recorded(start_exim: EximFactory) -> None:
    """SPF of a loopback client is *pass* without a question to the DNS (libspf2)."""
    exim = start_exim(main=macros(), data_acl=sample("record-data.acl"))
    message_id = exim.receive(MESSAGE)
    header_file = exim.spool_file(message_id, "-H").read_bytes()
    if exim.has("SPF"):
        assert b"aclm _exim_spf 4\npass\n" in header_file
        assert b"aclm _exim_spf_domain 14\nsender.example\n" in header_file
    else:
        assert b"_exim_spf" not in header_file


def test_all_files_together_make_a_configuration(start_exim: EximFactory) -> None:
    """As the administrator includes them, with every statement where the README puts it."""
    exim = start_exim(listen=False)
    transport = exim.directory / "transport.conf"
    transport.write_text(export_transport().replace("@DIRECTORY@", str(exim.directory)))
    exim.configuration.write_text(
        f"""\
RESPOOL_EXPORT = {exim.directory}/export
.include {SAMPLES}/macros.conf
primary_hostname = mx.example
spool_directory = {exim.spool}
log_file_path = {exim.log_directory}/%s.log
keep_environment =
domainlist local_domains = mx.example
acl_smtp_mail = mail
acl_smtp_dkim = dkim
acl_smtp_data = data
begin acl
mail:
.include {SAMPLES}/named-queue-mail.acl
  accept
dkim:
.include {SAMPLES}/record-dkim.acl
  accept
data:
.include {SAMPLES}/strip-authentication-results.acl
.include {SAMPLES}/record-data.acl
  accept
begin routers
.include {SAMPLES}/queuefile-routers.conf
.include {SAMPLES}/route-routers.conf
.include {SAMPLES}/dcc-routers.conf
begin transports
.include {transport}
.include {SAMPLES}/dcc-transports.conf
remote_smtp:
  driver = smtp
.include {SAMPLES}/dane-options.conf
begin retry
.include {SAMPLES}/queuefile-retry.conf
"""
    )
    output = exim.command("-bV")
    assert "Configuration file" in output
    assert "error" not in output.lower(), output
    transports = exim.command("-bP", "transport_list").split()
    assert {"respool_export", "respool_bulk", "remote_smtp"} <= set(transports)
    assert "acl_m_dane" in exim.command("-bP", "transport", "remote_smtp")


def test_a_flood_of_fields_hides_nothing(stripping: Exim) -> None:
    """A forged field behind 200 kB of foreign ones: longer than an expansion of header fields may be."""
    foreign = b"".join(b"Authentication-Results: h%d.other.example;\n " % n + b"x" * 900 + b"\n" for n in range(220))
    message_id = stripping.receive(foreign + FORGED[0] + MESSAGE)
    assert b"spf=pass" not in sent_headers(stripping, message_id)


@pytest.mark.system("update-exim4.conf")
def test_debians_own_configuration_takes_the_named_queue(start_exim: EximFactory) -> None:
    """The files of the README, dropped into a copy of Debian's split configuration."""
    if EXIM != "/usr/sbin/exim4":
        pytest.skip("Debian's configuration is for Debian's Exim")
    exim = start_exim(listen=False)
    directory = exim.directory / "debian"
    shutil.copytree("/etc/exim4", directory)
    settings = directory / "update-exim4.conf.conf"
    settings.write_text(re.sub(r"(?m)^dc_use_split_config=.*$", "dc_use_split_config='true'", settings.read_text()))
    blocks = re.findall(r"```exim\n( *# /etc/exim4/conf\.d/(?:main|acl)/.*?)```", sample("README.md"), re.DOTALL)
    main, acl = (textwrap.dedent(block).replace("/etc/respool/exim", str(SAMPLES)) for block in blocks)
    place = f"SPOOLDIR = {exim.spool}\nlog_file_path = {exim.directory}/log/%s\n"
    main = f"{place}MAIN_HARDCODE_PRIMARY_HOSTNAME = mx.example\n{main}"
    (directory / "conf.d" / "main" / "00_respool").write_text(main)
    (directory / "conf.d" / "acl" / "00_respool").write_text(acl)
    for place, name in (("router/050_respool_route", "route-routers"), ("router/650_respool_dcc", "dcc-routers"),
                        ("transport/30_respool_dcc", "dcc-transports")):  # fmt: skip
        assert f"`conf.d/{place}`" in sample("README.md")
        (directory / "conf.d" / place).write_text(f".include {SAMPLES}/{name}.conf\n")
    remote = directory / "conf.d" / "transport" / "30_exim4-config_remote_smtp"
    with_options = f"driver = smtp\n.include {SAMPLES}/dane-options.conf\n"
    remote.write_text(remote.read_text().replace("driver = smtp\n", with_options))
    subprocess.run(["update-exim4.conf", "-d", directory, "-o", exim.configuration], check=True)
    routers = exim.command("-bP", "router_list").split()
    assert routers[0] == "respool_route"
    assert routers.index("userforward") < routers.index("respool_bulk") < routers.index("local_user")
    assert "respool_bulk" in exim.command("-bP", "transport_list").split()
    assert "acl_m_dane" in exim.command("-bP", "transport", "remote_smtp")

    commands = [
        "EHLO x",
        "MAIL FROM:<a@sender.example>",
        "RCPT TO:<root@mx.example>",
        "DATA",
        "Subject: x",
        "",
        "y",
        ".",
    ]
    output = exim.command("-bs", content="\r\n".join([*commands, "QUIT", ""]).encode())
    message_id = re.search(r"id=(\S+)", output)
    assert message_id is not None, output
    assert exim.pairs("scan") == (message_id[1],)
    assert exim.ids() == ()
