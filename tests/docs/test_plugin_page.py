"""The example of docs/plugins.md is run as an author would run it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import respool
from respool import testing

PAGE = Path(__file__).resolve().parents[2] / "docs" / "plugins.md"


def test_the_example_and_its_test(tmp_path: Path) -> None:
    plugin, test, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "stamp_checked.py").write_text(plugin)
    (tmp_path / "test_stamp_checked.py").write_text(test)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


def test_it_loads_as_a_single_file(tmp_path: Path) -> None:
    plugin, _, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file = tmp_path / "stamp_checked.py"
    file.write_text(plugin)
    file.chmod(0o644)
    (tmp_path / "state").mkdir(mode=0o750)
    for name in ("source", "target"):
        (tmp_path / name).mkdir(mode=0o750)
    configuration = tmp_path / "respool.toml"
    configuration.write_text(
        f'state_directory = "{tmp_path}/state"\n[source]\nkind = "directory"\ndirectory = "{tmp_path}/source"\n'
        f'[requeue]\nkind = "directory"\ndirectory = "{tmp_path}/target"\n'
        f'[[processor]]\nuse = "{file}:StampChecked"\nconfig = {{ header = "X-Seen-By" }}\n'
    )
    done = subprocess.run(
        [sys.executable, "-m", "respool", "config", "check", "-c", str(configuration)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "StampChecked" in done.stdout


def test_every_public_name_is_there_and_the_block_with_them_runs(tmp_path: Path) -> None:
    text = PAGE.read_text()
    for name in (*respool.__all__, *testing.__all__):
        assert re.search(rf"\b{name}\b", text), name
    (tmp_path / "everything.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[2])
    done = subprocess.run(
        [sys.executable, "-W", "error", "everything.py"],
        capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
