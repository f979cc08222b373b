"""Who From says it is."""

from __future__ import annotations

import pytest

from respool.processors.authentication.author import Author, find_author


@pytest.mark.parametrize(
    ("value", "domains"),
    [
        (b" a@example.org", ("example.org",)),
        (b" A <a@Example.ORG>", ("example.org",)),
        (b' "A, B" <a@example.org>', ("example.org",)),
        (b' "x@bank.example" <a@example.org>', ("example.org",)),
        (b" x@bank.example <a@example.org>", ("example.org",)),
        (b" Doe, John <a@example.org>", ("example.org",)),
        (b' "quoted \\" local"@example.org', ("example.org",)),
        (b" a@example.org (a comment (nested) \\) )", ("example.org",)),
        (b" (c) a (c) @ (c) example.org (c)", ("example.org",)),
        (b" a . b @ example . org", ("example.org",)),
        (b" <@relay.example,@other.example:a@example.org>", ("example.org",)),
        (b"\n A\n\t<a@example.org>", ("example.org",)),
        (b" Group: a@example.org, B <b@example.com>;", ("example.org", "example.com")),
        (b" a@example.org, b@EXAMPLE.org", ("example.org",)),
        (b" Undisclosed:;", ()),
        (b" <>", ()),
        (b"", ()),
        (b" nobody", ()),
        (b" a@[192.0.2.1]", ()),
        (b" =?utf-8?q?x=40bank=2Eexample?= <a@example.org>", ("example.org",)),
        (" Jörg <j@bücher.example>".encode(), ("xn--bcher-kva.example",)),
    ],
)
def test_domains(value: bytes, domains: tuple[str, ...]) -> None:
    assert find_author([value]) == Author(domains, 1, "")


@pytest.mark.parametrize(
    "value",
    [
        b" a@b@example.org", b" <a@example.org> <b@example.com>", b" <a@example.org> b", b" <a@example.org", b" a@",
        b" @example.org", b" a@exa mple.org", b" a@exam(c)ple.org", b" a@example..org", b" (a@example.org",
        b' "a@example.org', b" a@example.org\\", b" G: a@example.org", b" a@example.org;", b" a>@example.org",
        b" a@example.org\x00", b" a\x07@example.org", b" \xff@example.org, b@\xff.example", b" a@-.example",
        b" <a b@example.org>", b" a@b: c@example.org;", b" <@a.example>", b" a@[192.0.2.1", b" [x] <a@b.example>@",
    ],
)  # fmt: skip
def test_what_readers_may_read_differently_is_refused(value: bytes) -> None:
    assert find_author([value]).problem


def test_no_from_and_several() -> None:
    assert find_author([]) == Author((), 0, "")
    assert find_author([b" a@b.example", b" a@c.example"]) == Author(("b.example", "c.example"), 2, "2 From fields")


def test_many_domains_are_refused() -> None:
    value = b", ".join(b"a@d%d.example" % n for n in range(50))
    author = find_author([value])
    assert author.problem == "From names 50 domains"
    assert len(author.domains) == 4


@pytest.mark.parametrize("value", [b"(" * 30_000, b'"' * 29_999, b"<" * 30_000, b"a@" * 15_000, b"(" * 10**6])
def test_hostile_lengths(value: bytes) -> None:
    assert find_author([value]).problem
