"""MNIST and its kin, read from their IDX files (LeCun, Cortes, Burges 1998).

http://yann.lecun.com/exdb/mnist/
"""

from __future__ import annotations

import gzip
import os
import string
import struct
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import KilnError, KilnValueError
from ...ops.creation import from_numpy
from ...tensor import Tensor
from .base import (
    TrainOrTest,
    check_integrity,
    download_and_extract_archive,
    extract_archive,
    picture,
)

_KINDS = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def read_idx(path: Any) -> np.ndarray:
    """The array in an IDX file, or in one that is compressed by gzip; KilnError where it is none."""
    path = Path(path)
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as e:
            raise KilnError(
                "read_idx", f"the file is corrupt: {e}", str(path), "fetch it again"
            ) from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _KINDS:
        raise KilnError("read_idx", "not an IDX file", str(path), "fetch it again")
    dtype, ndim = np.dtype(_KINDS[content[2]]), content[3]
    start = 4 + 4 * ndim
    shape = struct.unpack(f">{ndim}I", content[4:start]) if len(content) >= start else (1 << 62,)
    if len(content) - start != prod(shape) * dtype.itemsize:
        raise KilnError(
            "read_idx", "the file is cut short, or longer than it says", f"{path}: {len(content)} bytes",
            "fetch it again",
        )  # fmt: skip
    a = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return a.astype(dtype.newbyteorder("="))


class MNIST(TrainOrTest):
    """28 x 28 gray digits: 60,000 to learn from and 10,000 to test with.

    Reads ROOT/MNIST/raw/train-images-idx3-ubyte and its three companions, compressed or not;
    `download=True` fetches them. An item is a PIL picture and a class.
    """

    mirrors: ClassVar[list[str]] = [
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "http://yann.lecun.com/exdb/mnist/",
    ]
    resources: ClassVar[list[tuple[str, str]]] = [
        ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
        ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
        ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    ]
    classes: ClassVar[list[str]] = [
        "0 - zero", "1 - one", "2 - two", "3 - three", "4 - four", "5 - five", "6 - six", "7 - seven",
        "8 - eight", "9 - nine",
    ]  # fmt: skip

    def _load(self) -> None:
        if not self._check_exists():
            raise KilnError(
                type(self).__name__, "Dataset not found. You can use download=True to download it",
                self.raw_folder, f"or put there: {', '.join(self._names())}",
            )  # fmt: skip
        self.data, self.targets = self._load_data()

    def _names(self) -> list[str]:
        """The files of the data set, unpacked."""
        return [name.removesuffix(".gz") for name, _ in self.resources]

    def _load_data(self) -> tuple[Tensor, Tensor]:
        split = "train" if self.train else "t10k"
        images = read_idx(self._find(f"{split}-images-idx3-ubyte"))
        labels = read_idx(self._find(f"{split}-labels-idx1-ubyte"))
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            raise KilnError(
                type(self).__name__, "images and labels don't belong together",
                f"{images.shape}, {labels.shape}", "fetch them again",
            )  # fmt: skip
        return from_numpy(images), from_numpy(labels.astype(np.int64))

    def _find(self, name: str) -> str:
        """The path of a file, or of it compressed."""
        path = os.path.join(self.raw_folder, name)
        return path if os.path.isfile(path) else f"{path}.gz"

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self._transformed(picture(self.data[index].numpy()), int(self.targets[index]))

    def __len__(self) -> int:
        return len(self.data)

    @property
    def raw_folder(self) -> str:
        """Where the files are."""
        return os.path.join(self.root, type(self).__name__, "raw")

    @property
    def class_to_idx(self) -> dict[str, int]:
        """The number of each class."""
        return {c: i for i, c in enumerate(self.classes)}

    train_data = test_data = property(lambda self: self.data)
    train_labels = test_labels = property(lambda self: self.targets)

    def _check_exists(self) -> bool:
        return all(check_integrity(self._find(name)) for name in self._names())

    def download(self) -> None:
        """Fetch the files that are not there, from the first mirror that has them whole."""
        if self._check_exists():
            return
        for name, md5 in self.resources:
            for mirror in self.mirrors:
                try:
                    download_and_extract_archive(mirror + name, self.raw_folder, None, name, md5)
                    break
                except KilnError:
                    if mirror == self.mirrors[-1]:
                        raise


class FashionMNIST(MNIST):
    """28 x 28 gray pieces of clothing, in MNIST's files (Xiao, Rasul, Vollgraf 2017)."""

    mirrors: ClassVar[list[str]] = ["http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"]
    resources: ClassVar[list[tuple[str, str]]] = [
        ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310"),
    ]
    classes: ClassVar[list[str]] = [
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ]  # fmt: skip


class KMNIST(MNIST):
    """28 x 28 gray Kuzushiji characters, in MNIST's files (Clanuwat et al. 2018)."""

    mirrors: ClassVar[list[str]] = ["http://codh.rois.ac.jp/kmnist/dataset/kmnist/"]
    resources: ClassVar[list[tuple[str, str]]] = [
        ("train-images-idx3-ubyte.gz", "bdb82020997e1d708af4cf47b453dcf7"),
        ("train-labels-idx1-ubyte.gz", "e144d726b3acfaa3e44228e80efcd344"),
        ("t10k-images-idx3-ubyte.gz", "5c965bf0a639b31b8f53240b1b52f4d7"),
        ("t10k-labels-idx1-ubyte.gz", "7320c461ea6c1c855c0b718fb2a4b134"),
    ]
    classes: ClassVar[list[str]] = ["o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"]


_ALL = sorted(string.digits + string.ascii_letters)
_MERGED = [c for c in _ALL if c not in "cijklmopsuvwxyz"]


class EMNIST(MNIST):
    """28 x 28 gray letters and digits in six splits (Cohen et al. 2017)."""

    url = "https://www.itl.nist.gov/iaui/vip/cs_links/EMNIST/gzip.zip"
    md5 = "58c8d27c78d21e728a6bc7b3cc06412e"
    splits: ClassVar[tuple[str, ...]] = (
        "byclass",
        "bymerge",
        "balanced",
        "letters",
        "digits",
        "mnist",
    )
    classes_split_dict: ClassVar[dict[str, list[str]]] = {
        "byclass": _ALL, "bymerge": _MERGED, "balanced": _MERGED,
        "letters": ["N/A", *string.ascii_lowercase], "digits": list(string.digits), "mnist": list(string.digits),
    }  # fmt: skip

    def __init__(self, root: Any, split: str, **kwargs: Any) -> None:
        if split not in self.splits:
            raise KilnValueError(
                "EMNIST",
                f"Unknown value '{split}' for argument split.",
                split,
                ", ".join(self.splits),
            )
        self.split = split
        super().__init__(root, **kwargs)
        self.classes = self.classes_split_dict[split]  # type: ignore[misc]

    def _names(self) -> list[str]:
        which = f"emnist-{self.split}-{'train' if self.train else 'test'}"
        return [f"{which}-images-idx3-ubyte", f"{which}-labels-idx1-ubyte"]

    def _load_data(self) -> tuple[Tensor, Tensor]:
        images, labels = (read_idx(self._find(name)) for name in self._names())
        return from_numpy(images), from_numpy(labels.astype(np.int64))

    def download(self) -> None:
        """Fetch the archive of all splits."""
        if self._check_exists():
            return
        download_and_extract_archive(self.url, self.raw_folder, md5=self.md5)
        for path in Path(self.raw_folder, "gzip").glob("*.gz"):
            extract_archive(path, self.raw_folder)
