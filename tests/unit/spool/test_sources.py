"""Who may write where messages come from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from respool.errors import ConfigError
from respool.spool.sources import Source


@pytest.mark.parametrize("below", ["", "a", "Z", "0"])
def test_a_directory_that_others_can_write_is_refused_a_split_one_too(tmp_path: Path, below: str) -> None:
    for name in ("a", "Z", "0"):
        (tmp_path / name).mkdir(mode=0o750)
    source = Source("export", str(tmp_path))
    source.check(os.geteuid())
    place = tmp_path / below
    place.chmod(0o770)
    with pytest.raises(ConfigError, match=r"can be written by others \(mode 0770\)") as caught:
        source.check(os.geteuid())
    assert str(caught.value).count(str(place)) > 0
    source.close()


def test_what_is_no_split_directory_does_not_matter(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    export = tmp_path / "export"
    export.mkdir(mode=0o750)
    (export / "a").symlink_to(elsewhere)
    (export / "b").write_text("")
    (export / "bb").mkdir()
    (export / "bb").chmod(0o777)
    source = Source("export", str(export))
    source.check(os.geteuid())
    source.close()
