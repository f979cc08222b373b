"""The Debian recipe as it stands, on a Debian with systemd, of which nothing is kept.

The machine is this one in a container of systemd-nspawn, its disk under an overlay in memory and without a
network: the unit runs with all of its hardening, under a real service manager, beside Debian's Exim.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.docs.pages import blocks

UNITS = sorted((CHECKOUT / "samples" / "systemd").glob("*.service"))
#: Copied for the wheel: what git does not know is not needed.
_LEFT_OUT = shutil.ignore_patterns(".*", "build", "demo", "__pycache__", "*.egg-info")

# The unit sees neither /tmp nor anybody's home, where a checkout may lie: so its packages get another place.
_START = """
set -e
mount -t tmpfs -o mode=755 tmpfs {place}/upper
mkdir {place}/upper/changed {place}/upper/work
mount -t overlay overlay -o lowerdir=/,upperdir={place}/upper/changed,workdir={place}/upper/work {place}/root
cat >{place}/root/etc/systemd/system/respool-test.service <<'END'
[Service]
Environment=CHECKOUT={checkout} BORROWED=/opt/borrowed RESPOOL_PACKAGE={wheel} PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
ExecStart=/bin/bash {checkout}/tests/integration/debian_machine.sh {place}/results
[Unit]
DefaultDependencies=no
END
exec systemd-nspawn --quiet --register=no --keep-unit --directory={place}/root --private-network \
    --bind={place}/results --bind-ro={checkout} --bind-ro={borrowed}:/opt/borrowed {more}
"""


@pytest.mark.system("systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda path: path.name)
def test_a_unit_is_tight_and_without_mistakes(unit: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=15", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    # Exposure from 0 (none) to 100; SECURITY.md and samples/systemd say how much there is.
    assert done.returncode == 0, done.stdout
    copy = tmp_path / unit.name
    copy.write_text(re.sub(r"/usr/local/bin/respool", "/bin/true", unit.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False
    )
    assert unit.name not in done.stderr, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    shutil.copytree(CHECKOUT, directory / "source", symlinks=True, ignore=_LEFT_OUT)
    borrowed = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        # No network: what would be fetched to build it is our own. (0 is how this variable says no isolation.)
        "PYTHONPATH": sysconfig.get_path("purelib"), "PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1",
    }  # fmt: skip
    _, build, use = blocks("docs/install-debian.md", "On Debian")[:3]
    subprocess.run(["bash", "-e", "-c", build], cwd=directory / "source", check=True, env=os.environ | borrowed)
    (made,) = (directory / "source" / "dist").glob("*.whl")
    # The page names the file that comes out, and how the script is told of it.
    assert f"dist/{made.name}" in build
    assert use.startswith(f"RESPOOL_PACKAGE=dist/{made.name} samples/debian/install.sh")
    return made


# A wheel is built, and a whole machine boots, is set up, works and goes down again.
@pytest.mark.timeout(1200)
@pytest.mark.exim
@pytest.mark.system("systemd-nspawn", "unshare")
def test_the_recipe_from_bare_debian_and_back(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    place = tmp_path_factory.mktemp("machine")
    for name in ("root", "upper", "results"):
        (place / name).mkdir(mode=0o755)

    def start(more: str, seconds: int) -> subprocess.CompletedProcess[str]:
        script = _START.format(
            place=place, checkout=CHECKOUT, borrowed=sysconfig.get_path("purelib"), more=more,
            wheel=f"{place}/results/{wheel.name}",
        )  # fmt: skip
        return subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            capture_output=True, text=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    shutil.copy(wheel, place / "results")
    tried = start("-- /bin/true", 300)
    if tried.returncode != 0:
        pytest.skip(f"no container can be started here: {tried.stderr.strip()[-200:]}")
    start("--boot systemd.unit=respool-test.service systemd.wants=basic.target", 600)
    results = place / "results"
    log = "".join((results / name).read_text(errors="replace") for name in ("journal", "log"))
    assert (results / "status").read_text().strip() == "0", log[-6000:]

    mailbox = (results / "mailbox").read_text()
    for subject in ("first", "second", "third", "fourth", "fifth"):
        assert mailbox.count(f"Subject: {subject}\n") == 1
    # The last one came when respool had been taken out.
    assert mailbox.count("\nARC-Seal: ") == 4
    doctor = json.loads((results / "doctor.json").read_text())
    found = {one["topic"]: one["level"] for one in doctor["findings"]}
    assert doctor["problem"] == 0, doctor
    for topic in (
        "user",
        "configuration",
        "recipe",
        "queue runner",
        "telling exim",
        "one file system",
        "key",
        "sidecar",
    ):
        assert found[topic] == "ok", doctor
    journal = (results / "journal").read_text()
    assert '"event":"sidecar.reloaded"' in journal
    assert '"event":"sidecar.reload_refused"' in journal
    assert "nonsense" in (results / "status-text").read_text()
    page = (results / "page").read_text()
    assert "held" in page
    assert "Log out" in page
    web_journal = (results / "web-journal").read_text()
    # Nothing that respool does is forbidden by the units.
    for units_journal in (journal, web_journal):
        assert "Operation not permitted" not in units_journal
