"""Reading and writing whole files: an old one is replaced only by a complete new one."""

from __future__ import annotations

import contextlib
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

from ..errors import KilnError, KilnTypeError, describe


class KilnFileError(KilnError, OSError):
    """A file that can't be read or written."""


class KilnFileNotFoundError(KilnFileError, FileNotFoundError):
    """A file that is not there."""


def _path(op: str, f: Any) -> Path:
    if not isinstance(f, str | os.PathLike):
        raise KilnTypeError(
            op, "expected a path or a binary file", describe(f), "pass a str, a Path or a file"
        )
    return Path(os.fsdecode(f))


def read_bytes(op: str, f: Any) -> bytes:
    """The content of a path or of a binary file object."""
    if hasattr(f, "read"):
        data = f.read()
        if not isinstance(data, bytes | bytearray):
            raise KilnTypeError(
                op, "the file is open in text mode", describe(f), "open it with 'rb'"
            )
        return bytes(data)
    path = _path(op, f)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise KilnFileNotFoundError(op, "no such file", str(path), "check the path") from None
    except OSError as e:
        raise KilnFileError(
            op, f"can't read the file: {e.strerror}", str(path), "check the path"
        ) from None


def map_bytes(op: str, f: Any) -> memoryview:
    """The content of a path as mapped memory; writes to it stay in this process."""
    if not isinstance(f, str | os.PathLike):
        raise KilnError(
            op,
            "f must be a file path in order to use the mmap argument",
            describe(f),
            "pass a path",
        )
    path = _path(op, f)
    try:
        with open(path, "rb") as file:
            return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    except FileNotFoundError:
        raise KilnFileNotFoundError(op, "no such file", str(path), "check the path") from None
    except (OSError, ValueError) as e:
        raise KilnFileError(op, f"can't map the file: {e}", str(path), "leave mmap=False") from None


def write_bytes(op: str, f: Any, data: bytes) -> None:
    """Write to a path, at once or not at all, or to a binary file object."""
    if hasattr(f, "write"):
        try:
            f.write(data)
        except TypeError:
            raise KilnTypeError(
                op, "the file is open in text mode", describe(f), "open it with 'wb'"
            ) from None
        return
    path = _path(op, f)
    draft = None
    try:
        fd, draft = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(fd, "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(draft, _mode(path))
        os.replace(draft, path)
        _settle(path.parent)
    except OSError as e:
        raise KilnFileError(
            op, f"can't write the file: {e.strerror}", str(path),
            "the folder must exist, be writable and have room; what was there before is untouched",
        ) from None  # fmt: skip
    finally:
        if draft is not None:
            with contextlib.suppress(OSError):
                os.unlink(draft)


def _settle(folder: Path) -> None:
    """Have the folder's new entry last through a power failure, where the system can do that."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def remove_drafts(folder: Path, ending: str) -> None:
    """Remove what killed processes left half written of files with this ending."""
    for draft in folder.glob(f".*{ending}.*.part"):
        with contextlib.suppress(OSError):
            draft.unlink()


def _mode(path: Path) -> int:
    """The permissions that the file has, or that a new one would get."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
