"""The ``authentication-results`` processor: forged fields out, our own on top (RFC 8601 section 5).

Readers behind us trust a field with our authserv-id. So every such field that came in
is removed, and with it those whose id cannot be read for certain; foreign ones stay as
they are, byte for byte.

Diagnostics: the constructor raises nothing; process() raises nothing.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ..spool.envelope import Header
from ..spool.message import Message
from .api import Context, Processor, ProcessorConfig, Verdict, proceed
from .authentication.authres import render_authentication_results
from .authentication.authres_parse import Origin, judge_origin, parse_authentication_results
from .edits import Edit, RemoveHeader, add_header
from .results import AuthResult

FIELD_NAME = "Authentication-Results"


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    strip: Annotated[
        bool, Meta(description="Remove fields that came in with our authserv_id, or whose id can't be read.")
    ] = True
    add: Annotated[bool, Meta(description="Add a field of our own on top.")] = True
    keep_methods: Annotated[
        tuple[str, ...],
        Meta(
            description="Take over results of these methods (iprev, auth) from fields with our authserv_id."
            " Only where Exim's ACL removes such fields from what comes in and writes its own."
        ),
    ] = ()


class AuthenticationResults(Processor[Config]):
    """Removes forged Authentication-Results fields and adds ours from the results so far."""

    phase = "modify"

    def process(self, message: Message, context: Context) -> Verdict:
        """Remove from the bottom up, so that each index holds whichever way edits are applied; then add."""
        edits: list[Edit] = []
        reasons: list[str] = []
        kept: list[AuthResult] = []
        if self.config.strip or self.config.keep_methods:
            for index, origin in reversed(find_ours(message.headers, context.authserv_id)):
                if origin is Origin.OURS and self.config.keep_methods:
                    kept = self._take_over(message.headers[index]) + kept
                if self.config.strip:
                    edits.append(RemoveHeader(index))
                    reasons.append(origin.value)
        if self.config.add:
            value = render_authentication_results(context.authserv_id, (*kept, *context.results))
            edits.append(add_header(FIELD_NAME, value))
        if reasons:
            context.log.info(
                "authentication_results.stripped", ours=reasons.count("ours"), doubtful=reasons.count("doubtful")
            )
        return proceed(*edits)

    def _take_over(self, header: Header) -> list[AuthResult]:
        field = parse_authentication_results(header.value)
        return (
            [] if field is None else [result for result in field.results if result.method in self.config.keep_methods]
        )


def find_ours(headers: tuple[Header, ...], authserv_id: str) -> list[tuple[int, Origin]]:
    """Index and origin of each Authentication-Results field that is, or might be, under our id; top to bottom."""
    name, found = FIELD_NAME.encode(), list[tuple[int, Origin]]()
    for index, header in enumerate(headers):
        if header.is_named(name):
            origin = judge_origin(header.value, authserv_id)
            if origin is not Origin.FOREIGN:
                found.append((index, origin))
    return found
