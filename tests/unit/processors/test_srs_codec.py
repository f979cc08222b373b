"""Both dialects of SRS: vectors, ages, secrets, and what is refused."""

from __future__ import annotations

import pytest

from respool.errors import ConfigError
from respool.processors.srs_codec import DAY_SECONDS, EximSrs, SrsCodec, StandardSrs, looks_like_srs

DAY = 20_454  # 2026-01-01
NOW = DAY * DAY_SECONDS + 3600.0
EXIM = EximSrs([b"mysecret"])
STANDARD = StandardSrs([b"mysecret"])


@pytest.mark.parametrize(
    ("sender", "day", "expected"),
    [
        # What Exim 4.96 and 4.99 print for ${srs_encode{mysecret}{...}{fwd.example}}.
        (b"alice@example.org", 20_454, b"SRS0=8c82=7g=example.org=alice@fwd.example"),
        (b"Alice@Example.ORG", 20_454, b"SRS0=8c82=7g=Example.ORG=Alice@fwd.example"),
        (b"alice@example.org", 20_451, b"SRS0=8c82=7d=example.org=alice@fwd.example"),
        (b"alice@example.org", 10_957, b"SRS0=8c82=wn=example.org=alice@fwd.example"),
        (b'"fred["@test.ex', 20_454, b'"SRS0=5a75=7g=test.ex=fred["@fwd.example'),
        (b'"a b"@x.y', 20_454, b'"SRS0=687e=7g=x.y=a b"@fwd.example'),
        (b"alice", 20_454, b"SRS0=ad3b=7g==alice@fwd.example"),
        (b'"SRS0=x"@test.ex', 20_454, b'"SRS0=9626=7g=test.ex=SRS0=x"@fwd.example'),
    ],
)
def test_exim_vectors(sender: bytes, day: int, expected: bytes) -> None:
    assert EXIM.forward(sender, "fwd.example", day * DAY_SECONDS).address == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (b"SRS0=8c82=7g=example.org=alice@fwd.example", b"alice@example.org"),
        (b"srs0=8c82=7g=Example.org=ALICE@elsewhere.example", b"alice@example.org"),
        (b'"SRS0=5a75=7g=test.ex=fred["@fwd.example', b'"fred["@test.ex'),
        (b'"SRS0=8c82=7g=example.org=alice"@fwd.example', b"alice@example.org"),
    ],
)
def test_exim_reverse(address: bytes, expected: bytes) -> None:
    assert EXIM.reverse(address, NOW).address == expected


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (b"alice@example.org", "not an SRS0"),
        (b"SRS1=8c82=7g=example.org=alice@fwd.example", "not an SRS0"),
        (b"SRS0=8c82=7g=example.org@fwd.example", "not an SRS0"),
        (b"SRS0=8c83=7g=example.org=alice@fwd.example", "does not verify"),
        (b"SRS0=8C82=7g=example.org=alice@fwd.example", "does not verify"),
        (b"SRS0=8c82=7g=example.org=bob@fwd.example", "does not verify"),
        (b"SRS0=8c82=7G=example.org=alice@fwd.example", "capitals"),
        (b"SRS0=8c82=71=example.org=alice@fwd.example", "base32"),
        (b"SRS0=8c82=7gg=example.org=alice@fwd.example", "base32"),
        (b"SRS0=8c82==example.org=alice@fwd.example", "base32"),
        (b"SRS0=8c8=7g=example.org=alice@fwd.example", "length"),
        (b"SRS0=ad3b=7g==alice@fwd.example", "does not verify"),
    ],
)
def test_exim_refuses(address: bytes, problem: str) -> None:
    found = EXIM.reverse(address, NOW)
    assert found.address == b""
    assert problem in found.problem


def standard(sender: bytes, domain: str = "fwd.example", codec: SrsCodec = STANDARD) -> bytes:
    found = codec.forward(sender, domain, NOW)
    assert not found.problem
    return found.address


def test_standard_chain() -> None:
    """Three forwarders; bounces go from the third to the first, and from there to the sender."""
    first = standard(b"alice@example.org", "one.example")
    assert first == b"SRS0=9WdC=7G=example.org=alice@one.example".replace(b"9WdC", first[5:9])
    second = standard(first, "two.example")
    assert second.startswith(b"SRS1=")
    assert second.partition(b"=one.example==")[2] == first[5:].replace(b"@one.example", b"@two.example")
    third = standard(second, "three.example")
    assert third == second.replace(b"two.example", b"three.example")
    assert STANDARD.reverse(third, NOW).address == first
    assert STANDARD.reverse(first, NOW).address == b"alice@example.org"


def test_standard_survives_what_others_do_to_it() -> None:
    address = standard(b"Alice@Example.org")
    for changed in (
        address.upper(),
        address.lower(),
        address.replace(b"SRS0=", b"SRS0+"),
        address.replace(b"SRS0=", b"SRS0-"),
    ):
        assert STANDARD.reverse(changed, NOW).address.lower() == b"alice@example.org"


def test_either_base64() -> None:
    """Some of these hashes have letters in which the two alphabets differ."""
    seen: set[bytes] = set()
    for number in range(200):
        sender = b"user%d@example.org" % number
        address = standard(sender)
        digest = address[5:9]
        other = digest.translate(bytes.maketrans(b"+/", b"-_"))
        seen.update(other[index : index + 1] for index in range(4))
        assert STANDARD.reverse(address.replace(digest, other, 1), NOW).address == sender
    assert {b"-", b"_"} <= seen


@pytest.mark.parametrize(
    "sender",
    [b'"a b"@example.org', b'"a@b"@example.org', b'"a\\"b"@example.org', b"a=b=c@example.org", b"a+x@d-e.example"],
)
def test_standard_odd_local_parts(sender: bytes) -> None:
    address = standard(sender)
    assert STANDARD.reverse(address, NOW).address == sender
    assert STANDARD.reverse(standard(address, "two.example"), NOW).address == address


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        (b"alice@example.org", "not an SRS"),
        (b"SRS0=AAAA=7G=example.org=alice@fwd.example", "does not verify"),
        (b"SRS0==7G=example.org=alice@fwd.example", "without its parts"),
        (b"SRS0=AAAA=7G=example.org@fwd.example", "without its parts"),
        (b"SRS0=AAAA=7G=example.org=@fwd.example", "without its parts"),
        (b"SRS0=AAAA=1G=example.org=alice@fwd.example", "base32"),
        (b"SRS1=AAAA=one.example@fwd.example", "without its parts"),
        (b"SRS1=AAAA=one.example==x@fwd.example", "does not verify"),
        (b"SRS2=AAAA=7G=example.org=alice@fwd.example", "not an SRS"),
        (b"SRS0", "not an SRS"),
        (b"", "not an SRS"),
    ],
)
def test_standard_refuses(address: bytes, problem: str) -> None:
    found = STANDARD.reverse(address, NOW)
    assert found.address == b""
    assert problem in found.problem


@pytest.mark.parametrize(
    "sender", [b"", b"alice", b"alice@", b"@example.org", b"SRS1=x@one.example", b"SRS1=x=y@one.example"]
)
def test_standard_does_not_rewrite(sender: bytes) -> None:
    found = STANDARD.forward(sender, "fwd.example", NOW)
    assert found.address == b""
    assert found.problem


def test_null_sender_and_overlong() -> None:
    assert EXIM.forward(b"", "fwd.example", NOW).problem
    for codec in (EXIM, STANDARD):
        assert "more than" in codec.forward(b"a" * 240 + b"@example.org", "fwd.example", NOW).problem
        assert codec.forward(b'"a<b"@example.org', "fwd.example", NOW).problem


@pytest.mark.parametrize(("codec", "days"), [(EXIM, 10), (STANDARD, 21)])
def test_age(codec: SrsCodec, days: int) -> None:
    address = standard(b"alice@example.org", codec=codec)

    def good(after: int) -> bool:
        return not codec.reverse(address, NOW + after * DAY_SECONDS).problem

    assert all(good(after) for after in range(days + 1))
    assert not any(good(after) for after in (days + 1, 500, 1023, -1))
    assert good(1024)  # the stamp comes round: the dialects have no more than two digits


@pytest.mark.parametrize("kind", [EximSrs, StandardSrs])
def test_rotation(kind: type[EximSrs] | type[StandardSrs]) -> None:
    old, both, new = kind([b"old"]), kind([b"new", b"old"]), kind([b"new"])
    address = standard(b"alice@example.org", codec=old)
    assert both.reverse(address, NOW).address == b"alice@example.org"
    assert new.reverse(address, NOW).problem
    assert standard(b"alice@example.org", codec=both) == standard(b"alice@example.org", codec=new)


def test_longer_hashes() -> None:
    short, long = StandardSrs([b"s"]), StandardSrs([b"s"], hash_length=8, minimum_hash_length=8)
    between = StandardSrs([b"s"], hash_length=8)
    address = standard(b"alice@example.org", codec=short)
    assert between.reverse(address, NOW).address == b"alice@example.org"
    assert long.reverse(address, NOW).problem
    assert len(standard(b"alice@example.org", codec=long)) == len(address) + 4
    assert long.reverse(standard(b"alice@example.org", codec=between), NOW).address == b"alice@example.org"


@pytest.mark.parametrize(
    "keywords", [{"separator": "~"}, {"hash_length": 3}, {"hash_length": 28}, {"minimum_hash_length": 5}, {"minimum_hash_length": 3}]
)  # fmt: skip
def test_refused_settings(keywords: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        StandardSrs([b"s"], **keywords)  # type: ignore[arg-type]


@pytest.mark.parametrize("secrets", [[], [b""], [b"x", b""]])
def test_refused_secrets(secrets: list[bytes]) -> None:
    for kind in (EximSrs, StandardSrs):
        with pytest.raises(ConfigError):
            kind(secrets)


def test_a_guessed_hash_opens_no_door() -> None:
    """With four characters a hash can be guessed; what comes out is an address all the same."""
    codec = EximSrs([b"mysecret"])
    for user, host in (
        (b'a"b', b"x.example"),
        (b"a\\", b"x.example"),
        (b"a\x01", b"x.example"),
        (b"a", b"x y"),
        (b"a", b""),
    ):
        quoted = b'"%b"@%b' % (user, host)
        for recipient in (quoted, b"%b@%b" % (user, host)):
            digest = EximSrs._hash(b"mysecret", recipient)
            found = codec.reverse(b"SRS0=%b=7g=%b=%b@fwd.example" % (digest, host, user), NOW)
            assert found.address == b"", found


def test_looks_like_srs() -> None:
    assert all(map(looks_like_srs, (b"SRS0=x@y", b"srs1+x@y", b'"SRS0-a b"@y')))
    assert not any(map(looks_like_srs, (b"SRS0@y", b"SRS2=x@y", b"xSRS0=@y", b"")))
