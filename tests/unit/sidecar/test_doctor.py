"""``respool doctor``: each thing that can be wrong is found, named, and comes with what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from respool.lookups.zone import ZoneResolver
from respool.processors.authentication.keys import load_signing_key
from respool.requeue.state import STATES
from respool.sidecar.cli import cli
from respool.sidecar.cli.doctor import _beside
from respool.sidecar.config import Config, decode
from respool.sidecar.doctor import directories, exim, keys, system
from respool.sidecar.doctor.daemon import check_daemon
from respool.sidecar.doctor.directories import check_directories
from respool.sidecar.doctor.exim import check_exim
from respool.sidecar.doctor.finding import Finding, warning
from respool.sidecar.doctor.keys import check_keys
from respool.sidecar.doctor.names import check_dns, check_tables
from respool.sidecar.doctor.system import check_system
from tests.fault.harness import Setup


def levels(findings: Iterable[Finding]) -> dict[str, str]:
    """The worst that was found about each topic."""
    order = ("ok", "warning", "problem")
    worst: dict[str, str] = {}
    for finding in findings:
        assert finding.level == "ok" or finding.advice, finding
        worst[finding.topic] = max(worst.get(finding.topic, "ok"), finding.level, key=order.index)
    return worst


def only(findings: Iterable[Finding], topic: str) -> Finding:
    (found,) = [finding for finding in findings if finding.topic == topic]
    return found


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path, source="queue")


def test_directories_that_are_as_they_should_be(setup: Setup) -> None:
    found = levels(check_directories(setup.config, os.geteuid()))
    assert set(found) == {"source", "state", "target", "one file system", "file system", "free space", "layout"}
    assert set(found.values()) == {"ok"}


def test_a_directory_that_others_can_write(setup: Setup) -> None:
    setup.queue.chmod(0o777)
    finding = only(check_directories(setup.config, os.geteuid()), "source")
    assert finding.level == "problem"
    assert "0777" in finding.found
    assert "chmod go-w" in finding.advice


def test_a_directory_of_somebody_else(setup: Setup) -> None:
    finding = only(check_directories(setup.config, os.geteuid() + 4711), "target")
    assert finding.level == ("ok" if os.geteuid() == 0 else "problem")


def test_a_source_that_is_not_there(setup: Setup) -> None:
    shutil.rmtree(setup.queue)
    finding = only(check_directories(setup.config, os.geteuid()), "source")
    assert finding.level == "problem"
    assert "send one message" in finding.advice


def test_directories_on_two_file_systems(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path("/dev/shm")
    if shared.stat().st_dev == setup.root.stat().st_dev:
        pytest.skip("one file system here")
    other = shared / f"respool-{os.getpid()}"
    other.mkdir(mode=0o750)
    try:
        text = msgspec_replace(setup.config, state_directory=str(other))
        assert only(check_directories(text, os.geteuid()), "one file system").level == "problem"
    finally:
        other.rmdir()
    monkeypatch.setattr(directories, "mount_id", str)
    finding = only(check_directories(setup.config, os.geteuid()), "one file system")
    assert finding.level == "problem"
    assert "ReadWritePaths" in finding.advice


def msgspec_replace(config: Config, **values: Any) -> Config:
    import msgspec

    return msgspec.structs.replace(config, **values)


def test_little_space_and_a_remote_file_system(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs_result((4096, 4096, 10**6, 1000, 1000, 10**6, 10**5, 10**5, 0, 255))
    monkeypatch.setattr(os, "fstatvfs", lambda _: real)
    monkeypatch.setattr(directories, "file_system_type", lambda _: "nfs4")
    found = levels(check_directories(setup.config, os.geteuid()))
    assert found["free space"] == "problem"
    assert found["file system"] == "warning"


def test_a_layout_that_is_not_the_configured_one(tmp_path: Path) -> None:
    setup = Setup(tmp_path, source="queue")
    (setup.input / "x").mkdir()
    text = (
        f'hostname = "mx"\nstate_directory = "{setup.state}"\n[source]\nkind = "queue"\nspool_directory = "{setup.spool}"\nqueue = "in"\n'
        f'[requeue]\nkind = "spool"\nspool_directory = "{setup.spool}"\nsplit = false\n'
    )
    config = decode(text.encode(), Config, file="test.toml")
    assert only(check_directories(config, os.geteuid()), "layout").level == "warning"


def zone_of(text: str) -> ZoneResolver:
    return ZoneResolver.from_text(text)


PYTHON = {"python": "ok", "packages": "ok"}


def test_the_machine(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    found = levels(check_system(setup.config))
    assert found | PYTHON == found
    monkeypatch.setattr("importlib.metadata.requires", lambda _: ["nowhere-to-be-found>=1", "click>=9999.1", "x; y"])
    finding = only(check_system(None), "packages")
    assert finding.level == "problem"
    assert "nowhere-to-be-found is not installed; click is" in finding.found
    monkeypatch.setattr("time.time", lambda: 1e9)
    assert only(check_system(None), "clock").level == "problem"
    monkeypatch.setattr(system, "_INOTIFY", "/nowhere")
    monkeypatch.setattr("resource.getrlimit", lambda _: (32, 32))
    found = levels(check_system(setup.config))
    assert (found["events"], found["limits"]) == ("warning", "warning")


def test_versions_are_compared_as_numbers() -> None:
    assert system._numbers("4.10") > system._numbers("4.9")
    assert system._numbers("1.1.8+deb1") == system._numbers("1.1.8")


def fake_exim(setup: Setup, configuration: str, *, version: str = "Exim version 4.96 #2") -> Config:
    """A program that answers as Exim does; the configuration text is as -bP config prints it."""
    program = setup.root / "exim"
    (setup.root / "printed").write_text("# Exim Configuration (4.96)\n" + configuration)
    program.write_text(
        f"#!/bin/sh\ncase \"$*\" in -bV) echo '{version}';; '-bP config') cat {setup.root}/printed;;\n"
        f"'-bP spool_directory') echo spool_directory = {setup.spool};;\n"
        f"'-bP pid_file_path') echo pid_file_path = {setup.root}/pid;; *) exit 1;; esac\n"
    )
    program.chmod(0o755)
    return msgspec_replace(setup.config, exim=type(setup.config.exim)(command=str(program)))


GOOD = "acl_respool_mail:\n warn queue = ${if bool{true} {in}{}}\n warn condition = x\n control = queue_only\n"


@pytest.mark.parametrize(
    ("text", "level"),
    [
        (GOOD, "ok"),
        ("", "problem"),
        (GOOD.replace("{in}", "{inner}"), "problem"),
        (GOOD.replace(" control = queue_only\n", ""), "problem"),
    ],
)
def test_the_recipe_of_a_named_queue(setup: Setup, text: str, level: str) -> None:
    assert only(check_exim(fake_exim(setup, text)), "recipe").level == level


EXPORT = "routers:\n condition = ${if !def:acl_m_respool}\n respool:\n  driver = queuefile\n  directory = {}\n"


@pytest.mark.parametrize(
    ("version", "text", "exim_level", "recipe_level"),
    [
        ("Exim version 4.99 Experimental_QUEUEFILE", EXPORT, "ok", "ok"),
        ("Exim version 4.96", EXPORT, "problem", "ok"),
        ("Exim version 4.99 Experimental_QUEUEFILE", "", "ok", "problem"),
        ("Exim version 4.99 Experimental_QUEUEFILE", EXPORT.replace("{}", "/elsewhere"), "ok", "problem"),
        ("Exim version 4.99 Experimental_QUEUEFILE", EXPORT.replace("acl_m_respool", "acl_m_x"), "ok", "problem"),
    ],
)
def test_the_recipe_of_an_export(tmp_path: Path, version: str, text: str, exim_level: str, recipe_level: str) -> None:
    setup = Setup(tmp_path, source="export")
    config = fake_exim(setup, text.replace("{}", str(setup.export)), version=version)
    found = levels(check_exim(config))
    assert (found["exim"], found["recipe"]) == (exim_level, recipe_level)


def test_an_exim_that_is_not_there(setup: Setup) -> None:
    config = msgspec_replace(setup.config, exim=type(setup.config.exim)(command="/nowhere/exim"))
    assert levels(check_exim(config)) == {"exim": "problem"}


@pytest.mark.parametrize(
    ("command", "level"),
    [
        ("/usr/sbin/exim4 -bd -q30m", "ok"),
        ("/usr/sbin/exim4 -bdf -qqff5m", "ok"),
        ("/usr/sbin/exim4 -bd", "warning"),
        ("/usr/sbin/exim4 -bd -q30m -qGin/1m", "problem"),
        ("/usr/sbin/exim4 -bd -qGother/1m", "warning"),
    ],
)
def test_the_queue_runner(setup: Setup, command: str, level: str) -> None:
    assert exim._runner(setup.config, command).level == level


def test_the_notifier_socket(setup: Setup) -> None:
    config = decode(
        (
            f'hostname = "mx"\nstate_directory = "{setup.state}"\n[source]\nkind = "queue"\nspool_directory = "{setup.spool}"\n'
            f'queue = "in"\n[requeue]\nkind = "spool"\nspool_directory = "{setup.spool}"\n'
            f'notifier_socket = "{setup.root}/s"\n[exim]\ncommand = "{setup.root}/exim"\n'
        ).encode(),
        Config,
        file="test.toml",
    )
    fake_exim(setup, GOOD)
    assert only(check_exim(config), "telling exim").level == "warning"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        daemon.bind(f"{setup.root}/s")
        assert only(check_exim(config), "telling exim").level == "ok"
        daemon.setblocking(False)
        with pytest.raises(BlockingIOError):
            daemon.recv(10)  # nothing was sent


def test_dns(setup: Setup) -> None:
    config = decode(
        b'hostname = "mx"\nstate_directory = "/s"\n[source]\nkind = "directory"\ndirectory = "/a"\n[requeue]\nkind = "directory"\n'
        b'directory = "/b"\n[dns]\nnameservers = ["127.0.0.1"]\n', Config, file="test.toml",
    )  # fmt: skip
    zone = zone_of("iana.org. MX 10 mx.iana.org.\n")
    assert levels(check_dns(config, zone))["dns"] == "ok"
    assert levels(check_dns(config, zone_of("")))["dns"] == "problem"
    assert levels(check_dns(setup.config)) == {"dns": "warning"}


def test_keys(tmp_path: Path) -> None:
    key = tmp_path / "s1.pem"
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    key.chmod(0o600)
    text = (
        'hostname = "mx"\nstate_directory = "/s"\n[source]\nkind = "directory"\ndirectory = "/a"\n[requeue]\nkind = "directory"\n'
        'directory = "/b"\n[[processor]]\nuse = "dkim-sign"\n[[processor.config.keys]]\n'
        f'domain = "example.org"\nselector = "s1"\nkey_file = "{key}"\n'
    )
    config = decode(text.encode(), Config, file="test.toml")
    record = load_signing_key(str(key)).public_record.decode()
    name = "s1._domainkey.example.org."

    def zone(value: str) -> ZoneResolver:
        pieces = " ".join(f'"{value[start : start + 200]}"' for start in range(0, len(value), 200))
        return zone_of(f"{name} TXT {pieces}\n")

    assert only(check_keys(config, zone(record)), "key").level == "ok"
    assert only(check_keys(config), "key").level == "ok"
    assert only(check_keys(config, zone_of("")), "key").level == "problem"
    broken = only(check_keys(config, zone(record[:-8] + "AAAAAAAA")), "key")
    assert broken.level == "problem"
    assert record in broken.advice
    key.chmod(0o644)
    assert only(check_keys(config, zone(record)), "key").level == "problem"


@pytest.mark.parametrize("use", ["arc-seal", "dkim-sign"])
def test_keys_that_a_table_names(tmp_path: Path, use: str) -> None:
    good, other = tmp_path / "good.pem", tmp_path / "other.pem"
    for key in (good, other):
        subprocess.run(
            ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)], check=True, capture_output=True
        )
        key.chmod(0o600)
    lines = [f"a.example: a.example : s1 : {good}", f"b.example: b.example : s1 : {good}", f"c.example: b.example : s1 : {good}",
             f"d.example: d.example : s1 : {other}", f"e.example: e.example : s1 : {tmp_path}/none.pem", "f.example: nonsense"]  # fmt: skip
    if use == "dkim-sign":
        lines.append(f"g.example: a.example : s1 : {good} ; g.example : s1 : {good}")
    (tmp_path / "t").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(cli, ["table", "build", str(tmp_path / "t"), str(tmp_path / "t.mdb")])
    assert result.exit_code == 0, result.output
    text = (
        'hostname = "mx"\nstate_directory = "/s"\n[source]\nkind = "directory"\ndirectory = "/a"\n[requeue]\nkind = "directory"\n'
        f'directory = "/b"\n[[processor]]\nuse = "{use}"\nconfig = {{ key_table = "lmdb;{tmp_path}/t.mdb" }}\n'
    )
    config = decode(text.encode(), Config, file="test.toml")
    record = load_signing_key(str(good)).public_record.decode()
    zone = zone_of("".join(f's1._domainkey.{letter}.example. TXT "{record}"\n' for letter in "abdeg"))
    *troubles, summary = check_keys(config, zone)
    assert [one.level for one in troubles] == ["problem"] * 3
    assert "d.example is another key's" in troubles[0].found
    assert "none.pem" in troubles[1].found
    assert "line of 'f.example': 'nonsense'" in troubles[2].found
    good_ones, all_of_them = (3, 5) if use == "dkim-sign" else (2, 4)
    assert (summary.level, summary.topic) == ("ok", "key table")
    assert summary.found == f"{tmp_path}/t.mdb: {good_ones} of {all_of_them} keys belong to what DNS has"
    *troubles, summary = check_keys(config)
    assert len(troubles) == 2
    assert summary.found.endswith(f"{all_of_them - 1} of {all_of_them} keys can be used; not compared with DNS")


def test_a_key_table_with_too_many_lines_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        'hostname = "mx"\nstate_directory = "/s"\n[source]\nkind = "directory"\ndirectory = "/a"\n[requeue]\nkind = "directory"\n'
        f'directory = "/b"\n[[processor]]\nuse = "arc-seal"\nconfig = {{ key_table = "lmdb;{tmp_path}/t.mdb" }}\n'
        '[[processor]]\nuse = "dkim-sign"\nconfig = { key_table = "nonsense" }\n'
    )
    config = decode(text.encode(), Config, file="test.toml")
    assert list(check_keys(config)) == []  # no table there: others say so
    (tmp_path / "t").write_text("".join(f"{letter}: {letter}.example : s : {tmp_path}/none\n" for letter in "abc"))
    assert CliRunner().invoke(cli, ["table", "build", str(tmp_path / "t"), str(tmp_path / "t.mdb")]).exit_code == 0
    monkeypatch.setattr(keys, "_MOST_LINES", 2)
    *troubles, summary = check_keys(config)
    assert len(troubles) == 2
    assert "0 of 2 keys" in summary.found
    assert summary.found.endswith(", as far as was looked")


def test_tables(tmp_path: Path) -> None:
    (tmp_path / "t").write_text("a: b\n")
    result = CliRunner().invoke(cli, ["table", "build", str(tmp_path / "t"), str(tmp_path / "t.mdb")])
    assert result.exit_code == 0, result.output
    text = (
        'hostname = "mx"\nstate_directory = "/s"\n[source]\nkind = "directory"\ndirectory = "/a"\n[requeue]\nkind = "directory"\n'
        'directory = "/b"\n[[processor]]\nuse = "headers"\nwhen = { not = { recipient_domains = "lmdb;/nowhere.mdb" } }\n'
        f'[[processor]]\nuse = "route"\n[[processor.config.tables]]\nby = "domain"\ntable = "partial-lmdb;{tmp_path}/t.mdb"\n'
    )
    found = list(check_tables(decode(text.encode(), Config, file="test.toml")))
    assert [(one.level, one.topic) for one in found] == [("problem", "table"), ("ok", "table")]


def test_mail_that_waits_for_a_person(setup: Setup) -> None:
    for state in STATES:
        (setup.state / state).mkdir(parents=True)
    nothing = only(check_daemon(setup.config), "held mail")
    assert (nothing.level, nothing.found) == ("ok", "nothing waits for a person")
    (setup.state / "held" / "1xV9Vo-0000zC-2c.1").mkdir()
    (setup.state / "corrupt" / "1xV9Vo-0000zD-2c.2").mkdir()
    findings = list(check_daemon(setup.config))
    assert only(findings, "held mail") == warning(
        "held mail", "1 message waits for a person", "respool held list -c FILE"
    )
    unreadable = only(findings, "unreadable mail")
    # What it says to do can be copied as it stands.
    command = unreadable.advice.split()[:3]
    assert command == ["respool", "check", f"{setup.state}/corrupt"]
    assert unreadable.found.endswith(": 1")


def test_the_command_and_its_exit_codes(setup: Setup) -> None:
    if os.geteuid() == 0 and setup.input.stat().st_uid != 0:
        pytest.skip("the doctor would become another user here")
    (setup.root / "exim.toml").write_text("nonsense = 1\n")
    runner = CliRunner()
    result = runner.invoke(cli, ["doctor", "--json", "-c", str(setup.root / "exim.toml")])
    assert result.exit_code == 78
    document = json.loads(result.stdout)
    assert document["problem"] == 1
    assert "exim.toml:1: $.nonsense" in only_topic(document, "configuration")["found"]
    file = setup.root / "respool.toml"
    source, target = setup.root / "a", setup.root / "b"
    file.write_text(
        f'hostname = "mx"\nstate_directory = "{setup.root}/state"\n[source]\nkind = "directory"\ndirectory = "{source}"\n'
        f'[requeue]\nkind = "directory"\ndirectory = "{target}"\n[dns]\nzone_file = "/dev/null"\n'
    )
    file.chmod(0o640)
    target.mkdir(mode=0o750)
    source.mkdir()
    source.chmod(0o770)
    result = runner.invoke(cli, ["doctor", "-c", str(file)])
    # What a start refuses is a configuration that can't be used.
    assert result.exit_code == 78
    assert "chmod go-w" in result.stdout
    source.chmod(0o750)
    result = runner.invoke(cli, ["doctor", "--json", "-c", str(file)])
    assert result.exit_code == 0, result.stdout
    assert json.loads(result.stdout)["problem"] == 0
    file.chmod(0o666)
    result = runner.invoke(cli, ["doctor", "-c", str(file)])
    assert result.exit_code == 78
    assert "it says which code runs" in result.stdout


def only_topic(document: dict[str, Any], topic: str) -> dict[str, Any]:
    (found,) = [one for one in document["findings"] if one["topic"] == topic]
    return dict(found)


def test_lines_begin_beside_the_topics_and_what_is_to_be_copied_stays_whole() -> None:
    assert _beside("only Debian-exim and root can write", 40) == f"only Debian-exim and\n{'':18}root can write"
    record = f'publish: s._domainkey.a.example. TXT "v=DKIM1; p={"A" * 300}"'
    assert _beside(record, 80) == record
    # Of a terminal that is hardly one.
    assert "\n" in _beside("more than one word in all of it", 3)
