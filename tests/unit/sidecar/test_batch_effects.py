"""What processors declare to be done after the commit, in a batch: at least once, each with its key."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from respool.requeue import durable
from respool.sidecar import batch, batch_destination
from respool.sidecar.cli import cli
from respool.sidecar.config import BatchConfig, decode
from tests.spool_corpus import SAMPLES

PLUGIN = """
from pathlib import Path
from respool import Processor, ProcessorConfig, TemporaryError, discard, proceed

class Config(ProcessorConfig):
    path: str
    discards: bool = False

class Tells(Processor[Config]):
    def process(self, message, context):
        context.effects.declare("line", b"of %b" % message.id.encode())
        context.effects.declare("line", b"again")
        return discard("told") if self.config.discards else proceed()

    def run_effect(self, effect, log):
        if Path(self.config.path + ".broken").exists():
            raise TemporaryError("the file is locked")
        with open(self.config.path, "a") as file:
            print(effect.key, effect.kind, effect.payload.decode(), file=file)
"""
COUNT = 3


class Archive:
    """A few messages, and a plugin that tells of each."""

    def __init__(self, root: Path) -> None:
        self.root, self.source, self.destination = root, root / "in", root / "out"
        self.source.mkdir()
        self.ids = []
        for sample in [sample for sample in SAMPLES if sample.journal is None][:COUNT]:
            self.ids.append(str(sample.id))
            (self.source / f"{sample.id}-H").write_bytes(sample.header_data)
            (self.source / f"{sample.id}-D").write_bytes(sample.data_file)
        (root / "plugin.py").write_text(PLUGIN)
        (root / "plugin.py").chmod(0o600)
        self.configure()

    def configure(self, *, discards: bool = False) -> None:
        self.text = (
            f'[[processor]]\nuse = "{self.root}/plugin.py:Tells"\n'
            f'config = {{ path = "{self.root}/told", discards = {str(discards).lower()} }}\n[dns]\nzone_file = "/dev/null"\n'
        )
        (self.root / "batch.toml").write_text(self.text)

    def run(self, *arguments: str) -> Result:
        command = ["batch", str(self.source), str(self.destination), "-c", str(self.root / "batch.toml")]
        return CliRunner().invoke(cli, [*command, "--workers", "1", *arguments])

    def told(self) -> Counter[str]:
        path = self.root / "told"
        return Counter(path.read_text().splitlines()) if path.exists() else Counter()

    def expected(self) -> set[str]:
        use = f"{self.root}/plugin.py:Tells"
        return {f"{one}.0/{use}/0 line of {one}" for one in self.ids} | {
            f"{one}.0/{use}/1 line again" for one in self.ids
        }

    def written(self) -> list[str]:
        return sorted(path.name[:-2] for path in self.destination.glob("*-H"))


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


@pytest.mark.parametrize("discards", [False, True])
def test_effects_run_once_each_message_is_written(archive: Archive, discards: bool) -> None:
    archive.configure(discards=discards)
    result = archive.run()
    assert result.exit_code == 0, result.output
    assert archive.told() == Counter(dict.fromkeys(archive.expected(), 1))
    assert archive.written() == ([] if discards else sorted(archive.ids))
    assert not (archive.destination / ".respool").exists()


def test_a_dry_run_shows_them_and_runs_none(archive: Archive) -> None:
    result = archive.run("--dry-run", "--json")
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    use = f"{archive.root}/plugin.py:Tells"
    assert [one["effects"] for one in documents] == [[{"processor": use, "kind": "line"}] * 2] * COUNT
    assert f"afterwards {use}: line" in archive.run("--dry-run").stdout
    assert archive.told() == Counter()


def test_what_could_not_be_told_is_told_by_a_resumed_run(archive: Archive) -> None:
    (archive.root / "told.broken").touch()
    result = archive.run("--json")
    assert result.exit_code == 1
    documents = [json.loads(line) for line in result.stdout.splitlines()]
    assert {one["state"] for one in documents} == {"failed"}
    assert all("its effects wait" in one["reason"] and "--resume" in one["reason"] for one in documents)
    assert archive.written() == sorted(archive.ids), "written though its effects wait"
    assert archive.run("--resume").exit_code == 1
    (archive.root / "told.broken").unlink()
    assert archive.run("--resume").exit_code == 0
    assert archive.told() == Counter(dict.fromkeys(archive.expected(), 1))
    assert archive.run("--resume").exit_code == 0
    assert archive.told() == Counter(dict.fromkeys(archive.expected(), 1)), "owed no more"
    assert not (archive.destination / ".respool").exists()


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("together", [False, True], ids=["one-machine", "several"])
@pytest.mark.parametrize("discards", [False, True], ids=["written", "discarded"])
def test_killed_before_every_step_each_is_told_at_least_once(
    archive: Archive, monkeypatch: pytest.MonkeyPatch, together: bool, discards: bool
) -> None:
    archive.configure(discards=discards)
    config = decode(archive.text.encode(), BatchConfig, file="batch.toml")
    twice = points = 0
    for number in range(1000):
        archive.destination = archive.root / f"out-{number}"
        (archive.root / "told").unlink(missing_ok=True)
        if _drain(archive, config, number, monkeypatch, together=together):
            break
        points += 1
        assert _drain(archive, config, None, monkeypatch, together=together)
        told = archive.told()
        assert set(told) == archive.expected(), f"killed before step {number}"
        twice += max(told.values()) > 1
        assert archive.written() == ([] if discards else sorted(archive.ids))
    assert points > 3 * COUNT
    # A discarded message leaves nothing in DEST, so that a resumed run begins it again; of the others a
    # repeat is for what the kill interrupted: between its effects and the end of its note.
    assert discards or twice <= COUNT


def _drain(
    archive: Archive, config: BatchConfig, dies_at: int | None, monkeypatch: pytest.MonkeyPatch, *, together: bool
) -> bool:
    """What a worker does, killed before that durable step; True if it came to its end."""
    count = 0
    with monkeypatch.context() as patched:
        for name in ("create_file", "write", "copy_tail", "rename", "unlink", "sync", "make_directory"):
            real = getattr(durable, name)

            def step(*arguments: object, _real: object = real, **keywords: object) -> object:
                nonlocal count
                count += 1
                if dies_at is not None and count > dies_at:
                    raise _Killed
                assert callable(_real)
                return _real(*arguments, **keywords)

            patched.setattr(durable, name, step)
        try:
            place = str(archive.destination)
            work = batch_destination.survey(
                str(archive.source), place, resume=dies_at is None, dry_run=False, shared=together
            ).left
            one = batch.Batch(str(archive.source), place, config)
            for found in work:
                report = one.process_once(found) if together else one.process(found).report
                assert report.state != "failed", report
            one.close()
            batch_destination.finish(place)
        except _Killed:
            return False
    return True
