"""A real Exim's single-key lookups beside ours: the order of the keys, $1 and $2, the forms of the expansion.

An Exim with the lmdb lookup (RESPOOL_EXIM names one; Debian's lacks it) reads the table that we built, with values
that no text file can hold. Any other reads the text it was built from by lsearch: the wildcards are the same code
in Exim (search.c), whatever the file.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from msgspec import Struct

from respool.lookups.table_build import build
from respool.lookups.table_reference import TableReference
from respool.lookups.tables import TableError, look_up
from respool.testing import make_context

from .exim_configuration import EXIM

pytestmark = pytest.mark.exim

ENTRIES: Final = {
    "one": "first", "empty": "", "a.example": "exact", "*.a.example": "below a", "*.fict.example": "below fict",
    "*.example": "below example", "*@example.org": "anybody", "user@example.org": "user", "*": "the rest",
    ".dotted.example": "dotted", "mx": "mx1.example:mx2.example", "long": "x" * 3000,
}  # fmt: skip
KEYS: Final = (
    "one", "empty", "none", "a.example", "b.a.example", "c.b.a.example", "2001.dates.fict.example", "fict.example",
    "x.example", "example", "user@example.org", "other@example.org", "a@b@example.org", "@example.org",
    "user@a.example", "x.dotted.example", "one.", "long",
)  # fmt: skip
TYPES: Final = (
    "%s", "%s*", "%s*@", "partial-%s", "partial1-%s", "partial3-%s", "partial(.)%s", "partial1(.)%s*@", "partial-%s*",
    "partial-%s*@", "%s,ret=key", "partial-%s*@,ret=key",
)  # fmt: skip
BINARY: Final = {
    "ends at its first NUL": b"a",  # build() refuses a NUL within: it would be lost
    "not UTF-8": b"\xff\xfe caf\xe9",
    "control characters": b"\x01\t\x7f",
    "Exim's own signs": b"${if eq{a}{a}} $value \\N {}",
    "a page": b"p" * 4096,
    "a page less one": b"p" * 4095,
    "many pages": b"q" * 70_000,
    **{f"length {length}": b"l" * length for length in range(2000, 2060)},
}


class Lookups(Struct, frozen=True):
    """Which lookup an Exim has, the file for it, and the table built from the same text."""

    kind: str
    file: Path
    table: Path

    def expand(self, *texts: str) -> list[bytes]:
        """What ``exim -be`` makes of each text."""
        with tempfile.NamedTemporaryFile("w", prefix="exim.") as configuration:
            configuration.write("primary_hostname = mx.example\nkeep_environment =\n")
            configuration.flush()
            command = [EXIM, "-C", configuration.name, "-be"]
            done = subprocess.run(command, input="\n".join(texts).encode() + b"\n", capture_output=True, check=True)
        lines = done.stdout.removesuffix(b"\n> \n").split(b"\n")
        return [line.removeprefix(b"> ") for line in lines]


def has_lmdb() -> bool:
    told = subprocess.run([EXIM, "-C", "/dev/null", "-bV"], capture_output=True, text=True, check=False).stdout
    return any(line.startswith("Lookups") and "lmdb" in line.split() for line in told.splitlines())


@pytest.fixture(scope="module")
def lookups() -> Iterator[Lookups]:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o755)
        source, table = directory / "source", directory / "table.mdb"
        source.write_text("".join(f"{key}: {value}\n" for key, value in ENTRIES.items()))
        build(str(source), str(table))
        yield Lookups("lmdb", table, table) if has_lmdb() else Lookups("lsearch", source, table)


def test_every_type_and_key(lookups: Lookups) -> None:
    asked = [(kind, key) for kind in TYPES for key in KEYS]
    texts = [
        f"${{lookup{{{key}}}{kind % lookups.kind}{{{lookups.file}}}{{<$value|$1|$2>}}{{absent}}}}"
        for kind, key in asked
    ]
    for (kind, key), found in zip(asked, lookups.expand(*texts), strict=True):
        match = look_up(TableReference.parse(f"{kind % 'lmdb'};{lookups.table}"), key.encode())
        expected = b"absent" if match is None else b"<%b|%b|%b>" % (match.value, match.wild, match.fixed)
        if match is not None and match.key == key.encode() and "partial" not in kind:
            expected = b"<%b||>" % match.value  # then Exim sets neither $1 nor $2
        assert found == expected, (kind, key)


def test_the_forms_of_an_expansion_and_ours(lookups: Lookups) -> None:
    """Each form of the expansion beside the expression that lookups/README.md has for it."""
    asked: list[tuple[str, str, bytes | None]] = []
    for key in ("one", "empty", "none", ""):
        value = make_context().lookup(f"lmdb;{lookups.table}", key)
        asked += [
            (key, "", value or b""),
            (key, "{yes <$value>}", b"" if value is None else b"yes <%b>" % value),
            (key, "{yes <$value>}{no}", b"no" if value is None else b"yes <%b>" % value),
            (key, "{yes <$value>}fail", None if value is None else b"yes <%b>" % value),
        ]
    found = lookups.expand(*(f"${{lookup{{{key}}}{lookups.kind}{{{lookups.file}}}{rest}}}" for key, rest, _ in asked))
    for (key, rest, ours), exims in zip(asked, found, strict=True):
        if ours is None:
            assert b'"fail" requested' in exims, (key, rest)
        else:
            assert exims == ours, (key, rest)
    assert [ours for key, _, ours in asked if key == "one"] == [b"first", *[b"yes <first>"] * 3]
    assert [ours for key, _, ours in asked if key == "none"] == [b"", b"", b"no", None]


def test_a_table_that_is_not_there_is_no_absence(lookups: Lookups) -> None:
    (found,) = lookups.expand(f"${{lookup{{one}}{lookups.kind}{{{lookups.file}.none}}{{yes}}{{no}}}}")
    assert found.startswith(b"Failed: ")
    assert b"No such file" in found
    with pytest.raises(TableError, match="No such file"):
        make_context().lookup(f"lmdb;{lookups.table}.none", "one")


def test_a_value_of_any_kind(lookups: Lookups, tmp_path: Path) -> None:
    """Each in a table of its own, so that it is the last of the file: Exim 4.99 reads to a NUL in the mapped pages."""
    values = BINARY if lookups.kind == "lmdb" else {name: value for name, value in BINARY.items() if value.isalnum()}
    assert len(values) > 50
    texts: list[str] = []
    for number, value in enumerate(values.values()):
        path = lookups.table.parent / f"value{number}"
        encoded = {"key": "k", "value": {"b64": b64encode(value).decode()}}
        (tmp_path / "value.jsonl").write_text(json.dumps(encoded) + "\n")
        build(str(tmp_path / "value.jsonl"), f"{path}.mdb")
        path.write_bytes(b"k: " + value + b"\n")
        file = f"{path}.mdb" if lookups.kind == "lmdb" else str(path)
        texts.append(f"${{escape:${{lookup{{k}}{lookups.kind}{{{file}}}}}}}")
        match = look_up(TableReference.parse(f"lmdb;{path}.mdb"), b"k")
        assert match is not None
        assert match.value == value
    shown = {name: "".join(map(_escaped, value)).encode() for name, value in values.items()}
    assert dict(zip(values, lookups.expand(*texts), strict=True)) == shown


def _escaped(byte: int) -> str:
    """As ${escape:} has it (string_printing())."""
    return chr(byte) if byte == 9 or 32 <= byte < 127 else f"\\{byte:03o}"
