"""The samples through the real sidecar, each against its expect.toml; no code for any single case."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from respool import ConfigError
from respool.sidecar import demo
from respool.sidecar.cli.demo import demo as command
from respool.sidecar.sample_cases import Case, Expectation, load
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import MessageId

CASES = load()
FOLDER = Path(__file__).resolve().parents[3] / "samples" / "spool"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> demo.Demonstration:
    return demo.run(str(tmp_path_factory.mktemp("demo")))


def test_every_folder_is_a_case() -> None:
    assert {case.name for case in CASES} == {path.name for path in FOLDER.iterdir()}
    assert len(CASES) >= 10
    assert {case.id.is_long for case in CASES} == {True, False}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_case_by_itself_with_its_own_zone(case: Case, tmp_path: Path) -> None:
    (shown,) = demo.run(str(tmp_path), (case,)).shown
    assert shown.surprises == ()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_cases_together(case: Case, finished: demo.Demonstration) -> None:
    (shown,) = [shown for shown in finished.shown if shown.case == case]
    assert shown.surprises == ()
    assert shown.state == case.expectation.state


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_lies_in_the_spool_is_what_was_told(case: Case, finished: demo.Demonstration) -> None:
    (shown,) = [shown for shown in finished.shown if shown.case == case]
    spool = Path(finished.directory) / "spool" / "input"
    if shown.state != "requeued":
        assert not (spool / case.id.header_name).exists()
        (kept,) = (Path(finished.directory) / "state" / shown.state).iterdir()
        assert (kept / case.id.header_name).read_bytes() == case.header_file
        assert (kept / case.id.data_name).read_bytes() == case.data_file
        return
    for output in shown.outputs:
        content = Path(output.path).read_bytes()
        envelope = parse_header_file(content, file=output.path)
        assert render_header_file(envelope) == content
        data_name = MessageId(output.id).data_name
        body = case.data_file.partition(b"\n")[2]
        assert Path(output.path).with_name(data_name).read_bytes() == data_name.encode() + b"\n" + body
        added = [change.after for change in output.changes if change.what == "header" and change.after]
        assert [header.raw for header in envelope.headers[: len(added)]] == added
        assert envelope.variables["acl_m_respool"] == b"1"


def test_a_wrong_expectation_is_a_surprise(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.expectation.results)
    expectation = Expectation(state="held", results={"spf": "neutral"}, variables={"acl_m_x": "y"})
    wrong = msgspec.structs.replace(case, expectation=expectation)
    (shown,) = demo.run(str(tmp_path), (wrong,)).shown
    assert len(shown.surprises) >= 4
    assert any("acl_m_x" in surprise for surprise in shown.surprises)


def test_the_command_prints_json_and_leaves_the_same_behind(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--dir", str(tmp_path / "d"), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["as_expected"] is True
    assert [message["case"] for message in document["messages"]] == [case.name for case in CASES]
    assert document == json.loads((tmp_path / "d" / "result.json").read_bytes())
    for message in document["messages"]:
        for output in message["outputs"]:
            assert Path(output["path"]).exists()


def test_the_command_for_a_person(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, ["--dir", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for case in CASES:
        assert case.title in result.stdout
        assert case.name in result.stdout
    assert "\x1b" not in result.stdout
    lines = result.stdout.split("\n")
    assert len(lines) < 160
    assert max(len(line) for line in lines if str(tmp_path) not in line) < 150
    assert "   \n" not in result.stdout


def test_a_second_run_replaces_the_first_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "d"
    first = demo.run(str(place), CASES[:1])
    (place / "mine").write_text("kept")
    second = demo.run(str(place), CASES[1:2])
    assert first.shown[0].case != second.shown[0].case
    assert (place / "mine").read_text() == "kept"
    assert len(list((place / "spool" / "input").glob("*-H"))) == 1


def test_a_directory_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    (tmp_path / "spool" / "precious").write_text("x")
    with pytest.raises(ConfigError, match="holds other things"):
        demo.run(str(tmp_path))
    assert (tmp_path / "spool" / "precious").read_text() == "x"


def test_the_configuration_it_leaves_is_one_that_run_takes(finished: demo.Demonstration) -> None:
    command_line = [sys.executable, "-m", "respool", "run", "--once", "-c", f"{finished.directory}/respool.toml"]
    done = subprocess.run(command_line, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_no_private_key_is_among_the_samples() -> None:
    for path in FOLDER.rglob("*"):
        assert path.is_dir() or b"PRIVATE KEY" not in path.read_bytes(), path
