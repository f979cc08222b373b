"""Cross-verification with other implementations, both ways, on 200 generated messages.

Ours signs, theirs must verify; theirs signs, ours must verify; and all must see a change.
Where a peer says otherwise, UNVERIFIED says for which messages and why, and a message
that is in it must differ: an exception that is no longer needed fails. docs/authentication.md
has the same table in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest

from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.canonicalization import Canonicalization
from respool.processors.authentication.dkim_sign import DkimSigner, sign
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.signature import parse_dkim_signature
from respool.processors.authentication.verification import verify_signatures
from respool.processors.results import Result
from respool.spool.body import BytesBody

from .generated_mail import message_body, message_fields
from .peers.batch import Answer, Job, dkimpy_batch, mail_dkim, mailauth, opendkim, wire
from .signed_mail import NOW, ed25519_key, rsa_key, zone

OURS = b"Authentication-Results: mx.example.net;\n\tspf=pass smtp.mailfrom=ann@example.org (a comment)\n"
ARC_PASSED = b"Authentication-Results: mx.example.net; arc=pass\n"
SEEDS = range(200)
LATER = 2_000_000_000  # peers write t= by their own clock
SIMPLE, RELAXED = Canonicalization.SIMPLE, Canonicalization.RELAXED
FORMS = [(RELAXED, RELAXED), (RELAXED, SIMPLE), (SIMPLE, RELAXED), (SIMPLE, SIMPLE)]

Peer = Callable[[Sequence[Job]], list[Answer]]


def generated(seed: int) -> AuthenticatedMessage:
    return AuthenticatedMessage((OURS, *message_fields(seed)), BytesBody(message_body(seed)))


def is_ed25519(seed: int) -> bool:
    return seed % 3 == 0


@cache
def signed(seed: int) -> AuthenticatedMessage:
    """Ours, with the key and the canonicalisation that seed says."""
    header, body = FORMS[seed % 4]
    message = generated(seed)
    key, selector = (ed25519_key(), "ed") if is_ed25519(seed) else (rsa_key(), "rsa")
    signer = DkimSigner(
        domain="example.org",
        selector=selector,
        key=key,
        header_canonicalization=header,
        body_canonicalization=body,
        timestamps=seed % 5 > 0,
    )
    return message.with_top(sign(message, signer, now=NOW).raw)


@cache
def sealed(seed: int) -> AuthenticatedMessage:
    """Ours, sealed once to three times."""
    message = generated(seed)
    for _ in range(1 + seed % 3):
        message = sealed_again(message)
    return message


def sealed_again(message: AuthenticatedMessage) -> AuthenticatedMessage:
    """With one more set of ours."""
    sealer = Sealer(authserv_id="mx.example.net", domain="sealer.example", selector="rsa", key=rsa_key())
    made = seal(message, verify_signatures(message, zone(), now=LATER)[1], sealer, now=NOW)
    assert not isinstance(made, NotSealed)
    return message.with_top(*[header.raw for header in made.headers])


def form(seed: int) -> str:
    return b"/".join(algorithm.value for algorithm in FORMS[seed % 4]).decode()


def has_odd_beginning(message: AuthenticatedMessage, names: Sequence[bytes]) -> bool:
    """True if one of the signed fields has something else than one space behind the colon."""
    values = [field.value for field in message.select(names)]
    return any(value[:1] != b" " or value[1:2] in {b" ", b"\t", b"\n"} for value in values if value)


def milter_changes_ours(seed: int) -> bool:
    message = signed(seed)
    names = parse_dkim_signature(message.sent[0].value).header_names
    return FORMS[seed % 4][0] is SIMPLE and has_odd_beginning(message, names)


def no_ed25519(seed: int) -> bool:
    return is_ed25519(seed)


def never(seed: int) -> bool:
    return False


#: Messages of ours that a peer does not verify.
UNVERIFIED: dict[str, Callable[[int], bool]] = {
    # Its library needs a further Perl module for Ed25519, and says "unsupported algorithm".
    "mail_dkim": no_ed25519,
    # A milter is given fields without the white space behind the colon; simple canonicalisation needs it.
    "opendkim": milter_changes_ours,
}


@pytest.fixture(
    params=[
        "dkimpy",
        pytest.param("mail_dkim", marks=pytest.mark.system("perl:Mail::DKIM")),
        pytest.param("mailauth", marks=pytest.mark.system("node:mailauth")),
        pytest.param("opendkim", marks=pytest.mark.system("opendkim")),
    ]
)
def peer_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peer(peer_name: str, tmp_path: Path) -> Peer:
    if peer_name == "opendkim":
        return lambda jobs: opendkim(jobs, tmp_path)
    return {"dkimpy": dkimpy_batch, "mail_dkim": mail_dkim, "mailauth": mailauth}[peer_name]


def failed(answers: Sequence[Answer]) -> dict[int, Answer]:
    return {seed: answer for seed, answer in zip(SEEDS, answers, strict=True) if not answer.passed}


def test_peers_verify_our_signatures(peer: Peer, peer_name: str) -> None:
    answers = failed(peer([Job("verify", wire(signed(seed))) for seed in SEEDS]))
    excepted = UNVERIFIED.get(peer_name, never)
    assert {seed: answer for seed, answer in answers.items() if not excepted(seed)} == {}
    assert set(answers) == {seed for seed in SEEDS if excepted(seed)}


def test_peers_see_that_a_signed_message_was_changed(peer: Peer) -> None:
    assert len(failed(peer([Job("verify", wire(signed(seed)) + b"x\r\n") for seed in SEEDS]))) == len(SEEDS)


def test_we_verify_the_signatures_of_peers_and_see_changes(peer: Peer, peer_name: str) -> None:
    messages = [wire(generated(seed)) for seed in SEEDS]
    answers = peer([Job("sign", message, form(seed)) for seed, message in zip(SEEDS, messages, strict=True)])
    for seed, message, answer in zip(SEEDS, messages, answers, strict=True):
        assert answer.fields, (seed, answer.error)
        both = AuthenticatedMessage.from_bytes(answer.fields + message)
        (found,) = verify_signatures(both, zone(), now=LATER)[0]
        expected = Result.PASS
        if peer_name == "opendkim" and FORMS[seed % 4][0] is SIMPLE:
            names = parse_dkim_signature(both.sent[0].value).header_names
            expected = Result.FAIL if has_odd_beginning(both, names) else Result.PASS
        assert found.result is expected, (seed, found.reason)
        changed = AuthenticatedMessage.from_bytes((answer.fields + message).replace(b"From: ", b"From: X", 1))
        assert verify_signatures(changed, zone(), now=LATER)[0][0].result is Result.FAIL, seed


@pytest.mark.parametrize("peer_name", ["dkimpy", pytest.param("mail_dkim", marks=pytest.mark.system("perl:Mail::DKIM")),
                                       pytest.param("mailauth", marks=pytest.mark.system("node:mailauth"))])  # fmt: skip
def test_peers_verify_our_seals_and_see_changes(peer: Peer) -> None:
    assert failed(peer([Job("arc", wire(sealed(seed))) for seed in SEEDS])) == {}
    assert len(failed(peer([Job("arc", wire(sealed(seed)) + b"x\r\n") for seed in SEEDS]))) == len(SEEDS)


@pytest.mark.system("perl:Mail::DKIM")
def test_we_verify_the_seals_of_mail_dkim() -> None:
    verify_seals(mail_dkim, [generated(seed) for seed in SEEDS], [1] * len(SEEDS))


@pytest.mark.system("node:mailauth")
def test_we_verify_the_seals_of_mailauth_above_our_own() -> None:
    verify_seals(mailauth, [sealed(seed) for seed in SEEDS], [2 + seed % 3 for seed in SEEDS])


@pytest.mark.system("python:authres")
def test_we_verify_the_seals_of_dkimpy() -> None:
    verify_seals(dkimpy_batch, [generated(seed) for seed in SEEDS], [1] * len(SEEDS))


@pytest.mark.system("python:authres")
def test_we_verify_the_seals_of_dkimpy_above_our_own() -> None:
    # It takes cv= from the Authentication-Results, not from a verification of its own; without it there is no seal.
    assert not dkimpy_batch([Job("seal", wire(sealed(0)))])[0].fields
    messages = [sealed(seed).with_top(ARC_PASSED) for seed in SEEDS]
    verify_seals(dkimpy_batch, messages, [2 + seed % 3 for seed in SEEDS])


@pytest.mark.system("python:authres")
def test_dkimpy_verifies_our_seals_above_its_own_and_sees_changes() -> None:
    answers = dkimpy_batch([Job("seal", wire(generated(seed))) for seed in SEEDS])
    chains = [
        sealed_again(AuthenticatedMessage.from_bytes((answer.fields + wire(generated(seed))).replace(b"\r\n", b"\n")))
        for seed, answer in zip(SEEDS, answers, strict=True)
    ]
    assert failed(dkimpy_batch([Job("arc", wire(chain)) for chain in chains])) == {}
    assert len(failed(dkimpy_batch([Job("arc", wire(chain) + b"x\r\n") for chain in chains]))) == len(SEEDS)


def verify_seals(peer: Peer, messages: list[AuthenticatedMessage], instances: list[int]) -> None:
    answers = peer([Job("seal", wire(message)) for message in messages])
    for message, instance, answer in zip(messages, instances, answers, strict=True):
        assert answer.fields, answer.error
        text = answer.fields + wire(message)
        arc = verify_signatures(AuthenticatedMessage.from_bytes(text), zone(), now=LATER)[1]
        assert (arc.result, arc.instance, arc.oldest_pass) == (Result.PASS, instance, 0), arc.reason
        arc = verify_signatures(AuthenticatedMessage.from_bytes(text + b"x\r\n"), zone(), now=LATER)[1]
        assert arc.result is Result.FAIL
