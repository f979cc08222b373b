"""All benchmarks in one go, with what they ran on: ``make bench``.

Each runs by itself; what it says goes to the terminal and into build/bench/. Those that can
answer in JSON make one document together, build/bench/results.json, and a picture of it,
build/bench/performance.svg. With --keep both are kept for this release: in benchmarks/results/ and
docs/images/. Names limit it to some of them, whose results replace the earlier ones. arc_sign runs
where RESPOOL_EXIM_ARC names an Exim that is built for it.

    python -m benchmarks [NAME ...] [--keep]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from .machine import facts
from .plot import draw

_HERE: Final = Path(__file__).parent
_RESULTS: Final = _HERE.parent / "build/bench"
#: In one document and the picture; the others say what they found in words.
_IN_JSON: Final = ("sidecar", "arc_sign", "latency", "growth", "authentication")
_IN_WORDS: Final = ("requeue", "parse", "lookup", "rebuilt_table", "watch", "dask_batch")


def run(name: str) -> str:
    """What a benchmark says, also to the terminal unless it is JSON. Ends with it where it fails."""
    arguments = ["--json"] if name in _IN_JSON else []
    print(f"== {name}", flush=True)
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", *arguments],
        cwd=_HERE.parent,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{name} ended with {done.returncode}")
    print(json.dumps(json.loads(done.stdout), indent=1) if arguments else done.stdout, flush=True)
    return done.stdout


def _usual() -> list[str]:
    """All, but for the one that needs an Exim which no distribution has."""
    return [name for name in (*_IN_JSON, *_IN_WORDS) if name != "arc_sign" or os.environ.get("RESPOOL_EXIM_ARC")]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="all benchmarks in one go")
    parser.add_argument("names", nargs="*", choices=[*_IN_JSON, *_IN_WORDS, []], metavar="NAME")
    parser.add_argument("--keep", action="store_true", help="keep results and picture for this release")
    arguments = parser.parse_args()
    _RESULTS.mkdir(parents=True, exist_ok=True)
    document = _RESULTS / "results.json"
    results: dict[str, Any] = json.loads(document.read_text()) if document.exists() else {}
    results |= {"version": version("respool"), "machine": facts(_RESULTS, "of the checkout")}
    for name in arguments.names or _usual():
        said = run(name)
        if name in _IN_JSON:
            results[name] = json.loads(said)
            document.write_text(json.dumps(results, indent=1) + "\n")
        else:
            (_RESULTS / f"{name}.txt").write_text(said)
    if not results.keys() >= {"sidecar", "latency", "growth"}:
        return
    picture = _RESULTS / "performance.svg"
    picture.write_text(draw(results))
    if arguments.keep:
        (_HERE / "results").mkdir(exist_ok=True)
        shutil.copy(document, _HERE / f"results/{results['version']}.json")
        shutil.copy(picture, _HERE.parent / "docs/images/performance.svg")


if __name__ == "__main__":
    main()
