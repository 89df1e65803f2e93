"""Pictures in one folder for each class, and pictures that are made up."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import kiln

from ...errors import KilnValueError
from ...extras import need
from ...io.files import KilnFileNotFoundError
from ..transforms.functional import to_pil_image
from .base import VisionDataset

IMG_EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp",
)  # fmt: skip


def has_file_allowed_extension(filename: str, extensions: str | tuple[str, ...]) -> bool:
    """Whether a file's name ends in one of these."""
    return filename.lower().endswith(extensions)


def is_image_file(filename: str) -> bool:
    """Whether a file's name ends as pictures' do."""
    return has_file_allowed_extension(filename, IMG_EXTENSIONS)


def pil_loader(path: Any) -> Any:
    """A picture in RGB."""
    with open(path, "rb") as f:
        return need("PIL.Image", "vision", "ImageFolder").open(f).convert("RGB")


default_loader = pil_loader


def find_classes(directory: Any) -> tuple[list[str], dict[str, int]]:
    """The folders in a folder, sorted, and their numbers."""
    classes = sorted(entry.name for entry in os.scandir(directory) if entry.is_dir())
    if not classes:
        raise KilnFileNotFoundError(
            "find_classes", f"Couldn't find any class folder in {directory}.", str(directory), ""
        )
    return classes, {c: i for i, c in enumerate(classes)}


def make_dataset(
    directory: Any, class_to_idx: dict[str, int] | None = None, extensions: Any = None,
    is_valid_file: Callable[[str], bool] | None = None, allow_empty: bool = False,
) -> list[tuple[str, int]]:  # fmt: skip
    """The files of each class with its number, in order."""
    directory = os.path.expanduser(directory)
    class_to_idx = find_classes(directory)[1] if class_to_idx is None else class_to_idx
    if (extensions is None) == (is_valid_file is None):
        raise KilnValueError(
            "make_dataset", "Both extensions and is_valid_file cannot be None or not None at the same time",
            None, "pass one of both",
        )  # fmt: skip
    ends = (extensions,) if isinstance(extensions, str) else tuple(extensions or ())
    valid = is_valid_file or (lambda path: has_file_allowed_extension(path, ends))
    found, empty = [], []
    for name in sorted(class_to_idx):
        before = len(found)
        for folder, _, files in sorted(os.walk(os.path.join(directory, name), followlinks=True)):
            found += [
                (os.path.join(folder, f), class_to_idx[name])
                for f in sorted(files)
                if valid(os.path.join(folder, f))
            ]
        if len(found) == before:
            empty.append(name)
    if empty and not allow_empty:
        raise KilnFileNotFoundError(
            "make_dataset", f"Found no valid file for the classes {', '.join(empty)}.", directory,
            f"supported: {', '.join(ends)}" if ends else "",
        )  # fmt: skip
    return found


class DatasetFolder(VisionDataset):
    """Files in one folder for each class, read by `loader`."""

    def __init__(
        self, root: Any, loader: Callable[[str], Any], extensions: tuple[str, ...] | None = None,
        transform: Callable | None = None, target_transform: Callable | None = None,
        is_valid_file: Callable[[str], bool] | None = None, allow_empty: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(root, transform=transform, target_transform=target_transform)
        self.classes, self.class_to_idx = self.find_classes(self.root)
        self.loader, self.extensions = loader, extensions
        self.samples = make_dataset(
            self.root, self.class_to_idx, extensions, is_valid_file, allow_empty
        )
        self.targets = [number for _, number in self.samples]

    def find_classes(self, directory: Any) -> tuple[list[str], dict[str, int]]:
        """The classes and their numbers; subclasses may give others."""
        return find_classes(directory)

    def __getitem__(self, index: Any) -> tuple[Any, Any]:
        path, target = self.samples[index]
        return self._transformed(self.loader(path), target)

    def __len__(self) -> int:
        return len(self.samples)


class ImageFolder(DatasetFolder):
    """Pictures in one folder for each class: ROOT/dog/1.png, ROOT/cat/2.png."""

    def __init__(
        self, root: Any, transform: Callable | None = None, target_transform: Callable | None = None,
        loader: Callable[[str], Any] = default_loader, is_valid_file: Callable[[str], bool] | None = None,
        allow_empty: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(
            root, loader, IMG_EXTENSIONS if is_valid_file is None else None, transform, target_transform,
            is_valid_file, allow_empty,
        )  # fmt: skip
        self.imgs = self.samples


class FakeData(VisionDataset):
    """Random pictures, the same ones each time, of random classes."""

    def __init__(
        self, size: int = 1000, image_size: tuple[int, int, int] = (3, 224, 224), num_classes: int = 10,
        transform: Callable | None = None, target_transform: Callable | None = None, random_offset: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(None, transform=transform, target_transform=target_transform)
        self.size, self.num_classes, self.image_size = size, num_classes, image_size
        self.random_offset = random_offset

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if index >= len(self):
            raise IndexError(f"{type(self).__name__} index out of range")
        state = kiln.get_rng_state()
        kiln.manual_seed(index + self.random_offset)
        image = kiln.randn(*self.image_size)
        target = kiln.randint(0, self.num_classes, (1,))[0].item()
        kiln.set_rng_state(state)
        return self._transformed(to_pil_image(image), target)

    def __len__(self) -> int:
        return self.size
