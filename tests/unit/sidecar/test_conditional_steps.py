"""``when`` and ``split`` of a processor entry, from TOML to the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from respool.errors import ConfigError
from respool.lookups.zone import ZoneResolver
from respool.processors.api import Context, Processor, Verdict, discard, hold, proceed
from respool.processors.conditions import parse_condition
from respool.requeue.plan import Defer, Hold, Requeue
from respool.sidecar.config import BatchConfig, decode
from respool.sidecar.pipeline import Outcome, Pipeline
from respool.sidecar.pipeline_setup import build_steps, make_pipeline
from respool.sidecar.step import Step
from respool.spool.message import Message

from ..processors.processor_kit import make_message
from ..processors.table_kit import make_table

A, B, C = b"a@one.example", b"b@two.example", b"c@three.example"


def pipeline(text: str) -> Pipeline:
    config = decode(text.encode(), BatchConfig, file="respool.toml")
    return make_pipeline(config, build_steps(config.processor))


def run(steps: Pipeline, message: Message) -> Outcome:
    return steps.run(message, log=structlog.get_logger())


def parts(outcome: Outcome) -> list[tuple[list[bytes], list[bytes]]]:
    """Recipients and names of header fields of each output."""
    assert isinstance(outcome.plan, Requeue), outcome.plan
    return [
        (
            [recipient.address for recipient in output.message.envelope.recipients],
            [header.name for header in output.message.sent_headers],
        )
        for output in outcome.plan.outputs
    ]


STAMP = """
[[processor]]
use = "headers"
when = {when}
split = {split}
config = {{ add = [{{ name = "X-Stamp", value = "1", at = "end" }}] }}
"""


def stamp(when: str, *, split: bool = False) -> str:
    return STAMP.format(when=when, split=str(split).lower())


def test_runs_only_where_the_condition_holds() -> None:
    steps = pipeline(stamp('{ sender_domains = "example.com" }'))
    assert parts(run(steps, make_message(recipients=(A,)))) == [([A], [b"From", b"X-Stamp"])]
    outcome = run(steps, make_message(recipients=(A,), sender=b""))
    assert parts(outcome) == [([A], [b"From"])]
    (traced,) = outcome.trace
    assert (traced.verdict, traced.error) == (None, None)


def test_any_recipient_is_enough_without_split() -> None:
    steps = pipeline(stamp('{ recipient_domains = "two.example" }'))
    assert parts(run(steps, make_message(recipients=(A, B)))) == [([A, B], [b"From", b"X-Stamp"])]
    assert parts(run(steps, make_message(recipients=(A, C)))) == [([A, C], [b"From"])]


def test_split_divides_for_this_step_and_the_rest() -> None:
    steps = pipeline(
        stamp('{ recipient_domains = "two.example" }', split=True)
        + stamp('{ recipient_domains = ["two.example", "three.example"] }', split=True)
    )
    assert parts(run(steps, make_message(recipients=(A, B, C)))) == [
        ([B], [b"From", b"X-Stamp", b"X-Stamp"]), ([C], [b"From", b"X-Stamp"]), ([A], [b"From"]),
    ]  # fmt: skip


def test_nothing_to_divide() -> None:
    steps = pipeline(stamp('{ recipient_domains = "two.example" }', split=True))
    assert parts(run(steps, make_message(recipients=(B,)))) == [([B], [b"From", b"X-Stamp"])]
    assert parts(run(steps, make_message(recipients=(A,)))) == [([A], [b"From"])]
    # The delivered count for nothing and stay with the first part.
    assert parts(run(steps, make_message(recipients=(A, B), delivered=(A,)))) == [([A, B], [b"From", b"X-Stamp"])]


def test_earlier_results_are_seen() -> None:
    steps = pipeline(
        '[[processor]]\nuse = "auth"\nconfig = { dmarc = "off" }\n' + stamp('{ results = { arc = "none" } }')
    )
    assert b"X-Stamp" in parts(run(steps, make_message(recipients=(A,))))[0][1]
    steps = pipeline(
        '[[processor]]\nuse = "auth"\nconfig = { dmarc = "off" }\n' + stamp('{ results = { arc = "pass" } }')
    )
    assert b"X-Stamp" not in parts(run(steps, make_message(recipients=(A,))))[0][1]


def test_a_table_in_trouble_defers(tmp_path: Path) -> None:
    reference = make_table(tmp_path / "t.mdb", {"two.example": ""})
    condition = parse_condition({"recipient_domains": reference})

    class Stamp(Processor[Any]):
        def process(self, message: Message, context: Context) -> Verdict:
            return proceed()

    steps = Pipeline(
        (Step("stamp", Stamp(None), "skip", condition, split=True),),
        hostname="h", authserv_id="h", resolver=ZoneResolver({}),
    )  # fmt: skip
    assert isinstance(run(steps, make_message(recipients=(A, B))).plan, Requeue)
    # Gone, whatever on_error says of the processor's own failures.
    (tmp_path / "t.mdb").unlink()
    import time

    time.sleep(0.15)
    plan = run(steps, make_message(recipients=(A, B))).plan
    assert isinstance(plan, Defer)
    assert "t.mdb" in plan.reason


class _Say(Processor[Any]):
    verdict: Verdict = proceed()

    def process(self, message: Message, context: Context) -> Verdict:
        return self.verdict


class _Drop(_Say):
    verdict = discard("unwanted")


class _Keep(_Say):
    verdict = hold("look")


def conditional(kind: type[_Say]) -> Pipeline:
    condition = parse_condition({"recipient_domains": "two.example"})
    return Pipeline(
        (Step("say", kind(None), "defer", condition, split=True),),
        hostname="h",
        authserv_id="h",
        resolver=ZoneResolver({}),
    )


def test_discard_of_a_part_and_hold_of_a_part() -> None:
    assert parts(run(conditional(_Drop), make_message(recipients=(A, B)))) == [([A], [b"From"])]
    assert isinstance(run(conditional(_Keep), make_message(recipients=(A, B))).plan, Hold)


@pytest.mark.parametrize(
    ("when", "split", "key", "reason"),
    [
        (
            '{ sender_domain = "x.example" }',
            False,
            "$.processor[0].when.sender_domain",
            "did you mean `sender_domains`",
        ),
        (
            '{ not = { recipents = "x.example" } }',
            False,
            "$.processor[0].when.not.recipents",
            "did you mean `recipients`",
        ),
        ('{ hosts = "nowhere" }', False, "$.processor[0].when.hosts", "nowhere"),
        ('{ sender_domains = "x.example" }', True, "$.processor[0].split", "no recipients"),
    ],
)
def test_refused_at_load(when: str, split: bool, key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pipeline(stamp(when, split=split))
    assert caught.value.key == key
    assert reason in caught.value.reason


def test_split_without_when() -> None:
    with pytest.raises(ConfigError, match="no recipients"):
        pipeline('[[processor]]\nuse = "headers"\nsplit = true\n')


def test_lookup_of_the_context(tmp_path: Path) -> None:
    reference = make_table(tmp_path / "t.mdb", {"*.example": "x", "k": "v"})
    seen: list[bytes | None] = []

    class Ask(Processor[Any]):
        def process(self, message: Message, context: Context) -> Verdict:
            seen.append(context.lookup(reference, "k"))
            seen.append(context.lookup(reference.replace("lmdb", "partial1-lmdb"), b"two.example"))
            seen.append(context.lookup(reference, "absent"))
            return proceed()

    steps = Pipeline((Step("ask", Ask(None)),), hostname="h", authserv_id="h", resolver=ZoneResolver({}))
    run(steps, make_message(recipients=(A,)))
    assert seen == [b"v", b"x", None]
