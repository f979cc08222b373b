"""What the fuzzer found worth keeping, once more, without the fuzzer."""

from pathlib import Path

import pytest

from tests.fuzz.authentication_law import LAWS, check

CORPUS = Path(__file__).parents[3] / "fuzz" / "corpus_authentication"


@pytest.mark.parametrize("law", LAWS)
def test_the_laws_hold_for_the_corpus(law: str) -> None:
    inputs = sorted((CORPUS / law).iterdir())
    assert inputs
    for path in inputs:
        check(law, path.read_bytes())
