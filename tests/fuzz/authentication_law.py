"""What holds for every reader of DNS and header text whatever the bytes are: for the fuzzer, and for replaying.

Each law takes one input and does with it what the program does (laws of DNS data: dns_law.py). A reader may refuse in
the way its docstring says; it may not raise anything else, and what it makes must be
consistent with what its siblings make.

Diagnostics: AssertionError where a law is broken; any other exception is a finding, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from respool.errors import ConfigError
from respool.lookups.dns import Answer
from respool.processors.authentication import author as author_module
from respool.processors.authentication.arc_chain import read_chain
from respool.processors.authentication.authres import render_authentication_results
from respool.processors.authentication.authres_parse import (
    Origin,
    judge_origin,
    parse_arc_authentication_results,
    parse_authentication_results,
)
from respool.processors.authentication.authserv import method_result, parse_aar_instance, results_of
from respool.processors.authentication.client import read_received
from respool.processors.authentication.dmarc import Identifier, evaluate_dmarc
from respool.processors.authentication.dmarc_record import parse_record as parse_dmarc_record
from respool.processors.authentication.domain_names import a_label_domain
from respool.processors.authentication.keys import KeyFault, KeyRecord, parse_key_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.received_spf import read_received_spf
from respool.processors.authentication.seal_specification import parse_specification
from respool.processors.authentication.signature import (
    SignatureSyntaxError,
    parse_arc_message_signature,
    parse_arc_seal,
    parse_dkim_signature,
    parse_tag_list,
)
from respool.processors.authentication.spf import evaluate_spf
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import AuthResult, Result

from .dns_law import DNS_TOKENS, SUFFIX_TOKENS, ZONE_TOKENS, dns_reply, public_suffixes, zone

OUR_ID: Final = "mx.example.net"
#: A byte of the input from 0x80 on stands for one of these, as far as they reach (see expand()).
TOKENS: Final = (
    b"v=DKIM1; ", b"k=rsa; ", b"p=", b"v=1; a=rsa-sha256; ", b"c=relaxed/simple; ", b"d=example.org; ", b"s=s; ",
    b"h=from:to; ", b"bh=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; ", b"b=AAAA; ", b"i=1; ", b"cv=none; ", b"t=1; ",
    b"l=0; ", b"v=spf1 ", b"include:", b"redirect=", b"ip4:192.0.2.0/24 ", b"a:%{d} ", b"%{ir}.%{l1r-}._spf.%{d2} ",
    b"exists:", b"ptr ", b"mx//64 ", b"exp=", b"-all", b"v=DMARC1; ", b"p=reject; ", b"sp=none; ", b"np=", b"psd=y; ",
    b"rua=mailto:a@example.org!10m", b"mx.example.net", b"; spf=pass ", b"smtp.mailfrom=", b"dkim=fail ", b"reason=\"x\" ",
    b"header.d=example.org", b"arc=pass", b"(a (nested) comment)", b"\"quoted \\\" string\"", b"\n ", b"\r\n", b"\t",
    b"Ann <ann@example.org>", b"ann@example.org, ", b"group: ", b"=?utf-8?q?x?=", b"from h.example (", b"[192.0.2.1])",
    b"client-ip=192.0.2.1; ", b"envelope-from=\"ann@example.org\"; ", b"\nARC-Seal: ", b"\nARC-Message-Signature: ",
    b"\nARC-Authentication-Results: ", b"\nDKIM-Signature: ", b"\nFrom: ", b"\xc3\xbc", b"xn--", b"\0", b"\n\nbody\n",
)  # fmt: skip


def expand(data: bytes, tokens: tuple[bytes, ...] = TOKENS) -> bytes:
    """The input through an alphabet of likely pieces."""
    return b"".join(tokens[byte - 0x80] if 0 <= byte - 0x80 < len(tokens) else bytes((byte,)) for byte in data)


class AnyDns:
    """Answers every question alike, and counts them."""

    def __init__(self, text: bytes) -> None:
        self._text = text
        self.questions = 0

    def txt(self, name: str, *, deadline: float | None = None) -> Answer[bytes]:
        self.questions += 1
        return Answer((self._text,))

    def addresses(self, name: str, version: int, *, deadline: float | None = None) -> Answer[str]:
        self.questions += 1
        return Answer(("192.0.2.7",) if version == 4 else ("2001:db8::7",))

    def pointers(self, address: str, *, deadline: float | None = None) -> Answer[str]:
        self.questions += 1
        return Answer(("host.example.org",))

    def __getattr__(self, name: str) -> Any:
        def nothing(*_: object, **__: object) -> Answer[Any]:
            self.questions += 1
            return Answer((), exists=False)

        return nothing


def signature(data: bytes) -> None:
    for parse in (
        parse_dkim_signature,
        lambda text: parse_arc_message_signature(parse_tag_list(text)),
        lambda text: parse_arc_seal(parse_tag_list(text)),
    ):
        try:
            parse(data)
        except SignatureSyntaxError as error:
            assert str(error)


def key_record(data: bytes) -> None:
    assert isinstance(parse_key_record(data), KeyRecord | KeyFault)


def spf(data: bytes) -> None:
    resolver: Any = AnyDns(b"v=spf1 " + data)
    found = evaluate_spf(client_ip="192.0.2.1", helo=b"h.example.org", mail_from=b"a%b@example.org", resolver=resolver)
    assert found.result in Result
    assert resolver.questions <= 250
    assert found.explanation.isascii()


def dmarc(data: bytes) -> None:
    record = parse_dmarc_record(data)
    resolver: Any = AnyDns(data)
    identifier = Identifier("dkim", "mail.example.org", Result.PASS)
    found = evaluate_dmarc([b"<a@b.example.org>"], identifiers=[identifier], resolver=resolver)
    assert (record is None) <= (found.result is Result.NONE)
    assert resolver.questions <= 30


def author(data: bytes) -> None:
    found = author_module.find_author([data])
    assert all(a_label_domain(domain) == domain for domain in found.domains)
    try:
        quick: object = author_module._domains(data)
    except author_module._MalformedError as error:
        quick = str(error)
    try:
        exact: object = author_module._read_domains(data)
    except author_module._MalformedError as error:
        exact = str(error)
    assert quick == exact


def authentication_results(data: bytes) -> None:
    origin = judge_origin(data, OUR_ID)
    ours = results_of(data, OUR_ID.encode())
    assert ours is None or origin is Origin.OURS
    for result in ours or []:
        assert b"\n" not in result
        method_result([result], b"arc")
    read = parse_authentication_results(data)
    parse_arc_authentication_results(data)
    parse_aar_instance(data)
    if read is not None:
        _can_be_written(read.results)


def _can_be_written(results: tuple[AuthResult, ...]) -> None:
    value = " " + render_authentication_results(OUR_ID, results)
    again = parse_authentication_results(value.encode())
    assert again is not None
    assert judge_origin(value.encode(), OUR_ID) is Origin.OURS
    assert [result.result for result in again.results] == [result.result for result in results]
    assert results_of(value.encode(), OUR_ID.encode()) is not None


def received(data: bytes) -> None:
    found = read_received(data)
    assert found is None or found.address
    for sender in (b"ann@example.org", b""):
        read_received_spf(data, client_address="192.0.2.1", sender=sender, helo=b"h.example")


def names(data: bytes) -> None:
    domain = a_label_domain(data)
    assert domain is None or a_label_domain(domain) == domain
    try:
        parse_specification(data.decode("utf-8", "replace"))
    except ConfigError as error:
        assert error.reason


def message(data: bytes) -> None:
    resolver: Any = AnyDns(b"v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    read = AuthenticatedMessage.from_bytes(data)
    dkim, arc = verify_signatures(read, resolver, now=1_700_000_000)
    assert all(result.result is not Result.PASS for result in dkim)
    assert arc.result in {Result.NONE, Result.FAIL}
    chain = read_chain(read)
    assert chain.highest_instance == len(chain.domains)


LAWS: Final[dict[str, Callable[[bytes], None]]] = {
    law.__name__: law
    for law in (
        signature, key_record, spf, dmarc, author, authentication_results, received, names, message,
        dns_reply, zone, public_suffixes,
    )
}  # fmt: skip
#: Laws whose likely pieces are others.
ALPHABETS: Final = {"dns_reply": DNS_TOKENS, "zone": ZONE_TOKENS, "public_suffixes": SUFFIX_TOKENS}


def check(name: str, data: bytes) -> None:
    """One input for one law, as it is and through the alphabet."""
    LAWS[name](data)
    LAWS[name](expand(data, ALPHABETS.get(name, TOKENS)))
