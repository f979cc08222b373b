"""The public suffix list: the cases of publicsuffix.org's own test, on rules of the same kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from respool.errors import ConfigError
from respool.lookups.organisational_domain import DEBIAN_LIST, PublicSuffixList

RULES = """
// a comment
com
biz
uk
co.uk
jp
ac.jp
kyoto.jp
ide.kyoto.jp
*.kobe.jp
!city.kobe.jp
*.ck
!www.ck
cn
公司.cn
公司.hk
// ===BEGIN PRIVATE DOMAINS===
github.io  trailing words
io
"""


@pytest.fixture(scope="module")
def rules() -> PublicSuffixList:
    return PublicSuffixList.from_lines(RULES.split("\n"))


@pytest.mark.parametrize(
    ("name", "domain"),
    [
        ("COM", "com"),
        ("example.COM", "example.com"),
        ("b.example.com.", "example.com"),
        ("a.b.example.com", "example.com"),
        ("example", "example"),
        ("a.b.example.example", "example.example"),
        ("co.uk", "co.uk"),
        ("a.b.example.co.uk", "example.co.uk"),
        ("test.ide.kyoto.jp", "test.ide.kyoto.jp"),
        ("a.b.ide.kyoto.jp", "b.ide.kyoto.jp"),
        ("b.kobe.jp", "b.kobe.jp"),
        ("a.b.c.kobe.jp", "b.c.kobe.jp"),
        ("x.city.kobe.jp", "city.kobe.jp"),
        ("city.kobe.jp", "city.kobe.jp"),
        ("kobe.jp", "kobe.jp"),
        ("ck", "ck"),
        ("a.b.test.ck", "b.test.ck"),
        ("www.www.ck", "www.ck"),
        ("食狮.公司.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("www.xn--85x722f.xn--55qx5d.cn", "xn--85x722f.xn--55qx5d.cn"),
        ("a.me.github.io", "me.github.io"),
        ("", ""),
        (".", ""),
        ("a." * 10_000 + "com", "a." * 10_000 + "com"),
    ],
)
def test_organisational_domain(rules: PublicSuffixList, name: str, domain: str) -> None:
    assert rules.organisational_domain(name) == domain


def test_without_the_private_part() -> None:
    rules = PublicSuffixList.from_lines(RULES.split("\n"), private=False)
    assert rules.organisational_domain("a.me.github.io") == "github.io"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(RULES, encoding="utf-8")
    assert PublicSuffixList.from_file(str(path)).public_suffix("a.co.uk") == "co.uk"
    path.write_text("// nothing\n")
    with pytest.raises(ConfigError, match="no public suffix"):
        PublicSuffixList.from_file(str(path))
    with pytest.raises(ConfigError, match="No such file"):
        PublicSuffixList.from_file(str(tmp_path / "none"))


@pytest.mark.skipif(not os.path.exists(DEBIAN_LIST), reason=f"{DEBIAN_LIST} is not here (Debian: publicsuffix)")
def test_the_list_of_debian() -> None:
    rules = PublicSuffixList.from_file()
    assert rules.organisational_domain("a.b.example.co.uk") == "example.co.uk"
    assert rules.organisational_domain("x.www.ck") == "www.ck"
    assert rules.organisational_domain("a.example.org") == "example.org"


@pytest.mark.parametrize("rule", ["!uk", "!"])
def test_an_exception_that_leaves_no_suffix_is_no_rule(rule: str) -> None:
    rules = PublicSuffixList.from_lines(["com", rule])
    assert rules.organisational_domain("a.b.uk") == "b.uk"
    assert rules.public_suffix("a.b.uk") == "uk"


def test_an_exception_prevails_over_a_longer_rule() -> None:
    rules = PublicSuffixList.from_lines(["example", "*.b.example", "!b.example"])
    assert rules.public_suffix("a.b.example") == "example"
    assert rules.organisational_domain("a.b.example") == "b.example"
