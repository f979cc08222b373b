"""Finding processors by the name that a configuration gives.

``use = "arc-seal"`` names an entry point of the group ``respool.processors``, built-ins
among them; ``use = "/etc/respool/plugins/x.py:StampChecked"`` a class in one file. Only
what is named is imported.

Diagnostics: ConfigError names what was wrong and the nearest known name.
"""

from __future__ import annotations

import difflib
import importlib.util
import os
import re
import stat
import sys
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeGuard

import msgspec

from ..errors import ConfigError, sentence
from .api import Processor, ProcessorConfig

GROUP: Final = "respool.processors"


@cache
def known() -> dict[str, EntryPoint]:
    """Every installed processor by name; nothing is imported."""
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def find(use: str) -> type[Processor[Any]]:
    """The class that ``use`` names. Raises ConfigError."""
    loaded: object
    if use.startswith("/"):
        loaded = _load_file(use)
    else:
        entry = known().get(use)
        if entry is None:
            near = difflib.get_close_matches(use, known(), n=1)
            hint = f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(sorted(known()))}"
            raise ConfigError(f'there is no processor "{use}"{hint}')
        try:
            loaded = entry.load()
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f'processor "{use}" can\'t be imported: {type(error).__name__}: {sentence(error)}'
            ) from error
    if not _is_processor(loaded):
        raise ConfigError(f'"{use}" is not a respool.Processor')
    return loaded


def _is_processor(value: object) -> TypeGuard[type[Processor[Any]]]:
    return isinstance(value, type) and issubclass(value, Processor)


def build(use: str, config: dict[str, Any]) -> Processor[Any]:
    """The processor that ``use`` names, with its config table decoded.

    Raises ConfigError whose key is the place within the entry: ``use``, or ``config`` and
    the way to the setting below it (``config.keys[0].selector``).
    """
    try:
        processor_class = find(use)
    except ConfigError as error:
        raise ConfigError(error.reason, file=error.file, key="use") from error
    decoded = decode_config(processor_class, config)
    try:
        return processor_class(decoded)
    except ConfigError as error:
        place = error.key.removeprefix("$").removeprefix(".").removeprefix("config").removeprefix(".")
        raise ConfigError(error.reason, file=error.file, key=_below(place)) from error
    except (Exception, SystemExit) as error:
        reason = f'processor "{use}" can\'t be made: {type(error).__name__}: {sentence(error)}'
        raise ConfigError(reason, key="config") from error


def decode_config(processor_class: type[Processor[Any]], config: dict[str, Any]) -> ProcessorConfig:
    """A config table as the processor's own struct. Raises ConfigError, whose key begins with ``config``."""
    try:
        return msgspec.convert(config, processor_class.config_type)
    except msgspec.ValidationError as error:
        raise _config_error(str(error), processor_class.config_type) from error
    except (TypeError, NameError) as error:
        # Of the struct, not of the table: a type that msgspec can't decode, a name that is not there.
        raise ConfigError(f"the settings of {processor_class.__name__} can't be read: {error}", key="config") from error


_FIELD: Final = re.compile(r"(?:unknown|required) field `([^`]*)`")


def _config_error(text: str, config_type: type[msgspec.Struct]) -> ConfigError:
    """What msgspec says of a config table, with the whole way to the setting and the nearest known name."""
    reason, _, place = text.partition(" - at ")
    key = place.strip("`").removeprefix("$").removeprefix(".")
    field = _FIELD.search(reason)
    if field is not None:
        key = f"{key}.{field[1]}".removeprefix(".")
        if "unknown" in reason:
            known = _settings(config_type)
            near = difflib.get_close_matches(field[1], known, n=1)
            reason += f"; did you mean `{near[0]}`?" if near else f"; known are {', '.join(known)}"
    return ConfigError(reason, key=_below(key))


def _below(place: str) -> str:
    return f"config.{place}" if place else "config"


def _settings(config_type: type[msgspec.Struct]) -> list[str]:
    """The names of all settings of a config table, and of the tables in it."""
    names: list[str] = []
    kinds: list[Any] = [msgspec.inspect.type_info(config_type)]
    while kinds:
        kind = kinds.pop()
        for field in getattr(kind, "fields", ()):
            names.append(field.encode_name)
            kinds.append(field.type)
        kinds += [inner for name in ("type", "item_type") if (inner := getattr(kind, name, None)) is not None]
        kinds += getattr(kind, "types", ())
    return sorted(set(names))


def _load_file(use: str) -> object:
    path, colon, name = use.rpartition(":")
    if not colon or not name.isidentifier():
        raise ConfigError(f'"{use}": expected /path/to/file.py:ClassName')
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        directory = os.stat(os.path.dirname(os.path.realpath(path)))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or status.st_uid not in {0, os.geteuid()}:
            raise ConfigError(f"{path} can be written by others: chown it to root and chmod go-w it")
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path} is no regular file")
        # Whoever can rename there says which file is meant; of a sticky directory's, only their owners.
        if directory.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not directory.st_mode & stat.S_ISVTX:
            raise ConfigError(f"{path} can be replaced by others: chmod go-w its directory")
        source = file.read()
    module_name = "respool_plugin_" + os.path.basename(path).removesuffix(".py").replace("-", "_")
    spec = importlib.util.spec_from_loader(module_name, loader=None, origin=path)
    if spec is None:
        raise ConfigError(f"{path} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    module.__file__ = path
    sys.modules[module_name] = module
    try:
        exec(compile(source, path, "exec"), module.__dict__)  # noqa: S102 the administrator named this file
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{path} can't be loaded: {type(error).__name__}: {sentence(error)}") from error
    if not hasattr(module, name):
        raise ConfigError(f"{path} has no class {name}")
    return getattr(module, name)
