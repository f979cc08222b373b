"""``respool config``: what is refused, and how it is said; the example against the structs."""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from respool import ConfigError
from respool.processors import registry
from respool.sidecar import demo
from respool.sidecar.cli import cli
from respool.sidecar.config import Config, decode
from respool.sidecar.config_check import check
from respool.sidecar.config_example import EximPlaces, detect, example
from respool.sidecar.sample_cases import load

SAMPLE = Path(__file__).resolve().parents[3] / "samples" / "config" / "respool.toml"


def respool(*arguments: str) -> Result:
    return CliRunner().invoke(cli, list(arguments))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(demo.run(str(tmp_path_factory.mktemp("demo")), load()[:1]).directory)


@pytest.fixture
def written(finished: Path, tmp_path: Path) -> Path:
    path = tmp_path / "respool.toml"
    path.write_text((finished / "respool.toml").read_text())
    return path


def test_a_good_configuration_is_said_to_be_good(written: Path) -> None:
    result = respool("config", "check", "-c", str(written))
    assert result.exit_code == 0
    assert "can be used" in result.stdout
    assert "auth → authentication-results → arc-seal" in result.stdout or "auth → route →" in result.stdout
    document = json.loads(respool("config", "check", "-c", str(written), "--json").stdout)
    assert document["authserv_id"] == "mx.example.test"
    assert document["warnings"] == []


def test_checking_changes_nothing(written: Path, finished: Path) -> None:
    text = written.read_text().replace(str(finished / "state"), str(finished / "new-state"))
    written.write_text(text)
    result = respool("config", "check", "-c", str(written))
    assert result.exit_code == 0
    assert "does not exist yet" in result.stdout
    assert not (finished / "new-state").exists()


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ('selector = "demo"', 'selektor = "demo"', "$.processor[{seal}].config.selektor", "did you mean `selector`?"),
        ('selector = "demo"', "selector = 3", "$.processor[{seal}].config.selector", "Expected `str`"),
        ('selector = "demo", ', "", "$.processor[{seal}].config.selector", "missing required field"),
        ('use = "auth"', 'use = "auht"', "$.processor[0].use", 'did you mean "auth"?'),
        ('"lists.example"', "1", "$.processor[0].config.trusted_sealers[0]", "Expected `str`"),
        ("demo.pem", "nix.pem", "$.processor[{seal}].config", "nix.pem: No such file or directory"),
        ("workers = 1", "workerz = 1", "$.workerz", "did you mean `workers`?"),
        ("workers = 1", 'workers = "1"', "$.workers", "Expected `int`"),
        ("/dns.zone", "/nix.zone", "$.dns.zone_file", "No such file"),
        ("/spool", "/nix", "$.requeue", "No such file"),
        ("/export", "/nix", "$.source", "No such file"),
    ],
)
def test_an_error_names_file_key_and_what_was_expected(written: Path, old: str, new: str, key: str, words: str) -> None:
    text = written.read_text()
    assert old in text
    written.write_text(text.replace(old, new))
    seal = text[: text.index('use = "arc-seal"')].count("[[processor]]") - 1
    with pytest.raises(ConfigError) as caught:
        check(str(written), decode(written.read_bytes(), Config, file=str(written)))
    assert caught.value.file == str(written)
    assert caught.value.key == key.format(seal=seal)
    assert words in caught.value.reason
    # And so says the sidecar itself.
    result = respool("run", "--once", "-c", str(written))
    assert isinstance(result.exception, ConfigError)
    assert (result.exception.file, result.exception.key) == (str(written), key.format(seal=seal))


def test_settings_of_inner_tables_are_suggested_too() -> None:
    with pytest.raises(ConfigError, match="did you mean `from_domains`") as caught:
        registry.build("dkim-sign", {"keys": [{"domain": "a.example", "from_domain": []}]})
    assert caught.value.key == "config.keys[0].from_domain"


def test_a_directory_that_others_can_write_is_refused(written: Path, finished: Path) -> None:
    place = finished / "export"
    mode = stat.S_IMODE(place.stat().st_mode)
    os.chmod(place, 0o777)
    try:
        with pytest.raises(ConfigError, match="can be written by others") as caught:
            check(str(written), decode(written.read_bytes(), Config, file=str(written)))
    finally:
        os.chmod(place, mode)
    assert caught.value.key == "$.source"


def test_the_sample_is_what_the_command_prints() -> None:
    result = respool("config", "example", "--debian")
    assert result.exit_code == 0
    assert result.stdout == SAMPLE.read_text(), "respool config example --debian > samples/config/respool.toml"


@pytest.mark.parametrize("source", ["queue", "export"])
def test_the_example_decodes_and_says_what_it_was_told(source: str) -> None:
    places = msgspec.convert({"command": "/opt/exim", "spool_directory": "/srv/spool", "source": source}, EximPlaces)
    config = decode(example(places).encode(), Config, file="example")
    assert msgspec.to_builtins(config.source)["kind"] == source
    assert config.state_directory == "/srv/spool/respool"
    assert config.exim.command == "/opt/exim"
    assert [entry.use for entry in config.processor] == ["auth", "authentication-results", "arc-seal"]


def test_everything_commented_out_can_be_commented_in() -> None:
    """Each setting alone: the line, or lines, that bear it are TOML, and the processor's struct takes the value."""
    text = example(EximPlaces())
    _, *blocks = text.split("[[processor]]\n")
    for block in blocks:
        lines = [line.removeprefix("#") for line in block.split("\n") if re.match(r"# \S", line) is None]
        table = tomllib.loads("\n".join(lines[: _end(lines)]))
        config = table["processor"]["config"]
        decoded = msgspec.convert(config, registry.find(table["use"]).config_type)
        assert set(config) == set(type(decoded).__struct_fields__)


def _end(lines: list[str]) -> int:
    """Where the next processor's own text begins."""
    return next((number for number, line in enumerate(lines) if number and not line), len(lines))


def test_every_setting_is_in_the_example() -> None:
    text = example(EximPlaces())
    names = set(Config.__struct_fields__) | {"kind", "use", "on_error"}
    for name in registry.known():
        assert f'use = "{name}"' in text
        names |= set(registry.find(name).config_type.__struct_fields__)
    for name in names:
        assert (
            f"{name} = " in text or f"[{name}]" in text or f"[processor.{name}]" in text or f"config.{name}]]" in text
        )


def test_the_exim_of_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "exim4"
    program.write_text(
        '#!/bin/sh\ncase "$1" in -bP) echo "spool_directory = /somewhere";; -bV) echo "Transports: smtp queuefile";; esac\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert detect() == EximPlaces(command=str(program), spool_directory="/somewhere", source="export")
    program.write_text("#!/bin/sh\nexit 1\n")
    assert detect() == EximPlaces(command=str(program))
