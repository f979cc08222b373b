"""A respool processor in one file: what may be attached, by name, type and size.

Parts within parts and forwarded messages are looked into down to a depth; what can be read
in two ways (two Content-Type fields, two file names, a multipart without a boundary) or is
beyond the limits is `unreadable`, and has a verdict of its own. What is inside archives and
inline uuencode is not looked at: that is a scanner's work.

    [[processor]]
    use = "/etc/respool/plugins/attachment_policy.py:AttachmentPolicy"
    config = { otherwise = "hold", largest_bytes = 20_000_000 }
"""

from __future__ import annotations

import fnmatch
import unicodedata
from typing import Annotated, Final, Literal

from msgspec import Meta

from respool import (
    ConfigError,
    Context,
    Message,
    MimePart,
    Processor,
    ProcessorConfig,
    UnreadableMimeError,
    Verdict,
    bounce,
    freeze,
    hold,
    mime_parts,
    proceed,
)

_PROGRAMS: Final = (
    "bat", "chm", "cmd", "com", "cpl", "dll", "exe", "hta", "iso", "jar", "js", "jse", "lnk", "msi", "pif", "ps1",
    "reg", "scr", "vbe", "vbs", "wsf",
)  # fmt: skip


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    forbidden_extensions: Annotated[
        tuple[str, ...], Meta(description="Ends of file names, without the dot, in any case.")
    ] = _PROGRAMS
    forbidden_types: Annotated[
        tuple[str, ...], Meta(description='Media types; "*" and "?" match as in file names.')
    ] = ("application/x-msdownload", "application/x-ms-installer")
    largest_bytes: Annotated[
        Annotated[int, Meta(gt=0)] | None, Meta(description="Size of one part, decoded; unset: any.")
    ] = None
    otherwise: Annotated[Literal["hold", "freeze", "bounce"], Meta(description="The verdict on what is forbidden.")] = (
        "hold"
    )
    unreadable: Annotated[
        Literal["hold", "freeze", "proceed"], Meta(description="The verdict where the structure can't be told.")
    ] = "hold"
    deepest: Annotated[int, Meta(description="Levels of parts within parts.", ge=1, le=100)] = 20
    most_parts: Annotated[int, Meta(description="Parts of a message.", ge=1, le=100_000)] = 1000


class AttachmentPolicy(Processor[Config]):
    """Find forbidden attachments."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name in config.forbidden_extensions:
            if not name or name.startswith(".") or "/" in name:
                raise ConfigError(f'"{name}" is no end of a file name: write it without the dot', key="config")
        self._extensions = frozenset(name.lower() for name in config.forbidden_extensions)

    def process(self, message: Message, context: Context) -> Verdict:
        """Look at every part until one is forbidden."""
        try:
            for part in mime_parts(message, deepest=self.config.deepest, most=self.config.most_parts):
                fault = self._fault(part)
                if fault:
                    context.log.info("attachment.forbidden", fault=fault)
                    return self._verdict(self.config.otherwise, fault)
        except UnreadableMimeError as error:
            return self._verdict(self.config.unreadable, f"its attachments can't be told: {error}")
        return proceed()

    def _fault(self, part: MimePart) -> str:
        for name in part.file_names:
            extension = extension_of(name)
            if extension in self._extensions:
                return f"an attachment ends in .{extension}"
        for pattern in self.config.forbidden_types:
            if fnmatch.fnmatchcase(part.media_type, pattern.lower()):
                return f"an attachment is {pattern}"
        if self.config.largest_bytes is not None and part.size > self.config.largest_bytes:
            return f"an attachment is larger than {self.config.largest_bytes} bytes"
        return ""

    @staticmethod
    def _verdict(kind: str, reason: str) -> Verdict:
        match kind:
            case "freeze":
                return freeze(reason)
            case "bounce":
                return bounce(reason)
            case "proceed":
                return proceed(reason=reason)
            case _:
                return hold(reason)


def extension_of(name: str) -> str:
    """What a file system would take for the end of a name: without trailing dots, blanks, invisible characters."""
    visible = "".join(character for character in name if unicodedata.category(character) not in {"Cf", "Cc"})
    return unicodedata.normalize("NFKC", visible).rstrip(". ").rpartition(".")[2].lower()
