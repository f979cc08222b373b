"""CPU per message of the full job: verify, evaluate, seal; ours, the floor of its cryptography, and peers.

The job: verify DKIM and ARC, evaluate SPF and DMARC, write Authentication-Results, add an
ARC set (RSA-2048). The messages are 200 (see authentication_work/messages.py); DNS is a
dict in each contender's own process. Every contender gets the same messages and the same
key, in one run, taking turns at every message: what else the machine does meets all of
them alike. Figures are the mean over the messages of the least that each cost in any
round, beside the median of the rounds. Each result of each is checked.

The floor is the cryptography that nobody can avoid (see floor() in
authentication_work/contenders.py): one SHA-256 over the body, one over what each
signature covers, the RSA verifications, two RSA signatures for the seal. Nothing is
parsed or canonicalised for it.

Peers that are not installed are named and left out; ``make peers`` gets them.

    python -m benchmarks.authentication [--rounds N] [--only NAME ...] [--no-sealing] [--json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from msgspec import Struct

from .authentication_work.contenders import Contender, dkimpy, floor, ours
from .authentication_work.messages import SIZES, Case, make_cases
from .authentication_work.outside import PEERS, Absent, Mailauth, Rspamd

NAMES = ("mailauth", "rspamd", "dkimpy")


def find_contenders(
    key: RSAPrivateKey, cases: list[Case], now: int, *, sealing: bool, only: list[str]
) -> tuple[list[Contender], dict[str, str]]:
    """Those that are here, and why the others are not."""
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    sys.path.append(str(PEERS / "python"))
    makers: dict[str, Callable[[], Contender]] = {
        "mailauth": lambda: Mailauth(key, pem, cases, sealing=sealing),
        "rspamd": lambda: Rspamd(key, pem, sealing=sealing),
        "dkimpy": lambda: dkimpy(key, pem, sealing=sealing),
    }
    # A key object of its own: OpenSSL makes new blinding factors at every 32nd signature (0.26 ms), and with
    # one object for two contenders that would always fall on the same one.
    own_key = load_pem_private_key(pem, None)
    assert isinstance(own_key, RSAPrivateKey)
    found: list[Contender] = [floor(own_key, cases, sealing=sealing), ours(key, now, sealing=sealing)]
    absent: dict[str, str] = {}
    for name in only:
        try:
            found.append(makers[name]())
        except (Absent, ImportError) as error:
            absent[name] = str(error)
    return found, absent


class Measured(Struct, frozen=True):
    """CPU per message in milliseconds: the mean of each round, and the mean over the messages of each one's least.

    What else the machine does reaches every round, but seldom the same message in all of
    them: the leasts are nearest to what the work itself costs.
    """

    rounds: list[float]
    least: float


def compare(cases: list[Case], contenders: list[Contender], rounds: int) -> dict[str, Measured]:
    """Every contender at every message, in turns."""
    for case in cases[:60]:  # caches filled, code compiled
        for contender in contenders:
            contender.work(case)
    spent: dict[str, list[list[float]]] = {contender.name: [] for contender in contenders}
    for _ in range(rounds):
        for of_contender in spent.values():
            of_contender.append([])
        for case in cases:
            for contender in contenders:
                before = contender.cpu()
                contender.work(case)
                spent[contender.name][-1].append((contender.cpu() - before) * 1000)
    return {
        name: Measured(
            [statistics.fmean(of_round) for of_round in of_contender],
            statistics.fmean([min(of_message) for of_message in zip(*of_contender, strict=True)]),
        )
        for name, of_contender in spent.items()
    }


def summary(measured: dict[str, Measured]) -> dict[str, dict[str, float]]:
    """Per contender: least and median of the rounds, messages a second, ratios to ours and to the floor.

    Ratios are of the leasts; times_floor_by_round is the median of those within a round.
    """
    ours, floor_ = measured["respool"], measured["floor"]
    return {
        name: {
            "ms_least": found.least,
            "ms_median": statistics.median(found.rounds),
            "messages_per_second_and_core": 1000 / found.least,
            "times_ours": found.least / ours.least,
            "times_floor": found.least / floor_.least,
            "times_floor_by_round": statistics.median(
                [a / b for a, b in zip(found.rounds, floor_.rounds, strict=True)]
            ),
        }
        for name, found in measured.items()
    }


def print_table(title: str, found: dict[str, dict[str, float]]) -> None:
    columns = f"{'ms, least':>11}{'median':>9}{'msg/s':>8}{'x ours':>9}{'x floor':>9}{'by round':>10}"
    print(f"\n{title}\n{'':14}{columns}")
    for name, row in found.items():
        print(
            f"{name:14}{row['ms_least']:11.3f}{row['ms_median']:9.3f}{row['messages_per_second_and_core']:8.0f}"
            f"{row['times_ours']:9.2f}{row['times_floor']:9.2f}{row['times_floor_by_round']:10.2f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="CPU per message of verify, evaluate, seal: ours, floor, peers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=NAMES, default=list(NAMES), help="the peers to compare with")
    parser.add_argument("--no-sealing", action="store_true", help="verify and evaluate alone")
    parser.add_argument("--by-size", action="store_true", help="also floor and ours for each size")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    now = int(time.time())
    key = generate_private_key(public_exponent=65537, key_size=2048)
    cases = make_cases(key, now)
    sealing = not arguments.no_sealing
    contenders, absent = find_contenders(key, cases, now, sealing=sealing, only=arguments.only)
    load = os.getloadavg()[0]
    try:
        tables = {"all": summary(compare(cases, contenders, arguments.rounds))}
        if arguments.by_size:
            for size in sorted(set(SIZES)):
                some = [case for case, its_size in zip(cases, SIZES, strict=True) if its_size == size]
                tables[f"{size // 1000} KB"] = summary(compare(some, contenders[:2], arguments.rounds))
    finally:
        for contender in contenders:
            contender.close()
    loads = [round(load, 2), round(os.getloadavg()[0], 2)]
    if arguments.json:
        print(json.dumps({"job": tables, "absent": absent, "load_before_and_after": loads}))
        return
    job = "verify + evaluate + seal" if sealing else "verify + evaluate"
    for name, table in tables.items():
        print_table(f"{job}, {name}", table)
    print(f"\nload {loads[0]} before, {loads[1]} after")
    for name, reason in absent.items():
        print(f"left out: {name}: {reason}")


if __name__ == "__main__":
    main()
