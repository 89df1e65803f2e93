"""Files from the network: checked by their checksums, and gone on with where a transfer was cut off."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from ..errors import KilnError, KilnValueError

TRIES = 3
CHUNK = 1 << 20
TIMEOUT = 60.0


def fetch(url: str, path: Any = None, *, sha256: str | None = None, md5: str | None = None) -> Path:
    """Have what is at an address (https:, http:, file:) in a file; gives its path.

    A file that is there with the right checksum (or without one that is known) is left as it is; `path` is by default
    a file in the folder of Kiln's cache. What was transferred before a connection broke is kept beside it, and the next
    try, of this call or of a later one, asks for the rest, if the server says that the file is still the
    same. The file itself is there only when it is whole. KilnError where there is no network or the checksum differs.
    """
    parts = urlparse(url)
    if parts.scheme not in ("https", "http", "file"):
        raise KilnValueError("fetch", "no such kind of address", url, "https:, http: or file:")
    path = _cache(parts.path) if path is None else Path(os.path.expanduser(path))
    if _is_right(path, sha256, md5):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.part")
    with _alone(draft):
        if _is_right(path, sha256, md5):  # another process was quicker
            return path
        try:
            _transfer(url, draft, path, known=bool(sha256 or md5))
        except KilnError:
            if not draft.stat().st_size:
                _forget(draft)
            raise
        if not _is_right(draft, sha256, md5):
            _forget(draft)
            raise KilnError(
                "fetch", f"File not found or corrupted: its {'SHA-256' if sha256 else 'MD5'} sum differs", url,
                "try again; nothing was kept",
            )  # fmt: skip
        os.replace(draft, path)
        _forget(draft)
    return path


def _cache(name: str) -> Path:
    import platformdirs

    return Path(platformdirs.user_cache_dir("kiln"), "datasets", os.path.basename(name) or "file")


def _is_right(path: Path, sha256: str | None, md5: str | None) -> bool:
    if not path.is_file():
        return False
    for due, made in ((sha256, hashlib.sha256()), (md5, hashlib.md5(usedforsecurity=False))):
        if due is not None:
            with open(path, "rb") as f:
                if hashlib.file_digest(f, lambda made=made: made).hexdigest() != due.lower():
                    return False
    return True


def _transfer(url: str, draft: Path, path: Path, known: bool) -> None:
    """Have all of the file in the draft, in as many tries as it takes, up to TRIES that bring nothing."""
    idle = 0
    while True:
        before = draft.stat().st_size
        try:
            if _attempt(url, draft, known):
                return
            problem = "the connection broke before the end"
        except HTTPError as e:
            e.close()
            problem = f"HTTP {e.code} {e.reason}"
            if e.code < 500:
                idle = TRIES
        except (URLError, HTTPException, OSError) as e:
            problem = str(getattr(e, "reason", e)) or type(e).__name__
        idle = idle + 1 if draft.stat().st_size <= before else 0
        if idle >= TRIES:
            have = draft.stat().st_size
            kept = f"; {have:,} bytes are kept, and the next try goes on from there" if have else ""
            raise KilnError(
                "fetch", f"can't fetch the file: {problem}{kept}", url,
                f"without a network, put it there yourself: {path}",
            ) from None  # fmt: skip


def _attempt(url: str, draft: Path, known: bool) -> bool:
    """Ask for what is missing; whether all is there."""
    have, same = draft.stat().st_size, _validator(draft)
    headers = {"User-Agent": "kiln.datasets", "Accept-Encoding": "identity"}
    if have and (same or known) and not url.startswith("file:"):
        headers["Range"] = f"bytes={have}-"
        if same:
            headers["If-Range"] = same
    try:
        answer = urlopen(Request(url, headers=headers), timeout=TIMEOUT)
    except HTTPError as e:
        if e.code != 416:  # the server has no more than what is here, or another file
            raise
        e.close()
        if e.headers.get("Content-Range") == f"bytes */{have}":
            return True
        draft.write_bytes(b"")
        return False
    with answer:
        goes_on = answer.status == 206
        if goes_on and not str(answer.headers["Content-Range"]).startswith(f"bytes {have}-"):
            draft.write_bytes(b"")
            return False
        found = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
        if found.startswith("W/"):  # the same meaning, not the same bytes
            found = answer.headers.get("Last-Modified") or ""
        _notes(draft).write_text(json.dumps({"same": found}))
        length = answer.headers.get("Content-Length")
        came = 0
        with open(draft, "ab" if goes_on else "wb") as out:
            while chunk := answer.read(CHUNK):
                out.write(chunk)
                came += len(chunk)
        return length is None or came == int(length)


def _notes(draft: Path) -> Path:
    return draft.with_name(f"{draft.name}.json")


def _validator(draft: Path) -> str:
    """What the server called the version of which the draft has the beginning."""
    try:
        return str(json.loads(_notes(draft).read_text())["same"])
    except (OSError, ValueError, KeyError):
        return ""


def _forget(draft: Path) -> None:
    for path in (draft, _notes(draft)):
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(draft: Path) -> Iterator[None]:
    """One process at a time, where the system has locks of files; the draft is there meanwhile."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        draft.touch()
        yield
        return
    while True:
        held: BinaryIO = open(draft, "ab")  # noqa: SIM115
        fcntl.flock(held, fcntl.LOCK_EX)
        with contextlib.suppress(OSError):
            if os.fstat(held.fileno()).st_ino == draft.stat().st_ino:
                break
        held.close()  # who had the lock has finished with that draft
    with held:
        yield
