"""What somebody is told who has not installed an extra, in a process to which its modules are not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

PROGRAM: Final = """
import importlib.machinery, sys
absent, finder = set(sys.argv.pop(1).split(",")), importlib.machinery.PathFinder
found = finder.find_spec
finder.find_spec = lambda name, *more: None if name.partition(".")[0] in absent else found(name, *more)
from respool.sidecar.cli import main
main()
"""
WEB: Final = ("jinja2", "markupsafe", "starlette", "anyio", "uvicorn", "h11")
DASK: Final = ("distributed", "dask", "tornado", "toolz", "zict", "cloudpickle")


def respool(absent: tuple[str, ...], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, ",".join(absent), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("absent", "arguments", "says"),
    [
        (
            WEB,
            ("web", "-c", "respool.toml"),
            "this needs jinja2 and starlette and uvicorn, which the extra [web] brings: pip install 'respool[web]'",
        ),
        (("uvicorn",), ("web",), "this needs uvicorn, which the extra [web] brings: pip install 'respool[web]'"),
        (WEB, ("web", "--hash", "anna"), "pip install 'respool[web]'"),
        (
            DASK,
            ("batch", "source", "destination", "--dask", "tcp://127.0.0.1:8786"),
            "this needs distributed, which the extra [dask] brings: pip install 'respool[dask]'",
        ),
    ],
)
def test_a_command_without_its_extra_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: tuple[str, ...], arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "source").mkdir()
    done = respool(absent, *arguments)
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.startswith("respool: this needs ")
    assert done.stderr.endswith(f"{says}\n")
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "destination").exists()


@pytest.mark.parametrize("arguments", [("--help",), ("web", "--help"), ("batch", "--help"), ("config", "example")])
def test_nothing_else_needs_them(arguments: tuple[str, ...]) -> None:
    done = respool(WEB + DASK, *arguments)
    assert done.returncode == 0, done.stderr


def test_a_batch_without_a_cluster_needs_none(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    done = respool(WEB + DASK, "batch", str(tmp_path / "source"), str(tmp_path / "destination"))
    assert done.returncode == 0, done.stderr
