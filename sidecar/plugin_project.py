"""A new project for a processor, made from the templates in samples/plugins/project.

The distribution is ``respool-NAME`` and its module ``respool_name``, so that it can shadow
nobody else's; NAME itself is what a configuration uses.

Diagnostics: ConfigError for a name that can't be one, and for a place that is taken.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from string import Template
from typing import Final

from ..errors import ConfigError
from ..processors.registry import known

_NAME: Final = re.compile(r"(?=.{1,40}\Z)[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_SUFFIX: Final = ".template"
#: A wheel of respool carries no folder called tests.
_TESTS: Final = {"test": "tests"}


def new_project(name: str, below: str) -> tuple[str, tuple[str, ...]]:
    """Make the project ``respool-NAME`` below a directory: its path, and the files in it. Raises ConfigError."""
    if _NAME.fullmatch(name) is None:
        raise ConfigError(
            f'"{name}" is no name for a processor: lower-case words with a hyphen between, such as my-note'
        )
    if name in known():
        raise ConfigError(f'there is a processor "{name}" already, from {_origin(name)}: choose another name')
    module = "respool_" + name.replace("-", "_")
    words = {
        "name": name,
        "distribution": f"respool-{name}",
        "module": module,
        "class": "".join(word.capitalize() for word in name.split("-")),
        "version": version("respool"),
    }
    root = os.path.join(below, words["distribution"])
    try:
        os.mkdir(root)
    except OSError as error:
        raise ConfigError(f"{root}: {error.strerror}; choose another name, or --directory") from error
    made = tuple(_copy(files("respool.samples") / "plugins" / "project", root, "", words))
    marker = os.path.join(root, "src", module, "py.typed")
    with open(marker, "x", encoding="ascii"):
        pass
    return root, tuple(sorted((*made, os.path.relpath(marker, root))))


def _origin(name: str) -> str:
    distribution = known()[name].dist
    return distribution.name if distribution is not None else "somewhere"


def _copy(folder: Traversable, root: str, below: str, words: dict[str, str]) -> list[str]:
    made: list[str] = []
    for entry in folder.iterdir():
        if entry.is_dir():
            place = os.path.join("src", words["module"]) if entry.name == "src" else _TESTS.get(entry.name, entry.name)
            made += _copy(entry, root, place, words)
        elif entry.name.endswith(_SUFFIX):
            os.makedirs(os.path.join(root, below), exist_ok=True)
            path = os.path.join(below, entry.name.removesuffix(_SUFFIX))
            with open(os.path.join(root, path), "x", encoding="utf-8") as file:
                file.write(Template(entry.read_text("utf-8")).substitute(words))
            made.append(path)
    return made
