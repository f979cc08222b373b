"""The messages of real Exims in tests/data, and what Exim itself said of each.

Diagnostics: raises what reading a file raises.
"""

from __future__ import annotations

import base64
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from respool.spool.body import BytesBody
from respool.spool.envelope import Envelope
from respool.spool.header_file import parse_header_file
from respool.spool.message import Message

_DATA: Final = Path(__file__).parent / "data"


class Sample:
    """One message: its files, and its entry in expected.json."""

    def __init__(self, root: Path, entry: dict[str, Any]) -> None:
        self.root = root
        self.entry = entry
        self.id: str = entry["id"]
        self.case: str = entry["case"]

    def __repr__(self) -> str:
        return f"{self.root.name}-{self.case}-{self.id}"

    @property
    def header_path(self) -> Path:
        path: str = self.entry["files"]["H"]["path"]
        return self.root / path

    @cached_property
    def header_data(self) -> bytes:
        return self.header_path.read_bytes()

    @cached_property
    def data_file(self) -> bytes:
        path: str = self.entry["files"]["D"]["path"]
        return (self.root / path).read_bytes()

    @cached_property
    def journal(self) -> bytes | None:
        if "J" not in self.entry["files"]:
            return None
        path: str = self.entry["files"]["J"]["path"]
        return (self.root / path).read_bytes()

    @cached_property
    def envelope(self) -> Envelope:
        return parse_header_file(self.header_data, file=self.header_path.name)

    @property
    def body_bytes(self) -> bytes:
        return self.data_file[self.envelope.id.body_offset :]

    @property
    def message(self) -> Message:
        return Message(self.envelope, BytesBody(self.body_bytes, wireformat=self.envelope.is_wireformat))

    def exim(self, variable: str) -> bytes:
        """The value of $variable as Exim expanded it; unset is the empty string."""
        value: str | dict[str, str] = self.entry["exim_vars"].get(variable, "")
        return base64.b64decode(value["b64"]) if isinstance(value, dict) else value.encode()

    @property
    def spool_read_debug(self) -> str:
        """What the spool reader of Exim said."""
        text: str = self.entry["exim_spool_read_debug"]
        return text


def load(name: str) -> list[Sample]:
    """The samples of one corpus: ``spool-496`` or ``export-499``."""
    root = _DATA / name
    return [Sample(root, entry) for entry in json.loads((root / "expected.json").read_bytes())["messages"]]


SAMPLES: Final = [*load("spool-496"), *load("export-499")]
