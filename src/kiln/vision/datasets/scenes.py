"""Pictures with objects in them: COCO and Pascal VOC, from a local folder."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import KilnError, KilnValueError
from ...extras import need
from .base import VisionDataset


class CocoDetection(VisionDataset):
    """Pictures of a folder and what an annotation file (JSON) of COCO says of the objects in each.

    An item is a PIL picture and the list of its annotations.
    """

    def __init__(
        self, root: Any, annFile: str, transform: Callable | None = None, target_transform: Callable | None = None,
        transforms: Callable | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, transforms, transform, target_transform)
        content = json.loads(Path(annFile).read_text())
        self._images = {i["id"]: i for i in content["images"]}
        self._annotations: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for a in content.get("annotations", []):
            self._annotations[a["image_id"]].append(a)
        self.categories = {c["id"]: c for c in content.get("categories", [])}
        self.ids = sorted(self._images)

    def _load_image(self, id: int) -> Any:
        path = os.path.join(self.root, self._images[id]["file_name"])
        return need("PIL.Image", "vision", "this data set").open(path).convert("RGB")

    def _load_target(self, id: int) -> list[Any]:
        return self._annotations.get(id, [])

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        if not isinstance(index, int):
            raise KilnValueError(type(self).__name__, f"Index must be of type integer, got {type(index)} instead.", index, "")  # fmt: skip
        id = self.ids[index]
        return self._transformed(self._load_image(id), self._load_target(id))

    def __len__(self) -> int:
        return len(self.ids)


class CocoCaptions(CocoDetection):
    """Pictures of COCO and the sentences that describe each."""

    def _load_target(self, id: int) -> list[str]:
        return [a["caption"] for a in super()._load_target(id)]


class _VOC(VisionDataset):
    """Pictures of Pascal VOC: ROOT/VOCdevkit/VOC{year}."""

    _sets, _folder, _ending = "Main", "Annotations", ".xml"

    def __init__(
        self, root: Any, year: str = "2012", image_set: str = "train", download: bool = False,
        transform: Callable | None = None, target_transform: Callable | None = None, transforms: Callable | None = None,
    ) -> None:  # fmt: skip
        super().__init__(root, transforms, transform, target_transform)
        years = [str(y) for y in range(2007, 2013)]
        if year not in years:
            raise KilnValueError(type(self).__name__, f"Unknown value '{year}' for argument year. Valid values are {{{', '.join(years)}}}.", year, "")  # fmt: skip
        sets = ["train", "trainval", "val"] + ["test"] * (year == "2007")
        if image_set not in sets:
            raise KilnValueError(type(self).__name__, f"Unknown value '{image_set}' for argument image_set. Valid values are {{{', '.join(sets)}}}.", image_set, "")  # fmt: skip
        self.year, self.image_set = year, image_set
        inner = os.path.join("TrainVal", "VOCdevkit") if year == "2011" else "VOCdevkit"
        at = Path(self.root, inner, f"VOC{year}")
        if not at.is_dir():
            raise KilnError(type(self).__name__, "Dataset not found or corrupted. You can use download=True to download it", str(at), "unpack VOC's archive in the root; it is not fetched")  # fmt: skip
        names = (at / "ImageSets" / self._sets / f"{image_set}.txt").read_text().split("\n")
        names = [n.strip() for n in names if n.strip()]
        self.images = [str(at / "JPEGImages" / f"{n}.jpg") for n in names]
        self.targets = [str(at / self._folder / f"{n}{self._ending}") for n in names]

    def _open(self, path: str) -> Any:
        return need("PIL.Image", "vision", "this data set").open(path)

    def _target(self, path: str) -> Any:
        raise NotImplementedError

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        image = self._open(self.images[index]).convert("RGB")
        return self._transformed(image, self._target(self.targets[index]))

    def __len__(self) -> int:
        return len(self.images)


class VOCSegmentation(_VOC):
    """Pictures of Pascal VOC and a class for each pixel, as a PIL picture."""

    _sets, _folder, _ending = "Segmentation", "SegmentationClass", ".png"

    @property
    def masks(self) -> list[str]:
        """The files of the targets."""
        return self.targets

    def _target(self, path: str) -> Any:
        return self._open(path)


class VOCDetection(_VOC):
    """Pictures of Pascal VOC and what its annotations say, as nested dicts."""

    @property
    def annotations(self) -> list[str]:
        """The files of the targets."""
        return self.targets

    def _target(self, path: str) -> Any:
        return self.parse_voc_xml(ElementTree.parse(path).getroot())

    @staticmethod
    def parse_voc_xml(node: ElementTree.Element) -> dict[str, Any]:
        """A node as a dict: texts by tag, lists where a tag comes up more than once; always for objects."""
        children = list(node)
        if not children:
            return {node.tag: (node.text or "").strip()}
        parts: dict[str, list[Any]] = defaultdict(list)
        for child in children:
            for tag, value in VOCDetection.parse_voc_xml(child).items():
                parts[tag].append(value)
        many = {
            tag: v if len(v) > 1 or (node.tag == "annotation" and tag == "object") else v[0]
            for tag, v in parts.items()
        }
        return {node.tag: many}


__all__ = ["CocoCaptions", "CocoDetection", "VOCDetection", "VOCSegmentation"]
