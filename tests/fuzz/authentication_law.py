"""What holds for every reader of DNS and header text whatever the bytes are: for the fuzzer, and for replaying.

Each law takes one input and does with it what the program does (laws of DNS data: dns_law.py). A reader may refuse in
the way its docstring says; it may not raise anything else, and what it makes must be
consistent with what its siblings make. Where a second implementation reads the same text
(dkimpy's tag lists and keys, pyspf's macros, the email package's addresses), both have to
read the same.

Diagnostics: AssertionError where a law is broken; any other exception is a finding, too.
"""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import re
import warnings
from collections.abc import Callable
from email import headerregistry
from email.errors import HeaderParseError
from functools import cache
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import structs

from respool.errors import ConfigError
from respool.lookups.dns import Answer
from respool.processors.authentication import author as author_module
from respool.processors.authentication.arc_chain import arc_fields, read_chain
from respool.processors.authentication.arc_seal import ArcSetFields, NotSealed, Sealer, seal
from respool.processors.authentication.authres import render_authentication_results, render_result
from respool.processors.authentication.authres_parse import (
    Origin,
    judge_origin,
    parse_arc_authentication_results,
    parse_authentication_results,
)
from respool.processors.authentication.authserv import method_result, parse_aar_instance, results_of
from respool.processors.authentication.client import read_received
from respool.processors.authentication.dmarc import Identifier, evaluate_dmarc
from respool.processors.authentication.dmarc_record import DmarcRecord
from respool.processors.authentication.dmarc_record import parse_record as parse_dmarc_record
from respool.processors.authentication.domain_names import a_label_domain
from respool.processors.authentication.keys import KeyFault, KeyRecord, SigningKey, parse_key_record
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
from respool.processors.authentication.spf_macros import (
    MAX_EXPLANATION,
    Macro,
    SpfSyntaxError,
    expand_domain,
    expand_explanation,
    parse_domain_spec,
    parse_macro_string,
)
from respool.processors.authentication.verification import verify_signatures
from respool.processors.report_destination import MOST_DESTINATIONS, find_destinations
from respool.processors.results import AuthResult, Result

from .dns_law import DNS_TOKENS, SUFFIX_TOKENS, ZONE_TOKENS, dns_reply, public_suffixes, zone

OUR_ID: Final = "mx.example.net"
SEALER: Final = Sealer(
    authserv_id=OUR_ID,
    domain="sealer.example",
    selector="s",
    key=SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32)))),
)
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


#: Without type information, hence Any.
dkimpy: Any = importlib.import_module("dkim")
dkimpy_tags: Any = importlib.import_module("dkim.util")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its source holds escapes that Python warns of
    pyspf: Any = importlib.import_module("spf")


@cache
def pyspf_query() -> Any:
    """A query of pyspf about one message."""
    return pyspf.query("192.0.2.1", "a-b@mail.example.org", "h.example.org", receiver="unknown", strict=True)


class PyspfValues:
    """Macro letters as that query has them."""

    def macro_value(self, letter: str) -> str:
        return str(getattr(pyspf_query(), letter))


def signature(data: bytes) -> None:
    _tag_list(data)
    for parse in (
        parse_dkim_signature,
        lambda text: parse_arc_message_signature(parse_tag_list(text)),
        lambda text: parse_arc_seal(parse_tag_list(text)),
    ):
        try:
            parse(data)
        except SignatureSyntaxError as error:
            assert str(error)


def _tag_list(data: bytes) -> None:
    try:
        ours = parse_tag_list(data).tags
    except SignatureSyntaxError:
        return
    # dkimpy strips what Python calls white space, and calls a list of one semicolon empty.
    if data.strip(b" \t\r\n;") and not set(data) & set(b"\v\f"):
        assert dkimpy_tags.parse_tag_value(data) == ours


def key_record(data: bytes) -> None:
    found = parse_key_record(data)
    assert isinstance(found, KeyRecord | KeyFault)
    # Where s= is another word than these, or several, dkimpy says nothing of the key.
    if isinstance(found, KeyRecord) and parse_tag_list(data).tags.get(b"s", b"*") in {b"*", b"email"}:
        assert dkimpy.evaluate_pk("name", data)[1:3] == (found.bits, found.key_type.value)


def spf(data: bytes) -> None:
    _spf_macros(data)
    resolver: Any = AnyDns(b"v=spf1 " + data)
    found = evaluate_spf(client_ip="192.0.2.1", helo=b"h.example.org", mail_from=b"a%b@example.org", resolver=resolver)
    assert found.result in Result
    assert resolver.questions <= 250
    assert found.explanation.isascii()


def _spf_macros(data: bytes) -> None:
    text = data.decode("ascii", "replace")
    try:
        spec = parse_macro_string(text, explanation=True)
    except SpfSyntaxError:
        return
    expanded = expand_explanation(spec, PyspfValues())
    assert len(expanded) <= MAX_EXPLANATION
    assert expanded.isascii()
    letters = {piece.letter for piece in spec.pieces if isinstance(piece, Macro)}
    # pyspf asks DNS for p, never divides v, shortens even an explanation as if it were a name, refuses %% at the
    # end, and knows the transformer only as r, where ABNF means R as well.
    if letters.isdisjoint("ptv") and len(expanded) <= 253 and not text.endswith("%%") and "R" not in text:
        assert expanded == pyspf_query().expand(text, stripdot=False)
    with contextlib.suppress(SpfSyntaxError):
        assert len(expand_domain(parse_domain_spec(text), PyspfValues())) <= 253


def dmarc(data: bytes) -> None:
    record = parse_dmarc_record(data)
    if record is not None:
        _dmarc_can_be_written(record)
        _destinations_are_addresses(record, data)
    resolver: Any = AnyDns(data)
    identifier = Identifier("dkim", "mail.example.org", Result.PASS)
    found = evaluate_dmarc([b"<a@b.example.org>"], identifiers=[identifier], resolver=resolver)
    assert (record is None) <= (found.result is Result.NONE)
    assert resolver.questions <= 30


def _dmarc_can_be_written(record: DmarcRecord) -> None:
    """What was understood, written down as plainly as can be, is understood alike."""
    policies = {"p": record.policy, "sp": record.subdomain_policy, "np": record.nonexistent_policy}
    words = ["v=DMARC1"]
    words += [f"{name}={policy.value}" for name, policy in policies.items() if policy is not None]
    words += [f"psd={record.psd}", f"t={'y' if record.testing else 'n'}", f"pct={record.percent}"]
    words += [f"adkim={'s' if record.strict_dkim else 'r'}", f"aspf={'s' if record.strict_spf else 'r'}"]
    words += [f"fo={':'.join(record.failure_options)}"]
    uris = {"rua": record.aggregate_uris, "ruf": record.failure_uris}
    words += [f"{name}={','.join(found)}" for name, found in uris.items() if found]
    again = parse_dmarc_record(";".join(words).encode())
    assert again is not None
    assert not again.problems
    assert structs.replace(again, text=record.text, tags=record.tags, problems=record.problems) == record


def _destinations_are_addresses(record: DmarcRecord, consent: bytes) -> None:
    """Whatever a record and the receiver's consent say, reports go to few plain addresses."""
    resolver: Any = AnyDns(consent)
    found = find_destinations(record, "example.com", resolver=resolver)
    assert len(found.accepted) <= MOST_DESTINATIONS
    assert resolver.questions <= 60
    for destination in found.accepted:
        local, _, domain = destination.address.rpartition("@")
        assert a_label_domain(domain) == domain == destination.domain
        assert local.isascii()
        assert local.isprintable()
        assert not set(local) & set(' "(),:;<>@[\\]')


def author(data: bytes) -> None:
    found = author_module.find_author([data])
    if not found.problem:
        _email_package_reads(data, found.domains)
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


def _email_package_reads(data: bytes, domains: tuple[str, ...]) -> None:
    """No other author than the email package sees, where it finds nothing to complain about."""
    if not data.isascii() or b"=?" in data:
        return
    try:
        header: Any = headerregistry.HeaderRegistry()(
            "From", data.decode("ascii").replace("\r", " ").replace("\n", " ")
        )
        addresses = [address.domain for address in header.addresses]
    except (LookupError, ValueError, AttributeError, TypeError, HeaderParseError):  # its own bugs on odd text
        return
    if header.defects:
        return
    theirs = [a_label_domain(domain) for domain in addresses if domain]
    assert set(domains) == {domain for domain in theirs if domain is not None}


def authentication_results(data: bytes) -> None:
    origin = judge_origin(data, OUR_ID)
    ours = results_of(data, OUR_ID.encode())
    assert ours is None or origin is Origin.OURS
    for result in ours or []:
        assert b"\n" not in result
        method_result([result], b"arc")
    read = parse_authentication_results(data)
    if ours is not None and read is not None:
        # Both readers see the same borders.
        assert len(ours) == len(read.results) + len(read.unknown)
        for written, understood in zip(ours, read.results, strict=False):
            assert read.unknown or method_result([written], understood.method.encode()) is not None
    parse_arc_authentication_results(data)
    parse_aar_instance(data)
    if read is not None:
        _can_be_written(read.results)


def _can_be_written(results: tuple[AuthResult, ...]) -> None:
    # The reader lets methods pass that are no keywords; they are never written.
    results = tuple(result for result in results if render_result(result))
    value = " " + render_authentication_results(OUR_ID, results)
    again = parse_authentication_results(value.encode())
    assert again is not None
    assert judge_origin(value.encode(), OUR_ID) is Origin.OURS
    assert [result.result for result in again.results] == [result.result for result in results]
    assert results_of(value.encode(), OUR_ID.encode()) is not None


def received(data: bytes) -> None:
    found = read_received(data)
    assert found is None or str(ipaddress.ip_address(found.address)) == found.address
    assert found is None or found.helo in b" ".join(data.split())
    for sender in (b"ann@example.org", b""):
        spf_found = read_received_spf(data, client_address="192.0.2.1", sender=sender, helo=b"h.example")
        assert spf_found is None or b"192.0.2.1" in data


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
    if not chain.fault:
        assert [arc_set.instance for arc_set in chain.sets] == list(range(1, len(chain.sets) + 1))
        assert all(arc_set.is_complete for arc_set in chain.sets)
        assert len(arc_fields(read)) == 3 * len(chain.sets)
        if chain.sets:
            _dkimpy_collects(read, len(chain.sets))
    made = seal(read, arc, SEALER, now=1_700_000_000)
    if not isinstance(made, NotSealed):
        _sealed(read, made)


def _dkimpy_collects(read: AuthenticatedMessage, sets: int) -> None:
    """What is a chain to us has as many sets to dkimpy."""
    # dkimpy takes no white space before a colon, and the first "i=" for the instance, wherever it stands.
    text = b"".join(b"%b:%b\n" % (field.name, field.value) for field in arc_fields(read))
    if len(re.findall(rb"i\s*=", text)) != 3 * sets:
        return
    highest, fields = dkimpy.ARC(text + b"\nbody\n").sorted_arc_headers()
    assert (highest, len(fields)) == (sets, 3 * sets)


def _sealed(read: AuthenticatedMessage, made: ArcSetFields) -> None:
    """Three new fields, each of which is one, and a chain that goes on."""
    assert [header.raw.partition(b":")[0] for header in made.headers] == [
        b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results",
    ]  # fmt: skip
    for header in made.headers:
        lines = header.raw.removesuffix(b"\n").split(b"\n")
        assert all(line[:1] in {b" ", b"\t"} and line.strip() for line in lines[1:])
    again = read_chain(read.with_top(*[header.raw for header in made.headers]))
    assert again.highest_instance == read_chain(read).highest_instance + 1


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
