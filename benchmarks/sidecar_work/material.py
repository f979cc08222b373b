"""The export that is drained: messages of 10 KB with a DKIM signature and an ARC set, and what verifies them.

Diagnostics: AssertionError where the messages can't be made.
"""

from __future__ import annotations

import random
import time
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct

from respool.spool.body import BytesBody
from respool.spool.directive import Directive
from respool.spool.editing import with_body, with_id
from respool.spool.envelope import Envelope, Header, Recipient
from respool.spool.header_file import render_header_file
from respool.spool.ids import MessageId

from ..authentication_work.messages import AUTHSERV_ID, CLIENT, HELO, SEALING_DOMAIN, SELECTOR, SENDER, make_case, zone

SIZE, SETS = 10_000, 1
_KINDS = 20
_ID = MessageId("1xV9Vo-000000-2c")

PLAIN = f"""
hostname = "{AUTHSERV_ID}"
state_directory = "{{root}}/state"
workers = {{workers}}
[source]
kind = "export"
directory = "{{root}}/export"
[requeue]
kind = "spool"
spool_directory = "{{root}}/spool"
notify = "none"
[dns]
zone_file = "{{root}}/zone"
"""
CONFIG = f"""{PLAIN}
[[processor]]
use = "auth"
[[processor]]
use = "authentication-results"
[[processor]]
use = "arc-seal"
config = {{{{ domain = "{SEALING_DOMAIN}", selector = "{SELECTOR}", key_file = "{{root}}/key.pem" }}}}
"""


class Material(Struct, frozen=True):
    """A key, and messages that it signed and sealed."""

    key: RSAPrivateKey
    envelopes: tuple[tuple[Envelope, bytes], ...]

    def write(self, root: Path, count: int) -> None:
        """An export of count messages below root, an empty spool, the key and the zone."""
        for directory in ("export", "spool/input"):
            (root / directory).mkdir(parents=True, mode=0o750)
        for number in range(count):
            envelope, body = self.envelopes[number % len(self.envelopes)]
            message_id = MessageId(f"{_ID[:7]}{number:06d}{_ID[13:]}")
            (root / "export" / message_id.data_name).write_bytes(message_id.data_name.encode() + b"\n" + body)
            (root / "export" / message_id.header_name).write_bytes(render_header_file(with_id(envelope, message_id)))
        pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        (root / "key.pem").touch(mode=0o600)
        (root / "key.pem").write_bytes(pem)
        (root / "zone").write_text("".join(_zone_line(name, text) for name, text in zone(self.key).items()))


def make_material(*, size: int = SIZE, sets: int = SETS, kinds: int = _KINDS) -> Material:
    """Some messages with bodies of size bytes, each signed and sealed for itself."""
    key, maker, now = generate_private_key(public_exponent=65537, key_size=2048), random.Random(1), int(time.time())
    cases = [make_case(number, size, sets, key, now, maker) for number in range(kinds)]
    return Material(key, tuple((_envelope(case.fields, case.body, now), case.body) for case in cases))


def _envelope(fields: tuple[bytes, ...], body: bytes, now: int) -> Envelope:
    envelope = Envelope(
        id=_ID, login=b"exim", uid=8, gid=8, sender=SENDER.encode(), received_time=now, warning_count=0,
        directives=(
            Directive.make(b"helo_name", HELO.encode()), Directive.make(b"host_address", b"[%b]:25" % CLIENT.encode()),
            Directive.make(b"received_protocol", b"esmtp"), Directive.make(b"deliver_firsttime"),
        ),
        recipients=(Recipient.make(b"bob@example.net"),), headers=tuple(Header(" ", raw) for raw in fields),
    )  # fmt: skip
    return with_body(envelope, BytesBody(body))


def _zone_line(name: str, text: bytes) -> str:
    strings = " ".join(f'"{text[start : start + 200].decode()}"' for start in range(0, len(text), 200))
    return f"{name}. TXT {strings}\n"
