"""A setting in the wrong table: the message says where it belongs, and never proposes what stands there already."""

from __future__ import annotations

import pytest

from respool import ConfigError
from respool.sidecar.config import BatchConfig, Config, ProcessorEntry, decode
from respool.sidecar.pipeline_setup import build_steps

SEAL = '[[processor]]\nuse = "arc-seal"\n'
AUTH = '[[processor]]\nuse = "auth"\n'


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (f'{SEAL}domain = "x"', "$.processor[0].domain", "`domain` belongs below [processor.config]"),
        (f'{AUTH}{SEAL}key_file = "x"', "$.processor[1].key_file", "`key_file` belongs below [processor.config]"),
        (f'{AUTH}sender_domains = "x"', "$.processor[0].sender_domains", "`sender_domains` belongs below [processor.when]"),
        (f'{AUTH}when = {{ on_error = "skip" }}', "$.processor[0].when.on_error", "`on_error` belongs below [[processor]]"),
        (f"{AUTH}when = {{ not = {{ split = true }} }}", "$.processor[0].when.not.split", "`split` belongs below [[processor]]"),
        (f"{AUTH}workers = 4", "$.processor[0].workers", "`workers` belongs at the top, above the first table"),
        ('listen = "x"', "$.listen", "`listen` belongs below [metrics] or [web]"),
        ('nameservers = ["192.0.2.1"]', "$.nameservers", "`nameservers` belongs below [dns]"),
        ("[metrics]\nscan_seconds = 4", "$.metrics.scan_seconds", "`scan_seconds` belongs at the top, above the first table"),
        (
            '[source]\nkind = "export"\nspool_directory = "/x"', "$.source.spool_directory",
            '`spool_directory` belongs below [source] with kind = "queue"',
        ),
        (
            '[exim]\nspool_directory = "/x"', "$.exim.spool_directory",
            '`spool_directory` belongs below [source] with kind = "queue" or [requeue] with kind = "spool"',
        ),
    ],
)  # fmt: skip
def test_a_name_that_another_table_has(text: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text.encode(), Config, file="respool.toml")
    assert caught.value.key == key
    assert caught.value.reason.endswith(f"unknown field `{key.rpartition('.')[2]}`; {expected}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("workerz = 1", "; did you mean `workers`?"),
        (f"{AUTH}splitt = true", "; did you mean `split`?"),
        (f'{SEAL}selektor = "x"', "; did you mean `selector` below [processor.config]?"),
        ('listne = "x"', "; did you mean `listen` below [metrics] or [web]?"),
        (f"{AUTH}when = {{ sender_domain = 1 }}", "; did you mean `sender_domains`?"),
        ("zzzzzz = 1", "unknown field `zzzzzz`"),
        # Of a processor that is not there nothing is known, nor of one in a file before the file is read.
        ('[[processor]]\nuse = "nonsense"\nqqqq = 1', "unknown field `qqqq`"),
        ('[[processor]]\nuse = "/nowhere.py:X"\nqqqq = 1', "unknown field `qqqq`"),
        ("[[processor]]\nqqqq = 1", "unknown field `qqqq`"),
    ],
)
def test_a_name_that_no_table_has(text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        decode(text.encode(), Config, file="respool.toml")
    assert caught.value.reason.endswith(expected)


def test_batch_says_the_same() -> None:
    with pytest.raises(ConfigError, match="`listen` belongs below "):
        decode(b'listen = "x"', BatchConfig, file="batch.toml")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("on_error", "`on_error` belongs below [[processor]]"),
        ("sender_domains", "`sender_domains` belongs below [processor.when]"),
        ("workers", "`workers` belongs at the top, above the first table"),
    ],
)
def test_a_setting_of_the_entry_in_the_config_of_its_processor(name: str, expected: str) -> None:
    entry = ProcessorEntry(use="authentication-results", config={name: "skip"})
    with pytest.raises(ConfigError) as caught:
        build_steps([entry])
    assert caught.value.key == f"$.processor[0].config.{name}"
    assert caught.value.reason.endswith(f"unknown field `{name}`; {expected}")
