"""What data sets of pictures share: a folder, transforms, and files whose checksums are known."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...data import Dataset
from ...errors import KilnValueError
from ...extras import need


def picture(array: Any) -> Any:
    """A PIL picture of uint8 rows."""
    return need("PIL.Image", "vision", "this data set").fromarray(array)


class StandardTransform:
    """A transform of the input and one of the target."""

    def __init__(
        self, transform: Callable | None = None, target_transform: Callable | None = None
    ) -> None:
        self.transform, self.target_transform = transform, target_transform

    def __call__(self, input: Any, target: Any) -> tuple[Any, Any]:
        if self.transform is not None:
            input = self.transform(input)
        if self.target_transform is not None:
            target = self.target_transform(target)
        return input, target

    def __repr__(self) -> str:
        lines = [type(self).__name__]
        for name, f in (
            ("Transform: ", self.transform),
            ("Target transform: ", self.target_transform),
        ):
            if f is not None:
                first, *rest = repr(f).splitlines()
                lines += [name + first, *(" " * len(name) + line for line in rest)]
        return "\n".join(lines)


class VisionDataset(Dataset):
    """A data set in a folder; `transforms` of both, or `transform` and `target_transform`."""

    def __init__(
        self, root: Any = None, transforms: Callable | None = None, transform: Callable | None = None,
        target_transform: Callable | None = None,
    ) -> None:  # fmt: skip
        self.root = os.path.expanduser(root) if isinstance(root, str) else root
        apart = transform is not None or target_transform is not None
        if transforms is not None and apart:
            raise KilnValueError(
                type(self).__name__, "Only transforms or transform/target_transform can be passed as argument",
                None, "pass one of both",
            )  # fmt: skip
        self.transform, self.target_transform = transform, target_transform
        self.transforms = StandardTransform(transform, target_transform) if apart else transforms

    def _transformed(self, input: Any, target: Any) -> tuple[Any, Any]:
        return (input, target) if self.transforms is None else self.transforms(input, target)

    def __getitem__(self, index: Any) -> Any:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        lines = [f"Dataset {type(self).__name__}", f"    Number of datapoints: {len(self)}"]
        if self.root is not None:
            lines.append(f"    Root location: {self.root}")
        lines += [f"    {line}" for line in self.extra_repr().splitlines()]
        if self.transforms is not None:
            lines += [f"    {line}" for line in repr(self.transforms).splitlines()]
        return "\n".join(lines)

    def extra_repr(self) -> str:
        """Lines of a data set's own for its repr."""
        return ""


class TrainOrTest(VisionDataset):
    """A data set of two parts, `train` or not, in files that `download=True` fetches where they are missing."""

    def __init__(
        self, root: Any, train: bool = True, transform: Callable | None = None,
        target_transform: Callable | None = None, download: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.train = train
        if download:
            self.download()
        self._load()

    def download(self) -> None:
        """Fetch what is missing."""
        raise NotImplementedError

    def _load(self) -> None:
        """Read the part; KilnError where files are missing."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"Split: {'Train' if self.train else 'Test'}"


def calculate_md5(path: Any) -> str:
    """The MD5 sum of a file."""
    with open(path, "rb") as f:
        return hashlib.file_digest(f, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def check_integrity(fpath: Any, md5: str | None = None) -> bool:
    """Whether a file is there and, where its MD5 sum is known, whole."""
    return os.path.isfile(fpath) and (md5 is None or calculate_md5(fpath) == md5)


def download_url(url: str, root: Any, filename: str | None = None, md5: str | None = None) -> None:
    """Fetch a file into a folder unless it is there (`kiln.datasets.fetch`); KilnError where it can't be, or isn't the one meant."""
    from ...datasets.download import fetch

    fetch(url, Path(os.path.expanduser(root)) / (filename or os.path.basename(url)), md5=md5)


def extract_archive(from_path: Any, to_path: Any = None, remove_finished: bool = False) -> str:
    """Unpack a .tar(.gz), .zip or .gz file; nothing is written outside of the folder."""
    source = Path(from_path)
    folder = Path(to_path) if to_path is not None else source.parent
    if source.suffix == ".zip":
        with zipfile.ZipFile(source) as z:
            z.extractall(folder)
    elif ".tar" in source.suffixes or source.suffix == ".tgz":
        with tarfile.open(source) as t:
            t.extractall(folder, filter="data")
    elif source.suffix == ".gz":
        fd, draft = tempfile.mkstemp(prefix=f".{source.stem}.", dir=folder)
        with gzip.open(source) as f, os.fdopen(fd, "wb") as out:
            shutil.copyfileobj(f, out)
        os.replace(draft, folder / source.stem)
    else:
        raise KilnValueError(
            "extract_archive", "not an archive by its name", str(source), ".zip, .tar.gz, .gz"
        )
    if remove_finished:
        source.unlink()
    return str(folder)


def download_and_extract_archive(
    url: str, download_root: Any, extract_root: Any = None, filename: str | None = None,
    md5: str | None = None, remove_finished: bool = False,
) -> None:  # fmt: skip
    """Fetch an archive and unpack it."""
    root = os.path.expanduser(download_root)
    filename = filename or os.path.basename(url)
    download_url(url, root, filename, md5)
    extract_archive(os.path.join(root, filename), extract_root or root, remove_finished)
