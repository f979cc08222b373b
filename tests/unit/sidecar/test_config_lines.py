"""The line that an error about a setting names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respool.sidecar.config_lines import line_of

TEXT = b'''hostname = "mx"   # 1
state_directory = """
source = "no setting"
"""
[source]
kind = "export"

[requeue]   # with a comment
kind = "spool"
[[processor]]
use = "auth"
[[processor]]
use = "headers"
config = { add = [{ name = "X" }],
  remove = [] }
[[processor]]
use = "dkim-sign"
[processor.config]
[[processor.config.keys]]
domain = "a.example"
[[processor.config.keys]]
domain = "b.example"
"selector" = "s1"
dns.nameservers = []
'''


@pytest.mark.parametrize(
    ("key", "line"),
    [
        ("$.hostname", 1),
        ("$.state_directory", 2),
        ("$.source", 5),
        ("$.source.kind", 6),
        ("$.source.directory", 5),
        ("$.requeue", 8),
        ("$.processor[0].use", 11),
        ("$.processor[1]", 12),
        ("$.processor[1].config.add[0].name", 14),
        ("$.processor[2].config", 18),
        ("$.processor[2].config.keys[0].selector", 19),
        ("$.processor[2].config.keys[1].selector", 23),
        ("$.processor[2].config.keys[1].dns.nameservers", 24),
        ("$.workers", 0),
        ("$", 0),
        ("", 0),
    ],
)
def test_the_line_of_a_setting_or_of_what_is_around_it(key: str, line: int) -> None:
    assert line_of(TEXT, key) == line


@given(st.text(alphabet="[]=.\"' \na$0", max_size=60).map(str.encode), st.text(alphabet="$.[]a0", max_size=20))
def test_no_file_and_no_key_is_too_strange(content: bytes, key: str) -> None:
    assert 0 <= line_of(content, key) <= content.count(b"\n") + 1
