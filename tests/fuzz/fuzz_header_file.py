"""Fuzz target: whatever the bytes, parse gives a value or SpoolFormatError, and a value renders to the same bytes.

Run by ``make campaign``; needs atheris, which is not among the dependencies:
``python tests/fuzz/fuzz_header_file.py [libFuzzer options] tests/fuzz/corpus_header_file``.

Diagnostics: any exception but SpoolFormatError is a finding.
"""

from __future__ import annotations

import sys

import atheris  # type: ignore[import-untyped]

with atheris.instrument_imports():  # pyright: ignore
    from tests.fuzz.header_file_law import check, expand


def one_input(data: bytes) -> None:
    """What atheris calls."""
    check(data)
    check(expand(data))


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)  # pyright: ignore
    atheris.Fuzz()  # pyright: ignore
