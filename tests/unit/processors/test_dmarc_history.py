"""The history file: its records, who writes them, and that none is torn or lost."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from respool.errors import ConfigError, TemporaryError
from respool.processors.api import Effect, Proceed
from respool.processors.authentication.arc_chain import ArcSet
from respool.processors.authentication.arc_verify import ArcResult
from respool.processors.authentication.dkim_verify import DkimResult
from respool.processors.dmarc_history import Config, DmarcHistory
from respool.processors.dmarc_history_file import append, read_lines, rotate
from respool.processors.dmarc_history_record import (
    HistoryFormatError,
    HistoryRecord,
    Seal,
    Signature,
    parse_records,
    record_of,
    render_record,
)
from respool.processors.results import Result
from respool.spool.message import Message

from .authentication.fake_dns import TROUBLE
from .dmarc_results import Zone, results_for
from .processor_kit import make_context, make_message

FORGED = b"[203.0.113.9]:25"

EXPECTED = b"""\
job 1abcde-000000-00
reporter mx.example.org
received 1700000000
ipaddr 203.0.113.9
from example.com
mfrom example.com
spf 7
dkim lists.example.net s1 0
dkim example.com s2 7
pdomain example.com
policy 16
rua mailto:a@example.com
rua mailto:b@example.org!5m
pct 50
adkim 114
aspf 115
p 114
sp 110
align_dkim 5
align_spf 5
action 2
arc 0
arc_policy 2 json:[{"i":1,"d":"f.example","s":"sel","ip":"2001:db8::1"}]
"""


def full_results(message: Message) -> tuple[Any, ...]:
    results = [result for result in results_for(message) if result.method not in {"dkim", "arc"}]
    arc_set = ArcSet(instance=1, seal_domain="f.example", seal_selector="sel", remote_ip="2001:db8::1")
    return (
        *results,
        DkimResult(result=Result.PASS, domain="lists.example.net", selector="s1"),
        DkimResult(result=Result.FAIL, domain="example.com", selector="s2"),
        DkimResult(result=Result.NONE),
        ArcResult(result=Result.PASS, instance=1, sets=(arc_set,)),
    )


def record(message: Message, results: Any = None, **arguments: Any) -> HistoryRecord | None:
    arguments = {"reporter": "mx.example.org", "now": 1_700_000_000.9, "action": 2, **arguments}
    return record_of(message, results_for(message) if results is None else results, **arguments)


def test_every_line() -> None:
    message = make_message(host=FORGED)
    found = record(message, full_results(message))
    assert found is not None
    assert render_record(found) == EXPECTED
    assert list(parse_records(EXPECTED.splitlines(keepends=True))) == [found]


def test_the_older_form() -> None:
    message = make_message(host=FORGED)
    found = record(message, full_results(message))
    assert found is not None
    older = render_record(found, selectors=False, arc=False)
    assert b"dkim lists.example.net 0\n" in older
    assert b"arc" not in older


@pytest.mark.parametrize(
    ("message", "lines"),
    [
        (make_message(host=b"[192.0.2.1]:25"), [b"policy 15", b"align_spf 4", b"arc 11", b"arc_policy 1 json:[]"]),
        (make_message(sender=b"", host=FORGED), [b"mfrom mail.example.com"]),
        (make_message(sender=b"", helo=b"[203.0.113.9]", host=FORGED), [b"mfrom unknown.invalid"]),
        (make_message(sender=b"x@a b\n", host=FORGED), [b"mfrom unknown.invalid"]),
        (make_message([(b"From", b"x@careful.example")]), [b"policy 17", b"rua -", b"sp 0", b"p 113", b"adkim 114"]),
        (make_message([(b"From", b"x@unclear.example")]), [b"p 110", b"policy 18"]),
        (make_message([(b"From", b"x@watching.example")]), [b"policy 18", b"p 110"]),
        (make_message([(b"From", b"x@testing.example")]), [b"policy 17", b"p 114"]),
        (make_message([(b"From", b"x@sub.example.com")]), [b"from sub.example.com", b"pdomain example.com"]),
    ],
)
def test_single_lines(message: Message, lines: list[bytes]) -> None:
    found = record(message)
    assert found is not None
    rendered = render_record(found)
    assert set(lines) <= set(rendered.splitlines())
    assert list(parse_records(rendered.splitlines(keepends=True))) == [found]


def test_what_is_not_recorded() -> None:
    assert record(make_message([(b"From", b"x@nothing.example")])) is None
    assert record(make_message(host_auth=b"plain")) is None
    assert record(make_message([(b"From", b"a@example.com, b@example.org")])) is None
    assert record(make_message(host=None), results_for(make_message())) is None
    message = make_message(host=FORGED)
    zone: Zone = {"example.com": {"TXT": TROUBLE}, "_dmarc.example.com": {"TXT": (b"v=DMARC1; p=none",)}}
    assert record(message, results_for(message, zone)) is None


def test_report_addresses_fit_the_importers_column() -> None:
    uris = b",".join(b"mailto:%d-%b@example.com" % (number, b"x" * 60) for number in range(10))
    message = make_message(host=FORGED)
    found = record(message, results_for(message, {"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=none; rua=" + uris,)}}))
    assert found is not None
    assert len(found.rua) == 3
    assert len(",".join(found.rua)) <= 255


def test_hostile_names_stay_in_their_line() -> None:
    message = make_message(host=FORGED, sender=b"x@evil\xff.example", helo=b"a\tb")
    results = (
        *(result for result in results_for(message) if result.method == "dmarc"),
        DkimResult(result=Result.PASS, domain="a b", selector="s"),
        DkimResult(result=Result.PASS, domain="a.example\njob x", selector="s"),
        DkimResult(result=Result.PASS, domain="a.example", selector="s" * 300),
        *(DkimResult(result=Result.PASS, domain="a.example", selector="s") for _ in range(500)),
        ArcResult(
            result=Result.FAIL,
            sets=(ArcSet(instance=1, seal_domain="\ufffd\n", seal_selector="s"), ArcSet(instance=2, seal_domain="b")),
        ),
    )
    found = record(message, results, reporter="a\nb")
    assert found is not None
    lines = render_record(found).splitlines()
    assert found.signatures[:1] == (Signature("a.example", "s", 0),)
    assert len(lines) < 80
    assert found.seals == ()
    assert found.reporter == "unknown.invalid"
    assert all(line.isascii() for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        b"job x\ncolour blue\n",
        EXPECTED.replace(b"action 2", b"action two"),
        EXPECTED.replace(b"json:[{", b"json[ ("),
        EXPECTED.replace(b"dkim lists.example.net s1 0", b"dkim lists.example.net 0"),
    ],
)
def test_a_file_that_is_none_is_told(content: bytes) -> None:
    with pytest.raises(HistoryFormatError):
        list(parse_records(content.splitlines(keepends=True)))


def test_records_without_a_name_are_passed_over_as_by_the_importer() -> None:
    torn = EXPECTED.replace(b"reporter mx.example.org\n", b"")
    assert len(list(parse_records((torn + b"\n" + EXPECTED).splitlines(keepends=True)))) == 1


# The processor


def run(message: Message, **config: Any) -> tuple[DmarcHistory, Any]:
    processor = DmarcHistory(Config(**config))
    context = make_context(results=results_for(message))
    assert isinstance(processor.process(message, context), Proceed)
    return processor, context


def effect(payload: bytes) -> Effect:
    return Effect(id=make_message().id, claim=1, processor="dmarc-history", number=0, kind="record", payload=payload)


def test_the_record_is_an_effect(tmp_path: Path) -> None:
    file = tmp_path / "dmarc.dat"
    processor, context = run(make_message(host=FORGED), file=str(file), sync=True)
    assert not file.exists()
    ((kind, payload),) = context.effects.declared
    assert kind == "record"
    for _ in range(2):
        processor.run_effect(effect(payload), structlog.get_logger())
    first, second = parse_records(read_lines(str(file)))
    assert first == second
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("variables", "routers_act", "action"),
    [
        ({}, False, 2),
        ({}, True, 0),
        ({"acl_m_dmarc_action": b"none"}, True, 2),
        ({"acl_m_dmarc_action": b"quarantine"}, False, 4),
        ({"acl_m_dmarc_action": b"freeze"}, False, 4),
        ({"acl_m_dmarc_action": b"reject"}, False, 0),
    ],
)
def test_the_action_is_what_was_done(
    tmp_path: Path, variables: dict[str, bytes], routers_act: bool, action: int
) -> None:
    message = make_message(host=FORGED, variables=variables)
    _, context = run(message, file=str(tmp_path / "f"), routers_act=routers_act)
    (found,) = parse_records(context.effects.declared[0][1].splitlines(keepends=True))
    assert found.action == action


def test_nothing_to_record_is_no_effect(tmp_path: Path) -> None:
    _, context = run(make_message([(b"From", b"x@nothing.example")]), file=str(tmp_path / "f"))
    assert context.effects.declared == []


@pytest.mark.parametrize("file", ["relative", "/nonexistent/a/b", "/dev/null", "{}"])
def test_bad_files_are_refused(tmp_path: Path, file: str) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError):
        DmarcHistory(Config(file=file.format(link)))


# The file

WRITER = """
import os, sys
from respool.processors.dmarc_history_file import append
path, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
number = 0
while number < count or not os.path.exists(path + ".2"):
    append(path, f"job {name}-{number}\\n".encode() + b"x" * 5000 + b"\\nend\\n", patience=60)
    number += 1
print(number)
"""


def test_many_writers_and_rotations_lose_and_tear_nothing(tmp_path: Path) -> None:
    """A hundred records each, and as many more as it takes to see three rotations."""
    path = tmp_path / "dmarc.dat"
    writers = {
        name: subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, "100"], stdout=subprocess.PIPE)
        for name in ("a", "b", "c")
    }
    rotations = 0
    while any(writer.poll() is None for writer in writers.values()):
        rotations += rotate(str(path), f"{path}.{rotations}", patience=60)
    written = {name: int(writer.communicate()[0]) for name, writer in writers.items()}
    assert all(writer.returncode == 0 for writer in writers.values())
    assert all(count >= 100 for count in written.values())
    pieces = [file.read_bytes() for file in tmp_path.iterdir()]
    assert len(pieces) >= rotations > 2
    for piece in pieces:
        lines = piece.splitlines()
        assert [line[:3] for line in lines] == [b"job", b"xxx", b"end"] * (len(lines) // 3)
    names = sorted(line for piece in pieces for line in piece.splitlines() if line.startswith(b"job"))
    assert names == sorted(f"job {name}-{number}".encode() for name in written for number in range(written[name]))


def test_a_torn_record_of_somebody_else_ends_there(tmp_path: Path) -> None:
    path = tmp_path / "dmarc.dat"
    path.write_bytes(EXPECTED + EXPECTED[:60])
    append(str(path), EXPECTED)
    assert len(list(parse_records(read_lines(str(path))))) == 2


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "dmarc.dat"
    path.write_bytes(EXPECTED)
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:10]))
    with pytest.raises(TemporaryError):
        append(str(path), EXPECTED)
    assert path.read_bytes() == EXPECTED


def test_a_lock_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "dmarc.dat"
    path.write_bytes(EXPECTED)
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        with pytest.raises(TemporaryError):
            append(str(path), EXPECTED, patience=0.05)
        assert path.read_bytes() == EXPECTED


def test_a_writer_that_waited_writes_to_the_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "dmarc.dat", tmp_path / "old"
    path.write_bytes(EXPECTED)
    with path.open("rb") as reader:
        fcntl.flock(reader, fcntl.LOCK_SH)
        writer = threading.Thread(target=append, args=(str(path), b"job new\n"), kwargs={"patience": 60})
        writer.start()
        path.rename(old)
    writer.join()
    assert old.read_bytes() == EXPECTED
    assert path.read_bytes() == b"job new\n"


def test_rotation_never_replaces(tmp_path: Path) -> None:
    path, target = tmp_path / "dmarc.dat", tmp_path / "old"
    assert not rotate(str(path), str(target))
    append(str(path), EXPECTED)
    target.write_bytes(b"kept")
    with pytest.raises(FileExistsError):
        rotate(str(path), str(target))
    assert (path.read_bytes(), target.read_bytes()) == (EXPECTED, b"kept")


def test_links_and_pipes_are_not_written_to(tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(tmp_path / "elsewhere")
    os.mkfifo(pipe)
    with pytest.raises(OSError):
        append(str(link), EXPECTED)
    with pytest.raises(TemporaryError):
        append(str(pipe), EXPECTED)
    assert not (tmp_path / "elsewhere").exists()


def test_seals_are_json_that_the_importer_takes() -> None:
    message = make_message(host=FORGED)
    found = record(message, full_results(message))
    assert found is not None
    assert found.seals == (Seal(1, "f.example", "sel", "2001:db8::1"),)
