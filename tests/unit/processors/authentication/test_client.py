"""Who handed the message over, directly or behind a relay of ours."""

from __future__ import annotations

import ipaddress

import pytest

from respool.processors.authentication.client import Client, client_address, find_client, read_received
from respool.spool.body import BytesBody
from respool.spool.envelope import Directive, Envelope, Header
from respool.spool.ids import MessageId
from respool.spool.message import Message

_OURS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))


def _message(host: bytes | None, *received: bytes) -> Message:
    directives = [] if host is None else [Directive.make(b"host_address", host)]
    directives.append(Directive.make(b"helo_name", b"relay.example"))
    envelope = Envelope(
        id=MessageId("1abcde-000000-00"), login=b"exim", uid=8, gid=8, sender=b"a@b.example", received_time=1,
        warning_count=0, directives=tuple(directives),
        headers=tuple(Header.make(b"Received", value) for value in received),
    )  # fmt: skip
    return Message(envelope, BytesBody(b""))


@pytest.mark.parametrize(
    ("value", "address", "helo"),
    [
        (b" from mail.example.net ([192.0.2.1] helo=h.example)\n\tby mx", "192.0.2.1", b"h.example"),
        (b" from mail.example.net ([192.0.2.1]:4711 helo=[6.6.6.6] ident=x)\n\tby mx", "192.0.2.1", b"[6.6.6.6]"),
        (b" from mail.example.net ([192.0.2.1])\n\tby mx", "192.0.2.1", b"mail.example.net"),
        (b" from [192.0.2.1] (helo=h.example)\n\tby mx", "192.0.2.1", b"h.example"),
        (b" from [192.0.2.1] (port=4711 helo=h.example)\n\tby mx", "192.0.2.1", b"h.example"),
        (b" from [2001:DB8::1] (helo=h.example ident=x) by mx", "2001:db8::1", b"h.example"),
        (b" from h.example (mail.example.net [192.0.2.1])\n by mx (Postfix)", "192.0.2.1", b"h.example"),
        (b" from h.example (unknown [IPv6:2001:db8::1]) by mx", "2001:db8::1", b"h.example"),
        (b" from [6.6.6.6] (unknown [192.0.2.1]) by mx", "192.0.2.1", b"[6.6.6.6]"),
        (b" from [6.6.6.6] ([192.0.2.1]) by mx", "192.0.2.1", b"[6.6.6.6]"),
        (b" from h.example (mail.example.net [192.0.2.1] (may be forged)) by mx", "192.0.2.1", b"h.example"),
    ],
)
def test_received(value: bytes, address: str, helo: bytes) -> None:
    assert read_received(value) == Client(address=address, helo=helo)


@pytest.mark.parametrize(
    "value",
    [
        b"", b" by mx with local", b" from x by y", b" from [6.6.6.6] by mx", b" from x (y)",
        b" from x ([999.1.1.1]) by y",
        b" from x (([192.0.2.1])) by y", b" from x (helo=y [192.0.2.1]) by z", b" from " + b"x" * 10**6,
        b" by mx from x (y [192.0.2.1])",
    ],
)  # fmt: skip
def test_received_that_says_nothing_for_certain(value: bytes) -> None:
    assert read_received(value) is None


def test_the_connecting_host() -> None:
    message = _message(b"[192.0.2.1]:4711", b"from x (y [6.6.6.6]) by z")
    assert find_client(message) == Client(address="192.0.2.1", helo=b"relay.example")
    assert find_client(message, _OURS) == Client(address="192.0.2.1", helo=b"relay.example")
    assert client_address(message) == "192.0.2.1"
    assert find_client(_message(None)).address == ""


def test_behind_relays() -> None:
    message = _message(
        b"[10.0.0.1]:25",
        b"from relay.example ([10.0.0.1]) by us",
        b"from inner.example (inner [10.0.0.2]) by relay",
        b"from client.example (c [192.0.2.1]) by inner",
        b"from forged.example (f [203.0.113.1]) by client",
    )
    assert find_client(message, _OURS) == Client(address="192.0.2.1", helo=b"client.example", relays=2)
    assert find_client(message) == Client(address="10.0.0.1", helo=b"relay.example")


@pytest.mark.parametrize("received", [(), (b"from relay ([10.0.0.1]) by us",), (b"x", b"by local"), (b"x",) * 500])
def test_behind_relays_nobody_is_found(received: tuple[bytes, ...]) -> None:
    assert find_client(_message(b"[10.0.0.1]:25", *received), _OURS).address == ""


def test_only_relays_all_the_way() -> None:
    received = [b"from r (r [fd00::%d]) by us" % n for n in range(1, 60)]
    assert find_client(_message(b"[::ffff:10.0.0.1]:25", *received), _OURS).address == ""
