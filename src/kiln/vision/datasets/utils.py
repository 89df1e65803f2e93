"""Fetching and checking files, under the names of torchvision's file."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from .base import (
    calculate_md5,
    check_integrity,
    download_and_extract_archive,
    download_url,
    extract_archive,
)

__all__ = [
    "calculate_md5",
    "check_integrity",
    "download_and_extract_archive",
    "download_file_from_google_drive",
    "download_url",
    "extract_archive",
    "list_dir",
    "list_files",
]


def list_dir(root: str | Path, prefix: bool = False) -> list[str]:
    """The names of a folder's folders; with `prefix` their paths."""
    return [str(p) if prefix else p.name for p in Path(root).iterdir() if p.is_dir()]


def list_files(root: str | Path, suffix: str | tuple[str, ...], prefix: bool = False) -> list[str]:
    """The names of a folder's files that end so; with `prefix` their paths."""
    found = (p for p in Path(root).iterdir() if p.is_file() and p.name.endswith(suffix))
    return [str(p) if prefix else p.name for p in found]


def download_file_from_google_drive(
    file_id: str, root: str | Path, filename: str | Path | None = None, md5: str | None = None
) -> None:
    """Fetch a file with `gdown`, which must be installed, unless it is there; RuntimeError where its checksum is another."""
    root = Path(root).expanduser()
    path = root / (filename or file_id)
    root.mkdir(parents=True, exist_ok=True)
    if check_integrity(path, md5):
        print(f"Using downloaded {'and verified ' if md5 else ''}file: {path}")
        return
    try:
        gdown: Any = import_module("gdown")
    except ModuleNotFoundError:
        raise RuntimeError("To download files from GDrive, 'gdown' is required.") from None
    gdown.download(id=file_id, output=str(path), quiet=False)
    if not check_integrity(path, md5):
        raise RuntimeError("File not found or corrupted.")
