"""Pictures: PIL's, arrays and tensors, what they measure, and one kind as another."""

from __future__ import annotations

from typing import Any

import numpy as np

import kiln

from ...errors import KilnTypeError, KilnValueError, describe
from ...extras import need
from ...tensor import Tensor
from ..tv_tensors import BoundingBoxes


def _is_pil(img: Any) -> bool:
    return type(img).__module__.startswith("PIL.")


def _need_image(op: str, img: Any) -> None:
    if not isinstance(img, Tensor) and not _is_pil(img):
        raise KilnTypeError(
            op,
            f"img should be PIL Image or Tensor. Got {type(img)}",
            describe(img),
            "to_pil_image(img)",
        )


def pil_to_tensor(pic: Any) -> Tensor:
    """The pixels [C, H, W] of a PIL picture, as they are."""
    a = np.array(pic, copy=True)
    return kiln.from_numpy(
        np.ascontiguousarray((a[:, :, None] if a.ndim == 2 else a).transpose(2, 0, 1))
    )


def to_tensor(pic: Any) -> Tensor:
    """A PIL picture or an array [H, W, C] as a tensor [C, H, W]; bytes become floats in [0, 1]."""
    if isinstance(pic, np.ndarray):
        a = pic[:, :, None] if pic.ndim == 2 else pic
        if a.ndim != 3:
            raise KilnValueError(
                "to_tensor",
                f"pic should be 2/3 dimensional. Got {pic.ndim} dimensions.",
                describe(pic),
                "",
            )
    elif _is_pil(pic):
        mode = {"I": np.int32, "I;16": np.int16, "F": np.float32}.get(pic.mode, np.uint8)
        a = np.array(pic, mode, copy=True)
        a = a * np.uint8(255) if pic.mode == "1" else a
        a = a[:, :, None] if a.ndim == 2 else a
    else:
        raise KilnTypeError(
            "to_tensor", f"pic should be PIL Image or ndarray. Got {type(pic)}", describe(pic), ""
        )
    t = kiln.from_numpy(np.ascontiguousarray(a.transpose(2, 0, 1)))
    return t.to(kiln.get_default_dtype()) / 255 if a.dtype == np.uint8 else t


def to_pil_image(pic: Any, mode: str | None = None) -> Any:
    """A tensor [C, H, W] or an array [H, W, C] as a PIL picture; floats in [0, 1] become bytes."""
    if isinstance(pic, Tensor):
        t = pic.unsqueeze(0) if pic.ndim == 2 else pic
        if t.ndim != 3:
            raise KilnValueError(
                "to_pil_image",
                f"pic should be 2/3 dimensional. Got {pic.ndim} dimensions.",
                describe(pic),
                "",
            )
        if t.is_floating_point() and mode != "F":
            t = t.mul(255).byte()
        a = t.detach().numpy().transpose(1, 2, 0)
    elif isinstance(pic, np.ndarray):
        a = pic[:, :, None] if pic.ndim == 2 else pic
    else:
        raise KilnTypeError(
            "to_pil_image", f"pic should be Tensor or ndarray. Got {type(pic)}.", describe(pic), ""
        )
    if a.ndim != 3 or a.shape[2] not in (1, 2, 3, 4):
        raise KilnValueError(
            "to_pil_image", "pic should not have > 4 channels.", describe(pic), "give [C, H, W]"
        )
    Image = need("PIL.Image", "vision", "to_pil_image")
    if a.shape[2] == 1:
        known = {"uint8": "L", "int16": "I;16", "int32": "I", "float32": "F"}.get(a.dtype.name)
        a = a[:, :, 0]
    else:
        known = {2: "LA", 3: "RGB", 4: "RGBA"}[a.shape[2]] if a.dtype == np.uint8 else None
    if known is None:
        raise KilnTypeError(
            "to_pil_image", f"Input type {a.dtype} is not supported", describe(pic), ""
        )
    image = Image.fromarray(np.ascontiguousarray(a))
    return image if mode in (None, image.mode) else image.convert(mode)


def convert_image_dtype(image: Tensor, dtype: Any = None) -> Tensor:
    """A picture's values in another dtype's range: [0, 1] of floats, all of integers."""
    dtype = kiln.float32 if dtype is None else dtype
    if image.dtype is dtype:
        return image
    if image.is_floating_point():
        if dtype.is_floating_point:
            return image.to(dtype)
        largest = kiln.iinfo(dtype).max
        return image.mul(largest + 1.0 - 1e-3).to(dtype)
    own = kiln.iinfo(image.dtype).max
    if dtype.is_floating_point:
        return image.to(dtype) / own
    largest = kiln.iinfo(dtype).max
    if own > largest:
        return kiln.div(image, (own + 1) // (largest + 1), rounding_mode="floor").to(dtype)
    return image.to(dtype) * ((largest + 1) // (own + 1))


def get_dimensions(img: Any) -> list[int]:
    """Channels, height and width; of boxes, those of their canvas."""
    if isinstance(img, BoundingBoxes):
        return [1, *img.canvas_size]
    _need_image("get_dimensions", img)
    if isinstance(img, Tensor):
        return [1 if img.ndim == 2 else img.shape[-3], *img.shape[-2:]]
    return [len(img.getbands()), img.height, img.width]


def get_image_size(img: Any) -> list[int]:
    """Width and height."""
    _, height, width = get_dimensions(img)
    return [width, height]


def get_image_num_channels(img: Any) -> int:
    """How many channels a picture has."""
    return get_dimensions(img)[0]
