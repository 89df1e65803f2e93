"""Data sets to learn from: those that are on every machine or made by rule, and the published ones from their own files.

`fetch` gets a file from the network; sets of pictures (MNIST, CIFAR10, …) are `kiln.vision.datasets`'s.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import KilnAttributeError

if TYPE_CHECKING:
    from ..vision.datasets import (
        CIFAR10,
        CIFAR100,
        EMNIST,
        KMNIST,
        MNIST,
        STL10,
        SVHN,
        USPS,
        CocoCaptions,
        CocoDetection,
        DatasetFolder,
        FakeData,
        FashionMNIST,
        ImageFolder,
        VOCDetection,
        VOCSegmentation,
    )
    from .dates import Dates, load_dates
    from .digits import Digits, load_digits
    from .download import fetch
    from .karate import KarateClub, load_karate_club
    from .library import load_library_text
    from .scenes import Scenes
    from .sounds import Keywords, Tones, load_keywords, load_tones
    from .tables import Table, load_breast_cancer, load_diabetes, load_iris, load_wine

_HOMES = {
    "dates": ("Dates", "load_dates"),
    "digits": ("Digits", "load_digits"),
    "download": ("fetch",),
    "karate": ("KarateClub", "load_karate_club"),
    "library": ("load_library_text",),
    "scenes": ("Scenes",),
    "sounds": ("Keywords", "Tones", "load_keywords", "load_tones"),
    "tables": ("Table", "load_breast_cancer", "load_diabetes", "load_iris", "load_wine"),
    "..vision.datasets": (
        "CIFAR10", "CIFAR100", "EMNIST", "KMNIST", "MNIST", "STL10", "SVHN", "USPS", "CocoCaptions", "CocoDetection",
        "DatasetFolder", "FakeData", "FashionMNIST", "ImageFolder", "VOCDetection", "VOCSegmentation",
    ),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "CIFAR10", "CIFAR100", "EMNIST", "KMNIST", "MNIST", "STL10", "SVHN", "USPS", "CocoCaptions", "CocoDetection",
    "DatasetFolder", "Dates", "Digits", "FakeData", "FashionMNIST", "ImageFolder", "KarateClub", "Keywords", "Scenes",
    "Table", "Tones", "VOCDetection", "VOCSegmentation", "fetch", "load_breast_cancer", "load_dates", "load_diabetes",
    "load_digits", "load_iris", "load_karate_club", "load_keywords", "load_library_text", "load_tones", "load_wine",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    home = _HOME.get(name)
    if home is None:
        raise KilnAttributeError(
            "datasets", f"module 'kiln.datasets' has no attribute {name!r}", name, ", ".join(_HOME)
        )
    module = importlib.import_module(home if home.startswith("..") else f".{home}", __name__)
    found = globals()[name] = getattr(module, name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
