"""Both ways between us and dkimpy, and from us to Perl's Mail::DKIM, on generated messages.

Ours signs, theirs must verify; theirs signs, ours must verify; and both must see a change.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.canonicalization import Canonicalization
from respool.processors.authentication.dkim_sign import DkimSigner, sign
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import Result
from respool.spool.body import BytesBody

from .generated_mail import message_body, message_fields
from .signed_mail import NOW, dkimpy, dkimpy_lookup, ed25519_key, pem, rsa_key, rsa_private_key, zone

OURS = b"Authentication-Results: mx.example.net;\n\tspf=pass smtp.mailfrom=ann@example.org (a comment)\n"
SEEDS = range(200)
SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
FORMS = [(RELAXED, RELAXED), (RELAXED, SIMPLE), (SIMPLE, RELAXED), (SIMPLE, SIMPLE)]


def generated(seed: int) -> AuthenticatedMessage:
    return AuthenticatedMessage((OURS, *message_fields(seed)), BytesBody(message_body(seed)))


def with_fields(message: AuthenticatedMessage, *fields: bytes) -> AuthenticatedMessage:
    return AuthenticatedMessage((*fields, *message.fields), message.body)


def wire(message: AuthenticatedMessage) -> bytes:
    return (b"".join(message.fields) + b"\n" + b"".join(message.body.chunks())).replace(b"\n", b"\r\n")


def signed(seed: int) -> AuthenticatedMessage:
    """Ours, with the key and the canonicalisation that seed says."""
    header, body = FORMS[seed % 4]
    message = generated(seed)
    key, selector = (ed25519_key(), "ed") if seed % 3 == 0 else (rsa_key(), "rsa")
    signer = DkimSigner(
        domain="example.org",
        selector=selector,
        key=key,
        header_canonicalization=header,
        body_canonicalization=body,
        timestamps=seed % 5 > 0,
    )
    return with_fields(message, sign(message, signer, now=NOW).raw)


def sealed(seed: int) -> AuthenticatedMessage:
    """Ours, sealed once to three times."""
    message = generated(seed)
    sealer = Sealer(authserv_id="mx.example.net", domain="sealer.example", selector="rsa", key=rsa_key())
    for _ in range(1 + seed % 3):
        made = seal(message, verify_signatures(message, zone(), now=NOW)[1], sealer, now=NOW)
        assert not isinstance(made, NotSealed)
        message = with_fields(message, *[header.raw for header in made.headers])
    return message


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_dkimpy_verifies_our_signatures_and_sees_changes(first: int) -> None:
    lookup = dkimpy_lookup(zone())
    for seed in range(first, first + 50):
        message = wire(signed(seed))
        assert dkimpy.verify(message, dnsfunc=lookup), seed
        assert not dkimpy.verify(message + b"x\r\n", dnsfunc=lookup), seed


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_we_verify_dkimpys_signatures_and_see_changes(first: int) -> None:
    private = pem(rsa_private_key())
    for seed in range(first, first + 50):
        header, body = FORMS[seed % 4]
        message = wire(generated(seed))
        field = dkimpy.sign(
            message, b"rsa", b"example.org", private, canonicalize=(header.value, body.value), length=seed % 7 == 0
        )
        both = AuthenticatedMessage.from_bytes(field + message)
        results, _ = verify_signatures(both, zone(), now=2_000_000_000)
        assert [result.result for result in results] == [Result.PASS], (seed, results[0].reason)
        changed = AuthenticatedMessage.from_bytes((field + message).replace(b"From: ", b"From: X", 1))
        assert verify_signatures(changed, zone(), now=2_000_000_000)[0][0].result is Result.FAIL, seed


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_dkimpy_verifies_our_seals(first: int) -> None:
    lookup = dkimpy_lookup(zone())
    for seed in range(first, first + 20):
        message = sealed(seed)
        cv, sets, reason = dkimpy.arc_verify(wire(message), dnsfunc=lookup)
        assert cv == b"pass", (seed, reason)
        assert len(sets) == 1 + seed % 3
        assert all(each["ams-valid"] and each["as-valid"] for each in sets)


@pytest.fixture
def zone_file(tmp_path: Path) -> Path:
    path = tmp_path / "zone"
    lines = [f"{name} {texts[0].decode()}\n" for name, texts in zone().records.items()]
    path.write_text("".join(lines))
    return path


def mail_dkim(zone_file: Path, kind: str, message: bytes) -> list[str]:
    script = Path(__file__).parent / "mail_dkim.pl"
    done = subprocess.run(["perl", str(script), str(zone_file), kind], input=message, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode().splitlines()


@pytest.mark.system("perl:Mail::DKIM")
@pytest.mark.parametrize("seed", range(1, 40, 3))  # those that signed() gives an RSA key: Ed25519 may be lacking there
def test_mail_dkim_verifies_our_signatures(zone_file: Path, seed: int) -> None:
    assert mail_dkim(zone_file, "dkim", wire(signed(seed))) == ["pass\tpass"]
    assert mail_dkim(zone_file, "dkim", wire(signed(seed)) + b"x\r\n")[0].startswith("fail\t")


@pytest.mark.system("perl:Mail::DKIM")
@pytest.mark.parametrize("seed", range(12))
def test_mail_dkim_verifies_our_seals(zone_file: Path, seed: int) -> None:
    assert mail_dkim(zone_file, "arc", wire(sealed(seed)))[0].startswith("pass\t")
    assert mail_dkim(zone_file, "arc", wire(sealed(seed)) + b"x\r\n")[0].startswith("fail\t")


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(rsa_private_key().private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
    path.chmod(0o600)
    return path


def output_of(*command: str, message: bytes) -> bytes:
    done = subprocess.run(command, input=message, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.system("perl:Mail::DKIM")
@pytest.mark.parametrize("seed", range(16))
def test_we_verify_mail_dkims_signatures(key_file: Path, seed: int) -> None:
    header, body = FORMS[seed % 4]
    script = str(Path(__file__).parent / "mail_dkim_sign.pl")
    form = f"{header.value.decode()}/{body.value.decode()}"
    message = wire(generated(seed))
    field = output_of("perl", script, str(key_file), "rsa", "example.org", form, message=message)
    results, _ = verify_signatures(AuthenticatedMessage.from_bytes(field + message), zone(), now=2_000_000_000)
    assert [result.result for result in results] == [Result.PASS], results[0].reason


@pytest.mark.system("perl:Mail::DKIM")
@pytest.mark.parametrize("seed", range(8))
def test_we_verify_mail_dkims_seals(key_file: Path, seed: int) -> None:
    script = str(Path(__file__).parent / "mail_dkim_sign.pl")
    arguments = (str(key_file), "rsa", "sealer.example", "relaxed/relaxed", "arc", "mx.example.net")
    message = wire(generated(seed))
    fields = output_of("perl", script, *arguments, message=message)
    both = AuthenticatedMessage.from_bytes(fields + message)
    arc = verify_signatures(both, zone(), now=2_000_000_000)[1]
    assert (arc.result, arc.instance, arc.oldest_pass) == (Result.PASS, 1, 0), arc.reason
