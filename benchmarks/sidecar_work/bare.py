"""The bare program: the file system calls that the guarantees need and the same cryptography, and nothing else.

No parsing, no recovery, no configuration, no log, no check of what it reads: what a program of
any language has to ask of the kernel and of OpenSSL for each message, in the order that makes
it safe (requeue/README.md). It works in batches, so that a whole batch shares each sync of a
directory and of the ledger, and in directories that it keeps.

Diagnostics: whatever goes wrong ends it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import lmdb
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from .material import SETS

#: As long as the Authentication-Results and the ARC set that the program adds.
ADDED = b"X-Added: " + b"x" * 1800 + b"\n"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LOCK = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, 19, 0)
_UNLOCK = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 0, 19, 0)


class Cryptography:
    """One SHA-256 over the body, a verification for each signature that is there, two signatures for a seal."""

    def __init__(self, key: RSAPrivateKey) -> None:
        self._key, self._public = key, key.public_key()
        self._padding, self._prehashed = PKCS1v15(), Prehashed(SHA256())
        self._digest = hashlib.sha256(b"").digest()
        self._signature = key.sign(self._digest, self._padding, self._prehashed)

    def work(self, body: bytes) -> None:
        hashlib.sha256(body).digest()
        for _ in range(1 + 2 * SETS):
            self._public.verify(self._signature, self._digest, self._padding, self._prehashed)
        self._key.sign(self._digest, self._padding, self._prehashed)
        self._key.sign(self._digest, self._padding, self._prehashed)


class Bare:
    """One process of the bare program, with a few threads, so that syncs of one overlap work of the others."""

    def __init__(self, root: Path, key: RSAPrivateKey | None, *, number: int, threads: int, batch: int) -> None:
        self._cryptography = Cryptography(key) if key is not None else None
        self._threads, self._batch, self._number = threads, batch, number
        for name in ("state", "state/work", "state/ledger"):
            (root / name).mkdir(exist_ok=True)
        self._export = os.open(root / "export", _DIRECTORY)
        self._work = os.open(root / "state/work", _DIRECTORY)
        self._input = os.open(root / "spool/input", _DIRECTORY)
        self._owned: Any = lmdb.open(str(root / "state/ledger/owned"), subdir=False, map_size=1 << 28, sync=False)
        self._settled: Any = lmdb.open(str(root / "state/ledger/settled"), subdir=False, map_size=1 << 28)

    def run(self, stems: list[str]) -> None:
        """Hand these messages back."""
        threads = [
            threading.Thread(target=self._serve, args=(stems[n :: self._threads], n)) for n in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def follow(self, stems: SimpleQueue[str], tell: Callable[[str], None]) -> None:
        """Hand each of these back as it comes, and tell of it once it is durable; without end."""

        def serve(thread: int) -> None:
            slots = [_Slot(self._work, f"gone.{self._number}.{thread}.0")]
            while True:
                self._hand_back([stems.get()], slots, tell)

        for thread in range(self._threads):
            threading.Thread(target=serve, args=(thread,), daemon=True).start()

    def _serve(self, stems: list[str], thread: int) -> None:
        slots: list[_Slot] = []
        for start in range(0, len(stems), self._batch):
            some = stems[start : start + self._batch]
            while len(slots) < len(some):
                slots.append(_Slot(self._work, f"gone.{self._number}.{thread}.{len(slots)}"))
            self._hand_back(some, slots)

    def _hand_back(self, stems: list[str], slots: list[_Slot], tell: Callable[[str], None] | None = None) -> None:
        pairs = list(zip(stems, slots, strict=False))
        texts: list[bytes] = []
        for stem, slot in pairs:
            texts.append(self._claim(stem, slot))
        keys = [stem.encode() + bytes(16) for stem in stems]
        with self._owned.begin(write=True) as transaction:
            for key in keys:
                transaction.get(key)
                transaction.put(key, bytes(32))
        with self._settled.begin() as transaction:
            for key in keys:
                transaction.get(key)
        written: list[int] = []
        for (stem, slot), text in zip(pairs, texts, strict=True):
            written.append(self._stage(stem, slot, text))
        for (_, slot), descriptor in zip(pairs, written, strict=True):
            os.fsync(descriptor)
            os.close(descriptor)
            os.rename("out.tmp", "out", src_dir_fd=slot.descriptor, dst_dir_fd=slot.descriptor)
        for stem, slot in pairs:
            os.link(f"{stem}-D", f"{stem}-D", src_dir_fd=slot.out, dst_dir_fd=self._input)
            os.rename("0-H", f"{stem}-H", src_dir_fd=slot.out, dst_dir_fd=self._input)
        os.fsync(self._input)
        for _, slot in pairs:
            fcntl.fcntl(slot.data, fcntl.F_OFD_SETLK, _UNLOCK)
        if tell is not None:
            for stem in stems:
                tell(stem)
        with self._settled.begin(write=True) as transaction:
            for key in keys:
                transaction.put(key, bytes(32))
        with self._owned.begin(write=True) as transaction:
            for key in keys:
                transaction.delete(key)
        for stem, slot in pairs:
            slot.clear(self._work, stem)

    def _claim(self, stem: str, slot: _Slot) -> bytes:
        slot.data = os.open(f"{stem}-D", os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._export)
        fcntl.fcntl(slot.data, fcntl.F_OFD_SETLK, _LOCK)
        size = os.fstat(slot.data).st_size
        os.stat(f"{stem}-D", dir_fd=self._export, follow_symlinks=False)
        slot.rename(self._work, f"{stem}.1")
        os.rename(f"{stem}-D", f"{stem}-D", src_dir_fd=self._export, dst_dir_fd=slot.descriptor)
        os.rename(f"{stem}-H", f"{stem}-H", src_dir_fd=self._export, dst_dir_fd=slot.descriptor)
        header = os.open(f"{stem}-H", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=slot.descriptor)
        text = os.pread(header, os.fstat(header).st_size, 0)
        os.close(header)
        body = os.pread(slot.data, size, 0)
        if self._cryptography is not None:
            self._cryptography.work(body)
        return text

    def _stage(self, stem: str, slot: _Slot, text: bytes) -> int:
        for name in (f"{stem}-D", f"{stem}-H", f"{stem}-J", stem[5]):  # nothing of that id, in either layout
            try:
                os.stat(name, dir_fd=self._input, follow_symlinks=False)
            except FileNotFoundError:
                continue
            raise FileExistsError(name)
        os.link(f"{stem}-D", f"{stem}-D", src_dir_fd=slot.descriptor, dst_dir_fd=slot.out)
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open("0-H", flags, 0o640, dir_fd=slot.out)
        os.write(descriptor, text + ADDED)
        return descriptor


class _Slot:
    """A directory in which one message after the other is worked on."""

    def __init__(self, work: int, name: str) -> None:
        os.mkdir(name, dir_fd=work)
        self.name = name
        self.data = -1
        self.descriptor = os.open(name, _DIRECTORY, dir_fd=work)
        fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.mkdir("out.tmp", dir_fd=self.descriptor)
        self.out = os.open("out.tmp", _DIRECTORY, dir_fd=self.descriptor)

    def rename(self, work: int, name: str) -> None:
        os.rename(self.name, name, src_dir_fd=work, dst_dir_fd=work)
        self.name = name

    def clear(self, work: int, stem: str) -> None:
        self.rename(work, f"gone.{stem}.1")
        os.unlink(f"{stem}-D", dir_fd=self.out)
        os.rename("out", "out.tmp", src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        os.unlink(f"{stem}-D", dir_fd=self.descriptor)
        os.unlink(f"{stem}-H", dir_fd=self.descriptor)
        os.close(self.data)
