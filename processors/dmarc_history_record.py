"""One record of the DMARC history file, as opendmarc-import reads it.

Lines of ``key value``, in Exim's order (dmarc_common.c); a record ends at the next
``job``. The importer splits at single spaces and stores what it finds in columns of
fixed length, so that every value here is bounded printable ASCII. In one line we
differ from Exim on purpose: its ``arc_policy`` stops the importer (it is no JSON).

Diagnostics: record_of() and render_record() raise nothing; parse_records() raises
HistoryFormatError, which names the line.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from ..errors import RespoolError
from ..spool.message import Message
from .authentication.arc_verify import ArcResult
from .authentication.client import client_address
from .authentication.dkim_verify import DkimResult
from .authentication.dmarc import DmarcResult
from .authentication.dmarc_record import DmarcRecord, Policy
from .authentication.domain_names import a_label_domain
from .authentication.spf import SpfResult
from .results import AuthResult, Result

#: ``action``: what became of the message (libopendmarc's DMARC_RESULT_...).
REJECT, DISCARD, ACCEPT, TEMPFAIL, QUARANTINE = 0, 1, 2, 3, 4
#: ``policy``: libopendmarc's DMARC_POLICY_...
POLICY_PASS, POLICY_REJECT, POLICY_QUARANTINE, POLICY_NONE = 15, 16, 17, 18
#: ``spf``, ``dkim``, ``arc``: opendmarc's ARES_RESULT_...
_RESULT_CODES: Final = {
    Result.PASS: 0,
    Result.SOFTFAIL: 2,
    Result.NEUTRAL: 3,
    Result.TEMPERROR: 4,
    Result.PERMERROR: 5,
    Result.NONE: 6,
    Result.FAIL: 7,
    Result.POLICY: 8,
}
_UNDEFINED: Final = -1
_UNKNOWN: Final = 11
_ALIGNED, _NOT_ALIGNED = 4, 5

#: Stands for a domain that can't be written; the importer drops records without one.
NO_DOMAIN: Final = "unknown.invalid"
#: The importer's columns: VARCHAR(255), the report addresses of a domain together.
LONGEST_VALUE: Final = 255
_MOST_SIGNATURES: Final = 50
_WORD: Final = re.compile(r"[!-~]+")
_KEYS: Final = (
    "job", "reporter", "received", "ipaddr", "from", "mfrom", "spf", "dkim", "pdomain", "policy", "rua", "pct",
    "adkim", "aspf", "p", "sp", "align_dkim", "align_spf", "action", "arc", "arc_policy",
)  # fmt: skip


class Signature(Struct, frozen=True):
    """One DKIM signature: ``d=``, ``s=`` and the code of its result."""

    domain: str
    selector: str
    result: int


class Seal(Struct, frozen=True):
    """One ARC set: instance, the seal's ``d=`` and ``s=``, the client that its sealer saw."""

    i: int
    d: str
    s: str
    ip: str = ""


class HistoryRecord(Struct, frozen=True, kw_only=True):
    """One evaluated message; the fields are the file's lines. adkim to sp are ASCII codes, sp is 0 where absent."""

    job: str
    reporter: str
    received: int
    ipaddr: str
    from_domain: str
    mfrom: str
    spf: int
    signatures: tuple[Signature, ...] = ()
    pdomain: str
    policy: int
    rua: tuple[str, ...] = ()
    pct: int = 100
    adkim: int = 0
    aspf: int = 0
    p: int = 0
    sp: int = 0
    align_dkim: int = _NOT_ALIGNED
    align_spf: int = _NOT_ALIGNED
    action: int = ACCEPT
    arc: int = _UNKNOWN
    arc_policy: int = 1
    seals: tuple[Seal, ...] = ()


class HistoryFormatError(RespoolError):
    """A history file that is none; line counts from 1."""

    def __init__(self, line: int, reason: str) -> None:
        self.line, self.reason = line, reason
        super().__init__(line, reason)

    def __str__(self) -> str:
        return f"line {self.line}: {self.reason}"


def record_of(
    message: Message, results: Sequence[AuthResult], *, reporter: str, now: float, action: int
) -> HistoryRecord | None:
    """The record of message; None where there is nothing to report.

    That is: DMARC was not evaluated, no policy applies, or DNS trouble kept the outcome
    open. now is Unix time, the time of evaluation; action says what becomes of it.
    """
    dmarc = next((result for result in results if isinstance(result, DmarcResult)), None)
    address = client_address(message)
    if dmarc is None or dmarc.record is None or dmarc.result not in {Result.PASS, Result.FAIL} or not address:
        return None
    spf = next((result for result in results if isinstance(result, SpfResult)), None)
    arc = next((result for result in results if isinstance(result, ArcResult)), None)
    record = dmarc.record
    return HistoryRecord(
        job=str(message.id),
        reporter=_word(reporter) or NO_DOMAIN,
        received=int(now),
        ipaddr=address,
        from_domain=dmarc.author_domain or NO_DOMAIN,
        mfrom=_sender_domain(message),
        spf=_UNDEFINED if spf is None else _RESULT_CODES[spf.result],
        signatures=tuple(_signatures(results)),
        pdomain=dmarc.domain or NO_DOMAIN,
        policy=_policy_code(dmarc),
        rua=_addresses(record),
        pct=record.percent,
        # What counts where the tag is absent or bad, since opendmarc-reports calls 0 "unknown"; it knows sp=0.
        adkim=ord("s" if record.strict_dkim else "r"),
        aspf=ord("s" if record.strict_spf else "r"),
        p=_letter(record.policy or Policy.NONE),
        sp=0 if record.subdomain_policy is None else _letter(record.subdomain_policy),
        align_dkim=_ALIGNED if dmarc.alignment.dkim else _NOT_ALIGNED,
        align_spf=_ALIGNED if dmarc.alignment.spf else _NOT_ALIGNED,
        action=action,
        arc=_arc_code(arc),
        arc_policy=_arc_policy_code(dmarc, arc),
        seals=_seals(arc),
    )


def render_record(record: HistoryRecord, *, selectors: bool = True, arc: bool = True) -> bytes:
    """The lines of record. Without selectors and arc in the form that the importer read before 1.4."""
    lines = [
        f"job {record.job}",
        f"reporter {record.reporter}",
        f"received {record.received}",
        f"ipaddr {record.ipaddr}",
        f"from {record.from_domain}",
        f"mfrom {record.mfrom}",
        f"spf {record.spf}",
    ]
    for signature in record.signatures:
        selector = f" {signature.selector}" if selectors else ""
        lines.append(f"dkim {signature.domain}{selector} {signature.result}")
    lines += [f"pdomain {record.pdomain}", f"policy {record.policy}"]
    lines += [f"rua {uri}" for uri in record.rua] or ["rua -"]
    lines += [f"pct {record.pct}", f"adkim {record.adkim}", f"aspf {record.aspf}", f"p {record.p}", f"sp {record.sp}"]
    lines += [f"align_dkim {record.align_dkim}", f"align_spf {record.align_spf}", f"action {record.action}"]
    if arc:
        lines.append(f"arc {record.arc}")
        lines.append(f"arc_policy {record.arc_policy} json:{msgspec.json.encode(record.seals).decode('ascii')}")
    return "\n".join(lines).encode("ascii") + b"\n"


def parse_records(lines: Iterable[bytes]) -> Iterator[HistoryRecord]:
    """The records of a history file, in the form with selectors and ARC. Raises HistoryFormatError.

    As for the importer, empty lines don't count, and a record without reporter, from,
    mfrom, pdomain or ipaddr is passed over.
    """
    fields: dict[str, list[str]] = {}
    start = 1
    for number, line in enumerate(lines, 1):
        key, _, value = line.decode("ascii", "replace").removesuffix("\n").partition(" ")
        if not key:
            continue
        if key not in _KEYS:
            raise HistoryFormatError(number, f"unknown key {key[:20]!r}")
        if key == "job" and fields:
            yield from _record(fields, start)
            fields, start = {}, number
        fields.setdefault(key, []).append(value)
    if fields:
        yield from _record(fields, start)


def _record(fields: dict[str, list[str]], line: int) -> Iterator[HistoryRecord]:
    first = {key: values[0] for key, values in fields.items()}
    if any(first.get(key, "-") == "-" for key in ("job", "reporter", "from", "mfrom", "pdomain", "ipaddr")):
        return
    try:
        code, _, seals = first.get("arc_policy", "1 json:[]").partition(" json:")
        numbers = {key: int(first[key]) for key in ("received", "policy", "pct", "adkim", "aspf", "p", "sp", "action")}
        yield HistoryRecord(
            job=first["job"],
            reporter=first["reporter"],
            ipaddr=first["ipaddr"],
            from_domain=first["from"],
            mfrom=first["mfrom"],
            spf=int(first.get("spf", _UNDEFINED)),
            signatures=tuple(_signature(text) for text in fields.get("dkim", ())),
            pdomain=first["pdomain"],
            rua=tuple(uri for uri in fields.get("rua", ()) if uri != "-"),
            align_dkim=int(first["align_dkim"]),
            align_spf=int(first["align_spf"]),
            arc=int(first.get("arc", _UNKNOWN)),
            arc_policy=int(code),
            seals=msgspec.json.decode(seals, type=tuple[Seal, ...]),
            **numbers,
        )
    except (KeyError, ValueError, msgspec.DecodeError) as error:
        raise HistoryFormatError(line, f"record of {first['job'][:40]}: {error}") from error


def _signature(text: str) -> Signature:
    domain, selector, result = text.split(" ")
    return Signature(domain, selector, int(result))


def _word(text: str) -> str:
    """Text if it is one word that fits its column, else nothing; ``-`` is nothing to the importer."""
    return text if len(text) <= LONGEST_VALUE and _WORD.fullmatch(text) and text != "-" else ""


def _sender_domain(message: Message) -> str:
    """MAIL FROM's domain; for the null sender HELO's, where Exim leaves it empty."""
    domain = message.sender.rpartition(b"@")[2] if message.sender else message.envelope.helo_name or b""
    return a_label_domain(domain) or NO_DOMAIN


def _signatures(results: Sequence[AuthResult]) -> Iterator[Signature]:
    dkim = [result for result in results if isinstance(result, DkimResult)]
    for result in dkim[:_MOST_SIGNATURES]:
        domain, selector = _word(result.domain), _word(result.selector)
        if domain and selector:
            yield Signature(domain, selector, _RESULT_CODES[result.result])


def _policy_code(dmarc: DmarcResult) -> int:
    if dmarc.result is Result.PASS:
        return POLICY_PASS
    return {"reject": POLICY_REJECT, "quarantine": POLICY_QUARANTINE}.get(dmarc.policy, POLICY_NONE)


def _addresses(record: DmarcRecord) -> tuple[str, ...]:
    """The report URIs as published, as many as fit the importer's one column together."""
    kept: list[str] = []
    for uri in record.aggregate_uris:
        if sum(map(len, kept)) + len(kept) + len(uri) <= LONGEST_VALUE:
            kept.append(uri)
    return tuple(kept)


def _letter(policy: Policy) -> int:
    return ord(policy.value[0])


def _arc_code(arc: ArcResult | None) -> int:
    """Exim's: it writes 11 where there is no chain."""
    return {Result.PASS: 0, Result.FAIL: 7}.get(arc.result if arc is not None else Result.NONE, _UNKNOWN)


def _arc_policy_code(dmarc: DmarcResult, arc: ArcResult | None) -> int:
    """0 where a chain overrode a fail, 2 where it could not, 1 where it was not asked."""
    if arc is None or arc.result is Result.NONE or dmarc.result is Result.PASS:
        return 1
    return 0 if dmarc.override == "trusted_forwarder" else 2


def _seals(arc: ArcResult | None) -> tuple[Seal, ...]:
    if arc is None:
        return ()
    return tuple(
        Seal(each.instance, _word(each.seal_domain), _word(each.seal_selector), each.remote_ip)
        for each in arc.sets
        if _word(each.seal_domain) and _word(each.seal_selector)
    )
