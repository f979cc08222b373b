"""Building and dumping tables, and what Exim's own programs make of the same text."""

from __future__ import annotations

import os
import random
import shutil
import stat
import subprocess
from pathlib import Path

import lmdb
import pytest

from respool.errors import PermanentError
from respool.lookups import table_build
from respool.lookups.table_build import build, dump
from respool.lookups.table_source import SourceFormat, TableSourceError, format_of, json_line, lsearch_line
from respool.lookups.tables import LmdbTable, TableError

LSEARCH = r"""# a comment
one:  first value
  continued
# a comment in the middle

	again
two second:third  
"quoted\x20\101key:\"": q
three :   v3
Dup: 1
dup: 2
empty:
lone
tab	tabbed
four: a:b : c
"""

EXPECTED = {
    b"one": b"first value continued again",
    b"two": b"second:third",
    b'quoted akey:"': b"q",
    b"three": b"v3",
    b"dup": b"1",
    b"empty": b"",
    b"lone": b"",
    b"tab": b"tabbed",
    b"four": b"a:b : c",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_text(LSEARCH)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "table.mdb"


def test_lsearch(source: Path, target: Path) -> None:
    report = build(str(source), str(target))
    assert dict(dump(str(target))) == EXPECTED
    assert [key for key, _ in dump(str(target))] == sorted(EXPECTED)
    assert (report.entries, report.duplicates, report.duplicate_lines) == (9, 1, (11,))
    assert report.file_size == target.stat().st_size


def test_values_end_in_one_nul(source: Path, target: Path) -> None:
    """Exim 4.99 runs strlen() on the mapped value."""
    build(str(source), str(target))
    assert dict(LmdbTable(str(target)).items()) == {key: value + b"\0" for key, value in EXPECTED.items()}


def test_keys_keep_their_case_if_asked(source: Path, target: Path) -> None:
    report = build(str(source), str(target), lower_keys=False)
    assert report.duplicates == 0
    assert LmdbTable(str(target)).get(b"Dup") == b"1"


def test_csv(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "routes.csv"
    source.write_bytes(b'key,value\r\nUser@example.org,"a, ""b"""\r\n\r\nb,\xff\r\nb,again\r\n"two\nlines",x\r\n')
    report = build(str(source), str(target))
    assert dict(dump(str(target))) == {b"User@example.org": b'a, "b"', b"b": b"\xff", b"two\nlines": b"x"}
    assert report.duplicate_lines == (5,)


def test_json_lines(tmp_path: Path, target: Path) -> None:
    source = tmp_path / "routes.jsonl"
    source.write_bytes(b'{"key":"a","value":"caf\xc3\xa9"}\n\n{"value":{"b64":"/w=="},"key":{"b64":"Yg=="}}\n')
    build(str(source), str(target))
    assert dict(dump(str(target))) == {b"a": b"caf\xc3\xa9", b"b": b"\xff"}


@pytest.mark.parametrize(
    ("name", "content", "line", "reason"),
    [
        ("t", b"a: 1\nb: \x00\n", 2, "NUL"),
        ("t", b'a: 1\n"b\\0": x\n', 2, "NUL"),
        ("t", b"a: 1\n: x\n", 2, "1 to 511"),
        ("t", b'""\n', 1, "1 to 511"),
        ("t", b"x" * 512 + b": y\n", 1, "512"),
        ("t", b"\n  continued\n", 2, "before any key"),
        ("t", b'\n\n"open: x\n', 3, "closing quote"),
        ("t", b"a: " + b"x" * (1 << 20) + b"\n", 1, "line over"),
        ("t", b"a: 1\nb: " + b"x" * (3 << 20), 2, "line over"),
        ("t", b"a: 1\nb:\n" + b" xxxxxxxxx\n" * 200_000, 2, "value over"),
        ("t.csv", b"a,b\nc\n", 2, "two columns"),
        ("t.csv", b"a,b,c\n", 1, "two columns"),
        ("t.csv", b'a,b\n"c', 2, "end of data"),
        ("t.csv", b'a,b\n"c"x,d\n', 2, "expected"),
        ("t.csv", b"a,b\nc,\0\n", 2, "NUL"),
        ("t.csv", b"a,b\nc," + b"x" * 200_000, 2, "field"),
        ("t.jsonl", b'{"key":"a","value":"b"}\n{"key":"a"}\n', 2, "value"),
        ("t.jsonl", b'{"key":"a","value":"b","more":1}\n', 1, "more"),
        ("t.jsonl", b"[1]\n", 1, "object"),
        ("t.jsonl", b"\xff\n", 1, "malformed"),
        ("t.jsonl", b'{"key":"a","value":{"b64":"?"}}\n', 1, "t.jsonl"),
        ("t.jsonl", b'{"key":"a","value":{"b64":"\xc3\xa9"}}\n', 1, "t.jsonl"),
        ("t.jsonl", b'{"key":"\\ud800","value":""}\n', 1, "t.jsonl"),
        ("t.jsonl", b'{"key":"a\\u0000","value":""}\n', 1, "NUL"),
        ("t.jsonl", b'{"key":' + b"[" * 100_000 + b"\n", 1, "t.jsonl"),
    ],
)
def test_refused_with_its_line(tmp_path: Path, target: Path, name: str, content: bytes, line: int, reason: str) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    build_old = tmp_path / "old"
    build_old.write_text("kept: yes\n")
    build(str(build_old), str(target))
    with pytest.raises(TableSourceError, match=reason) as caught:
        build(str(source), str(target))
    assert (caught.value.file, caught.value.line) == (str(source), line)
    assert isinstance(caught.value, PermanentError)
    assert LmdbTable(str(target), check_seconds=0).get(b"kept") == b"yes"
    assert _names(tmp_path) == {"old", name, "table.mdb", "table.mdb-lock"}


def test_check_of_the_values(source: Path, target: Path) -> None:
    with pytest.raises(TableSourceError, match=":7: no 'second' here"):
        build(str(source), str(target), check=lambda _, value: "no 'second' here" if b"second" in value else "")
    assert not target.exists()


def test_format_by_name() -> None:
    assert format_of("/etc/aliases") is SourceFormat.LSEARCH
    assert format_of("a.csv") is SourceFormat.CSV
    assert format_of("a.jsonl") is format_of("a.ndjson") is SourceFormat.JSON_LINES


def test_empty_source(tmp_path: Path, target: Path) -> None:
    (tmp_path / "empty").touch()
    assert build(str(tmp_path / "empty"), str(target)).entries == 0
    assert list(dump(str(target))) == []
    assert LmdbTable(str(target)).get(b"x") is None


@pytest.mark.parametrize("run_bytes", [1, 300, 10_000, 1 << 26])
def test_sorted_outside_memory(tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, run_bytes: int) -> None:
    monkeypatch.setattr(table_build, "_RUN_BYTES", run_bytes)
    monkeypatch.setattr(table_build, "_STEP", 16)
    monkeypatch.setattr(table_build, "_COMMIT_ENTRIES", 64)
    random_ = random.Random(1)
    rows = [(f"key{random_.randrange(150)}", str(number)) for number in range(220)]
    first: dict[bytes, bytes] = {}
    for key, value in rows:
        first.setdefault(key.encode(), value.encode())
    source = tmp_path / "source"
    source.write_text("".join(f"{key}: {value}\n" for key, value in rows))
    seen: list[tuple[str, int, int]] = []
    report = build(str(source), str(target), progress=lambda phase, done, total: seen.append((phase, done, total)))
    assert dict(dump(str(target))) == first
    assert (report.entries, report.duplicates) == (len(first), 220 - len(first))
    assert seen[-1] == ("write", 220, 220)
    assert ("read", source.stat().st_size, source.stat().st_size) in seen
    assert all(done <= total for _, done, total in seen)


def test_large_values(tmp_path: Path, target: Path) -> None:
    rows = {
        f"{number:03d}".encode() * 100: bytes([65 + number % 26]) * size
        for number, size in enumerate([0, 1, 1000, 1500, 2000, 3000, 4000, 4096, 5000, 100_000, 900_000] * 5)
    }
    source = tmp_path / "source"
    source.write_bytes(b"".join(key + b": " + value + b"\n" for key, value in rows.items()))
    build(str(source), str(target))
    assert dict(dump(str(target))) == rows


def test_both_states_of_the_file_are_alike(source: Path, target: Path, tmp_path: Path) -> None:
    """Spoil the later meta page: the earlier one has everything too, whichever a reader takes."""
    for number, name in enumerate(("later", "earlier")):
        build(str(source), str(target))
        raw = bytearray(target.read_bytes())
        transactions = [int.from_bytes(raw[page + 16 + 128 : page + 16 + 136], "little") for page in (0, 4096)]
        assert abs(transactions[0] - transactions[1]) == 1
        later = transactions.index(max(transactions))
        spoilt = later if number == 0 else 1 - later
        raw[spoilt * 4096 + 16 + 128 : spoilt * 4096 + 16 + 136] = bytes(8)
        copy = tmp_path / name
        copy.write_bytes(raw)
        assert dict(dump(str(copy))) == EXPECTED


def test_owner_and_modes(source: Path, target: Path) -> None:
    def modes() -> tuple[int, int]:
        return tuple(stat.S_IMODE(os.stat(path).st_mode) for path in (target, f"{target}-lock"))  # type: ignore[return-value]

    build(str(source), str(target))
    assert modes() == (0o640, 0o660)
    target.chmod(0o600)
    build(str(source), str(target))
    assert modes() == (0o600, 0o600)
    if os.getuid() == 0:
        os.chown(target, 12345, 12346)
        target.chmod(0o644)
        build(str(source), str(target))
        assert modes() == (0o644, 0o660)
        for path in (target, f"{target}-lock"):
            assert (os.stat(path).st_uid, os.stat(path).st_gid) == (12345, 12346)
        target.unlink()
        build(str(source), str(target), mode=0o440, group=12347)
        assert modes() == (0o440, 0o660)
        assert target.stat().st_gid == 12347


def test_the_lock_file_is_a_new_one(source: Path, target: Path) -> None:
    build(str(source), str(target))
    old = os.open(f"{target}-lock", os.O_RDONLY)
    build(str(source), str(target))
    assert os.fstat(old).st_ino != os.stat(f"{target}-lock").st_ino
    os.close(old)


def test_nothing_is_left_when_the_disk_fails(
    source: Path, target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(str(source), str(target))
    before = target.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        build(str(source), str(target))
    assert target.read_bytes() == before
    assert _names(tmp_path) == {"source", "table.mdb", "table.mdb-lock"}


def test_lmdb_trouble_has_our_name(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise lmdb.MapFullError("full")

    monkeypatch.setattr(lmdb, "open", fail)
    with pytest.raises(TableError, match="full"):
        build(str(source), str(target))


def test_dump_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(TableError):
        list(dump(str(tmp_path / "none")))


def test_lines_that_are_read_back() -> None:
    assert lsearch_line(b"user@example.org", b"x: y") == b"user@example.org: x: y"
    assert lsearch_line(b'#a "b"\n', b"") == rb'"#a \x22b\x22\x0a": '
    assert json_line(b"a", b"\xff") == b'{"key":"a","value":{"b64":"/w=="}}'


# Beside the programs of others


@pytest.mark.skipif(shutil.which("mdb_dump") is None, reason="mdb_dump is not here (Debian: lmdb-utils)")
def test_mdb_dump_shows_the_same_bytes(source: Path, target: Path) -> None:
    build(str(source), str(target))
    text = subprocess.run(["mdb_dump", "-n", str(target)], check=True, capture_output=True).stdout.decode()
    body = text.split("HEADER=END\n")[1].split("DATA=END")[0].split("\n")
    rows = [bytes.fromhex(line) for line in body if line]
    assert dict(zip(rows[::2], rows[1::2], strict=True)) == {key: value + b"\0" for key, value in EXPECTED.items()}


def _exim() -> str | None:
    return shutil.which("exim4", path="/usr/sbin:/usr/bin") or shutil.which("exim", path="/usr/sbin:/usr/bin")


@pytest.mark.exim
@pytest.mark.skipif(_exim() is None, reason="no Exim here")
def test_exim_reads_the_same_from_the_text(source: Path, target: Path) -> None:
    """Exim's lsearch on the source and ours on the table agree, but for the comment in the middle."""
    source.chmod(0o644)
    build(str(source), str(target))
    for key, value in EXPECTED.items():
        if key == b"one":
            continue
        quoted = key.decode().replace("\\", "\\\\").replace('"', '\\"')
        text = f"${{lookup{{{quoted}}}lsearch{{{source}}}{{<$value>}}{{absent}}}}"
        done = subprocess.run([str(_exim()), "-be", text], check=True, capture_output=True)
        assert done.stdout.rstrip(b"\n") == b"<" + value + b">", key


@pytest.mark.exim
@pytest.mark.skipif(shutil.which("exim_dbmbuild", path="/usr/sbin:/usr/bin") is None, reason="no exim_dbmbuild here")
def test_exim_dbmbuild_counts_the_same(source: Path, target: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/usr/sbin/exim_dbmbuild", "-noduperr", str(source), str(tmp_path / "dbm")], check=True, capture_output=True
    )
    report = build(str(source), str(target))
    assert f"{report.entries} entries written".encode() in done.stdout
    assert b"1 duplicate key" in done.stdout


def _names(directory: Path) -> set[str]:
    return set(os.listdir(directory))
