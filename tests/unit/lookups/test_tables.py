"""Reading tables: what Exim would see, and everything that can happen to the file meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import lmdb
import pytest

from respool.errors import ConfigError, TemporaryError
from respool.lookups.table_build import build
from respool.lookups.table_reference import TableReference, candidate_keys
from respool.lookups.tables import LmdbTable, TableError, look_up

Pairs = dict[bytes, bytes]


def write(path: Path | str, pairs: Pairs, *, commits: int = 1, map_size: int = 1 << 22) -> None:
    """A table as any program would write it: no second state, no care for lock files."""
    with lmdb.open(str(path), subdir=False, map_size=map_size) as env:
        for number in range(commits):
            with env.begin(write=True) as transaction:
                transaction.put(b"commit", b"%d" % number)
                for key, value in pairs.items():
                    transaction.put(key, value)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.mdb"


def test_three_outcomes(path: Path) -> None:
    write(path, {b"user@example.org": b"one\0"})
    table = LmdbTable(str(path))
    assert table.get(b"user@example.org") == b"one"
    assert table.get(b"nobody@example.org") is None
    with pytest.raises(TableError, match="No such file"):
        LmdbTable(str(path) + ".none").get(b"user@example.org")
    assert issubclass(TableError, TemporaryError)


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (b"value\0", b"value"),
        (b"value", b"value"),
        (b"", b""),
        (b"\0", b""),
        (b"one\0two\0", b"one"),
        (b"\0hidden", b""),
        (b"\xff\xfe caf\xc3\xa9\0", b"\xff\xfe caf\xc3\xa9"),
        (b"x" * 100_000 + b"\0", b"x" * 100_000),
    ],
)
def test_values_end_at_the_first_nul(path: Path, stored: bytes, read: bytes) -> None:
    write(path, {b"key": stored})
    assert LmdbTable(str(path)).get(b"key") == read


def test_keys_that_no_table_holds_are_absent(path: Path) -> None:
    write(path, {b"k" * 511: b"long\0", b"key": b"short\0"})
    table = LmdbTable(str(path))
    assert table.get(b"k" * 511) == b"long"
    assert table.get(b"k" * 512) is None
    assert table.get(b"k" * 1_000_000) is None
    assert table.get(b"") is None
    assert table.get(b"key\0") is None
    assert table.get(b"KEY") is None


def test_named_database_is_a_key_of_the_main_one(path: Path) -> None:
    with lmdb.open(str(path), subdir=False, max_dbs=1) as env:
        inner = env.open_db(b"inner")
        with env.begin(write=True) as transaction:
            transaction.put(b"hidden", b"x\0", db=inner)
            transaction.put(b"seen", b"y\0")
    table = LmdbTable(str(path))
    assert table.get(b"hidden") is None
    assert table.get(b"seen") == b"y"
    assert table.get(b"inner") is not None


def test_directory_and_garbage_are_errors(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="Is a directory"):
        LmdbTable(str(tmp_path)).get(b"key")
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"not a table" * 1000)
    with pytest.raises(TableError, match="INVALID"):
        LmdbTable(str(garbage)).get(b"key")
    (tmp_path / "empty").touch()
    with pytest.raises(TableError):
        LmdbTable(str(tmp_path / "empty")).get(b"key")


@pytest.mark.parametrize("opened_before", [True, False])
def test_a_table_cut_off_is_an_error_and_no_bus_error(path: Path, tmp_path: Path, *, opened_before: bool) -> None:
    write(path, {b"%05d" % number: b"x" * 100 for number in range(2000)})
    table = LmdbTable(str(path), check_seconds=0)
    if opened_before:
        assert table.get(b"00001") is not None
    whole = path.read_bytes()
    os.truncate(path, len(whole) // 2)
    for key in (b"00001", b"01999"):
        with pytest.raises(TableError, match="cut off"):
            table.get(key)
    (tmp_path / "new").write_bytes(whole)
    (tmp_path / "new").rename(path)
    assert table.get(b"01999") is not None


def test_a_table_that_comes_later_is_found(path: Path) -> None:
    table = LmdbTable(str(path), check_seconds=0)
    with pytest.raises(TableError):
        table.get(b"key")
    write(path, {b"key": b"1\0"})
    assert table.get(b"key") == b"1"
    path.unlink()
    with pytest.raises(TableError):
        table.get(b"key")


def test_two_names_of_one_file_share_it(path: Path) -> None:
    write(path, {b"key": b"1\0"})
    alias, link = path.with_name("alias.mdb"), path.with_name("link.mdb")
    os.link(path, alias)
    link.symlink_to(path)
    tables = [LmdbTable(str(name)) for name in (path, alias, link, path)]
    assert [table.get(b"key") for table in tables] == [b"1"] * 4
    tables[0].close()
    assert [table.get(b"key") for table in tables] == [b"1"] * 4


def test_replaced_by_rename(path: Path) -> None:
    write(path, {b"key": b"old\0", b"gone": b"old\0"})
    one, other = LmdbTable(str(path), check_seconds=0), LmdbTable(str(path), check_seconds=0)
    assert one.get(b"key") == other.get(b"key") == b"old"
    new = path.with_name("new")
    write(new, {b"key": b"new\0"})
    new.rename(path)
    assert one.get(b"key") == other.get(b"key") == b"new"
    assert one.get(b"gone") is None


def test_symbolic_link_turned_to_another_table(tmp_path: Path) -> None:
    link = tmp_path / "current"
    for name in ("one", "two"):
        write(tmp_path / name, {b"key": name.encode()})
    link.symlink_to("one")
    table = LmdbTable(str(link), check_seconds=0)
    assert table.get(b"key") == b"one"
    (tmp_path / "next").symlink_to("two")
    (tmp_path / "next").rename(link)
    assert table.get(b"key") == b"two"


def test_the_path_is_not_looked_at_for_every_lookup(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, {b"key": b"1\0"})
    table = LmdbTable(str(path), check_seconds=3600)
    table.get(b"key")
    calls: list[str] = []
    real = os.stat

    def counted(path: str) -> os.stat_result:
        calls.append(path)
        return real(path)

    monkeypatch.setattr(os, "stat", counted)
    for _ in range(100):
        table.get(b"key")
    assert calls == []


@pytest.mark.parametrize(("old_commits", "new_commits"), [(1, 1), (2, 1), (1, 2), (3, 1), (2, 2)])
def test_lock_file_kept_alive_by_a_reader_of_the_old_table(path: Path, old_commits: int, new_commits: int) -> None:
    """The raw library answers *absent* here for (2, 1): it takes the empty state for the last one."""
    write(path, {b"key": b"old\0"}, commits=old_commits)
    with _other_reader(path):
        new = path.with_name("new")
        write(new, {b"key": b"new\0"}, commits=new_commits)
        new.rename(path)
        table = LmdbTable(str(path), check_seconds=0)
        assert table.get(b"key") == b"new"
        assert table.get(b"commit") == b"%d" % (new_commits - 1)
        assert table.get(b"none") is None
    assert table.get(b"key") == b"new"


def test_map_grown_by_another_process(path: Path) -> None:
    write(path, {b"key": b"1\0"}, map_size=1 << 16)
    table = LmdbTable(str(path), check_seconds=3600)
    assert table.get(b"key") == b"1"
    _python(
        f"""
        import lmdb
        env = lmdb.open({str(path)!r}, subdir=False, map_size=1 << 26)
        with env.begin(write=True) as transaction:
            for number in range(20_000):
                transaction.put(b"%d" % number, b"x" * 100)
        """
    )
    assert table.get(b"19999") == b"x" * 100
    assert table.get(b"key") == b"1"


def _slot_keeper(path: Path, slots: int) -> _running:
    """A process in the middle of a read; the first to open decides how many slots there are."""
    return _running(
        f"""
        import lmdb, sys
        env = lmdb.open({str(path)!r}, subdir=False, readonly=True, max_readers={slots})
        transaction = env.begin()
        transaction.get(b"key")
        print("ready", flush=True)
        sys.stdin.read()
        """
    )


def test_full_reader_table(path: Path) -> None:
    write(path, {b"key": b"1\0"})
    os.unlink(f"{path}-lock")
    with _slot_keeper(path, 2), _slot_keeper(path, 2):
        with pytest.raises(lmdb.ReadersFullError):
            lmdb.open(str(path), subdir=False, readonly=True)
        table = LmdbTable(str(path), check_seconds=0)
        assert table.get(b"key") == b"1"
        assert table.get(b"none") is None


def test_slots_of_dead_processes_are_freed(path: Path) -> None:
    write(path, {b"key": b"1\0"})
    os.unlink(f"{path}-lock")
    with _slot_keeper(path, 3) as first, _slot_keeper(path, 3) as second:
        for process in (first, second):
            process.kill()
            process.wait()
        # Both dead slots are still taken; opening sweeps them out.
        assert LmdbTable(str(path)).get(b"key") == b"1"
        with _slot_keeper(path, 3), _slot_keeper(path, 3):
            assert LmdbTable(str(path)).get(b"key") == b"1"


def test_lock_file_that_may_not_be_written() -> None:
    """As Exim: no lock, no answer; never *absent*."""
    directory = Path(tempfile.mkdtemp())
    try:
        path = directory / "table.mdb"
        write(path, {b"key": b"1\0"})
        path.chmod(0o644)
        os.chmod(f"{path}-lock", 0o400)
        directory.chmod(0o555)
        become_nobody = "os.setgid(65534); os.setuid(65534)" if os.getuid() == 0 else "pass"
        code = f"""
            import os
            from respool.lookups.tables import LmdbTable, TableError
            {become_nobody}
            try:
                LmdbTable({str(path)!r}).get(b"key")
            except TableError as error:
                print(error)
            """
        assert "Permission denied" in _python(code)
    finally:
        directory.chmod(0o700)
        shutil.rmtree(directory)


def _child_reads(path: str, inherited: LmdbTable, results: Connection) -> None:
    results.send([inherited.get(b"key"), LmdbTable(path).get(b"key"), inherited.get(b"none")])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_fork_with_lookups_in_other_threads(path: Path) -> None:
    write(path, {b"key": b"1\0"})
    table = LmdbTable(str(path), check_seconds=0)
    assert table.get(b"key") == b"1"
    stop = threading.Event()
    wrong: list[object] = []

    def read() -> None:
        while not stop.is_set():
            if table.get(b"key") != b"1":
                wrong.append("parent")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    context = multiprocessing.get_context("fork")
    try:
        for _ in range(20):
            ours, theirs = context.Pipe(duplex=False)
            child = context.Process(target=_child_reads, args=(str(path), table, theirs))
            child.start()
            theirs.close()
            assert ours.poll(60), "the child hangs"
            assert ours.recv() == [b"1", b"1", None]
            child.join(60)
            assert child.exitcode == 0
            assert table.get(b"key") == b"1"
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_rebuilt_under_lookups_from_two_processes(path: Path, tmp_path: Path) -> None:
    """Thousands of lookups while another process builds the table anew: always the old or the new value."""
    enough = tmp_path / "enough"
    source = tmp_path / "source"
    source.write_text("".join(f"key{number}: 0\n" for number in range(200)))
    build(str(source), str(path))
    builder = f"""
        import itertools, os, sys
        from respool.lookups.table_build import build
        print("ready", flush=True)
        for generation in itertools.count(1):
            if generation > 60 and os.path.exists({str(enough)!r}):
                break
            with open({str(source)!r}, "w") as file:
                file.writelines(f"key{{number}}: {{generation}}\\n" for number in range(200))
            build({str(source)!r}, {str(path)!r})
        """
    reader = f"""
        import sys
        from respool.lookups.tables import LmdbTable
        table = LmdbTable({str(path)!r}, check_seconds=0)
        print("ready", flush=True)
        last = 0
        while last < 60:
            for number in range(0, 200, 7):
                value = table.get(b"key%d" % number)
                assert value is not None and int(value) >= last, (number, value, last)
                last = int(value)
        """
    with _running(reader) as other, _running(builder) as build_process:
        table = LmdbTable(str(path), check_seconds=0)
        last = lookups = 0
        while last < 60 or lookups <= 5000:
            for number in range(200):
                value = table.get(b"key%d" % number)
                assert value is not None
                assert int(value) >= last
                last = int(value)
                lookups += 1
        enough.touch()
        assert build_process.wait(60) == 0
        assert other.wait(60) == 0


def test_rewritten_in_place_under_lookups(path: Path) -> None:
    write(path, {b"key%d" % number: b"0\0" for number in range(100)}, map_size=1 << 18)
    writer = f"""
        import lmdb
        env = lmdb.open({str(path)!r}, subdir=False, map_size=1 << 26, sync=False)
        print("ready", flush=True)
        for generation in range(1, 301):
            with env.begin(write=True) as transaction:
                for number in range(100):
                    transaction.put(b"key%d" % number, b"%d\\0" % generation)
                    transaction.put(b"more%d.%d" % (generation, number), b"x" * 50)
        """
    with _running(writer) as process:
        table = LmdbTable(str(path), check_seconds=0)
        last = 0
        while last < 300:
            for number in range(100):
                value = table.get(b"key%d" % number)
                assert value is not None
                assert int(value) >= last
                last = int(value)
        assert process.wait(60) == 0


def test_threads_share_a_table_that_is_replaced(path: Path) -> None:
    write(path, {b"key": b"0\0"})
    table = LmdbTable(str(path), check_seconds=0)
    stop = threading.Event()
    errors: list[object] = []

    def read() -> None:
        last = 0
        while not stop.is_set():
            value = table.get(b"key")
            if value is None or int(value) < last:
                errors.append((value, last))
            else:
                last = int(value)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for generation in range(1, 40):
        new = path.with_name("new")
        new.unlink(missing_ok=True)
        write(new, {b"key": b"%d\0" % generation})
        new.rename(path)
    stop.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert table.get(b"key") == b"39"


@pytest.mark.skipif(shutil.which("mdb_load") is None, reason="mdb_load is not here (Debian: lmdb-utils)")
def test_reads_what_mdb_load_wrote(path: Path) -> None:
    text = "VERSION=3\nformat=bytevalue\ntype=btree\nHEADER=END\n"
    pairs = {b"user@example.org": b"route\0", b"bare": b"no nul", b"caf\xc3\xa9": b"\xff\0"}
    for key in sorted(pairs):
        text += f" {key.hex()}\n {pairs[key].hex()}\n"
    text += "DATA=END\n"
    subprocess.run(["mdb_load", "-n", str(path)], input=text.encode(), check=True)
    table = LmdbTable(str(path))
    assert [table.get(key) for key in pairs] == [b"route", b"no nul", b"\xff"]
    assert dict(table.items()) == pairs


def test_items_in_key_order_over_many_pages(path: Path) -> None:
    pairs = {b"%05d" % number: b"%d\0" % number for number in range(2500)}
    with lmdb.open(str(path), subdir=False, map_size=1 << 22) as env, env.begin(write=True) as transaction:
        for key, value in pairs.items():
            transaction.put(key, value)
    assert list(LmdbTable(str(path)).items()) == sorted(pairs.items())


# Wildcards


@pytest.mark.parametrize(
    ("text", "key", "tried"),
    [
        ("lmdb;/f", b"a.b", [b"a.b"]),
        (
            "partial-lmdb;/f",
            b"2001.dates.fict.example",
            [
                b"2001.dates.fict.example",
                b"*.2001.dates.fict.example",
                b"*.dates.fict.example",
                b"*.fict.example",
            ],
        ),
        ("partial1-lmdb;/f", b"a.example", [b"a.example", b"*.a.example", b"*.example"]),
        ("partial0-lmdb;/f", b"a.example", [b"a.example", b"*.a.example", b"*.example", b"*"]),
        ("partial3-lmdb;/f", b"a.b", [b"a.b", b"*.a.b"]),
        ("partial(.)lmdb;/f", b"a.b.c", [b"a.b.c", b".a.b.c", b".b.c"]),
        ("partial0(.)lmdb;/f", b"a.b", [b"a.b", b".a.b", b".b", b"."]),
        ("partial0()lmdb;/f", b"a.b", [b"a.b", b"b"]),
        ("partial0(**)lmdb;/f", b"a.b", [b"a.b", b"**a.b", b"**b", b"**"]),
        ("lmdb*@;/f", b"user@example.org", [b"user@example.org", b"*@example.org", b"*"]),
        ("lmdb*@;/f", b"a@b@example.org", [b"a@b@example.org", b"*@example.org", b"*"]),
        ("lmdb*@;/f", b"@example.org", [b"@example.org", b"*"]),
        ("lmdb*;/f", b"user@example.org", [b"user@example.org", b"*"]),
        (
            "partial-lmdb*@;/f",
            b"u@a.b.c",
            [b"u@a.b.c", b"*.u@a.b.c", b"*.b.c", b"*@a.b.c", b"*"],
        ),
        ("partial0-lmdb;/f", b"a..b", [b"a..b", b"*.a..b", b"*..b", b"*.b", b"*"]),
    ],
)
def test_candidates_in_order(text: str, key: bytes, tried: list[bytes]) -> None:
    reference = TableReference.parse(text)
    assert [candidate.key for candidate in candidate_keys(reference, key)] == tried
    assert TableReference.parse(str(reference)) == reference


def test_wild_and_fixed_parts(path: Path) -> None:
    write(path, {b"*.fict.example": b"p\0", b"*@example.org": b"d\0", b"*": b"s\0", b"exact": b"e\0"})
    table = LmdbTable(str(path))

    def parts(text: str, key: bytes) -> tuple[bytes, bytes, bytes] | None:
        match = table.find(TableReference.parse(f"{text};{path}"), key)
        return None if match is None else (match.value, match.wild, match.fixed)

    assert parts("partial-lmdb", b"2001.dates.fict.example") == (b"p", b"2001.dates", b"fict.example")
    assert parts("partial-lmdb", b"fict.example") == (b"p", b"", b"fict.example")
    assert parts("partial-lmdb", b"exact") == (b"e", b"", b"exact")
    assert parts("partial-lmdb", b"a.b.c") is None
    assert parts("partial0-lmdb", b"a.b.c") == (b"s", b"a.b.c", b"")
    assert parts("lmdb*@", b"user@example.org") == (b"d", b"user", b"")
    assert parts("lmdb*@", b"user@example.net") == (b"s", b"user@example.net", b"")
    assert parts("lmdb,ret=key", b"exact") == (b"exact", b"", b"exact")
    match = look_up(TableReference.parse(f"lmdb*;{path}"), b"x")
    assert match is not None
    assert match.key == b"*"


def test_error_at_a_later_step_is_no_absence(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, {b"*": b"s\0"})
    table = LmdbTable(str(path))
    real = table.get

    def get(key: bytes) -> bytes | None:
        if key.startswith(b"*@"):
            raise TableError(str(path), "broken")
        return real(key)

    monkeypatch.setattr(table, "get", get)
    with pytest.raises(TableError, match="broken"):
        table.find(TableReference.parse(f"lmdb*@;{path}"), b"user@example.org")


@pytest.mark.parametrize(
    "text",
    [
        "", "lmdb", "lmdb;", "lmdb;relative", "lsearch;/f", "partiallmdb;/f", "partial(a)lmdb;/f", "partial(-lmdb;/f",
        "lmdb@;/f", "lmdb**;/f", "lmdb,ret=value;/f", "partial9999999999-lmdb;/f", "/file", "lmdb /file",
    ],
)  # fmt: skip
def test_references_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        TableReference.parse(text)


def test_reference_with_spaces_and_options() -> None:
    reference = TableReference.parse(" partial4(.)lmdb*@,cache=no,ret=key ; /etc/my table.mdb ")
    assert reference == TableReference(path="/etc/my table.mdb", partial=4, affix=b".", default="*@", returns_key=True)


# Other processes


class _running:  # noqa: N801
    """A Python program beside ours; entered once it says that it is ready."""

    def __init__(self, code: str) -> None:
        self._code = textwrap.dedent(code)

    def __enter__(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self._code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"
        return self._process

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _other_reader(path: Path) -> _running:
    return _running(
        f"""
        import lmdb, sys
        env = lmdb.open({str(path)!r}, subdir=False, readonly=True)
        with env.begin() as transaction:
            transaction.get(b"key")
        print("ready", flush=True)
        sys.stdin.read()
        """
    )


def _python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, capture_output=True, timeout=60)
    return done.stdout.decode()


@pytest.fixture(autouse=True)
def _close_tables() -> Iterator[None]:
    yield
    from respool.lookups import tables

    for handle in list(tables._handles.values()):
        handle.release()
    tables._handles.clear()
