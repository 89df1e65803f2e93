"""Packages that only some features need: imported where used, with an error that says how to get them."""

from __future__ import annotations

import importlib
from types import ModuleType

from .errors import KilnError


class KilnImportError(KilnError, ImportError):
    """A package of one of Kiln's extras is missing."""


def need(module: str, extra: str, feature: str) -> ModuleType:
    """The module, or an error that names the extra with which it is installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        raise KilnImportError(
            feature, f"needs the package {(e.name or module).partition('.')[0]}, which is not installed",
            module, f"pip install 'kiln-dl[{extra}]'",
        ) from None  # fmt: skip
