"""What the distribution carries: every package listed, links that resolve, nothing foreign in the wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

CHECKOUT: Final = Path(__file__).resolve().parent.parent.parent
NOT_OURS: Final = frozenset({".git", ".venv", "build", "dist", "demo", "htmlcov", "__pycache__", ".hypothesis"})


def configuration() -> dict[str, Any]:
    return tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def rooms() -> dict[str, str]:
    """Package name to folder, as pyproject maps them."""
    return dict(configuration()["tool"]["setuptools"]["package-dir"])


def project_files() -> Iterator[Path]:
    """The files of the checkout, without what builds and tools leave in it."""
    for folder, folders, files in os.walk(CHECKOUT):
        folders[:] = [
            name for name in folders if name not in NOT_OURS and not name.endswith((".egg-info", "_cache"))
        ]  # fmt: skip
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink() and name != ".git" and not name.startswith(".coverage"):
                yield path


def test_every_package_is_listed() -> None:
    found: set[str] = set()
    for package, folder in rooms().items():
        for init in (CHECKOUT / folder).rglob("__init__.py"):
            below = init.parent.relative_to(CHECKOUT / folder).parts
            found.add(".".join((package, *below)))
    assert found == set(configuration()["tool"]["setuptools"]["packages"])


def test_every_folder_of_a_room_with_code_is_a_package() -> None:
    for folder in rooms().values():
        for module in (CHECKOUT / folder).rglob("*.py"):
            # Samples hold single-file plugins, which are data.
            if "samples" not in module.relative_to(CHECKOUT).parts:
                assert (module.parent / "__init__.py").exists(), module


def test_the_links_lead_to_the_rooms() -> None:
    for package, folder in rooms().items():
        if package == "respool":
            continue
        link = CHECKOUT / "respool" / package.removeprefix("respool.")
        assert link.is_symlink()
        assert link.readlink() == Path("..", folder)
        assert (link / "__init__.py").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built from a copy, since setuptools leaves traces where it builds."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    ignored = shutil.ignore_patterns(*NOT_OURS, "*.egg-info", "*_cache", ".git")
    shutil.copytree(CHECKOUT, source, symlinks=True, ignore=ignored)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--wheel-dir", str(directory), str(source)], check=True, timeout=300)
    (built,) = directory.glob("*.whl")
    return built


def test_the_wheel_carries_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
    assert len(names) == len(set(names))
    version = configuration()["project"]["version"]
    data = f"respool-{version}.data"
    assert {name.split("/")[0] for name in names} == {"respool", f"respool-{version}.dist-info", data}
    installed = {name for name in names if name.startswith(f"{data}/")}
    shared = (path.relative_to(CHECKOUT) for path in (CHECKOUT / "share").rglob("*") if path.is_file())
    assert installed == {f"{data}/data/{path}" for path in shared}
    assert not [name for name in names if "/tests/" in name or name.endswith(".pyc")]


def test_the_wheel_carries_every_module_and_every_sample(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {"respool/py.typed"}
    for package, folder in rooms().items():
        below = package.replace(".", "/")
        for path in (CHECKOUT / folder).rglob("*"):
            relative = path.relative_to(CHECKOUT / folder)
            wanted = path.suffix == ".py" or folder == "samples"
            if path.is_file() and wanted and "__pycache__" not in relative.parts:
                expected.add(f"{below}/{relative.as_posix()}")
    assert expected <= names, expected - names


def test_the_command_and_the_processors_are_entry_points(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/entry_points.txt")]
        text = archive.read(name).decode()
    project = configuration()["project"]
    for target in (*project["scripts"].values(), *project["entry-points"]["respool.processors"].values()):
        assert target in text


# Written in pieces, or this file would be its own first finding.
_PLACES: Final = (rb"work/(?:main|wt|shared|brief)", rb"ro" rb"ot/", rb"opt/(?:py" rb"pi|wheels)")
_HOSTS: Final = (rb"py" rb"pi\.org", rb"python" rb"hosted\.org", rb"np" rb"mjs\.(?:org|com)")
_FOREIGN: Final = re.compile(rb"(?<![\w.})\]>*-])/(?:" + rb"|".join(_PLACES) + rb")|" + rb"|".join(_HOSTS))


def test_no_file_names_a_machine_or_a_registry() -> None:
    found = [
        (str(path.relative_to(CHECKOUT)), match[0])
        for path in project_files()
        for match in [_FOREIGN.search(path.read_bytes())]
        if match
    ]
    assert found == []


def test_the_locked_requirements_name_hashes_and_cover_the_dependencies() -> None:
    project = configuration()["project"]
    for file, requirements in (
        ("run.txt", project["dependencies"]),
        ("dev.txt", [*project["dependencies"], *project["optional-dependencies"]["dev"]]),
    ):
        text = (CHECKOUT / "requirements" / file).read_text()
        locked = {
            match[1].lower() for match in re.finditer(r"(?m)^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==\S+ \\\n    --hash", text)
        }
        named = {re.split(r"[\[<>=!~; ]", requirement)[0].lower() for requirement in requirements}
        assert named <= locked, f"{file} lacks {named - locked}: make lock"
        assert "--index-url" not in text
