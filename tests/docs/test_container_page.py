"""The Containerfile against the project that it packs: what it copies, names and starts is there, and is not root's.

tests/integration/test_container.py builds and runs it where podman has the base image; hadolint reads it at `make lint`.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from typing import Final

import click
from packaging.specifiers import SpecifierSet

from respool.sidecar.cli import cli

from ..conftest import CHECKOUT
from .pages import blocks

PAGE: Final = "samples/container/README.md"
CONTAINERFILE: Final = CHECKOUT / "samples" / "container" / "Containerfile"


def instructions() -> list[tuple[str, str]]:
    """(instruction, the rest), continued lines joined, comments left out."""
    text = re.sub(r"(?m)^#.*\n", "", CONTAINERFILE.read_text())
    lines = text.replace("\\\n", " ").splitlines()
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines if line.strip())]


def of(instruction: str) -> list[str]:
    return [rest for word, rest in instructions() if word == instruction]


def test_both_stages_are_one_python_that_the_project_takes() -> None:
    bases = {rest.split()[0] for rest in of("FROM")}
    assert len(bases) == 1
    version = re.search(r"/python:(\d+\.\d+)-", bases.pop())
    assert version is not None
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    assert SpecifierSet(project["requires-python"]).contains(version[1])


def test_what_it_takes_from_the_checkout_is_there() -> None:
    (run, _) = of("RUN")
    named = re.findall(r"/source(/\S+)?", run)
    assert "/requirements/run.txt" in named
    for path in named:
        assert (CHECKOUT / path.lstrip("/")).exists(), path
    # And is sent to the builder: nothing of what is left out.
    left_out = set((CHECKOUT / ".dockerignore").read_text().splitlines())
    not_ours = {line.rstrip("/") for line in (CHECKOUT / ".gitignore").read_text().splitlines()}
    anchored = {line if line.startswith("/") else f"**/{line}" for line in not_ours}
    assert {line for line in left_out if not line.startswith("#")} == anchored | {"/.git"}


def test_it_starts_the_sidecar_as_somebody_who_is_not_root() -> None:
    defaults = dict(rest.split("=") for rest in of("ARG"))
    (user,) = of("USER")
    numbers = [defaults[name] for name in re.findall(r"\$(\w+)", user)]
    assert len(numbers) == 2
    assert all(int(number) > 0 for number in numbers)
    assert [word for word, _ in instructions()].index("USER") > [word for word, _ in instructions()].index("RUN")

    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    (program,) = json.loads(of("ENTRYPOINT")[0])
    assert program in project["scripts"]
    name, *arguments = json.loads(of("CMD")[0])
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    # What click makes of the words, short of reading the file.
    command.make_context(name, list(arguments), resilient_parsing=True)
    assert "-v /etc/respool:/etc/respool:ro" in blocks(PAGE, "A sidecar beside Exim")[0]
    assert arguments[-1].startswith("/etc/respool/")


def test_the_health_check_asks_what_the_page_says_to_set() -> None:
    (check,) = of("HEALTHCHECK")
    asked = re.search(r"http://([\d.]+:\d+)/health", check)
    assert asked is not None
    assert f'`[metrics] listen = "{asked[1]}"`' in (CHECKOUT / PAGE).read_text()
    assert f'listen = "{asked[1]}"' in (CHECKOUT / "docs" / "metrics.md").read_text()


def test_the_command_of_the_page_builds_this_file_and_sets_its_arguments() -> None:
    words = shlex.split(blocks(PAGE, "The image")[0])
    assert (CHECKOUT / words[words.index("-f") + 1]) == CONTAINERFILE
    set_here = {words[index + 1].partition("=")[0] for index, word in enumerate(words) if word == "--build-arg"}
    assert set_here == {rest.partition("=")[0] for rest in of("ARG")}
    # Without it podman leaves the health check out.
    assert words[words.index("--format") + 1] == "docker"
