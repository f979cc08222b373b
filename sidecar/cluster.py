"""``respool batch`` on a Dask cluster: chunks of messages are its tasks.

Dask gives the chunk of a worker that died to another one. That doubles nothing: a message
whose ``-H`` is in DEST is done, and one that was begun is begun anew, under a lock that
ended with the worker. SRC and DEST are on a file system that all workers share.

Diagnostics: ConfigError where the cluster can't do the work; TemporaryError where the
scheduler is lost: what is in DEST is done, and ``--resume`` goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import threading
from collections.abc import Generator, Iterator
from importlib.metadata import version
from typing import Any, Final

import distributed
from distributed.comm.core import CommClosedError
from distributed.scheduler import KilledWorker

from ..errors import ConfigError, RespoolError, TemporaryError
from ..requeue import durable
from ..spool.directory import Found
from . import log
from .batch import Batch, Report, chunks
from .batch_destination import STAGING
from .config import BatchConfig

_CONNECT_SECONDS: Final = 15.0
_AHEAD: Final = 4

_guard = threading.Lock()
_batches: dict[tuple[str, str, str], Batch] = {}


def run(address: str, source: str, destination: str, config: BatchConfig, work: list[Found]) -> Generator[Report]:
    """Process work on the cluster whose scheduler is at address; reports come as they are done."""
    # The library is typed in part.
    dask: Any = distributed
    try:
        client: Any = dask.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f"no Dask scheduler answers at {address}: {error}") from error
    with contextlib.closing(client):
        try:
            with _shared_place(destination) as token:
                _check_workers(client, source, destination, token)
            yield from _run(client, secrets.token_hex(8), source, destination, config, work)
        except (OSError, CommClosedError, distributed.CancelledError) as error:
            raise TemporaryError(f"the Dask cluster was lost ({error}): run again with --resume") from error


def _run(
    client: Any, name: str, source: str, destination: str, config: BatchConfig, work: list[Found]
) -> Generator[Report]:
    pieces = chunks(work)
    sent: dict[Any, list[Found]] = {}

    def submit(piece: list[Found]) -> Any:
        future = client.submit(process_chunk, name, source, destination, config, piece, pure=False)
        sent[future.key] = piece
        return future

    dask: Any = distributed
    results: Any = dask.as_completed([], loop=client.loop)
    threads = sum(client.nthreads().values())
    for piece in _first(pieces, max(1, threads) * _AHEAD):
        results.add(submit(piece))
    for future in results:
        piece = sent.pop(future.key)
        error = future.exception()
        if error is None:
            yield from future.result()
        elif not isinstance(error, KilledWorker):
            raise error if isinstance(error, RespoolError | OSError) else TemporaryError(f"a Dask task failed: {error}")
        elif len(piece) > 1:
            # One of them kills its workers: each by itself, so that the others get through.
            for found in piece:
                results.add(submit([found]))
        else:
            yield Report(id=str(piece[0].id), state="failed", reason=f"it killed every worker that took it up: {error}")
        future.release()
        for following in _first(pieces, 1):
            results.add(submit(following))


def _first(pieces: Iterator[list[Found]], number: int) -> Iterator[list[Found]]:
    for _ in range(number):
        piece = next(pieces, None)
        if piece is None:
            return
        yield piece


@contextlib.contextmanager
def _shared_place(destination: str) -> Generator[str]:
    """A file in DEST's staging directory by which a worker knows that it sees the same place."""
    staging = durable.open_directory(f"{destination}/{STAGING}")
    token = f"shared-{secrets.token_hex(8)}"
    try:
        os.close(durable.create_file(token, at=staging))
        yield token
    finally:
        with contextlib.suppress(FileNotFoundError):
            durable.unlink(token, at=staging)
        os.close(staging)


def _check_workers(client: Any, source: str, destination: str, token: str) -> None:
    with contextlib.suppress(TimeoutError):
        # They may have been started a moment ago, with this.
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    answers: dict[str, str] = client.run(probe, source, destination, token)
    if not answers:
        raise ConfigError("the Dask cluster has no workers")
    for worker, answer in sorted(answers.items()):
        if answer != version("respool"):
            raise ConfigError(f"Dask's worker {worker}: {answer or 'another respool'}; here it is {version('respool')}")


# What follows runs in Dask's workers.


def probe(source: str, destination: str, token: str) -> str:
    """The version of respool here, or what this worker lacks."""
    if not os.path.isdir(source):
        return f"{source} is not there"
    if not os.path.exists(f"{destination}/{STAGING}/{token}"):
        return f"{destination} is not the same directory there: it must be shared"
    return version("respool")


def process_chunk(name: str, source: str, destination: str, config: BatchConfig, piece: list[Found]) -> list[Report]:
    """Process a few messages; name is that of the run, for which directories and processors are opened once."""
    with _guard:
        batch = _batches.get((name, source, destination))
        if batch is None:
            # One run at a time; threads may still be in the middle of the one before, which keeps it alive.
            _batches.clear()
            log.configure()
            batch = _batches[name, source, destination] = Batch(source, destination, config)
    return [batch.process_once(found) for found in piece]
