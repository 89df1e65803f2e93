"""Street View house numbers, STL-10 and USPS, from the files in which they are published."""

from __future__ import annotations

import bz2
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...errors import KilnError, KilnValueError
from .base import (
    TrainOrTest,
    VisionDataset,
    check_integrity,
    download_and_extract_archive,
    download_url,
    picture,
)

_MISSING = "Dataset not found or corrupted. You can use download=True to download it"

# ---------------------------------------------------------------- MATLAB's files

_TYPES = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_CLASSES = {
    6: "f8",
    7: "f4",
    8: "i1",
    9: "u1",
    10: "i2",
    11: "u2",
    12: "i4",
    13: "u4",
    14: "i8",
    15: "u8",
}
_MATRIX, _COMPRESSED = 14, 15


def read_mat(path: Any) -> dict[str, np.ndarray]:
    """The arrays of numbers in a MATLAB 5 file, by name.

    Source: MAT-File Format, https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf. Errors: KilnError.
    """
    content = Path(path).read_bytes()
    mark = content[126:128]
    if len(content) < 128 or mark not in (b"IM", b"MI"):
        raise KilnError("read_mat", "not a MATLAB 5 file", str(path), "download it again")
    order = "<" if mark == b"IM" else ">"
    found: dict[str, np.ndarray] = {}
    try:
        for kind, data in _elements(content[128:], order):
            if kind == _COMPRESSED:
                ((kind, data),) = _elements(zlib.decompress(data), order)
            if kind == _MATRIX:
                found.update(_array(data, order))
    except (struct.error, ValueError, KeyError, IndexError, zlib.error) as e:
        raise KilnError("read_mat", f"the file is damaged: {e}", str(path), "download it again") from None  # fmt: skip
    return found


def _elements(data: bytes, order: str) -> list[tuple[int, bytes]]:
    """Types and contents of what stands behind one another."""
    out, at = [], 0
    while at < len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        start, step = at + 8, 8 + size + (-size % 8 if kind != _COMPRESSED else 0)
        if kind >> 16:  # a small one, within eight bytes
            size, kind, start, step = kind >> 16, kind & 0xFFFF, at + 4, 8
        if start + size > len(data):
            raise ValueError("an element is longer than the file")
        out.append((kind, data[start : start + size]))
        at += step
    return out


def _array(data: bytes, order: str) -> dict[str, np.ndarray]:
    (_, flags), (_, dims), (_, name), *rest = _elements(data, order)
    kind = struct.unpack_from(order + "I", flags)[0] & 0xFF
    if kind not in _CLASSES or not rest:
        return {}
    shape = np.frombuffer(dims, order + "i4")
    values = np.frombuffer(rest[0][1], order + _TYPES[rest[0][0]])
    return {name.decode(): values.astype(_CLASSES[kind]).reshape(shape, order="F")}


# ---------------------------------------------------------------- data sets


class _Pictures(VisionDataset):
    """Pictures (N, channels, height, width) and their labels, of a split that is held in memory."""

    data: np.ndarray
    labels: np.ndarray
    split: str

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        image = np.ascontiguousarray(self.data[index].transpose(1, 2, 0))
        return self._transformed(picture(image), int(self.labels[index]))

    def __len__(self) -> int:
        return len(self.data)

    def extra_repr(self) -> str:
        return f"Split: {self.split}"


class SVHN(_Pictures):
    """32 x 32 colour pictures of house numbers' digits: split "train", "test" or "extra".

    Reads ROOT/train_32x32.mat and the like. An item is a PIL picture and a digit.
    """

    split_list: ClassVar[dict[str, list[str]]] = {
        "train": ["http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"],
        "test": ["http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"],
        "extra": ["http://ufldl.stanford.edu/housenumbers/extra_32x32.mat", "extra_32x32.mat", "a93ce644f1a588dc4d68dda5feec44a7"],
    }  # fmt: skip

    def __init__(
        self, root: Any, split: str = "train", transform: Callable | None = None, target_transform: Callable | None = None,
        download: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.split = _one_of("SVHN", "split", split, self.split_list)
        self.url, self.filename, self.file_md5 = self.split_list[split]
        path = os.path.join(self.root, self.filename)
        if download and not check_integrity(path, self.file_md5):
            download_url(self.url, self.root, self.filename, self.file_md5)
        if not check_integrity(path, self.file_md5):
            raise KilnError("SVHN", _MISSING, path, f"or put {self.url} there")
        arrays = read_mat(path)
        self.labels = arrays["y"].astype(np.int64).reshape(-1) % 10  # there 10 stands for 0
        self.data = arrays["X"].transpose(3, 2, 0, 1)


class STL10(_Pictures):
    """96 x 96 colour pictures of ten classes: split "train", "test", "unlabeled" or "train+unlabeled".

    Reads ROOT/stl10_binary. `folds` picks one of ten parts of the training pictures. Pictures without a label have -1.
    """

    base_folder = "stl10_binary"
    url = "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz"
    filename = "stl10_binary.tar.gz"
    tgz_md5 = "91f7769df0f17e558f3565bffb0c7dfb"
    class_names_file, folds_list_file = "class_names.txt", "fold_indices.txt"
    train_list: ClassVar[list[list[str]]] = [
        ["train_X.bin", "918c2871b30a85fa023e0c44e0bee87f"], ["train_y.bin", "5a34089d4802c674881badbb80307741"],
        ["unlabeled_X.bin", "5242ba1fed5e4be9e1e742405eb56ca4"],
    ]  # fmt: skip
    test_list: ClassVar[list[list[str]]] = [
        ["test_X.bin", "7f263ba9f9e0b06b93213547f721ac82"], ["test_y.bin", "36f9794fa4beb8a2c72628de14fa638e"]
    ]  # fmt: skip
    splits = ("train", "train+unlabeled", "unlabeled", "test")

    def __init__(
        self, root: Any, split: str = "train", folds: int | None = None, transform: Callable | None = None,
        target_transform: Callable | None = None, download: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.split, self.folds = _one_of("STL10", "split", split, self.splits), folds
        if folds is not None and folds not in range(10):
            raise KilnValueError("STL10", f"Value for argument folds should be in the range [0, 10), but got {folds}.", folds, "")  # fmt: skip
        if download and not self._check_integrity():
            download_and_extract_archive(self.url, self.root, None, self.filename, self.tgz_md5)
        if not self._check_integrity():
            raise KilnError("STL10", _MISSING, self._path(""), f"or unpack {self.filename} in {self.root}")  # fmt: skip
        parts = []
        for name in split.split("+"):
            x = np.fromfile(self._path(f"{name}_X.bin"), np.uint8)
            x = x.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
            y = np.full(len(x), -1, np.int64)
            if name != "unlabeled":
                y = np.fromfile(self._path(f"{name}_y.bin"), np.uint8).astype(np.int64) - 1
            if folds is not None and name == "train":
                at = Path(self._path(self.folds_list_file)).read_text().splitlines()[folds]
                x, y = (a[np.array(at.split(), np.int64)] for a in (x, y))
            parts.append((x, y))
        self.data, self.labels = (np.concatenate(a) for a in zip(*parts, strict=True))
        self.classes = Path(self._path(self.class_names_file)).read_text().splitlines()

    def _path(self, name: str) -> str:
        return os.path.join(self.root, self.base_folder, name)

    def _check_integrity(self) -> bool:
        files = [*self.train_list, *self.test_list]
        return all(check_integrity(self._path(name), md5) for name, md5 in files)


class USPS(TrainOrTest):
    """16 x 16 gray pictures of digits on envelopes, from ROOT/usps.bz2 and usps.t.bz2 (LIBSVM's lines)."""

    split_list: ClassVar[dict[str, list[str]]] = {
        "train": ["https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/usps.bz2", "usps.bz2", "ec16c51db3855ca6c91edd34d0e9b197"],
        "test": ["https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass/usps.t.bz2", "usps.t.bz2", "8ea070ee2aca1ac39742fdd1ef5ed118"],
    }  # fmt: skip

    def _file(self) -> tuple[str, str, str, str]:
        url, name, md5 = self.split_list["train" if self.train else "test"]
        return url, name, md5, os.path.join(self.root, name)

    def download(self) -> None:
        """Fetch the part's file."""
        url, name, md5, path = self._file()
        if not check_integrity(path, md5):
            download_url(url, self.root, name, md5)

    def _load(self) -> None:
        url, _, md5, path = self._file()
        if not check_integrity(path, md5):
            raise KilnError("USPS", _MISSING, path, f"or put {url} there")
        with bz2.open(path, "rt") as f:
            rows = [line.split() for line in f]
        values = [[float(v.partition(":")[2]) for v in r[1:]] for r in rows]
        grays = (np.array(values, np.float32).reshape(-1, 16, 16) + 1) / 2 * 255
        self.data = grays.astype(np.uint8)
        self.targets = [int(r[0]) - 1 for r in rows]

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        return self._transformed(picture(self.data[index]), int(self.targets[index]))

    def __len__(self) -> int:
        return len(self.data)


def _one_of(name: str, what: str, value: Any, known: Any) -> Any:
    if value not in known:
        raise KilnValueError(name, f"Unknown value '{value}' for argument {what}. Valid values are {{{', '.join(known)}}}.", value, "")  # fmt: skip
    return value
