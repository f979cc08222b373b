"""The grammar of routing values."""

from __future__ import annotations

import pytest

from respool.errors import ConfigError
from respool.processors.route_value import RouteValue, complaint, parse_route_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mx.example.org", RouteValue(route=b"mx.example.org")),
        (" mx1.example:mx2.example::2525 randomize ", RouteValue(route=b"mx1.example:mx2.example::2525 randomize")),
        ("route=192.0.2.7::2525", RouteValue(route=b"192.0.2.7::2525")),
        ("mx.example; queue=slow;", RouteValue(route=b"mx.example", queue="slow")),
        ("queue=", RouteValue(queue="")),
        ("to=a@example.org", RouteValue(to=(b"a@example.org",))),
        ("to= a@Example.org , *@b.example", RouteValue(to=(b"a@example.org", b"*@b.example"))),
        ('to="x, y"@example.org,b@example.org', RouteValue(to=(b'"x, y"@example.org', b"b@example.org"))),
        ("to=a@bücher.example", RouteValue(to=(b"a@xn--bcher-kva.example",))),
        ("to=üser@example.org", RouteValue(to=("üser@example.org".encode(),))),
        ("to=a@b.example,a@b.example", RouteValue(to=(b"a@b.example",))),
        ("acl_m_transport=bulk; acl_m0=", RouteValue(variables=(("acl_m_transport", b"bulk"), ("acl_m0", b"")))),
        ("hold=asked for by legal", RouteValue(verb="hold", reason="asked for by legal")),
        ("discard=", RouteValue(verb="discard")),
        ("defer = later", RouteValue(verb="defer", reason="later")),
        (
            "freeze=look; mx.example".replace("; mx", ";route=mx"),
            RouteValue(route=b"mx.example", verb="freeze", reason="look"),
        ),
    ],
)
def test_understood(text: str, expected: RouteValue) -> None:
    assert parse_route_value(text.encode()) == expected
    assert complaint(b"key", text.encode()) == ""


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "empty"),
        (b"  ", "empty"),
        (b"\xff", "UTF-8"),
        (b"mx.example\nrcpt", "control"),
        (b"mx\x00", "control"),
        ("mx\u202e.example".encode(), "control"),
        (b"x" * 5000, "5000 bytes"),
        (b"rout=mx.example", 'did you mean "route"'),
        (b"que=x", "queue"),
        (b"mx; mx2", "expected name=value"),
        (b"mx; route=mx2", "twice"),
        (b"route=", "without a value"),
        (b"to=", "without a value"),
        (b"to=nobody", "no address"),
        (b"to=a@b@c.example", "no address"),
        (b"to=a b@c.example", "no address"),
        (b"to=<a@c.example>", "no address"),
        (b"to=a@c.example,", "no address"),
        (b'to="a@c.example', "no address"),
        (b"to=" + b"a" * 65 + b"@c.example", "no address"),
        (b"to=" + b",".join(b"a%d@c.example" % n for n in range(101)), "101 recipients"),
        (b"queue=a/b", "not the name of a queue"),
        (b"queue=..", "not the name of a queue"),
        (b"acl_c_x=1", "there is no"),
        (b"hold=x; queue=y", "together"),
        (b"hold=x; defer=y", "together"),
    ],
)
def test_refused(value: bytes, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_route_value(value)
    assert reason in caught.value.reason
    assert complaint(b"key", value) == caught.value.reason


def test_redirected() -> None:
    assert parse_route_value(b"to=*@new.example,copy@x.example").redirected(b"Ann@old.example") == (
        b"Ann@new.example", b"copy@x.example",
    )  # fmt: skip
    assert parse_route_value(b"mx").redirected(b"a@b.example") == (b"a@b.example",)
