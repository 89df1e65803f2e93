"""Samples: nested containers that hold a picture, and what belongs to it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from ....nn import Module
from ....random import default_generator
from ....tensor import Tensor
from ...tv_tensors import BoundingBoxes, Image, Mask, TVTensor, Video, wrap


def is_pil(x: Any) -> bool:
    return type(x).__module__.startswith("PIL.")


def is_picture(x: Any) -> bool:
    return is_pil(x) or isinstance(x, Image | Video) or (isinstance(x, Tensor) and x.ndim >= 3)


def sample_of(inputs: tuple[Any, ...]) -> Any:
    return inputs[0] if len(inputs) == 1 else inputs


def leaves_of(x: Any, out: list[Any]) -> Any:
    """What a sample of nested containers holds, into `out`; its structure, with numbers for them."""
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*(leaves_of(v, out) for v in x))
    if isinstance(x, tuple | list):
        return type(x)(leaves_of(v, out) for v in x)
    if isinstance(x, dict):
        return type(x)((k, leaves_of(v, out)) for k, v in x.items())
    out.append(x)
    return _At(len(out) - 1)


class _At(int):
    """The number of a leaf."""


def rebuilt(structure: Any, leaves: list[Any]) -> Any:
    if isinstance(structure, _At):
        return leaves[structure]
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(rebuilt(v, leaves) for v in structure))
    if isinstance(structure, dict):
        return type(structure)((k, rebuilt(v, leaves)) for k, v in structure.items())
    return type(structure)(rebuilt(v, leaves) for v in structure)


def parts_of(leaves: list[Any]) -> list[int]:
    """Which parts of a sample are changed, pictures first: those that say what they are, else the first plain tensor too."""
    pictures = [i for i, x in enumerate(leaves) if is_pil(x) or isinstance(x, Image | Video)]
    if not pictures:
        plain = [i for i, x in enumerate(leaves) if is_picture(x) and not isinstance(x, TVTensor)]
        pictures = plain[:1]
    return pictures + [i for i, x in enumerate(leaves) if isinstance(x, Mask | BoundingBoxes)]


def in_sample(sample: Any, change: Callable[[Any], Any], pictures_only: bool = False) -> Any:
    """A sample with its parts changed, all by what was drawn for the first: each begins where the generators stood then."""
    leaves: list[Any] = []
    structure = leaves_of(sample, leaves)
    parts = [0] if len(leaves) == 1 and not isinstance(leaves[0], TVTensor) else parts_of(leaves)
    if pictures_only:
        parts = [i for i in parts if not isinstance(leaves[i], Mask | BoundingBoxes)]
    if not parts:
        return sample
    start = None if len(parts) == 1 else (default_generator.get_state(), random.getstate())
    end = None
    for i in parts:
        if end is not None and start is not None:
            default_generator.set_state(start[0])
            random.setstate(start[1])
        leaves[i] = _changed(leaves[i], change)
        if end is None and start is not None:
            end = default_generator.get_state(), random.getstate()
    if end is not None:
        default_generator.set_state(end[0])
        random.setstate(end[1])
    return rebuilt(structure, leaves)


def _changed(x: Any, change: Callable[[Any], Any]) -> Any:
    out = change(x)
    if isinstance(x, TVTensor) and type(out) is Tensor:
        return wrap(out, like=x)
    return out


class Transform(Module):
    """A transform of samples; subclasses change each part of one in `transform`.

    Parts are PIL pictures and `tv_tensors`; where no picture says that it is one, the first plain tensor is one as well.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """What is drawn once for all parts of a sample."""
        return {}

    def _get_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        return self.make_params(flat_inputs)

    def _transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        raise NotImplementedError

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """One part of a sample, changed."""
        return self._transform(inpt, params)

    def forward(self, *inputs: Any) -> Any:
        sample = sample_of(inputs)
        leaves: list[Any] = []
        leaves_of(sample, leaves)
        params = self._get_params([leaves[i] for i in parts_of(leaves)] or leaves)
        return in_sample(sample, lambda x: self.transform(x, params))
