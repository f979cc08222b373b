"""A name server in this process, on loopback, over UDP and TCP, that misbehaves on demand.

It answers from a table of functions; dnspython builds its messages, so that two
independent codecs meet in every test.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
import time
from collections.abc import Callable

import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

SOA = "ns.example.org. hostmaster.example.org. 1 3600 600 86400 300"

Reply = bytes | None
Respond = Callable[[dns.message.Message, str], Reply | list[bytes]]
"""Takes the query and "udp" or "tcp"; None: silence; a list: several datagrams."""


def answer(
    query: dns.message.Message,
    *rrsets: str,
    rcode: int = dns.rcode.NOERROR,
    flags: int = 0,
    soa: str | None = None,
    edns: bool = True,
) -> dns.message.Message:
    """A reply; each of rrsets is ``name ttl type data``."""
    reply = dns.message.make_response(query, recursion_available=True)
    reply.set_rcode(dns.rcode.Rcode(rcode))
    reply.flags |= flags
    if not edns:
        reply.use_edns(-1)
    for text in rrsets:
        name, ttl, kind, data = text.split(" ", 3)
        found = dns.rrset.from_text(name, int(ttl), "IN", kind, data)
        reply.answer.append(found)
    if soa is not None:
        reply.authority.append(dns.rrset.from_text(soa, 900, "IN", "SOA", SOA))
    return reply


class NameServer:
    """Listens on one port for both transports; counts what it was asked."""

    def __init__(self, respond: Respond, address: str = "127.0.0.1") -> None:
        self.respond = respond
        self.asked: list[tuple[str, str, str]] = []
        self.queries: list[dns.message.Message] = []
        self.sources: list[tuple[int, int]] = []
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        while True:
            self._udp = socket.socket(family, socket.SOCK_DGRAM)
            self._tcp = socket.socket(family, socket.SOCK_STREAM)
            try:
                self._udp.bind((address, 0))
                port = self._udp.getsockname()[1]
                self._tcp.bind((address, port))
                self._tcp.listen()
                break
            except OSError as error:
                self._udp.close()
                self._tcp.close()
                if error.errno != errno.EADDRINUSE:
                    raise
        self._udp.settimeout(0.05)
        self._tcp.settimeout(0.05)
        self.text = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        self._stopping = False
        self._threads = [
            threading.Thread(target=self._serve_udp, daemon=True),
            threading.Thread(target=self._serve_tcp, daemon=True),
        ]

    def __enter__(self) -> NameServer:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        for listener in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in self._threads:
            thread.join(5)

    def _reply(self, wire: bytes, transport: str) -> list[bytes]:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.asked.append((transport, question.name.to_text(), dns.rdatatype.to_text(question.rdtype)))
        self.queries.append(query)
        reply = self.respond(query, transport)
        if reply is None:
            return []
        return reply if isinstance(reply, list) else [reply]

    def _serve_udp(self) -> None:
        while not self._stopping:
            try:
                wire, sender = self._udp.recvfrom(4096)
            except TimeoutError:
                continue
            except OSError:
                return
            self.sources.append((sender[1], struct.unpack("!H", wire[:2])[0]))
            threading.Thread(target=self._answer_udp, args=(wire, sender), daemon=True).start()

    def _answer_udp(self, wire: bytes, sender: object) -> None:
        for reply in self._reply(wire, "udp"):
            with contextlib.suppress(OSError):
                self._udp.sendto(reply, sender)  # type: ignore[call-overload]

    def _serve_tcp(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._tcp.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(60)
                size = struct.unpack("!H", connection.recv(2))[0]
                for reply in self._reply(connection.recv(size), "tcp"):
                    framed = struct.pack("!H", len(reply)) + reply
                    connection.sendall(framed[:5])
                    time.sleep(0.001)
                    connection.sendall(framed[5:])
