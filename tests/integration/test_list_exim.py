"""``respool list`` beside ``exim -bp`` on the live spool of a private Exim: the same ages, sizes, ids, recipients."""

from __future__ import annotations

import json
import os
import re
import time

import pytest
from click.testing import CliRunner

from respool.sidecar.cli import cli
from tests.spool_corpus import SAMPLES, load

from .conftest import EximFactory
from .exim import Exim
from .test_editor_exim import put

pytestmark = pytest.mark.exim


def respool(*arguments: str) -> str:
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code in {0, 1}, result.output
    return result.output


def lines(listing: str) -> list[str]:
    """What both print, without what only one of them says."""
    kept = [line.rstrip() for line in listing.split("\n")]
    # Ours tells the directory behind two spaces.
    return [re.sub(r"  (?:input|scan/input)(?:/\w)?$", "", line) for line in kept]


def same_minute(exim: Exim, path: str, *queue: str) -> tuple[list[str], list[str]]:
    """Both listings, taken while no age changes."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        before = exim.command(*queue, "-bp")
        ours = respool("list", path)
        if exim.command(*queue, "-bp") == before:
            return lines(ours), lines(before)
        time.sleep(1)
    raise AssertionError("the queue doesn't stand still")


@pytest.mark.parametrize("split", [False, True])
def test_a_live_spool(start_exim: EximFactory, split: bool) -> None:
    exim = start_exim(split=split)
    sizes = (0, 1, 700, 1500, 11_000, 1_100_000, 12_000_000)
    for size in sizes:
        exim.receive(
            b"Subject: x\n\n" + b"".join([b"x" * 69 + b"\n"] * (size // 70)),
            recipients=["a@file.example", "b@file.example"],
        )
    frozen = exim.receive(b"Subject: frozen\n\nx\n", sender="")
    exim.command("-Mf", frozen)
    ours, theirs = same_minute(exim, str(exim.spool))
    assert sorted(ours) == sorted(theirs)
    if not split:
        assert ours == theirs


def test_a_named_queue(start_exim: EximFactory) -> None:
    exim = start_exim(queue="scan")
    exim.receive(b"Subject: x\n\nx\n")
    ours, theirs = same_minute(exim, str(exim.spool / "scan" / "input"), "-qGscan")
    assert ours == theirs


@pytest.mark.exim("sqlite")
def test_the_corpora(start_exim: EximFactory) -> None:
    """All that Exim 4.96 can read: old ages, delivered recipients, odd addresses, wire format."""
    exim = start_exim(listen=False)
    samples = load("spool-496")
    for sample in samples:
        put(exim, sample.envelope, sample.body_bytes)
    now = time.time()
    ours, theirs = same_minute(exim, str(exim.spool))
    assert now < 2e9
    # Exim shows bytes that are no ASCII as they are, control characters too; we escape what could steer a terminal.
    unlike = {(a, b) for a, b in zip(ours, theirs, strict=True) if a != b and b.isprintable()}
    assert unlike == set()
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) > len(ours) * 0.95


@pytest.mark.parametrize("command", ["list", "show", "check"])
def test_every_sample_is_read_by_every_command(command: str) -> None:
    root = os.path.commonpath([str(sample.header_path.parent.parent.parent) for sample in SAMPLES])
    for corpus in ("spool-496", "export-499"):
        document = json.loads(
            respool(command, os.path.join(os.path.dirname(str(load(corpus)[0].root)), corpus), "--json")
        )
        entries = document["checked"] if command == "check" else len(document)
        assert entries == len(load(corpus)), root
