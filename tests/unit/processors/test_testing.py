"""respool.testing, as a plugin author uses it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from respool import (
    ConfigError,
    Context,
    Message,
    Part,
    Processor,
    ProcessorConfig,
    Verdict,
    add_header,
    hold,
    set_queue,
    split,
)
from respool.processors import registry
from respool.spool.header_file import parse_header_file, render_header_file
from respool.testing import Ran, make_message, read_message, run

SAMPLES = Path(__file__).resolve().parents[3] / "samples"


class Divider(Processor[ProcessorConfig]):
    def process(self, message: Message, context: Context) -> Verdict:
        if len(message.undelivered) == 1:
            return hold("only one")
        return split(
            Part((message.undelivered[0].address,), (add_header("X-Part", "1"), set_queue("first"))),
            Part((b"x@nobody.example",)),
        )


def test_a_message_is_one_that_exim_could_have_written() -> None:
    for message in (
        make_message(),
        make_message(sender="", body=b""),
        make_message(client_address=None, authenticated="root"),
        make_message(authenticated="alice", client_address="2001:db8::1", variables={"acl_m_x": "a\nb"}),
        make_message(
            [("From", "J\u00fcrgen <j\u00fcrgen@b\u00fccher.example>"), b"X-Raw: \xff\n"],
            body=b"x\r\n",
            wireformat=True,
        ),
    ):
        content = render_header_file(message.envelope)
        assert parse_header_file(content, file="-H") == message.envelope


def test_the_client_is_what_it_was_said_to_be() -> None:
    message = make_message(client_address="198.51.100.7", helo="h.example", authenticated="alice")
    assert message.envelope.host_address == b"198.51.100.7"
    assert message.envelope.helo_name == b"h.example"
    assert message.envelope.auth_id == b"alice"
    assert make_message(client_address=None).envelope.host_address is None


def test_run_builds_the_processor_as_a_configuration_does() -> None:
    headers = registry.find("headers")
    ran = run(headers, config={"add": [{"name": "X-A", "value": "1"}], "remove": ["Subject"]})
    assert ran.header("X-A") == ("1",)
    assert ran.header("subject") == ()
    with pytest.raises(ConfigError, match="did you mean `remove`"):
        run(headers, config={"remov": []})
    with pytest.raises(ValueError, match="made already"):
        run(Divider(ProcessorConfig()), config={})


def test_parts_and_endings() -> None:
    ran = run(Divider, make_message(recipients=("a@x.example", "b@x.example")))
    assert [[r.address for r in message.undelivered] for message in ran.messages] == [[b"a@x.example", b"b@x.example"]]
    assert ran.header("X-Part") == ("1",)
    ended = run(Divider, make_message())
    assert ended.messages == ()
    with pytest.raises(AssertionError, match="0 messages go on"):
        _ = ended.message


def test_dns_is_the_text_that_is_given() -> None:
    auth = registry.find("auth")
    zone = 'sender.example. TXT "v=spf1 ip4:192.0.2.1 -all"\n_dmarc.sender.example. TXT "v=DMARC1; p=reject"\n'
    ran = run(auth, zone=zone)
    assert ran.variables["acl_m_dmarc_status"] == b"accept"
    assert (ran.results[0].method, ran.results[0].result.value) == ("spf", "pass")
    broken = run(auth, zone=f";! fail TXT _dmarc.sender.example\n{zone}")
    assert "temperror" in {result.result.value for result in broken.results}


def test_samples_can_be_read() -> None:
    for path in SAMPLES.glob("spool/spf*/*-H"):
        assert render_header_file(read_message(path).envelope) == path.read_bytes()


def test_the_fixtures_are_these_functions(
    run_processor: Callable[..., Ran], make_spool_message: Callable[..., Message]
) -> None:
    assert run_processor is run
    assert make_spool_message is make_message
