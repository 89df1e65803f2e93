"""CIFAR-10 and CIFAR-100, read from their Python batches without running what pickles may hold.

https://www.cs.toronto.edu/~kriz/cifar.html
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import KilnError
from ...io.pickled import Reader
from ...io.torchnames import plain
from .base import TrainOrTest, check_integrity, download_and_extract_archive, picture


def read_batch(path: Any) -> dict[str, Any]:
    """The dict in a batch's file: arrays, lists, numbers and text."""

    def find(module: str, name: str) -> Any:
        found = plain(f"{module}.{name}")
        return found if found is not None else reader.refuse(f"the file refers to {module}.{name}")

    def persistent(_: Any) -> Any:
        return reader.refuse("the file refers to another one")

    reader = Reader(Path(path).read_bytes(), find, persistent, str(path), encoding="latin-1")
    out = reader.load()
    if not isinstance(out, dict):
        reader.refuse("the file holds no batch")
    return out


class CIFAR10(TrainOrTest):
    """32 x 32 colour pictures of ten classes: 50,000 to learn from, 10,000 to test with.

    Reads ROOT/cifar-10-batches-py, whose files' checksums must be right; `download=True` fetches it.
    An item is a PIL picture and a class.
    """

    base_folder = "cifar-10-batches-py"
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
    filename = "cifar-10-python.tar.gz"
    tgz_md5 = "c58f30108f718f92721af3b95e74349a"
    train_list: ClassVar[list[list[str]]] = [
        ["data_batch_1", "c99cafc152244af753f735de768cd75f"],
        ["data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"],
        ["data_batch_3", "54ebc095f3ab1f0389bbae665268c751"],
        ["data_batch_4", "634d18415352ddfa80567beed471001a"],
        ["data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"],
    ]
    test_list: ClassVar[list[list[str]]] = [["test_batch", "40351d587109b95175f43aff81a1287e"]]
    meta: ClassVar[dict[str, str]] = {
        "filename": "batches.meta", "key": "label_names", "md5": "5ff9c542aee3614f3951f8cda6e48888",
    }  # fmt: skip

    def _load(self) -> None:
        if not self._check_integrity():
            raise KilnError(
                type(self).__name__, "Dataset not found or corrupted. You can use download=True to download it",
                os.path.join(self.root, self.base_folder), f"or unpack {self.filename} in {self.root}",
            )  # fmt: skip
        batches = [
            read_batch(self._path(name)) for name, _ in (self.train_list if self.train else self.test_list)
        ]  # fmt: skip
        self.targets: list[int] = []
        for batch in batches:
            self.targets += batch["labels"] if "labels" in batch else batch["fine_labels"]
        rows = np.concatenate([np.asarray(b["data"], np.uint8) for b in batches])
        self.data = np.ascontiguousarray(rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        self.classes = read_batch(self._path(self.meta["filename"]))[self.meta["key"]]
        self.class_to_idx = {c: i for i, c in enumerate(self.classes)}

    def _path(self, name: str) -> str:
        return os.path.join(self.root, self.base_folder, name)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self._transformed(picture(self.data[index]), self.targets[index])

    def __len__(self) -> int:
        return len(self.data)

    def _check_integrity(self) -> bool:
        files = [*self.train_list, *self.test_list, [self.meta["filename"], self.meta["md5"]]]
        return all(check_integrity(self._path(name), md5) for name, md5 in files)

    def download(self) -> None:
        """Fetch and unpack the archive."""
        if not self._check_integrity():
            download_and_extract_archive(self.url, self.root, None, self.filename, self.tgz_md5)


class CIFAR100(CIFAR10):
    """32 x 32 colour pictures of a hundred classes, in CIFAR-10's format."""

    base_folder = "cifar-100-python"
    url = "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz"
    filename = "cifar-100-python.tar.gz"
    tgz_md5 = "eb9058c3a382ffc7106e4002c42a8d85"
    train_list: ClassVar[list[list[str]]] = [["train", "16019d7e3df5f24257cddd939b257f8d"]]
    test_list: ClassVar[list[list[str]]] = [["test", "f0ef6b0ae62326f3e7ffdfab6717acfc"]]
    meta: ClassVar[dict[str, str]] = {
        "filename": "meta", "key": "fine_label_names", "md5": "7973b15100ade9c7d40fb424638fde48",
    }  # fmt: skip
