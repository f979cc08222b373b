"""``route``: order of tables, division of the message, redirection, verdicts."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog

from respool.errors import ConfigError, TemporaryError
from respool.lookups.zone import ZoneResolver
from respool.processors.api import Defer, Discard, Freeze, Hold, Proceed, Verdict
from respool.processors.registry import build
from respool.requeue.plan import Output, Requeue
from respool.sidecar.pipeline import Pipeline
from respool.sidecar.step import Step
from respool.spool.envelope import DSN_FAILURE, Recipient
from respool.spool.message import Message

from .processor_kit import make_context, make_message
from .table_kit import make_table

A, B, C = b"a@one.example", b"b@Two.example", b"c@three.example"


def route(path: Path, entries: Mapping[str, str], by: str = "address", prefix: str = "lmdb", **config: Any) -> Any:
    reference = make_table(path / "routes.mdb", entries).replace("lmdb", prefix, 1)
    return build("route", {"tables": [{"by": by, "table": reference}], **config})


def verdict(processor: Any, *recipients: bytes, **message: Any) -> Verdict:
    return processor.process(make_message(recipients=recipients, **message), make_context())  # type: ignore[no-any-return]


def outputs(processor: Any, message: Message, *, released: bool = False) -> list[Output]:
    pipeline = Pipeline(
        (Step("route", processor),), hostname="mx.example.org", authserv_id="x", resolver=ZoneResolver({})
    )
    plan = pipeline.run(message, log=structlog.get_logger(), released=("route",) if released else ()).plan
    assert isinstance(plan, Requeue), plan
    return list(plan.outputs)


def summary(found: list[Output]) -> list[tuple[list[bytes], bytes | None, str]]:
    return [
        (
            [recipient.address for recipient in output.message.envelope.recipients],
            output.message.envelope.variables.get("acl_m_route"),
            output.queue or "",
        )
        for output in found
    ]


def run(processor: Any, *recipients: bytes, **message: Any) -> list[tuple[list[bytes], bytes | None, str]]:
    return summary(outputs(processor, make_message(recipients=recipients, **message)))


def test_one_answer_for_all(tmp_path: Path) -> None:
    processor = route(tmp_path, {"*": "mx.example::2525; queue=slow; acl_m_transport=lmtp"}, prefix="lmdb*")
    (output,) = outputs(processor, make_message(recipients=(A, B)))
    assert summary([output]) == [([A, B], b"mx.example::2525", "slow")]
    assert output.message.envelope.variables["acl_m_transport"] == b"lmtp"


def test_a_miss_does_nothing(tmp_path: Path) -> None:
    assert verdict(route(tmp_path, {"x@y.example": "mx"}), A, B) == Proceed()


def test_default(tmp_path: Path) -> None:
    processor = route(tmp_path, {"a@one.example": "mx1"}, default="mx0")
    assert run(processor, B, C) == [([B, C], b"mx0", "")]
    assert run(processor, A, B, C) == [([A], b"mx1", ""), ([B, C], b"mx0", "")]


def test_divided_where_answers_differ(tmp_path: Path) -> None:
    processor = route(tmp_path, {"one.example": "mx1", "two.example": "mx2"}, by="domain")
    assert run(processor, A, B, C) == [([A], b"mx1", ""), ([B], b"mx2", ""), ([C], None, "")]
    assert run(processor, A, B, C, delivered=(B,)) == [([A, B], b"mx1", ""), ([C], None, "")]
    assert run(processor, A, delivered=(A,)) == [([A], None, "")]


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("address", "b@two.example"), ("domain", "two.example"), ("sender", "bounce@example.com"),
        ("sender_domain", "example.com"), ("host", "192.0.2.1"),
    ],
)  # fmt: skip
def test_each_kind_of_key(tmp_path: Path, by: str, key: str) -> None:
    processor = route(tmp_path, {key: "mx"}, by=by)
    assert run(processor, b"B@Two.Example", sender=b"Bounce@Example.com") == [([b"B@Two.Example"], b"mx", "")]
    elsewhere = {"sender": b"x@y.example", "host": b"[192.0.2.9]:25"}
    assert run(processor, A, **elsewhere) == [([A], None, "")]
    assert run(processor, A, sender=b"", host=None) == [([A], None, "")]


def test_the_first_table_that_knows_decides(tmp_path: Path) -> None:
    tables = {
        "host": make_table(tmp_path / "h.mdb", {"192.0.2.1": "by-host"}),
        "address": make_table(tmp_path / "a.mdb", {"a@one.example": "by-address"}),
        "domain": make_table(tmp_path / "d.mdb", {"one.example": "by-domain", "*.example": "by-parent"}),
    }

    def ordered(*kinds: str) -> Any:
        chosen = [
            {"by": kind, "table": tables[kind].replace("lmdb", "partial1-lmdb") if kind == "domain" else tables[kind]}
            for kind in kinds
        ]
        return build("route", {"tables": chosen})

    assert run(ordered("address", "domain", "host"), A, C) == [([A], b"by-address", ""), ([C], b"by-parent", "")]
    assert run(ordered("domain", "address"), A) == [([A], b"by-domain", "")]
    assert run(ordered("host", "domain", "address"), A, C) == [([A, C], b"by-host", "")]


def test_redirection(tmp_path: Path) -> None:
    processor = route(
        tmp_path,
        {
            "a@one.example": "to=*@new.example",
            "b@two.example": "to=x@y.example, B@Two.example",
            "c@three.example": "to=b1@z.example,b2@z.example",
        },
    )
    assert run(processor, A) == [([b"a@new.example"], None, "")]
    assert run(processor, b"B@Two.example") == [([b"B@Two.example", b"x@y.example"], None, "")]
    assert run(processor, A, C) == [([b"a@new.example", b"b1@z.example", b"b2@z.example"], None, "")]


def test_redirection_keeps_dsn_parameters(tmp_path: Path) -> None:
    message = make_message()
    message = Message(
        message.envelope.replace(recipients=(Recipient.make(A, orcpt=b"rfc822;a@one.example", dsn_flags=DSN_FAILURE),)),
        message.body,
    )
    (output,) = outputs(route(tmp_path, {"a@one.example": "to=n@new.example"}), message)
    (recipient,) = output.message.envelope.recipients
    assert (recipient.address, recipient.orcpt, recipient.dsn_flags) == (
        b"n@new.example", b"rfc822;a@one.example", DSN_FAILURE,
    )  # fmt: skip


def test_redirections_do_not_chain(tmp_path: Path) -> None:
    processor = route(tmp_path, {"a@x.example": "to=b@x.example", "b@x.example": "to=a@x.example"})
    found = run(processor, b"a@x.example", b"b@x.example")
    assert sorted(addresses for addresses, _, _ in found) == [[b"a@x.example"], [b"b@x.example"]]
    (tmp_path / "chain").mkdir()
    processor = route(tmp_path / "chain", {"a@x.example": "to=b@x.example", "b@x.example": "to=c@x.example"})
    found = run(processor, b"a@x.example", b"b@x.example")
    assert sorted(addresses for addresses, _, _ in found) == [[b"b@x.example"], [b"c@x.example"]]


def test_verdicts(tmp_path: Path) -> None:
    processor = route(
        tmp_path,
        {
            "one.example": "hold=legal",
            "two.example": "discard=gone",
            "three.example": "defer=moving",
            "four.example": "freeze=look",
        },
        by="domain",
    )
    assert verdict(processor, A, b"x@free.example") == Hold(reason="legal")
    assert verdict(processor, A, C) == Defer(reason="moving")
    assert verdict(processor, B) == Discard(reason="gone")
    assert verdict(processor, b"x@four.example") == Freeze(reason="look", edits=())
    assert run(processor, B, b"x@free.example") == [([b"x@free.example"], None, "")]


def released(processor: Any, *recipients: bytes, **message: Any) -> list[tuple[list[bytes], bytes | None, str]]:
    return summary(outputs(processor, make_message(recipients=recipients, **message), released=True))


def test_a_release_loses_nothing_of_what_is_said_of_the_others(tmp_path: Path) -> None:
    processor = route(
        tmp_path,
        {
            "a@one.example": "hold=legal",
            "b@two.example": "mx2",
            "c@three.example": "discard=gone",
            "d@x": "freeze=look",
        },
    )
    assert verdict(processor, A, B, C) == Hold(reason="legal")
    assert released(processor, A, B, C) == [([A], None, ""), ([B], b"mx2", "")]
    assert released(processor, A) == [([A], None, "")]
    one, frozen = outputs(processor, make_message(recipients=(A, b"d@x")), released=True)
    assert (one.message.envelope.is_frozen, frozen.message.envelope.is_frozen) == (False, True)


def test_a_release_passes_the_hold_over_and_nothing_else(tmp_path: Path) -> None:
    """The next key of the table, the next table, the default: as if the holding entry were not there."""
    tables = {
        "sender": make_table(tmp_path / "s.mdb", {"bounce@example.com": "hold=a suspect"}),
        "address": make_table(tmp_path / "a.mdb", {"a@one.example": "hold=legal", "*@one.example": "mx1"}),
        "domain": make_table(tmp_path / "d.mdb", {"two.example": "mx2", "three.example": "defer=moving"}),
    }
    tables["address"] = tables["address"].replace("lmdb", "lmdb*@", 1)

    def ordered(**config: Any) -> Any:
        return build("route", {"tables": [{"by": by, "table": table} for by, table in tables.items()], **config})

    suspect = b"bounce@example.com"
    assert verdict(ordered(), A, B, sender=suspect) == Hold(reason="a suspect")
    assert released(ordered(), A, B, sender=suspect) == [([A], b"mx1", ""), ([B], b"mx2", "")]
    assert released(ordered(default="mx0"), b"x@y.example", sender=suspect) == [([b"x@y.example"], b"mx0", "")]
    assert released(ordered(default="hold=unknown"), b"x@y.example") == [([b"x@y.example"], None, "")]
    message, context = make_message(recipients=(A, C), sender=suspect), make_context(released=True)
    assert ordered().process(message, context) == Defer(reason="moving")


def test_discarded_and_redirected_together(tmp_path: Path) -> None:
    processor = route(tmp_path, {"a@x.example": "to=b@x.example", "b@x.example": "discard=", "c@x.example": "mx"})
    found = run(processor, b"a@x.example", b"b@x.example", b"c@x.example")
    assert found == [([b"b@x.example"], None, ""), ([b"c@x.example"], b"mx", "")]


def test_freeze_of_one_part(tmp_path: Path) -> None:
    processor = route(tmp_path, {"a@one.example": "freeze=look"})
    one, other = outputs(processor, make_message(recipients=(A, C)))
    assert one.message.envelope.is_frozen
    assert not other.message.envelope.is_frozen


def test_trouble_defers(tmp_path: Path) -> None:
    processor = route(tmp_path, {"a@one.example": "nonsense=1"})
    with pytest.raises(TemporaryError, match=r"key a@one\.example: there is no"):
        verdict(processor, A)
    (tmp_path / "routes.mdb").unlink()
    time.sleep(0.15)
    with pytest.raises(TemporaryError, match="No such file"):
        verdict(processor, A)


@pytest.mark.parametrize(
    ("config", "key", "reason"),
    [
        ({"tables": [{"by": "address", "table": "lmdb;/nonexistent"}]}, "config.tables[0].table", "No such file"),
        ({"tables": [{"by": "address", "table": "/nonexistent"}]}, "config.tables[0].table", "not a table"),
        ({"tables": [{"by": "adress", "table": "lmdb;/x"}]}, "config.tables[0].by", "adress"),
        ({"tables": []}, "config.tables", "length"),
        ({}, "config.tables", "tables"),
    ],
)
def test_refused_at_load(config: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("route", config)
    assert caught.value.key.startswith(key)
    assert reason in caught.value.reason


def test_bad_default_and_variable(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        route(tmp_path, {}, default="rote=x")
    with pytest.raises(ConfigError):
        route(tmp_path, {}, variable="m_route")


def test_many_recipients(tmp_path: Path) -> None:
    """Ten thousand recipients in a hundred domains: as many messages as there are routes."""
    processor = route(tmp_path, {f"d{n}.example": f"mx{n % 3}" for n in range(100)}, by="domain")
    found = run(processor, *(b"u%d@d%d.example" % (n, n % 100) for n in range(10_000)))
    assert [(len(addresses), value) for addresses, value, _ in found] == [
        (3400, b"mx0"), (3300, b"mx1"), (3300, b"mx2"),
    ]  # fmt: skip
