"""Messages of every kind, delivered right by Exim after they went through respool."""

from __future__ import annotations

from collections import Counter

import pytest

from ..scripted_smtp import ScriptedSmtp
from .conftest import EximFactory
from .exim import Exim
from .exim_configuration import EXIM
from .queuefile import run_attempt
from .sidecar import Sidecar

pytestmark = pytest.mark.exim

BODY = b"From: a@sender.example\r\nSubject: x\r\nMessage-ID: <%s@sender.example>\r\n\r\none\r\n.two\r\n"
HEADERS = '[[processor]]\nuse = "headers"\nconfig = { add = [{ name = "X-Checked", value = "yes" }] }\n'
SPLIT = """
from respool import Part, Processor, ProcessorConfig, split
class Config(ProcessorConfig):
    pass
class SplitEach(Processor[Config]):
    def process(self, message, context):
        return split(*(Part((r.address,)) for r in message.undelivered))
"""


def through(exim: Exim, sidecar: Sidecar, message_id: str) -> tuple[str, ...]:
    run_attempt(exim.spool, message_id, sidecar.export)
    result = sidecar.once()
    assert result.returncode == 0, result.stderr.decode()
    ids = exim.pairs()
    assert ids
    return ids


def test_many_recipients_split_into_a_message_each(exim: Exim) -> None:
    plugin = exim.directory / "plugin.py"
    plugin.write_text(SPLIT)
    plugin.chmod(0o600)
    sidecar = Sidecar(exim, processors=f'[[processor]]\nuse = "{plugin}:SplitEach"\n' + HEADERS)
    recipients = [f"r{number}@file.example" for number in range(20)]
    message_id = exim.receive(BODY % b"many", recipients=recipients)
    ids = through(exim, sidecar, message_id)
    assert len(ids) == 20
    assert message_id in ids
    exim.deliver(*ids)
    assert Counter(delivery.recipient for delivery in exim.deliveries()) == Counter(recipients)


def test_null_sender(exim: Exim) -> None:
    sidecar = Sidecar(exim, processors=HEADERS)
    ids = through(exim, sidecar, exim.receive(BODY % b"bounce", sender=""))
    exim.deliver(*ids)
    (delivery,) = exim.deliveries()
    assert delivery.sender == ""
    assert delivery.content.startswith(b"X-Checked: yes\n")


def test_frozen_stays_frozen_until_it_is_thawed(exim: Exim) -> None:
    sidecar = Sidecar(exim, processors=HEADERS)
    message_id = exim.receive(BODY % b"frozen")
    exim.command("-Mf", message_id)
    assert b"\n-frozen " in exim.spool_file(message_id, "-H").read_bytes()
    ids = through(exim, sidecar, message_id)
    exim.run_queue()
    assert exim.deliveries() == ()
    exim.command("-Mt", *ids)
    exim.deliver(*ids)
    assert len(exim.deliveries()) == 1


def test_partly_delivered_goes_to_the_others_alone(exim: Exim) -> None:
    message_id = exim.receive(BODY % b"partly", recipients=("a@file.example", "b@defer.example", "c@file.example"))
    exim.deliver(message_id)
    assert sorted(delivery.recipient for delivery in exim.deliveries()) == ["a@file.example", "c@file.example"]
    sidecar = Sidecar(exim, processors=HEADERS)
    ids = through(exim, sidecar, message_id)
    exim.deliver(*ids)
    assert len(exim.deliveries()) == 2, "delivered again"
    header_file = exim.spool_file(ids[0], "-H").read_bytes()
    assert b" a@file.example\n" in header_file
    assert exim.pairs() == ids, "b is still deferred"


ONE_TIME = """
half_listing:
  driver = redirect
  domains = half.example
  one_time
  data = x@file.example, y@defer.example
"""


def test_one_time_children_keep_their_parent(start_exim: EximFactory) -> None:
    exim = start_exim(routers=ONE_TIME)
    message_id = exim.receive(BODY % b"once", recipients=("a@defer.example", "c@half.example"))
    exim.deliver(message_id)
    child = b"y@defer.example  0,0  0,1#3\n"
    assert child in exim.spool_file(message_id, "-H").read_bytes()
    sidecar = Sidecar(exim, processors=HEADERS)
    ids = through(exim, sidecar, message_id)
    assert child in exim.spool_file(ids[0], "-H").read_bytes()
    exim.deliver(*ids)
    assert Counter(delivery.recipient for delivery in exim.deliveries()) == {"x@file.example": 1}


def test_wire_format(start_exim: EximFactory) -> None:
    exim = start_exim(wireformat=True)
    sidecar = Sidecar(exim, processors=HEADERS)
    message_id = exim.receive(BODY % b"wire", chunking=True)
    before = exim.spool_file(message_id, "-D").read_bytes()
    assert b"\r\n" in before
    ids = through(exim, sidecar, message_id)
    assert exim.spool_file(ids[0], "-D").read_bytes() == before
    exim.deliver(*ids)
    (delivery,) = exim.deliveries()
    assert delivery.content.endswith(b"\n\none\n.two\n")


def test_dsn_parameters_reach_the_next_host(start_exim: EximFactory, smtp_sink: ScriptedSmtp) -> None:
    exim = start_exim(remote_port=smtp_sink.port)
    sidecar = Sidecar(exim, processors=HEADERS)
    message_id = exim.receive(
        BODY % b"dsn",
        recipients=["b@remote.example"],
        mail_options=["RET=HDRS", "ENVID=x+2B1"],
        rcpt_options={"b@remote.example": ["NOTIFY=FAILURE,DELAY", "ORCPT=rfc822;o@remote.example"]},
    )
    exim.deliver(*through(exim, sidecar, message_id))
    (message,) = smtp_sink.messages
    assert b"ENVID=x+2B1" in message.mail
    assert b"RET=HDRS" in message.mail
    assert message.recipients == (b"<b@remote.example> NOTIFY=FAILURE,DELAY ORCPT=rfc822;o@remote.example",)


@pytest.mark.exim("I18N")
def test_smtputf8(start_exim: EximFactory, smtp_sink: ScriptedSmtp) -> None:
    exim = start_exim(remote_port=smtp_sink.port)
    sidecar = Sidecar(exim, processors=HEADERS)
    message_id = exim.receive(
        BODY % b"utf8", sender="sénder@sender.example", recipients=["ü@remote.example"],
        mail_options=["SMTPUTF8", "BODY=8BITMIME"],
    )  # fmt: skip
    exim.deliver(*through(exim, sidecar, message_id))
    (message,) = smtp_sink.messages
    assert b"SMTPUTF8" in message.mail
    assert message.recipients == ("<ü@remote.example>".encode(),)


def test_told_by_command_exim_delivers(start_exim: EximFactory) -> None:
    exim = start_exim()
    script = exim.directory / "exim"
    script.write_text(f'#!/bin/sh\nexec {EXIM} -C {exim.configuration} "$@"\n')
    script.chmod(0o755)
    sidecar = Sidecar(exim, requeue='notify = "command"', extra=f'[exim]\ncommand = "{script}"\n')
    message_id = exim.receive(BODY % b"told")
    run_attempt(exim.spool, message_id, sidecar.export)
    assert sidecar.once().returncode == 0
    exim.wait_for(lambda other: len(other.deliveries()) == 1)


@pytest.mark.parametrize("consumed_at_once", [True, False])
def test_three_exports_of_a_naive_router_are_three_deliveries(exim: Exim, consumed_at_once: bool) -> None:
    """A plain accept router: one export for each recipient, each with all three of them in it."""
    recipients = [f"r{number}@file.example" for number in range(3)]
    sidecar = Sidecar(exim, processors=HEADERS)
    message_id = exim.receive(BODY % b"naive", recipients=recipients)
    for attempt in range(3):
        steps = run_attempt(exim.spool, message_id, sidecar.export, naive=True)
        assert steps.count("exported") == 1
        assert sidecar.once().returncode == 0
        if consumed_at_once:
            # Not the original, which Exim's own attempts are about.
            exim.deliver(*(one for one in exim.pairs() if one != message_id or attempt == 2))
    exim.deliver(*exim.pairs())
    assert Counter(delivery.recipient for delivery in exim.deliveries()) == Counter(recipients)
    assert exim.pairs() == ()
    for state in ("work", "deferred", "held", "corrupt"):
        assert sidecar.in_state(state) == []


def test_frozen_by_a_processor(exim: Exim) -> None:
    """Requeued frozen: Exim keeps it until somebody thaws it, and then delivers it."""
    plugin = exim.directory / "freezes.py"
    plugin.write_text(
        "from respool import Processor, ProcessorConfig, freeze\n"
        "class Config(ProcessorConfig):\n    pass\n"
        "class Freezes(Processor[Config]):\n"
        "    def process(self, message, context):\n        return freeze('look at it')\n"
    )
    plugin.chmod(0o600)
    sidecar = Sidecar(exim, processors=f'[[processor]]\nuse = "{plugin}:Freezes"\n' + HEADERS)
    ids = through(exim, sidecar, exim.receive(BODY % b"freezes"))
    exim.run_queue()
    assert exim.deliveries() == ()
    exim.command("-Mt", *ids)
    exim.deliver(*ids)
    (delivery,) = exim.deliveries()
    assert delivery.content.startswith(b"X-Checked: yes\n")
