"""``respool plugin``: the project it makes passes its own tests, what is installed is listed, contracts are checked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[3]
NOT_OURS = (".git", ".venv", "build", "dist", "demo", "*.egg-info", "*_cache", "__pycache__", "docs", "benchmarks")


def respool(*arguments: object, cwd: Path | None = None, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(path)} if path is not None else None
    return subprocess.run(
        [sys.executable, "-m", "respool", *map(str, arguments)],
        capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env=environment,
    )  # fmt: skip


# new


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin directory of a new environment, respool and a project called my-note installed in it, without network.

    Other people's distributions are borrowed from the environment of the tests.
    """
    root = tmp_path_factory.mktemp("fresh")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root / "venv")], check=True, timeout=120)
    (packages,) = (root / "venv/lib").glob("python*/site-packages")
    borrowed = Path(pytest.__file__).parents[1]
    (packages / "borrowed.pth").write_text(f"{borrowed}\n")
    source = root / "respool"
    shutil.copytree(CHECKOUT, source, symlinks=True, ignore=shutil.ignore_patterns(*NOT_OURS))
    install(root / "venv/bin", source)
    made = run(root / "venv/bin/respool", "plugin", "new", "my-note", cwd=root)
    assert "tests/test_processor.py" in made
    install(root / "venv/bin", root / "respool-my-note")
    return root / "venv/bin"


def install(place: Path, source: Path) -> None:
    run(place / "python", "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", str(source))


def run(*command: object, cwd: Path | None = None) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=300, check=False, cwd=cwd, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "command",
    [
        ("pytest", "-q", "-p", "no:cacheprovider", "-W", "error"),
        ("mypy", "--cache-dir=/dev/null"),
        ("ruff", "check", "--no-cache"),
        ("ruff", "format", "--check", "--no-cache"),
    ],
)
def test_the_project_passes_its_own_tests_and_checks(fresh: Path, command: Sequence[str]) -> None:
    said = run(fresh / "python", "-m", *command, cwd=fresh.parents[1] / "respool-my-note")
    if command[0] == "pytest":
        assert "6 passed" in said
    if command[0] == "mypy":
        assert "no issues found in 2 source files" in said


@pytest.mark.parametrize("name", ["a", "z9", "a" * 40, "-".join(["ab"] * 13)])
def test_short_and_long_names_are_formatted_alike(tmp_path: Path, name: str) -> None:
    assert respool("plugin", "new", name, cwd=tmp_path).returncode == 0
    for check in (("check",), ("format", "--check")):
        run(sys.executable, "-m", "ruff", *check, "--no-cache", ".", cwd=tmp_path / f"respool-{name}")


def test_it_is_found_by_its_name(fresh: Path) -> None:
    listed = {
        line["name"]: line for line in map(json.loads, run(fresh / "respool", "plugin", "list", "--json").splitlines())
    }
    assert listed["my-note"]["distribution"] == "respool-my-note"
    assert listed["my-note"]["settings"] == ["header"]
    assert listed["auth"]["distribution"] == "respool"
    said = run(fresh / "respool", "plugin", "test", "my-note", "--settings", 'header = "X-Seen"')
    assert "+ X-Seen: mx.example.org" in said
    assert "keeps the contract" in said


@pytest.mark.parametrize("name", ["Bad", "a_b", "-a", "a--b", "../a", "a/b", "", "a" * 60, "é", "auth"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    done = respool("plugin", "new", "--", name, cwd=tmp_path)
    assert done.returncode == 78
    assert "name" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_what_is_there_is_not_touched(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "respool-my-note"
    if kind == "directory":
        place.mkdir()
    elif kind == "file":
        place.write_text("mine")
    else:
        place.symlink_to(tmp_path / "nowhere")
    done = respool("plugin", "new", "my-note", cwd=tmp_path)
    assert done.returncode == 78
    assert "exists" in done.stderr
    assert not (tmp_path / "nowhere").exists()
    assert kind != "directory" or list(place.iterdir()) == []


# list


def test_broken_ones_are_named_and_the_others_listed(tmp_path: Path) -> None:
    metadata = tmp_path / "broken-1.2.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.2\n")
    (metadata / "entry_points.txt").write_text(
        "[respool.processors]\n"
        "absent = nowhere.to:Be\n"
        "exits = broken_exits:Thing\n"
        "no-processor = json:JSONDecoder\n"
        "headers = broken_exits:Other\n"
    )
    (tmp_path / "broken_exits.py").write_text("raise SystemExit('\\x1b[31m no')\n")
    done = respool("plugin", "list", path=tmp_path)
    assert done.returncode == 1
    assert "absent                          broken 1.2\n    can't be used: " in done.stdout
    assert "SystemExit" in done.stdout
    assert '"no-processor" is not a respool.Processor' in done.stdout
    assert "two distributions" in done.stdout
    assert "\x1b" not in done.stdout
    assert "dkim-sign" in done.stdout


# test

PLUGIN = """
import os, signal, threading, time
from respool import *

class Tried(Processor[ProcessorConfig]):
    phase = "modify"
    count = 0
    kept = []

    def process(self, message, context):
        self.count += 1
{body}
"""

FAULTS = {
    "return proceed(add_header('X-Count', str(self.count)))": "another answer the second time",
    "return None": "NoneType, not a verdict",
    "return proceed(RemoveHeader(9999))": "no header record 9999",
    "raise SystemExit(0)": "SystemExit",
    "self.kept.append(open('/etc/hostname')); return proceed()": "/etc/hostname for one",
    "threading.Thread(target=time.sleep, args=(9,), name='left', daemon=True).start(); return proceed()": "left for one",
    "os.chdir('/'); return proceed()": "working directory",
    "os.umask(0); return proceed()": "umask",
    "os.environ['X'] = '1'; return proceed()": "environment",
    "time.sleep(0.7); return proceed()": "past the deadline",
    "time.sleep(60)": "no answer",
    "__import__('msgspec').structs.force_setattr(message, 'envelope', message.envelope.replace(sender=b'x')); return proceed()": "it changed the message",
}


def plugin(directory: Path, body: str) -> str:
    path = directory / "tried.py"
    path.write_text(PLUGIN.format(body=textwrap.indent(body, "        ")))
    path.chmod(0o644)
    return f"{path}:Tried"


@pytest.mark.parametrize("body", FAULTS)
def test_what_breaks_the_contract_is_named(tmp_path: Path, body: str) -> None:
    (tmp_path / "one").mkdir()
    sample = next((CHECKOUT / "samples/spool/spf-dmarc-pass").glob("*-H"))
    for name in (sample.name, sample.name[:-1] + "D"):
        shutil.copy(sample.with_name(name), tmp_path / "one" / name)
    done = respool("plugin", "test", plugin(tmp_path, body), "--over", tmp_path / "one", "--deadline", "0.5")
    assert done.returncode == 1, done.stdout + done.stderr
    assert FAULTS[body] in done.stdout


def test_a_good_one_keeps_it(tmp_path: Path) -> None:
    use = plugin(tmp_path, "return proceed(add_header('X-A', 'b'), set_queue('scan'), reason='\\x1b[2J')")
    done = respool("plugin", "test", "tried.py:Tried", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "+ X-A: b" in done.stdout
    assert "+ queue: scan" in done.stdout
    assert "\x1b" not in done.stdout
    lines = [json.loads(line) for line in respool("plugin", "test", use, "--json").stdout.splitlines()]
    assert lines[-1] == {"faults": []}
    assert len(lines) > 10
    assert {line["verdict"] for line in lines[:-1]} == {"proceed"}


def test_mistakes_on_the_command_line(tmp_path: Path) -> None:
    assert respool("plugin", "test", "haeders").returncode == 78
    assert "did you mean" in respool("plugin", "test", "haeders").stderr
    bad = respool("plugin", "test", "headers", "--settings", "add = ")
    assert bad.returncode == 78
    assert "--settings" in bad.stderr
    assert respool("plugin", "test", "headers", "--over", tmp_path).returncode == 2
