"""``dane``: the annotation for every kind of recipient domain."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from respool.errors import ConfigError
from respool.lookups.zone import ZoneResolver
from respool.processors.api import Defer, Proceed, Verdict
from respool.processors.edits import apply
from respool.processors.registry import build

from .processor_kit import make_context, make_message
from .table_kit import make_table

GOOD = "3 1 1 " + "ab" * 32
ZONE = f"""
dane.example MX 10 mx.dane.example.
mx.dane.example A 192.0.2.1
_25._tcp.mx.dane.example TLSA {GOOD}
_587._tcp.mx.none.example TLSA {GOOD}
;! secure dane.example
none.example MX 10 mx.none.example.
mx.none.example A 192.0.2.2
;! secure none.example
unusable.example MX 10 mx.unusable.example.
mx.unusable.example A 192.0.2.3
_25._tcp.mx.unusable.example TLSA 0 0 1 {"ab" * 32}
;! secure unusable.example
bogus.example MX 10 mx.bogus.example.
mx.bogus.example A 192.0.2.4
;! secure bogus.example
;! bogus _25._tcp.mx.bogus.example
plain.example MX 10 mx.plain.example.
mx.plain.example A 192.0.2.5
_25._tcp.mx.plain.example TLSA {GOOD}
;! insecure plain.example
xn--bcher-kva.example MX 10 mx.dane.example.
;! secure xn--bcher-kva.example
;! fail * trouble.example
"""
RESOLVER: Any = ZoneResolver.from_text(ZONE)


def run(*recipients: bytes, resolver: Any = RESOLVER, message: dict[str, Any] | None = None, **config: Any) -> Verdict:
    processor = build("dane", config)
    return processor.process(make_message(recipients=recipients, **(message or {})), make_context(resolver))


def value(*recipients: bytes, variable: str = "acl_m_dane", **keywords: Any) -> str | None:
    verdict = run(*recipients, **keywords)
    assert isinstance(verdict, Proceed)
    found = apply(make_message(), verdict.edits).message.envelope.variables.get(variable)
    return None if found is None else found.decode()


@pytest.mark.parametrize(
    ("domain", "status"),
    [
        ("dane.example", "usable"), ("none.example", "none"), ("unusable.example", "unusable"),
        ("bogus.example", "bogus"), ("plain.example", "insecure"), ("trouble.example", "temperror"),
    ],
)  # fmt: skip
def test_each_status(domain: str, status: str) -> None:
    assert value(b"a@" + domain.encode()) == f"{domain}={status}"


def test_every_domain_once_in_the_order_of_recipients() -> None:
    assert (
        value(b"a@DANE.example", b"b@plain.example", b"c@dane.example", b"d@none.example")
        == "dane.example=usable plain.example=insecure none.example=none"
    )


def test_port() -> None:
    assert value(b"a@none.example", port=587) == "none.example=usable"


def test_what_is_no_domain_is_left_out() -> None:
    assert value(b"a@[192.0.2.1]", b"root", b"x@a b=usable", b"x@", b"y@evil=usable.example") is None
    assert value(b"a@dane.example", message={"delivered": (b"a@dane.example",)}) is None
    assert value("a@bücher.example".encode()) == "xn--bcher-kva.example=usable"


def test_exceptions_and_limits(tmp_path: Path) -> None:
    both = (b"a@dane.example", b"a@plain.example")
    assert value(*both, except_domains="plain.example") == "dane.example=usable"
    assert value(*both, except_domains=make_table(tmp_path / "t.mdb", {"dane.example": ""})) == "plain.example=insecure"
    assert value(*both, maximum_domains=1) == "dane.example=usable"
    many = [b"a@d%d.example" % number for number in range(1000)]
    found = value(*many)
    assert found is not None
    assert len(found.split()) == 50


def test_trouble_defers_if_told_so() -> None:
    verdict = run(b"a@dane.example", b"a@trouble.example", on_temperror="defer")
    assert isinstance(verdict, Defer)
    assert "trouble.example: temperror" in verdict.reason
    assert isinstance(run(b"a@dane.example", on_temperror="defer"), Proceed)


def test_the_time_is_bounded() -> None:
    class Slow:
        def mail_exchangers(self, name: str, *, deadline: float | None = None) -> Any:
            assert deadline is not None
            assert deadline <= time.monotonic() + 0.5
            return RESOLVER.mail_exchangers(name, deadline=time.monotonic())  # as one whose time is over

    assert value(b"a@dane.example", resolver=Slow(), timeout_seconds=0.5) == "dane.example=temperror"


def test_other_variable() -> None:
    assert value(b"a@dane.example", variable="acl_m_tlsa") is None
    verdict = run(b"a@dane.example", variable="acl_m_tlsa")
    assert isinstance(verdict, Proceed)
    assert "usable" in verdict.reason
    assert apply(make_message(), verdict.edits).message.envelope.variables["acl_m_tlsa"] == b"dane.example=usable"


@pytest.mark.parametrize("config", [{"variable": "m_dane"}, {"port": 0}, {"except_domains": "a b"}, {"domains": []}])
def test_refused_at_load(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        build("dane", config)
