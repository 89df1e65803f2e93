"""The disk cache of compiled objects: atomic, checksummed, private to the user, bounded.

Code from this cache is executed, so nothing is loaded that another user could have written.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import secrets
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path

from kiln.config import config
from kiln.errors import KilnCacheWarning

FORMAT = 1
_MAGIC = b"KILNOBJ%d\n" % FORMAT
_DIGEST = hashlib.sha256().digest_size
_SUFFIX = ".bin"


@dataclass
class CacheStats:
    """Counters since the process started (or since ``reset``)."""

    hits: int = 0
    misses: int = 0
    compiles: int = 0

    def reset(self) -> None:
        """Set every counter to zero."""
        self.hits = self.misses = self.compiles = 0


stats = CacheStats()


def make_key(text: str, isa_key: str) -> str:
    """The name of a compiled module: a hash of all that its machine code depends on."""
    digest = hashlib.sha256()
    for part in (text, isa_key, _llvm_version(), str(FORMAT)):
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()


class DiskCache:
    """Blobs of bytes in one directory, one file each, evicted least recently used first."""

    def __init__(self, directory: str | os.PathLike[str], limit_bytes: int) -> None:
        self.directory = Path(directory)
        self.limit_bytes = limit_bytes
        self._usable: bool | None = None
        self._size: int | None = None
        self._unlisted = secrets.randbelow(max(limit_bytes // 64, 1))

    def get(self, key: str) -> bytes | None:
        """The blob stored under ``key``, or None; a damaged entry is deleted."""
        data = self._read(key) if self._ready() else None
        if data is None:
            stats.misses += 1
        else:
            stats.hits += 1
        return data

    def put(self, key: str, data: bytes) -> None:
        """Store ``data`` under ``key``; a failure warns once and is otherwise ignored."""
        if not self._ready():
            return
        # Written aside and renamed, so that a reader never sees half of it.
        temporary = self.directory / f".{key[:16]}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
        try:
            self.directory.mkdir(mode=0o700, exist_ok=True)  # somebody may have cleaned up
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "wb") as file:
                file.write(_MAGIC + hashlib.sha256(data).digest() + data)
            os.replace(temporary, self._path(key))
        except OSError as exc:
            temporary.unlink(missing_ok=True)
            self._give_up(exc)
            return
        self._grow(len(data))

    def clear(self) -> None:
        """Delete every entry of this cache."""
        for path, _, _ in self._entries():
            Path(path).unlink(missing_ok=True)
        self._size = None

    def _path(self, key: str) -> Path:
        return self.directory / f"{key}{_SUFFIX}"

    def _read(self, key: str) -> bytes | None:
        path = self._path(key)
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
        except OSError:
            return None
        try:
            with os.fdopen(handle, "rb") as file:
                if not stat.S_ISREG(os.fstat(handle).st_mode) or not _private(os.fstat(handle)):
                    return None
                raw = file.read()
        except OSError:
            return None
        start = len(_MAGIC) + _DIGEST
        data = raw[start:]
        if raw[:start] != _MAGIC + hashlib.sha256(data).digest():
            self._drop(path)
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # what eviction goes by
        return data

    def _drop(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)

    def _ready(self) -> bool:
        if self._usable is None and self.limit_bytes <= 0:
            self._usable = False
        if self._usable is None:
            try:
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                if not _private(os.stat(self.directory)):
                    raise PermissionError("it belongs to, or is writable by, another user")
                self._usable = True
            except OSError as exc:
                self._give_up(exc)
        return bool(self._usable)

    def _give_up(self, reason: OSError) -> None:
        self._usable = False
        warnings.warn(
            f"[cache] compiled kernels can't be kept on disk: {reason}\n"
            f"received: cache directory {self.directory}\n"
            f"help: set KILN_CACHE_DIR to a directory that only you can write to",
            KilnCacheWarning,
            stacklevel=3,
        )

    def _entries(self) -> list[tuple[str, int, float]]:
        found = []
        try:
            with os.scandir(self.directory) as listing:
                for entry in listing:
                    if entry.name.endswith((_SUFFIX, ".tmp")):
                        info = entry.stat(follow_symlinks=False)
                        found.append((entry.path, info.st_size, info.st_mtime))
        except OSError:
            pass
        return found

    def _grow(self, added: int) -> None:
        if self._size is None:
            # Listing a full directory takes seconds: a process does so at a random point of
            # what it writes, so that short ones mostly don't and all together often enough do.
            self._unlisted -= added
            if self._unlisted >= 0:
                return
            self._size = sum(size for _, size, _ in self._entries())
        else:
            self._size += added
        if self._size <= self.limit_bytes:
            return
        # Down to 3/4, so that the directory is not listed again at the next put.
        entries = sorted(self._entries(), key=lambda entry: entry[2])
        self._size = sum(size for _, size, _ in entries)
        for path, size, _ in entries[:-1]:
            if self._size <= self.limit_bytes * 3 // 4:
                break
            self._drop(Path(path))
            self._size -= size


def default_cache() -> DiskCache:
    """The cache of this process, as ``config.cache_dir`` and ``config.cache_size_mb`` say (0: none)."""
    return _open(config.cache_dir, config.cache_size_mb)


def get(key: str) -> bytes | None:
    """The blob under ``key`` in the default cache, or None."""
    return default_cache().get(key)


def put(key: str, data: bytes) -> None:
    """Store a blob in the default cache."""
    default_cache().put(key, data)


def clear() -> None:
    """Empty the default cache."""
    default_cache().clear()


@functools.cache
def _open(directory: str, megabytes: int) -> DiskCache:
    if not directory:
        import platformdirs

        directory = platformdirs.user_cache_dir("kiln")
    return DiskCache(Path(directory), megabytes << 20)


@functools.cache
def _llvm_version() -> str:
    import llvmlite
    import llvmlite.binding as llvm

    return f"{llvmlite.__version__}/{'.'.join(map(str, llvm.llvm_version_info))}"


def _private(info: os.stat_result) -> bool:
    """Whether only this user can write to what ``info`` describes (always so on Windows)."""
    if not hasattr(os, "getuid"):
        return True
    return info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
