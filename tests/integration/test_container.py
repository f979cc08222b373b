"""The image of samples/container, built and run as its page says, beside a real Exim.

Only by `make campaign`, and only where podman has the base image: nothing is asked of a registry here.
What this machine's podman needs (storage, run time, network) is said by its own variables, CONTAINERS_CONF and
CONTAINERS_STORAGE_CONF.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import CHECKOUT
from tests.docs.pages import blocks

from .conftest import EximFactory
from .exim import Exim
from .sidecar import Sidecar

pytestmark = [pytest.mark.campaign, pytest.mark.exim, pytest.mark.system("podman")]

PAGE: Final = "samples/container/README.md"
IMAGE: Final = "localhost/respool-test"
BASE: Final = re.search(r"^FROM (\S+)", (CHECKOUT / "samples/container/Containerfile").read_text(), re.MULTILINE)
MESSAGE: Final = b"From: a@sender.example\nTo: a@file.example\nSubject: hello\n\nbody\n"


def run(command: str, directory: Path = CHECKOUT, *, expected: int = 0) -> str:
    """What a command of the page prints on standard output, with the image of this test in place of the page's."""
    named = re.sub(r"(?<=-t )respool\b|\brespool(?= batch| --version| doctor|\s*$)", IMAGE, command)
    done = subprocess.run(["bash", "-c", named], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == expected, f"{named}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def image() -> Iterator[None]:
    assert BASE is not None
    if subprocess.run(["podman", "image", "exists", BASE[1]], check=False).returncode != 0:
        pytest.skip(f"podman has no image {BASE[1]}")
    run(blocks(PAGE, "The image")[0])
    yield
    subprocess.run(["podman", "rmi", "--force", IMAGE], check=False, capture_output=True)


def test_it_runs_as_the_user_of_exim_and_has_all_that_it_needs(exim: Exim) -> None:
    secured = "podman run --rm --network none --read-only --cap-drop all --security-opt no-new-privileges"
    assert run(f"{secured} {IMAGE} --version").startswith("respool ")
    assert run(f"{secured} --entrypoint id {IMAGE}").startswith(f"uid={exim.uid}(exim) gid={exim.gid}(exim)")
    found = json.loads(run(f"{secured} {IMAGE} doctor --json"))
    assert found["problem"] == 0, found


def test_an_archive_as_somebody_without_rights(tmp_path: Path) -> None:
    prepare, configuration, *_ = blocks("docs/batch.md", "Ten minutes, with an archive that everybody has")
    (tmp_path / "samples").symlink_to(CHECKOUT / "samples")
    for block in (prepare.partition("\n")[0], configuration):
        run(block, tmp_path)
    for path in (tmp_path, *tmp_path.rglob("*")):
        if not path.is_symlink():
            os.chown(path, 65534, 65534)
    batch = blocks(PAGE, "An archive")[0].replace("$(id -u):$(id -g)", "65534:65534").rstrip()
    # One of the samples is broken on purpose.
    report = run(f"{batch} --json", tmp_path, expected=1)
    states = [json.loads(line)["state"] for line in report.splitlines()]
    assert sorted(states) == ["corrupt"] + ["written"] * 10
    assert {path.stat().st_uid for path in (tmp_path / "done").iterdir()} == {65534}


def test_the_sidecar_beside_exim(start_exim: EximFactory) -> None:
    exim = start_exim(queue="scan", run_interval="1h")
    # Exim makes the directories of a queue with its first message.
    first = exim.receive(MESSAGE)
    sidecar = Sidecar(
        exim, source="queue", extra='[metrics]\nlisten = "127.0.0.1:9610"',
        processors='[[processor]]\nuse = "headers"\nconfig = { add = [{ name = "X-Word", value = "old" }] }',
    )  # fmt: skip
    etc = exim.make_directory("etc")
    exim.make_directory("respool")
    shutil.move(sidecar.configuration, etc / "respool.toml")
    name = f"respool-test-{os.getpid()}"
    command = blocks(PAGE, "A sidecar beside Exim")[0]
    command = command.replace("/var/spool/exim4", str(exim.directory)).replace("-v /etc/respool:", f"-v {etc}:")
    run(command.replace("--name respool", f"--name {name}"))
    try:
        log = f"podman logs {name} 2>&1"
        _until(lambda: "sidecar.started" in run(log), log)
        run(f"podman healthcheck run {name}")
        # No queue run is due for an hour: it delivers because it was told.
        exim.wait_for(lambda one: len(one.deliveries()) == 1)
        configuration = etc / "respool.toml"
        new = etc / "respool.toml.new"
        new.write_text(configuration.read_text().replace('value = "old"', 'value = "new"'))
        new.rename(configuration)
        run(f"podman kill --signal HUP {name}")
        _until(lambda: '"sidecar.reloaded"' in run(log), log)
        second = exim.receive(MESSAGE)
        exim.wait_for(lambda one: len(one.deliveries()) == 2)
        words = {one.id: re.findall(rb"(?m)^X-Word: (\w+)", one.content) for one in exim.deliveries()}
        assert words == {first: [b"old"], second: [b"new"]}
        run(f"podman stop --time 180 {name}")
        assert run(f"podman inspect --format '{{{{.State.ExitCode}}}}' {name}").strip() == "0"
    finally:
        subprocess.run(["podman", "rm", "--force", name], check=False, capture_output=True)


def _until(condition: Callable[[], bool], log: str) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, run(log)
        time.sleep(0.1)
