"""``srs``: who is rewritten, who is not, and what is sent back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from respool.errors import ConfigError
from respool.processors.api import Part, Proceed, Split
from respool.processors.edits import RedirectRecipient, SetSender
from respool.processors.registry import build
from respool.processors.srs_codec import EximSrs

from .processor_kit import make_context, make_message
from .table_kit import make_table

OUT, LOCAL, OTHER = b"bob@elsewhere.example", b"carol@ours.example", b"dan@far.example"
SENDER = b"alice@sender.example"
NOW = 1_700_000_000.0
REWRITTEN = EximSrs([b"first"]).forward(SENDER, "fwd.example", NOW).address


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "srs.secret"
    path.write_text("# the newest first\nfirst\n\nsecond\r\n")
    path.chmod(0o640)
    return path


def make(secret_file: Path, /, **config: Any) -> Any:
    config = {"domain": "fwd.example", "secret_file": str(secret_file), "local_domains": ["ours.example"], **config}
    return build("srs", config)


def run(processor: Any, *recipients: bytes, sender: bytes = SENDER, **message: Any) -> Any:
    return processor.process(make_message(recipients=recipients, sender=sender, **message), make_context())


def test_forwarded(secret_file: Path) -> None:
    assert run(make(secret_file), OUT, OTHER) == Proceed(edits=(SetSender(REWRITTEN),))


def test_divided(secret_file: Path) -> None:
    verdict = run(make(secret_file), OUT, LOCAL, OTHER)
    assert isinstance(verdict, Split)
    assert verdict.parts == (Part((LOCAL,)), Part((OUT, OTHER), (SetSender(REWRITTEN),)))


@pytest.mark.parametrize(
    ("recipients", "sender", "message"),
    [
        ((LOCAL,), SENDER, {}),
        ((OUT,), b"x@ours.example", {}),
        ((OUT,), b"x@OURS.example", {}),
        ((OUT,), b"SRS0=aaaa=aa=x.example=y@fwd.example", {}),
        ((OUT,), b"local-part-alone", {}),
        ((OUT,), SENDER, {"host_auth": b"login"}),
        ((OUT,), SENDER, {"host": None}),
        ((OUT, LOCAL), SENDER, {"delivered": (OUT,)}),
        ((b"postmaster",), SENDER, {}),
        ((b"x@fwd.example",), SENDER, {}),
    ],
)
def test_not_forwarded(
    secret_file: Path, recipients: tuple[bytes, ...], sender: bytes, message: dict[str, Any]
) -> None:
    assert run(make(secret_file), *recipients, sender=sender, **message) == Proceed()


def test_submission_if_told_so(secret_file: Path) -> None:
    assert run(make(secret_file, submission=True), OUT, host_auth=b"login").edits == (SetSender(REWRITTEN),)


def test_exceptions(secret_file: Path, tmp_path: Path) -> None:
    assert run(make(secret_file, except_senders="*.example"), OUT) == Proceed()
    assert run(make(secret_file, except_recipients=["elsewhere.example"]), OUT) == Proceed()
    table = make_table(tmp_path / "t.mdb", {"far.example": ""})
    assert run(make(secret_file, except_recipients=table), OUT, OTHER).parts == (
        Part((OTHER,)), Part((OUT,), (SetSender(REWRITTEN),)),
    )  # fmt: skip


def test_local_recipients_whom_exim_forwards(secret_file: Path, tmp_path: Path) -> None:
    table = make_table(tmp_path / "t.mdb", {"carol@ours.example": "x"})
    assert run(make(secret_file, forwarded=table), LOCAL).edits == (SetSender(REWRITTEN),)
    assert run(make(secret_file, forwarded=table), b"other@ours.example") == Proceed()


def test_what_cannot_be_rewritten_goes_on_unchanged(secret_file: Path) -> None:
    verdict = run(make(secret_file), OUT, sender=b"a" * 240 + b"@sender.example")
    assert verdict.edits == ()
    assert "not rewritten" in verdict.reason


def test_bounces_are_sent_back(secret_file: Path) -> None:
    for secret in (b"first", b"second"):
        address = EximSrs([secret]).forward(SENDER, "FWD.example", NOW - 86_400).address
        verdict = run(make(secret_file), address, LOCAL, sender=b"")
        assert verdict == Proceed(edits=(RedirectRecipient(address, SENDER),))


def test_not_sent_back(secret_file: Path) -> None:
    processor = make(secret_file)
    forged = b"SRS0=0000" + REWRITTEN[9:]
    assert run(processor, forged, sender=b"") == Proceed()
    assert run(processor, REWRITTEN, sender=SENDER).edits == ()
    assert run(processor, REWRITTEN.replace(b"fwd.example", b"ours.example"), sender=b"") == Proceed()
    assert run(make(secret_file, reverse=False), REWRITTEN, sender=b"") == Proceed()
    assert run(make(secret_file, forward=False), OUT) == Proceed()


def test_standard_dialect(secret_file: Path) -> None:
    processor = make(secret_file, dialect="standard", hash_length=6)
    (edit,) = run(processor, OUT).edits
    assert run(processor, edit.sender, sender=b"").edits == (RedirectRecipient(edit.sender, SENDER),)
    # Forwarded on by us after another forwarder: SRS1, and back to that forwarder.
    (again,) = run(processor, OUT, sender=edit.sender.replace(b"fwd.example", b"first.example")).edits
    assert again.sender.startswith(b"SRS1=")
    (back,) = run(processor, again.sender, sender=b"").edits
    assert back.new_address == edit.sender.replace(b"fwd.example", b"first.example")


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"domain": "not a domain"}, "config.domain"),
        ({"secret_file": "/nonexistent"}, "config.secret_file"),
        ({"secret_file": "/dev/null"}, "config.secret_file"),
        ({"separator": "+"}, "config.dialect"),
        ({"dialect": "standard", "separator": "~"}, "config.separator"),
        ({"local_domains": "lmdb;/nonexistent"}, "config.local_domains"),
        ({"forwarded": "x y"}, "config.forwarded"),
        ({"dialect": "srs2"}, "config.dialect"),
        ({"max_age_days": 2000}, "config.max_age_days"),
    ],
)
def test_refused_at_load(secret_file: Path, config: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make(secret_file, **config)
    assert caught.value.key.startswith(key)


def test_secrets_open_to_others(secret_file: Path) -> None:
    secret_file.chmod(0o644)
    with pytest.raises(ConfigError, match="mode 0644"):
        make(secret_file)
    secret_file.chmod(0o600)
    secret_file.write_text("# nothing\n\n")
    with pytest.raises(ConfigError, match="no secret"):
        make(secret_file)
