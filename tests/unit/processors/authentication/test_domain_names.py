from __future__ import annotations

import pytest

from respool.processors.authentication.domain_names import a_label_domain, is_at_or_below, parent_domain


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"Example.ORG", "example.org"),
        (b"example.org.", "example.org"),
        (b"localhost", "localhost"),
        (b"_spf.example.org", "_spf.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("BÜCHER.example".encode(), "xn--bcher-kva.example"),
        ("straße.example", "xn--strae-oqa.example"),  # IDNA 2008: not strasse
        ("ελλάς.example", "xn--hxarsa0b.example"),  # the final sigma stays
        ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ],
)
def test_domain_in_a_labels(name: bytes | str, expected: str) -> None:
    assert a_label_domain(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        b"", b".", b"..", b"a..b", b".a", b"a b", b"-a.b", b"a-.b", b"[192.0.2.1]", b"a" * 64, b"\xff.example",
        b".".join([b"a" * 63] * 4), b"a\x00b", b"a\nb", b"x" * 10**6,
        "ｅxample.org", "a。b", "a／b.org", "\u0301a.example", "a\u202eb.example", "ü" * 63 + ".example", "K.example",
    ],
)  # fmt: skip
def test_no_domain(name: bytes | str) -> None:
    if name == "K.example":  # the Kelvin sign: lower case makes a plain k of it
        assert a_label_domain(name) == "k.example"
    else:
        assert a_label_domain(name) is None


def test_family() -> None:
    assert parent_domain("a.b.c") == "b.c"
    assert parent_domain("c") == ""
    assert is_at_or_below("a.b.c", "b.c")
    assert is_at_or_below("b.c", "b.c")
    assert not is_at_or_below("xb.c", "b.c")
