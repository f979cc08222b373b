"""The authentication-results processor: forged out, foreign stay, ours on top."""

from __future__ import annotations

import pytest

from respool.processors.api import Proceed
from respool.processors.authentication_results import AuthenticationResults, Config
from respool.processors.edits import Edit, RemoveHeader, apply
from respool.processors.results import AuthResult, Property, Result
from respool.spool.message import Message

from .processor_kit import make_context, make_message

_SPF = AuthResult(method="spf", result=Result.PASS, properties=(Property("smtp", "mailfrom", "example.com"),))


def _run(message: Message, config: Config | None = None, results: tuple[AuthResult, ...] = (_SPF,)) -> tuple[Edit, ...]:
    verdict = AuthenticationResults(config or Config()).process(message, make_context(results=results))
    assert isinstance(verdict, Proceed)
    return verdict.edits


def _message() -> Message:
    return make_message(
        [
            (b"Authentication-Results", b"other.example; spf=fail smtp.mailfrom=x.example"),
            b"authentication-results : MX.example.ORG; dmarc=pass\n",
            (b"From", b"a@example.com"),
            (b"AUTHENTICATION-RESULTS", b"mx.example.org./1; dkim=pass"),
            (b"Authentication-Results", b"spf=pass"),
            (b"ARC-Authentication-Results", b"i=1; mx.example.org; spf=pass"),
        ]
    )


def test_forged_fields_go_and_ours_comes_on_top() -> None:
    message = _message()
    after = apply(message, _run(message)).message
    assert [header.raw for header in after.headers] == [
        b"Authentication-Results: mx.example.org;\n\tspf=pass smtp.mailfrom=example.com\n",
        message.headers[0].raw,
        message.headers[2].raw,
        message.headers[5].raw,
    ]


@pytest.mark.parametrize("space", [b" ", b"\t", b"\n ", b" \n\t ", b"\v", b"\f\r"])
def test_white_space_before_the_colon_hides_nothing(space: bytes) -> None:
    # Exim takes each of these for a field of that name (receive.c, header_checkname()).
    message = make_message([b"Authentication-Results" + space + b": mx.example.org; dkim=pass\n"])
    assert any(isinstance(edit, RemoveHeader) for edit in _run(message))


def test_nothing_to_say_is_said() -> None:
    message = make_message()
    after = apply(message, _run(message, results=())).message
    assert after.headers[0].raw == b"Authentication-Results: mx.example.org; none\n"


def test_deleted_records_stay_as_they_are() -> None:
    message = make_message(deleted=[b"Authentication-Results: mx.example.org; spf=pass\n"])
    assert not any(isinstance(edit, RemoveHeader) for edit in _run(message))


def test_stripping_and_adding_can_be_turned_off() -> None:
    assert _run(_message(), Config(strip=False, add=False)) == ()
    assert all(isinstance(edit, RemoveHeader) for edit in _run(_message(), Config(add=False)))


def test_methods_of_a_trusted_field_are_taken_over() -> None:
    message = make_message(
        [
            (b"Authentication-Results", b"mx.example.org; iprev=pass (x) smtp.remote-ip=192.0.2.1; spf=fail"),
            (b"Authentication-Results", b"other.example; auth=pass"),
        ]
    )
    after = apply(message, _run(message, Config(keep_methods=("iprev", "auth")))).message
    assert after.headers[0].raw == (
        b"Authentication-Results: mx.example.org;\n"
        b"\tiprev=pass smtp.remote-ip=192.0.2.1;\n"
        b"\tspf=pass smtp.mailfrom=example.com\n"
    )
    assert len(after.headers) == 2
