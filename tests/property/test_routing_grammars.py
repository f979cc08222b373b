"""The grammars of routing: a value or a ConfigError for any text, and never a stray exception."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from respool.errors import ConfigError
from respool.processors.conditions import parse_condition
from respool.processors.edits import apply, set_queue, set_variable
from respool.processors.patterns import AddressPatterns, DomainPatterns
from respool.processors.route_value import parse_route_value

from ..unit.processors.processor_kit import make_message

ALPHABET = "abz019.*@;=,: \"'\\-_<>[]\t\n\x00é/"
texts = st.text(ALPHABET, max_size=40)
items = st.sampled_from(["route=", "queue=", "to=", "hold=", "discard=", "freeze=", "defer=", "acl_m_x=", ""])
values = st.lists(st.tuples(items, texts), max_size=4).map(lambda parts: ";".join(name + text for name, text in parts))
domains = st.lists(st.text("abcxyz019", min_size=1, max_size=8), min_size=1, max_size=4).map(".".join)
local_parts = st.text("abcXYZ019.+_-", min_size=1, max_size=20)


@given(values.map(str.encode) | st.binary(max_size=80))
def test_every_routing_value_that_parses_can_be_carried_out(value: bytes) -> None:
    try:
        parsed = parse_route_value(value)
    except ConfigError as error:
        assert error.reason
        return
    if parsed.route is not None:
        assert b"\n" not in parsed.route
        apply(make_message(), (set_variable("acl_m_route", parsed.route),))
    for name, content in parsed.variables:
        set_variable(name, content)
    if parsed.queue is not None:
        set_queue(parsed.queue)
    for address in parsed.redirected(b"Local@old.example"):
        assert address.count(b"\n") == 0
        assert not address.startswith(b"*@")
        assert b"@" in address


@given(st.lists(texts.filter(lambda text: ";" not in text), max_size=4), st.binary(max_size=60))
def test_patterns_of_any_text_against_any_bytes(patterns: list[str], name: bytes) -> None:
    for kind in (DomainPatterns, AddressPatterns):
        try:
            compiled = kind(patterns)
        except ConfigError:
            continue
        assert isinstance(compiled.match(name), bool)


@given(local=local_parts, domain=domains, parent=domains)
def test_patterns_mean_what_they_say(local: str, domain: str, parent: str) -> None:
    below = f"{domain}.{parent}"
    address = f"{local}@{below}".encode()
    for item in (
        f"{local}@{below}",
        f"*@{below}",
        below,
        f"*.{parent}",
        f"{local}@*.{parent}",
        "*",
        f"{local.upper()}@{below.upper()}",
    ):
        assert AddressPatterns([item]).match(address), item
    assert not AddressPatterns([f"*.{below}", f"x{local}@{below}", f"*@x{below}"]).match(address)
    assert not DomainPatterns([f"*.{below}"]).match(below.encode())


conditions = st.recursive(
    st.dictionaries(
        st.sampled_from(
            ["senders", "sender_domains", "recipients", "recipient_domains", "from_domains", "hosts", "sender"]
        ),
        texts | st.lists(texts, max_size=3),
        max_size=3,
    ),
    lambda inner: st.fixed_dictionaries({"not": inner}),
    max_leaves=3,
)


@given(conditions, st.binary(max_size=40), st.lists(st.binary(min_size=1, max_size=30), max_size=3))
def test_conditions(table: dict[str, Any], sender: bytes, recipients: list[bytes]) -> None:
    plain = [address.replace(b"\n", b"").replace(b"\0", b"") or b"x" for address in recipients]
    try:
        condition = parse_condition(table)
    except ConfigError as error:
        assert error.key.startswith("when")
        return
    message = make_message(sender=sender, recipients=plain)
    chosen = condition.chosen(message)
    opposite = parse_condition({"not": table}).chosen(message)
    # Every recipient is in exactly one of the two.
    if condition.names_recipients:
        assert (chosen or frozenset()) | (opposite or frozenset()) == frozenset(plain)
        assert not (chosen or frozenset()) & (opposite or frozenset())
    else:
        assert (chosen is None) is not (opposite is None)
