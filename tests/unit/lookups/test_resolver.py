"""The resolver against a name server that answers, lies, keeps silent and talks nonsense."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest

from respool.errors import ConfigError, TemporaryError
from respool.lookups.dns import Answer, DnssecStatus, DnsTemporaryError, MailExchanger, TlsaRecord
from respool.lookups.nameservers import Nameserver, parse_nameserver, read_resolv_conf
from respool.lookups.resolver import DnsResolver

from .name_server import NameServer, Reply, Respond, answer

Message = dns.message.Message


def fixed(*rrsets: str, **keywords: object) -> Respond:
    return lambda query, _: answer(query, *rrsets, **keywords).to_wire()  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that answers is waited for, and not asked twice, however busy this machine is."""
    monkeypatch.setattr("respool.lookups.resolver._FIRST_WAIT", 60.0)


def resolver(*servers: NameServer | str, timeout: float = 120.0, **keywords: object) -> DnsResolver:
    names = [server if isinstance(server, str) else server.text for server in servers]
    return DnsResolver(names, timeout=timeout, **keywords)  # type: ignore[arg-type]


def silent(query: Message, transport: str) -> Reply:
    return None


def test_every_type() -> None:
    zone = {
        "TXT": ['example.org. 300 TXT "v=spf1 " "-all"'],
        "A": ["example.org. 300 A 192.0.2.1"],
        "AAAA": ["example.org. 300 AAAA 2001:0DB8:0::1"],
        "MX": ["example.org. 300 MX 20 B.example.org.", "example.org. 300 MX 10 a.example.org."],
        "TLSA": ["example.org. 300 TLSA 3 1 1 " + "ab" * 32],
        "PTR": ["1.2.0.192.in-addr.arpa. 300 PTR Mail.Example.ORG."],
    }

    def respond(query: Message, _: str) -> Reply:
        return answer(query, *zone[dns.rdatatype.to_text(query.question[0].rdtype)]).to_wire()

    with NameServer(respond) as server:
        dns_ = resolver(server)
        assert dns_.txt("example.org").records == (b"v=spf1 -all",)
        assert dns_.addresses("Example.ORG.", 4).records == ("192.0.2.1",)
        assert dns_.addresses("example.org", 6).records == ("2001:db8::1",)
        assert dns_.mail_exchangers("example.org").records == (
            MailExchanger(10, "a.example.org"),
            MailExchanger(20, "b.example.org"),
        )
        assert dns_.tlsa("example.org").records == (TlsaRecord(3, 1, 1, b"\xab" * 32),)
        assert dns_.pointers("192.0.2.1").records == ("mail.example.org",)
        assert dns_.pointers("nonsense") == Answer(exists=False)


def test_over_ipv6() -> None:
    try:
        server = NameServer(fixed('example.org. 300 TXT "six"'), "::1")
    except OSError:
        pytest.skip("no IPv6 loopback here")
    with server:
        assert resolver(server).txt("example.org").records == (b"six",)


def test_absence_is_an_answer() -> None:
    with NameServer(fixed(rcode=dns.rcode.NXDOMAIN, soa="example.org.")) as server:
        missing = resolver(server).txt("nope.example.org")
    assert (missing.records, missing.exists) == ((), False)
    with NameServer(fixed(soa="example.org.")) as server:
        empty = resolver(server).txt("example.org")
    assert (empty.records, empty.exists) == ((), True)


@pytest.mark.parametrize("name", ["", ".", "a..b", ".a", "x" * 64 + ".org", "a." * 130 + "org", "bücher.example"])
def test_what_is_no_dns_name_is_not_asked(name: str) -> None:
    with NameServer(fixed('example.org. 300 TXT "x"')) as server:
        assert resolver(server).txt(name) == Answer(exists=False)
        assert server.asked == []


def test_null_mx_and_strange_host_names() -> None:
    with NameServer(fixed("example.org. 300 MX 0 .")) as server:
        assert resolver(server).mail_exchangers("example.org").records == (MailExchanger(0, ""),)
    with NameServer(fixed(r"example.org. 300 MX 0 a\.b\010\255.example.org.")) as server:
        assert resolver(server).mail_exchangers("example.org").records == (
            MailExchanger(0, r"a\046b\010\255.example.org"),
        )


def test_aliases() -> None:
    chain = ["a.example. 300 CNAME B.example.", "b.example. 60 CNAME c.example.", 'c.example. 300 TXT "end"']
    with NameServer(fixed(*chain)) as server:
        found = resolver(server).txt("a.example")
    assert (found.records, found.canonical) == ((b"end",), "c.example")


def test_alias_that_the_reply_does_not_follow_is_asked_for() -> None:
    def respond(query: Message, _: str) -> Reply:
        if query.question[0].name.to_text() == "a.example.":
            return answer(query, "a.example. 300 CNAME b.example.").to_wire()
        return answer(query, 'b.example. 300 TXT "end"').to_wire()

    with NameServer(respond) as server:
        assert resolver(server).txt("a.example").records == (b"end",)
        assert [name for _, name, _ in server.asked] == ["a.example.", "b.example."]


def test_alias_to_nowhere() -> None:
    chain = "a.example. 300 CNAME b.example."
    with NameServer(fixed(chain, rcode=dns.rcode.NXDOMAIN, soa="example.")) as server:
        assert resolver(server).txt("a.example").exists is False
    with NameServer(fixed(chain, soa="example.")) as server:
        found = resolver(server).txt("a.example")
        assert (found.records, found.exists) == ((), True)


def _endless(query: Message, _: str) -> Reply:
    name = query.question[0].name.to_text()
    return answer(query, f"{name} 300 CNAME x{name}").to_wire()


TROUBLE: dict[str, Respond] = {
    "SERVFAIL": fixed(rcode=dns.rcode.SERVFAIL),
    "REFUSED": fixed(rcode=dns.rcode.REFUSED),
    "NOTIMP": fixed(rcode=dns.rcode.NOTIMP),
    "code 9": fixed(rcode=9),
    "timeout": silent,
    "circle": fixed("example.org. 300 CNAME b.example.", "b.example. 300 CNAME example.org."),
    "leads in a circle, or too far": _endless,
    "timeout ": lambda query, _: b"\xff" * 600,
    "timeout  ": lambda query, _: b"",
    "malformed": lambda query, _: answer(query, 'example.org. 300 TXT "x"').to_wire()[:-20],
    "malformed ": lambda query, _: (
        query.to_wire()[:2] + b"\x80\x00\x00\x01\xff\xff\xff\xff\xff\xff" + query.to_wire()[12:]
    ),
    "cut off, over TCP": fixed(flags=dns.flags.TC),
    "ended early": lambda query, transport: answer(query, flags=dns.flags.TC).to_wire() if transport == "udp" else None,
}


@pytest.mark.parametrize("kind", TROUBLE)
def test_all_trouble_is_temporary(kind: str) -> None:
    seconds = 0.5 if kind.strip() == "timeout" else 120.0
    with NameServer(TROUBLE[kind]) as server, pytest.raises(DnsTemporaryError, match=kind.strip()) as caught:
        resolver(server, timeout=seconds).txt("example.org")
    assert isinstance(caught.value, TemporaryError)
    assert caught.value.question == "example.org TXT"


def test_no_server_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        # Nobody else can have the port, and connected elsewhere this socket takes nothing from us.
        taken.bind(("127.0.0.1", 0))
        taken.connect(("127.0.0.1", 9))
        port = taken.getsockname()[1]
        with pytest.raises(DnsTemporaryError, match="refused"):
            resolver(f"127.0.0.1:{port}").txt("example.org")


def test_long_answer_comes_over_tcp() -> None:
    texts = [f'example.org. 300 TXT "{number:04d}{"x" * 200}"' for number in range(150)]

    def respond(query: Message, transport: str) -> Reply:
        if transport == "udp":
            return answer(query, texts[0], flags=dns.flags.TC).to_wire()
        return answer(query, *texts).to_wire(max_size=65535)

    with NameServer(respond) as server:
        found = resolver(server).txt("example.org")
        assert len(found.records) == 150
        assert [transport for transport, _, _ in server.asked] == ["udp", "tcp"]


def test_replies_to_other_questions_are_passed_over() -> None:
    def respond(query: Message, _: str) -> list[bytes]:
        good = answer(query, 'example.org. 300 TXT "good"').to_wire()
        forged = answer(query, 'example.org. 300 TXT "forged"').to_wire()
        wrong_id = bytes([forged[0] ^ 1]) + forged[1:]
        other = dns.message.make_query("evil.example", "TXT")
        other.id = query.id
        wrong_name = answer(other, 'evil.example. 300 TXT "forged"').to_wire()
        wrong_type = dns.message.make_query("example.org", "A")
        wrong_type.id = query.id
        not_a_reply = forged[:2] + bytes([forged[2] & 0x7F]) + forged[3:]
        return [wrong_id, wrong_name, answer(wrong_type).to_wire(), not_a_reply, b"", good]

    with NameServer(respond) as server:
        assert resolver(server).txt("example.org").records == (b"good",)


def test_records_of_other_names_are_not_taken() -> None:
    with NameServer(fixed('evil.example. 300 TXT "forged"', soa="example.org.")) as server:
        assert resolver(server).txt("example.org").records == ()


def test_server_may_change_the_case_of_the_question() -> None:
    def respond(query: Message, _: str) -> Reply:
        wire = answer(query, 'example.org. 300 TXT "x"').to_wire()
        return wire.replace(b"\x07example", b"\x07EXAMPLE")

    with NameServer(respond) as server:
        assert resolver(server).txt("example.org").records == (b"x",)


def test_every_question_has_its_own_port_and_id() -> None:
    with NameServer(fixed(soa="example.org.")) as server:
        dns_ = resolver(server)
        for number in range(40):
            dns_.txt(f"n{number}.example.org")
        ports, identifiers = ({source[index] for source in server.sources} for index in (0, 1))
    assert len(ports) > 30
    assert len(identifiers) > 30


def test_server_without_edns() -> None:
    def respond(query: Message, _: str) -> Reply:
        if query.edns >= 0:
            return query.to_wire()[:2] + b"\x81\x81" + bytes(8)  # FORMERR, nothing else
        return answer(query, 'example.org. 300 TXT "old"').to_wire()

    with NameServer(respond) as server:
        assert resolver(server).txt("example.org").records == (b"old",)


def test_question_says_what_we_take() -> None:
    with NameServer(fixed(soa="example.org.")) as server:
        resolver(server).txt("example.org")
        query = server.queries[0]
    assert query.payload == 1232
    assert query.flags & dns.flags.AD
    assert query.flags & dns.flags.RD
    assert not query.flags & dns.flags.CD


def short(query: Message, transport: str) -> Reply:
    return answer(query).to_wire()[:20]


@pytest.mark.parametrize("bad", [silent, fixed(rcode=dns.rcode.SERVFAIL), short])
def test_next_server_is_asked(bad: Respond, monkeypatch: pytest.MonkeyPatch) -> None:
    with NameServer(bad) as first, NameServer(fixed('example.org. 300 TXT "x"')) as second:
        dns_ = resolver(first, second, timeout=30)
        with monkeypatch.context() as hasty:
            hasty.setattr("respool.lookups.resolver._FIRST_WAIT", 0.5)
            assert dns_.txt("example.org").records == (b"x",)
        first.asked.clear()
        dns_.txt("other.example.org")
        assert first.asked == [], "the one that answered last is asked first"


def test_a_lost_packet_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respool.lookups.resolver._FIRST_WAIT", 0.5)
    seen: list[int] = []

    def respond(query: Message, _: str) -> Reply:
        seen.append(query.id)
        return None if len(seen) == 1 else answer(query, 'example.org. 300 TXT "x"').to_wire()

    with NameServer(respond) as server:
        assert resolver(server).txt("example.org").records == (b"x",)


def test_deadline_holds_whatever_the_servers_do() -> None:
    def dribble(query: Message, _: str) -> list[bytes]:
        return [b"\0" * 20] * 50

    with NameServer(silent) as one, NameServer(dribble) as two:
        dns_ = resolver(one, two)
        started = time.monotonic()
        with pytest.raises(DnsTemporaryError):
            dns_.txt("example.org", deadline=started + 0.3)
        assert time.monotonic() - started < 60
        with pytest.raises(DnsTemporaryError, match="deadline"):
            dns_.txt("example.org", deadline=started)


# Cache


def test_answers_are_kept_for_their_ttl(monkeypatch: pytest.MonkeyPatch) -> None:
    with NameServer(fixed('example.org. 300 TXT "x"')) as server:
        dns_ = resolver(server)
        now = time.monotonic()
        monkeypatch.setattr(dns_._cache, "_clock", lambda: now)
        for _ in range(3):
            dns_.txt("example.org")
            dns_.txt("EXAMPLE.org.")
        assert len(server.asked) == 1
        now += 299
        dns_.txt("example.org")
        assert len(server.asked) == 1
        now += 2
        dns_.txt("example.org")
        assert len(server.asked) == 2
        dns_.forget()
        dns_.txt("example.org")
        assert len(server.asked) == 3
        assert dns_.statistics().hits == 6


@pytest.mark.parametrize(
    ("respond", "seconds"),
    [
        (fixed(soa="example.org."), 300),  # MINIMUM of the SOA, less than its TTL of 900
        (fixed(rcode=dns.rcode.NXDOMAIN, soa="example.org."), 300),
        (fixed(), 5),  # no SOA: nobody said how long; only our minimum
        (fixed(soa="other.example."), 5),
        (fixed('example.org. 1 TXT "x"'), 5),
        (fixed('example.org. 999999999 TXT "x"'), 86400),
        (fixed("example.org. 20 CNAME b.example.", 'b.example. 300 TXT "x"'), 20),
    ],
)
def test_time_kept(respond: Respond, seconds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with NameServer(respond) as server:
        dns_ = resolver(server)
        now = time.monotonic()
        monkeypatch.setattr(dns_._cache, "_clock", lambda: now)
        dns_.txt("example.org")
        [(expires, _)] = dns_._cache._kept.values()
    assert expires - now == pytest.approx(seconds, abs=0.01)


def test_cache_is_bounded() -> None:
    with NameServer(fixed(soa="example.org.")) as server:
        dns_ = resolver(server, cache_size=5)
        for number in range(20):
            dns_.txt(f"n{number}.example.org")
        assert dns_.statistics().size == 5
        asked = len(server.asked)
        dns_.txt("n19.example.org")
        assert len(server.asked) == asked
        dns_.txt("n0.example.org")
        assert len(server.asked) == asked + 1


def test_trouble_is_remembered_briefly_but_not_what_a_short_deadline_caused() -> None:
    with NameServer(fixed(rcode=dns.rcode.SERVFAIL)) as server:
        dns_ = resolver(server)
        for _ in range(3):
            with pytest.raises(DnsTemporaryError, match="SERVFAIL"):
                dns_.txt("example.org")
        assert len(server.asked) == 1
    with NameServer(silent) as server:
        dns_ = resolver(server)
        with pytest.raises(DnsTemporaryError):
            dns_.txt("example.org", deadline=time.monotonic() + 0.1)
        server.respond = fixed('example.org. 300 TXT "x"')
        assert dns_.txt("example.org").records == (b"x",)


def _in_threads(count: int, call: Callable[[], object]) -> list[object]:
    results: list[object] = []

    def run() -> None:
        try:
            results.append(call())
        except DnsTemporaryError as error:
            results.append(error.detail)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_with_one_question_share_it() -> None:
    def slow(query: Message, _: str) -> Reply:
        time.sleep(0.2)
        return answer(query, 'example.org. 300 TXT "x"').to_wire()

    with NameServer(slow) as server:
        dns_ = resolver(server)
        assert _in_threads(8, lambda: dns_.txt("example.org").records) == [(b"x",)] * 8
        assert len(server.asked) == 1


def test_threads_share_trouble() -> None:
    def slow(query: Message, _: str) -> Reply:
        while dns_.statistics().shared < 5:
            time.sleep(0.005)
        return answer(query, rcode=dns.rcode.SERVFAIL).to_wire()

    with NameServer(slow) as server:
        dns_ = resolver(server, failure_ttl=0)
        results = _in_threads(6, lambda: dns_.txt("example.org"))
        assert len(results) == 6
        assert all("SERVFAIL" in str(result) for result in results)
        assert len(server.asked) == 1


def test_who_has_more_time_does_not_fail_with_who_has_less() -> None:
    asked, gave_up = threading.Event(), threading.Event()

    def late(query: Message, _: str) -> Reply:
        asked.set()
        assert gave_up.wait(60)
        return answer(query, 'example.org. 300 TXT "x"').to_wire()

    with NameServer(late) as server:
        dns_ = resolver(server)

        def give_up_early() -> None:
            # So little time may be over before anything was sent.
            while not asked.is_set():
                with pytest.raises(DnsTemporaryError):
                    dns_.txt("example.org", deadline=time.monotonic() + 0.2)
            gave_up.set()

        hasty = threading.Thread(target=give_up_early)
        hasty.start()
        assert asked.wait(60)
        assert dns_.txt("example.org").records == (b"x",)
        hasty.join()


# DNSSEC


@pytest.mark.parametrize(
    ("flags", "trust_ad", "status"),
    [
        (dns.flags.AD, None, DnssecStatus.SECURE),  # loopback
        (0, None, DnssecStatus.INSECURE),
        (dns.flags.AD, False, DnssecStatus.INDETERMINATE),
        (0, False, DnssecStatus.INDETERMINATE),
        (dns.flags.AD, True, DnssecStatus.SECURE),
    ],
)
def test_ad_counts_only_from_a_trusted_server(flags: int, trust_ad: bool | None, status: DnssecStatus) -> None:
    with NameServer(fixed('example.org. 300 TXT "x"', flags=flags)) as server:
        assert resolver(server, trust_ad=trust_ad).txt("example.org").dnssec is status


def test_an_alias_is_as_secure_as_its_weakest_part() -> None:
    def respond(query: Message, _: str) -> Reply:
        if query.question[0].name.to_text() == "a.example.":
            return answer(query, "a.example. 300 CNAME b.example.", flags=dns.flags.AD).to_wire()
        return answer(query, 'b.example. 300 TXT "x"').to_wire()

    with NameServer(respond) as server:
        assert resolver(server).txt("a.example").dnssec is DnssecStatus.INSECURE


def _bogus(query: Message, _: str) -> Reply:
    if query.flags & dns.flags.CD:
        return answer(query, "_25._tcp.mx.example. 300 TLSA 3 1 1 " + "ab" * 32).to_wire()
    return answer(query, rcode=dns.rcode.SERVFAIL).to_wire()


def test_bogus() -> None:
    with NameServer(_bogus) as server:
        found = resolver(server).tlsa("_25._tcp.mx.example")
        assert (found.records, found.dnssec) == ((), DnssecStatus.BOGUS)
        with pytest.raises(DnsTemporaryError, match="SERVFAIL"):
            resolver(server).txt("_25._tcp.mx.example")
        assert resolver(server, detect_bogus=True).txt("_25._tcp.mx.example").dnssec is DnssecStatus.BOGUS
        with pytest.raises(DnsTemporaryError, match="SERVFAIL"):
            resolver(server, trust_ad=False).tlsa("_25._tcp.mx.example")
    with NameServer(fixed(rcode=dns.rcode.SERVFAIL)) as server, pytest.raises(DnsTemporaryError, match="SERVFAIL"):
        resolver(server).tlsa("_25._tcp.mx.example")


# Which servers


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("192.0.2.1", Nameserver("192.0.2.1", 53)),
        ("192.0.2.1:5353", Nameserver("192.0.2.1", 5353)),
        ("2001:DB8::1", Nameserver("2001:db8::1", 53)),
        ("[2001:db8::1]:5353", Nameserver("2001:db8::1", 5353)),
        ("fe80::1%eth0", Nameserver("fe80::1%eth0", 53)),
    ],
)
def test_nameserver_texts(text: str, server: Nameserver) -> None:
    assert parse_nameserver(text) == server
    assert parse_nameserver(str(server)) == server


@pytest.mark.parametrize(
    "text", ["", "ns.example.org", "192.0.2.1:0", "192.0.2.1:65536", "[::1", "1.2.3", "192.0.2.1:x"]
)
def test_nameserver_texts_that_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_nameserver(text)


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(
        "# comment\nsearch example.org\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver 2001:db8::1\n"
        "options edns0 trust-ad\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n"
    )
    system = read_resolv_conf(str(path))
    assert [str(server) for server in system.servers] == ["192.0.2.1", "2001:db8::1", "192.0.2.3"]
    assert system.trust_ad
    missing = read_resolv_conf(str(tmp_path / "none"))
    assert missing.servers == (Nameserver("127.0.0.1"),)
    assert not missing.trust_ad
