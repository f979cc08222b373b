"""What the fuzzer found worth keeping, once more, without the fuzzer."""

from pathlib import Path

import pytest

from tests.fuzz.header_file_law import check, expand

CORPUS = Path(__file__).parents[2] / "fuzz" / "corpus_header_file"


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name[:12])
def test_the_law_holds_for_the_corpus(path: Path) -> None:
    data = path.read_bytes()
    check(data)
    check(expand(data))
