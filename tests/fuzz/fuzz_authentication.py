"""Fuzz target for the readers of DNS and header text, one law at a time.

Needs atheris, which is not among the dependencies:
``python -m tests.fuzz.fuzz_authentication LAW [libFuzzer options] tests/fuzz/corpus_authentication/LAW``;
LAW is a name in authentication_law.LAWS.

Diagnostics: any exception is a finding.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports(include=["respool", "tests"]):  # pyright: ignore
    from tests.fuzz.authentication_law import check


def main() -> None:
    """Run the law that the first argument names."""
    law = sys.argv.pop(1)

    def one_input(data: bytes) -> None:
        check(law, data)

    atheris.Setup(sys.argv, one_input)  # pyright: ignore
    atheris.Fuzz()  # pyright: ignore


if __name__ == "__main__":
    main()
