"""``respool exim-config``: the files of samples/exim, with the names of a configuration."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from respool import ConfigError
from respool.sidecar.cli import cli
from respool.sidecar.config import Config, decode
from respool.sidecar.exim_recipe import recipe, text

SAMPLES = Path(__file__).resolve().parents[3] / "samples" / "exim"

QUEUE = 'kind = "queue"\nspool_directory = "/var/spool/exim4"\nqueue = "filter"'
EXPORT = 'kind = "export"\ndirectory = "/var/spool/exim4/respool/export"'


PROCESSORS = """
[[processor]]
use = "route"
config = { tables = [{ by = "domain", table = "lmdb;/x.mdb" }], variable = "acl_m_next_hop" }
[[processor]]
use = "dcc"
[[processor]]
use = "dane"
"""


def configuration(source: str, authserv_id: str = "mx.site.example", processors: str = PROCESSORS) -> bytes:
    return f"""
state_directory = "/var/spool/exim4/respool"
authserv_id = {authserv_id!r}
[source]
{source}
[requeue]
kind = "spool"
spool_directory = "/var/spool/exim4"
{processors}
""".encode()


def parts(source: str, authserv_id: str = "mx.site.example", processors: str = PROCESSORS) -> dict[str, str]:
    config = decode(configuration(source, authserv_id, processors), Config, file="respool.toml")
    return {part.name: part.text for part in recipe(config)}


def test_the_names_come_before_their_defaults() -> None:
    macros = parts(QUEUE)["macros.conf"]
    assert macros.startswith("RESPOOL_AUTHSERV_PATTERN = mx\\.site\\.example\nRESPOOL_QUEUE = filter\n")
    assert macros.endswith((SAMPLES / "macros.conf").read_text())
    assert "RESPOOL_EXPORT = /var/spool/exim4/respool/export\n" in parts(EXPORT)["macros.conf"]


def test_each_way_has_its_own_parts_and_together_they_are_all() -> None:
    queue, export = parts(QUEUE), parts(EXPORT)
    assert "named-queue-mail.acl" in queue
    assert "named-queue-mail.acl" not in export
    assert {"queuefile-routers.conf", "queuefile-transports.conf", "queuefile-retry.conf"} <= set(export) - set(queue)
    assert set(queue) | set(export) == {path.name for path in SAMPLES.iterdir() if path.name != "README.md"}
    for name, content in {**queue, **export}.items():
        assert content.endswith((SAMPLES / name).read_text())


def test_what_exim_needs_for_a_processor_comes_with_it() -> None:
    extra = {"route-routers.conf", "dane-options.conf", "dcc-routers.conf", "dcc-transports.conf"}
    assert set(parts(QUEUE)) - set(parts(QUEUE, processors="")) == extra
    assert set(parts(QUEUE)) - set(parts(QUEUE, processors='[[processor]]\nuse = "dane"\n')) == extra - {
        "dane-options.conf"
    }
    assert "\nRESPOOL_ROUTE_VARIABLE = acl_m_next_hop\n\n" in parts(QUEUE)["macros.conf"]
    hostile = '[[processor]]\nuse = "dane"\nconfig = { variable = "acl_m_x}{*}" }\n'
    with pytest.raises(ConfigError, match="can't be written"):
        parts(QUEUE, processors=hostile)


@pytest.mark.parametrize(
    ("source", "authserv_id", "key"),
    [
        ('kind = "directory"\ndirectory = "/srv"', "a.example", "$.source.kind"),
        ('kind = "export"\ndirectory = "/srv/${run{x}}"', "a.example", "$.source.directory"),
        ('kind = "export"\ndirectory = "/srv/a b"', "a.example", "$.source.directory"),
        ('kind = "queue"\nspool_directory = "/s"\nqueue = "a}b"', "a.example", "$.source.queue"),
        (QUEUE, "a.example|.*", "$.authserv_id"),
        (QUEUE, "a.example\\nx", "$.authserv_id"),
    ],
)
def test_what_exim_would_take_for_something_else_is_refused(source: str, authserv_id: str, key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parts(source, authserv_id)
    assert caught.value.key == key


def test_printed_each_part_says_where_it_belongs(tmp_path: Path) -> None:
    path = tmp_path / "respool.toml"
    path.write_bytes(configuration(QUEUE))
    result = CliRunner().invoke(cli, ["exim-config", "-c", str(path)])
    assert result.exit_code == 0
    config = decode(path.read_bytes(), Config, file=str(path))
    assert result.stdout == text(recipe(config))
    assert re.findall(r"(?m)^##  (\S+): (.*?)  #+$", result.stdout) == [
        (part.name, part.place) for part in recipe(config)
    ]


def test_written_each_part_is_a_file_that_exim_may_read(tmp_path: Path) -> None:
    path, place = tmp_path / "respool.toml", tmp_path / "exim"
    path.write_bytes(configuration(EXPORT))
    for _ in range(2):
        result = CliRunner().invoke(cli, ["exim-config", "-c", str(path), "--write", str(place)])
        assert result.exit_code == 0, result.output
    assert {name.name: name.read_text() for name in place.iterdir()} == parts(EXPORT)
    assert {stat.S_IMODE(name.stat().st_mode) for name in place.iterdir()} == {0o644}
