"""``require``: whom the verdict hits, and what is refused at load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from respool import AuthResult, Bounce, ConfigError, Defer, Discard, Freeze, Hold, Proceed, Result, Verdict
from respool.lookups.tables import TableError
from respool.processors import registry
from respool.processors.require import Require
from respool.testing import make_context, make_message, run

from .table_kit import make_table

PASS = AuthResult(method="dmarc", result=Result.PASS)
FAIL = AuthResult(method="dmarc", result=Result.FAIL)
DMARC: dict[str, Any] = {"results": {"dmarc": "pass"}}


def verdict(config: dict[str, Any], *results: AuthResult, **message: Any) -> Verdict:
    return run(Require, make_message(**message), config=config, context=make_context(results=results)).verdict


def test_what_meets_the_conditions_goes_on_unchanged() -> None:
    assert verdict({"conditions": DMARC}, PASS) == Proceed()


def test_what_does_not_is_held_and_the_reason_names_the_conditions() -> None:
    for results in ((FAIL,), ()):
        assert verdict({"conditions": DMARC}, *results) == Hold(reason="it does not meet the conditions on results")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"otherwise": "hold"}, Hold(reason="no")),
        ({"otherwise": "freeze"}, Freeze(reason="no")),
        ({"otherwise": "discard"}, Discard(reason="no")),
        ({"otherwise": "defer"}, Defer(reason="no")),
        ({"otherwise": "defer", "retry_after_seconds": 60}, Defer(reason="no", retry_after=60)),
        ({"otherwise": "bounce"}, Bounce(reason="no")),
        ({"otherwise": "bounce", "status": "5.1.1"}, Bounce(reason="no", status="5.1.1")),
    ],
)
def test_verdicts(config: dict[str, Any], expected: Verdict) -> None:
    assert verdict({"conditions": DMARC, "reason": "no", **config}, FAIL) == expected


def test_every_recipient_has_to_meet_a_condition_on_recipients() -> None:
    config = {"conditions": {"recipient_domains": "example.org"}}
    assert verdict(config, recipients=("a@example.org", "b@example.org")) == Proceed()
    assert isinstance(verdict(config, recipients=("a@example.org", "b@example.net")), Hold)
    assert isinstance(verdict(config, recipients=("b@example.net",)), Hold)


def test_without_conditions_nothing_meets_them() -> None:
    assert verdict({}) == Hold(reason="required by the configuration")


def test_what_a_sender_reads_tells_nothing_of_the_configuration() -> None:
    given = verdict({"conditions": DMARC, "otherwise": "bounce"}, FAIL)
    assert isinstance(given, Bounce)
    assert "results" not in given.reason


def test_a_table_in_trouble_is_no_condition_that_is_not_met(tmp_path: Path) -> None:
    config = {"conditions": {"sender_domains": make_table(tmp_path / "known.mdb", {"sender.example": ""})}}
    processor = registry.build("require", config)
    assert run(processor).verdict == Proceed()
    assert isinstance(run(processor, make_message(sender="a@other.example")).verdict, Hold)
    (tmp_path / "known.mdb").rename(tmp_path / "gone.mdb")
    time.sleep(0.15)  # the table looks for a new file ten times a second
    with pytest.raises(TableError):
        run(processor)


@pytest.mark.parametrize(
    ("config", "key", "reason"),
    [
        ({"conditions": {"sender": "x"}}, "config.conditions", "did you mean `senders`"),
        ({"conditions": {}}, "config.conditions", "empty condition"),
        ({"conditions": {"results": {"dmark": "pass"}}}, "config.conditions.results", 'did you mean "dmarc"'),
        ({"otherwise": "reject"}, "config.otherwise", "reject"),
        ({"otherwise": "bounce", "status": "4.7.1"}, "config.status", "5.7.1"),
        ({"otherwise": "hold", "retry_after_seconds": 5}, "config.retry_after_seconds", "defer"),
        ({"reason": "a\nb"}, "config.reason", "one line"),
    ],
)
def test_mistakes_are_named_at_load(config: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        registry.build("require", config)
    assert caught.value.key == key
    assert reason in caught.value.reason
