"""Our history file in the hands of OpenDMARC's own programs."""

from __future__ import annotations

import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from respool.processors.dmarc_history_file import append, rotate
from respool.processors.dmarc_history_record import HistoryRecord, Seal, Signature, render_record

from ..scripted_smtp import ScriptedSmtp
from .opendmarc import OpenDmarc, OpenDmarcError

pytestmark = pytest.mark.system(
    "/usr/sbin/opendmarc-import", "mariadbd", "mariadb-install-db", "perl:DBD::mysql", "perl:Switch", "perl:JSON"
)


@pytest.fixture(scope="module")
def opendmarc() -> Iterator[OpenDmarc]:
    with OpenDmarc() as running:
        yield running


def make_record(job: str, **changes: object) -> HistoryRecord:
    record = HistoryRecord(
        job=job,
        reporter="mx.example.org",
        received=int(time.time()) - 60,
        ipaddr="203.0.113.9",
        from_domain="bank.example",
        mfrom="sender.example",
        spf=0,
        signatures=(Signature("lists.example", "s1", 0), Signature("bank.example", "s2", 7)),
        pdomain="bank.example",
        policy=16,
        rua=("mailto:a@bank.example", "mailto:b@bank.example!5m"),
        adkim=ord("r"),
        aspf=ord("s"),
        p=ord("r"),
        sp=ord("q"),
        action=4,
        arc=0,
        arc_policy=2,
        seals=(Seal(1, "f.example", "sel", "2001:db8::1"), Seal(2, "g.example", "sel", "")),
    )
    return msgspec.structs.replace(record, **changes)


def test_imported_and_reported(opendmarc: OpenDmarc, smtp_sink: ScriptedSmtp, tmp_path: Path) -> None:
    path, rotated = str(tmp_path / "dmarc.dat"), str(tmp_path / "dmarc.dat.1")
    failed = make_record("1abcde-000000-00")
    passed = make_record("1abcde-000001-00", policy=15, action=2, align_dkim=4, seals=(), arc=11, arc_policy=1)
    # The second is written again after a crash; a stranger's torn record lies between.
    append(path, render_record(failed))
    append(path, render_record(passed))
    append(path, b"job torn\nreporter mx.exam")
    append(path, render_record(passed))
    assert rotate(path, rotated)
    said = opendmarc.run("import", f"--input={rotated}")
    assert "unknown key" not in said
    # The one thing it says is that the repeat is known.
    assert [line for line in said.splitlines() if "Duplicate entry" not in line] == []
    rows = opendmarc.query(
        "SELECT jobid, policy, disp, addr, e.name, f.name, p.name, spf, align_dkim, align_spf, sigcount, arc, arc_policy"
        " FROM messages JOIN ipaddr ON ip = ipaddr.id JOIN domains e ON env_domain = e.id"
        " JOIN domains f ON from_domain = f.id JOIN domains p ON policy_domain = p.id ORDER BY jobid"
    )
    address = "203.0.113.9"
    names = ("sender.example", "bank.example", "bank.example")
    assert rows == [
        (failed.job, "16", "4", address, *names, "0", "5", "5", "2", "0", "2"),
        (passed.job, "15", "2", address, *names, "0", "4", "5", "2", "11", "1"),
    ]
    assert opendmarc.query("SELECT repuri, adkim, aspf, policy, spolicy, pct FROM requests WHERE repuri != ''") == [
        ("mailto:a@bank.example,mailto:b@bank.example!5m", "114", "115", "114", "113", "100")
    ]
    assert opendmarc.query(
        "SELECT d.name, s.name, instance FROM arcseals JOIN domains d ON arcseals.domain = d.id"
        " JOIN selectors s ON selector = s.id ORDER BY instance"
    ) == [("f.example", "sel", "1"), ("g.example", "sel", "2")]

    opendmarc.run(
        "reports", "--interval=86400", "--report-org=mx.example.org", "--report-email=r@mx.example.org",
        "--domain=bank.example", "--smtp-server=127.0.0.1", f"--smtp-port={smtp_sink.port}", "--keepfiles",
    )  # fmt: skip
    assert {recipient for sent in smtp_sink.messages for recipient in sent.recipients} == {
        b"<a@bank.example>", b"<b@bank.example>",
    }  # fmt: skip
    (file,) = opendmarc.directory.glob("mx.example.org!bank.example!*.xml")
    report = ElementTree.parse(file).getroot()
    published = {item.tag: item.text for item in report.find("policy_published") or ()}
    assert {key: published.get(key) for key in ("domain", "adkim", "aspf", "p", "sp", "pct")} == {
        "domain": "bank.example", "adkim": "r", "aspf": "s", "p": "reject", "sp": "quarantine", "pct": "100",
    }  # fmt: skip
    evaluated = [
        tuple(row.findtext(f"row/policy_evaluated/{name}") for name in ("disposition", "dkim", "spf"))
        for row in report.findall("record")
    ]
    assert sorted(evaluated) == [("none", "pass", "fail"), ("quarantine", "fail", "fail")]


def test_exims_own_form_of_the_last_line_stops_the_importer(opendmarc: OpenDmarc, tmp_path: Path) -> None:
    """Why ours differs from it: should that change, so may we."""
    path = tmp_path / "exim.dat"
    exim = render_record(make_record("1abcde-00000a-00"))
    place = exim.index(b"json:")
    path.write_bytes(exim[:place] + b'json[ ("i":1, "d":"f.example", "s":"sel") ]\n')
    with pytest.raises(OpenDmarcError):
        opendmarc.run("import", f"--input={path}")
