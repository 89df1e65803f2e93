"""Fetching and checking files, under the names of torchvision's file."""

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
    "download_url",
    "extract_archive",
]
