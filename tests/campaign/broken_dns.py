"""A name server for the samples' names that can be broken in every way that the network knows."""

from __future__ import annotations

import random
import time
from typing import Final, Literal

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset
import dns.zone

from tests.unit.lookups.name_server import NameServer, Reply, answer

Mood = Literal["well", "silent", "refuses", "lies", "truncates", "loops", "nonsense", "slow"]
MOODS: Final[tuple[Mood, ...]] = ("silent", "refuses", "lies", "truncates", "loops", "nonsense", "slow")


class BrokenDns:
    """Answers from a master file while mood is ``well``; address is what a resolver is given."""

    def __init__(self, text: str) -> None:
        self.mood: Mood = "well"
        self._zone = dns.zone.from_text(
            "@ 0 IN SOA ns.example. h.example. 1 3600 600 86400 0\n@ IN NS ns.example.\n" + text,
            origin=dns.name.root, relativize=False, check_origin=False,
        )  # fmt: skip
        self._chance = random.Random(1)
        self._server = NameServer(self._respond)
        self.address = self._server.text

    def __enter__(self) -> BrokenDns:
        self._server.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def asked(self) -> int:
        """How many questions have come."""
        return len(self._server.asked)

    def _respond(self, query: dns.message.Message, transport: str) -> Reply | list[bytes]:
        question = query.question[0]
        match self.mood:
            case "silent":
                return None
            case "refuses":
                return answer(query, rcode=dns.rcode.SERVFAIL).to_wire()
            case "lies":
                # Another's answers: a wrong id, a wrong question, and never the right one.
                other = dns.message.make_query("liar.example.", "TXT")
                wrong_id = dns.message.from_wire(query.to_wire())
                wrong_id.id ^= 0x5555
                return [
                    answer(wrong_id, f"{question.name} 60 A 203.0.113.66").to_wire(),
                    answer(other, 'liar.example. 60 TXT "v=spf1 +all"').to_wire(),
                ]
            case "truncates":
                reply = answer(query, flags=dns.flags.TC)
                return reply.to_wire() if transport == "udp" else reply.to_wire()[:7]
            case "loops":
                return answer(
                    query, f"{question.name} 60 CNAME a.loop.example.", "a.loop.example. 60 CNAME b.loop.example.",
                    "b.loop.example. 60 CNAME a.loop.example.",
                ).to_wire()  # fmt: skip
            case "nonsense":
                return query.to_wire()[:2] + self._chance.randbytes(self._chance.randrange(0, 600))
            case "slow":
                time.sleep(self._chance.uniform(0, 1.5))
            case "well":
                pass
        return self._truthful(query)

    def _truthful(self, query: dns.message.Message) -> bytes:
        question = query.question[0]
        node = self._zone.get_node(question.name)
        if node is None:
            return answer(query, rcode=dns.rcode.NXDOMAIN, soa=".").to_wire()
        found = node.get_rdataset(question.rdclass, question.rdtype)
        if found is None:
            return answer(query, soa=".").to_wire()
        reply = answer(query)
        reply.answer.append(dns.rrset.from_rdata_list(question.name, found.ttl, list(found)))
        return reply.to_wire()
