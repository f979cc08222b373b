"""What a lookup costs: a table against the raw lmdb call, DNS against dnspython's resolver.

Run ``python benchmarks/lookup.py``. CPU time of this process, the best of several rounds;
only the ratios of one run mean anything. The name server runs in a process of its own.
Every result is compared with what it must be.
"""

from __future__ import annotations

import multiprocessing
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import dns.resolver
import lmdb

from respool.lookups.resolver import DnsResolver
from respool.lookups.table_build import build
from respool.lookups.table_reference import TableReference
from respool.lookups.tables import LmdbTable

KEYS = 100_000
QUESTIONS = 2_000
TEXT = b"v=DMARC1; p=none; rua=mailto:reports@example.org"


def microseconds(run: Callable[[], None], count: int, rounds: int = 5) -> float:
    best = float("inf")
    for _ in range(rounds):
        started = time.process_time()
        run()
        best = min(best, time.process_time() - started)
    return best / count * 1e6


def tables() -> None:
    with tempfile.TemporaryDirectory() as directory:
        source, path = str(Path(directory, "source")), str(Path(directory, "table.mdb"))
        with open(source, "w", encoding="ascii") as file:
            file.writelines(f"user{number}@example.org: route {number}\n" for number in range(KEYS))
        build(source, path)
        numbers = [number * 7919 % KEYS for number in range(KEYS)]
        keys = [b"user%d@example.org" % number for number in numbers]

        env = lmdb.open(path, subdir=False, readonly=True)

        def in_one_transaction() -> None:
            with env.begin() as transaction:
                for key in keys:
                    transaction.get(key)

        def in_a_transaction_each() -> None:
            for key in keys:
                with env.begin() as transaction:
                    transaction.get(key)

        raw = microseconds(in_one_transaction, KEYS)
        each = microseconds(in_a_transaction_each, KEYS)
        env.close()

        table = LmdbTable(path)
        if [table.get(key) for key in keys] != [b"route %d" % number for number in numbers]:
            sys.exit("wrong values")
        reference = TableReference.parse(f"lmdb*@;{path}")

        def through_the_table() -> None:
            for key in keys:
                table.get(key)

        def absent_with_wildcards() -> None:
            for key in keys:
                table.find(reference, b"x" + key)

        ours = microseconds(through_the_table, KEYS)
        wild = microseconds(absent_with_wildcards, KEYS)
    print(f"lmdb get, one transaction for all   {raw:7.2f} us")
    print(f"lmdb get, a transaction each        {each:7.2f} us")
    print(f"LmdbTable.get                       {ours:7.2f} us   {ours - raw:+.2f} us over the raw call")
    print(f"LmdbTable.find, absent, lmdb*@      {wild:7.2f} us   three keys")


def serve(ready: Connection) -> None:
    """Answer every question with the same TXT record, as fast as Python can."""
    record = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x01\x2c" + (len(TEXT) + 1).to_bytes(2, "big")
    record += bytes([len(TEXT)]) + TEXT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        ready.send(udp.getsockname()[1])
        while True:
            wire, sender = udp.recvfrom(4096)
            question = wire[12 : wire.index(b"\0", 12) + 5]
            udp.sendto(wire[:2] + b"\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00" + question + record, sender)


def names() -> None:
    ours, theirs = multiprocessing.Pipe(duplex=False)
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,), daemon=True)
    server.start()
    port = ours.recv()
    resolver = DnsResolver([f"127.0.0.1:{port}"], cache_size=QUESTIONS)
    peer = dns.resolver.Resolver(configure=False)
    peer.nameservers, peer.port = ["127.0.0.1"], port
    asked = [f"_dmarc.d{number}.example.org" for number in range(QUESTIONS)]
    if {resolver.txt(name).records for name in asked} != {(TEXT,)}:
        sys.exit("wrong answers")

    def uncached() -> None:
        resolver.forget()
        for name in asked:
            resolver.txt(name)

    def cached() -> None:
        for name in asked:
            resolver.txt(name)

    def by_dnspython() -> None:
        for name in asked:
            peer.resolve(name, "TXT")

    fresh, kept = microseconds(uncached, QUESTIONS), microseconds(cached, QUESTIONS)
    peer_fresh = microseconds(by_dnspython, QUESTIONS, 3)
    peer.cache = dns.resolver.LRUCache(QUESTIONS)
    by_dnspython()
    peer_kept = microseconds(by_dnspython, QUESTIONS, 3)
    server.terminate()
    server.join()
    for kind, us, peer_us in (("uncached", fresh, peer_fresh), ("cached", kept, peer_kept)):
        print(
            f"DnsResolver, {kind:8}               {us:7.2f} us   dnspython {peer_us:.1f} us, {peer_us / us:.1f} times"
        )


if __name__ == "__main__":
    tables()
    names()
