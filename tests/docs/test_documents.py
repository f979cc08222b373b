"""What there is, is documented; and what is documented, is there."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.core import Metric

import respool
from respool.errors import RespoolError
from respool.processors import registry
from respool.sidecar.config import Config
from respool.sidecar.metrics import StateCollector

from ..fault.harness import Setup
from . import api, command_line, settings
from .settings import page

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = ("errors", "spool", "lookups", "processors", "requeue", "sidecar")
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}


def pages() -> dict[Path, str]:
    """Every document of the checkout."""
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("*/README.md")]
    found += CHECKOUT.glob("samples/*/README.md")
    return {path: path.read_text() for path in found if "demo" not in path.relative_to(CHECKOUT).parts}


def log_events() -> dict[str, set[str]]:
    """Every event that the code logs, and at which levels."""
    found: dict[str, set[str]] = {}
    for room in ROOMS:
        for path in (CHECKOUT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                    continue
                named = ast.unparse(node.func.value)
                if node.func.attr in LEVELS and re.search(r"\blog$|_log$", named) and node.args:
                    first = node.args[0]
                    choices = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                    for event in choices:
                        assert isinstance(event, ast.Constant), f"{path}:{node.lineno}: an event's name is a constant"
                        level = "error" if node.func.attr == "exception" else node.func.attr
                        found.setdefault(str(event.value), set()).add(level)
    return found


def test_every_processor_has_a_page() -> None:
    index = (CHECKOUT / "docs" / "processors.md").read_text()
    for name in registry.known():
        assert (CHECKOUT / "docs" / "processors" / f"{name}.md").exists(), f"docs/processors/{name}.md is missing"
        assert f"(processors/{name}.md)" in index, f"docs/processors.md does not name {name}"


@pytest.mark.parametrize("name", sorted(registry.known()))
def test_every_setting_of_a_processor_is_on_its_page(name: str) -> None:
    text = (CHECKOUT / "docs" / "processors" / f"{name}.md").read_text()
    for setting in registry.find(name).config_type.__struct_encode_fields__:
        assert f"`{setting}`" in text or re.search(rf"\b{setting} = ", text), f"{name}: {setting}"


@pytest.mark.parametrize("name", sorted(registry.known()))
def test_tables_of_settings_are_as_the_structs_have_them(name: str) -> None:
    assert (CHECKOUT / "docs" / "processors" / f"{name}.md").read_text() == page(name), "python -m tests.docs.settings"


def test_every_setting_of_the_configuration_is_explained() -> None:
    page = (CHECKOUT / "docs" / "configuration.md").read_text()
    for setting in Config.__struct_encode_fields__:
        assert f"`{setting}`" in page, setting


def test_every_log_event_is_explained_and_no_other() -> None:
    page = (CHECKOUT / "docs" / "log-events.md").read_text()
    rows = re.findall(r"(?m)^\| `([a-z_]+\.[a-z_]+)` \| ([a-z, ]+) \|", page)
    assert {event: set(levels.split(", ")) for event, levels in rows} == log_events()


def errors() -> Iterator[type[RespoolError]]:
    for package in pkgutil.walk_packages(respool.__path__, "respool."):
        if ".samples" not in package.name and not package.name.endswith(("__main__", "pytest_plugin")):
            importlib.import_module(package.name)
    waiting = [RespoolError]
    while waiting:
        error = waiting.pop()
        yield error
        waiting += error.__subclasses__()


def test_every_error_is_explained() -> None:
    page = (CHECKOUT / "errors" / "README.md").read_text()
    for error in errors():
        if error.__module__.startswith("respool.") and not error.__name__.startswith("_"):
            assert f"`{error.__name__}`" in page, error


def test_the_command_line_is_what_its_page_says() -> None:
    assert (CHECKOUT / "docs" / "command-line.md").read_text() == command_line.document(), (
        "python -m tests.docs.command_line > docs/command-line.md"
    )


def test_the_public_names_are_what_their_page_says() -> None:
    assert (CHECKOUT / "docs" / "api.md").read_text() == api.document(), "python -m tests.docs.api > docs/api.md"


def test_the_settings_are_what_their_page_says() -> None:
    assert (CHECKOUT / "docs" / "settings.md").read_text() == settings.document(), "python -m tests.docs.settings"


def test_every_metric_is_explained_and_no_other() -> None:
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    documented = re.findall(r"(?m)^\| `(respool_\w+)` \|", page)
    source = "".join((CHECKOUT / "sidecar" / name).read_text() for name in ("metrics.py", "measure.py"))
    counters = set(re.findall(r'CounterMetricFamily\(\s*"(respool_\w+)"', source))
    others = set(re.findall(r'"(respool_\w+)"', source)) - counters
    assert sorted(documented) == sorted(others | {f"{name}_total" for name in counters})


def test_metrics_have_the_type_and_the_labels_that_their_page_says(tmp_path: Path) -> None:
    page = (CHECKOUT / "docs" / "metrics.md").read_text()
    documented = set(re.findall(r"(?m)^\| `(respool_\w+)` \| (\w+) \| ([\w, ]*?) ?\|", page))
    families = list(StateCollector(Setup(tmp_path, source="queue").config).collect())
    found = {
        (family.name + ("_total" if family.type == "counter" else ""), family.type, ", ".join(labels(family)))
        for family in families
    }
    assert documented == found


def labels(family: Metric) -> tuple[str, ...]:
    """Their names, which a family keeps for itself until it has a sample."""
    names: tuple[str, ...] = vars(family)["_labelnames"]
    return names


def test_every_alert_has_a_first_look() -> None:
    rules = (CHECKOUT / "samples" / "prometheus" / "respool.rules.yml").read_text()
    page = (CHECKOUT / "docs" / "operating.md").read_text()
    assert set(re.findall(r"- alert: (\w+)", rules)) == set(re.findall(r"`(Respool\w+)`", page))


def test_every_alert_is_seen_to_fire_and_not_to_fire() -> None:
    # promtool runs them: tests/integration/test_metrics.py.
    place = CHECKOUT / "samples" / "prometheus"
    alerts = re.findall(r"- alert: (\w+)", (place / "respool.rules.yml").read_text())
    text = (place / "respool.rules.test.yml").read_text()
    fires = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", text))
    rests = set(re.findall(r"alertname: (\w+)\n +exp_alerts: \[\]\n", text))
    assert (fires, rests) == (set(alerts), set(alerts))


def test_no_event_is_explained_twice() -> None:
    rows = re.findall(r"(?m)^\| `([a-z_]+\.[a-z_]+)` \|", (CHECKOUT / "docs" / "log-events.md").read_text())
    assert [row for row in rows if rows.count(row) > 1] == []


def test_links_lead_somewhere() -> None:
    for path, text in pages().items():
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target:
                assert (path.parent / target).exists(), f"{path.relative_to(CHECKOUT)}: {target}"


def test_every_room_has_a_readme() -> None:
    for room in ("spool", "lookups", "processors", "requeue", "sidecar", "errors", "samples", "tests", "benchmarks"):
        assert (CHECKOUT / room / "README.md").exists(), room
