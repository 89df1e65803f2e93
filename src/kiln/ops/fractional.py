"""Fractional max pooling, and the cross entropy of a linear layer. Loaded with `kiln.nn`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import KilnError, KilnValueError, describe
from ..shape import numel
from ..tensor import Tensor
from .creation import arange
from .joining import cat
from .registry import FUNCTIONS, Sample, composition
from .rules import constants, tied
from .samples import draw, rng

# ---------------------------------------------------------------- fractional max pooling


def _starts(u: Tensor, size: int, window: int, count: int) -> Tensor:
    """Where windows begin: a step of irregular whole numbers that a random number in [0, 1) shifts; (N, C, count)."""
    last = u.new_full((*u.shape, 1), size - window).long()
    if count == 1:
        return last
    step = (size - window) / (count - 1)
    i = arange(count - 1, dtype=u.dtype)
    at = ((u.unsqueeze(-1) + i) * step).long() - (u.unsqueeze(-1) * step).long()
    return cat([at, last], -1)


def _sizes(name: str, value: Any, n: int) -> list:
    out = [value] * n if not isinstance(value, list | tuple) else list(value)
    if len(out) != n:
        raise KilnValueError(name, f"expected one number or {n}", repr(value), "")
    return out


def _pooled(name: str, n: int, input: Tensor, kernel_size: Any, output_size: Any, output_ratio: Any,
            samples: Tensor | None) -> tuple[Tensor, Tensor]:  # fmt: skip
    if (output_size is None) == (output_ratio is None):
        raise KilnValueError(name, f"{name} requires specifying either an output_size or an output_ratio",
                             f"{output_size}, {output_ratio}", "")  # fmt: skip
    if input.ndim not in (n + 1, n + 2):
        raise KilnError(
            name, f"expected an input of {n + 1} or {n + 2} dimensions", describe(input), ""
        )
    constants(name, random_samples=samples)
    x = input if input.ndim == n + 2 else input.unsqueeze(0)
    shape = x.shape[2:]
    window = _sizes(name, kernel_size, n)
    if output_size is None:
        ratio = _sizes(name, output_ratio, n)
        if not all(0 < r < 1 for r in ratio):
            raise KilnValueError(
                name,
                f"output_ratio must be between 0 and 1 (got {output_ratio})",
                repr(output_ratio),
                "",
            )
        count = [int(s * r) for s, r in zip(shape, ratio, strict=True)]
    else:
        count = _sizes(name, output_size, n)
    for s, k, c in zip(shape, window, count, strict=True):
        if c + k - 1 > s or c < 1:
            raise KilnError(
                name, f"pool size {k} too large relative to input size {s}", f"output size {c}", ""
            )
    if samples is None:
        samples = FUNCTIONS["rand"]((*x.shape[:2], n), dtype=x.dtype)
    if samples.ndim == 3 and samples.shape[0] > x.shape[0]:
        samples = samples[: x.shape[0]]
    if tuple(samples.shape) != (*x.shape[:2], n):
        raise KilnError(
            name, f"expected _random_samples of shape {[*x.shape[:2], n]}", describe(samples), ""
        )
    place: Tensor | int = 0
    for d in range(n):  # the flat position of each element of each window: (N, C, *count, *window)
        u = samples[..., n - 1 - d if n == 2 else d]
        at = _starts(u, shape[d], window[d], count[d]).unsqueeze(-1) + arange(window[d])
        at = at.reshape(*x.shape[:2], *(c if i == d else 1 for i, c in enumerate(count)),
                        *(k if i == d else 1 for i, k in enumerate(window)))  # fmt: skip
        place = place * shape[d] + at
    assert isinstance(place, Tensor)
    out_shape = (*x.shape[:2], *count)
    place = place.reshape(*out_shape, numel(window))
    x = tied(x.flatten(2), "View", x)
    values = x.gather(2, place.flatten(2)).reshape(place.shape)
    best, which = values.max(-1)
    where = place.gather(-1, which.unsqueeze(-1)).squeeze(-1)
    return (best, where) if input.ndim == n + 2 else (best.squeeze(0), where.squeeze(0))


def _fractional(n: int) -> None:
    name = f"fractional_max_pool{n}d"

    def pool(input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None, return_indices: bool = False,
             _random_samples: Tensor | None = None) -> Any:  # fmt: skip
        best, where = _pooled(
            name, n, input, kernel_size, output_size, output_ratio, _random_samples
        )
        return (best, where) if return_indices else best

    def with_indices(input: Tensor, kernel_size: Any, output_size: Any = None, output_ratio: Any = None,
                     return_indices: bool = False, _random_samples: Tensor | None = None) -> tuple[Tensor, Tensor]:  # fmt: skip
        return _pooled(name, n, input, kernel_size, output_size, output_ratio, _random_samples)

    def samples() -> Iterator[Sample]:
        x, u = draw(rng(), (2, 3, *(7, 6, 5)[:n])), rng(1).random((2, 3, n))
        yield Sample((x, 2), {"output_size": 3, "_random_samples": u}, fixed=("_random_samples",))
        yield Sample((x, (2, 3, 2)[:n]), {"output_ratio": (0.5,) * n, "_random_samples": u, "return_indices": True},
                     fixed=("_random_samples",))  # fmt: skip
        yield Sample(
            (x[0], 2), {"output_size": 1, "_random_samples": u[:1]}, fixed=("_random_samples",)
        )
        yield Sample(
            (x[:0], 2), {"output_size": 3, "_random_samples": u[:0]}, fixed=("_random_samples",)
        )
        yield Sample((x, 2), error=ValueError)
        yield Sample((x, 5), {"output_size": 4, "_random_samples": u}, error=RuntimeError)

    pool.__name__, with_indices.__name__ = name, f"{name}_with_indices"
    pool.__doc__ = f"The largest element of windows of uneven steps over {n} dimensions (Graham, 2014, https://arxiv.org/abs/1412.6071)."
    with_indices.__doc__ = f"`{name}` and where each element was."
    composition(namespace="F", samples=samples)(pool)
    FUNCTIONS[f"nn.functional.{name}_with_indices"] = with_indices


_fractional(2)
_fractional(3)


# ---------------------------------------------------------------- the loss of a linear layer


def _loss_samples() -> Iterator[Sample]:
    x, w = draw(rng(), (4, 3)), draw(rng(1), (5, 3))
    y = np.array([0, 4, 2, 1])
    yield Sample((x, w, y))
    yield Sample(
        (x, w, y), {"linear_bias": draw(rng(2), (5,)), "reduction": "sum", "ignore_index": 2}
    )
    yield Sample(
        (x, w, y), {"label_smoothing": 0.1, "weight": draw(rng(2), (5,), 0.5, 1)}, fixed=("weight",)
    )
    yield Sample((x, w, rng(3).random((4, 5))), {"reduction": "none"}, grad=False)


@composition(namespace="F", samples=_loss_samples)
def linear_cross_entropy(
    input: Tensor, linear_weight: Tensor, target: Tensor, *, linear_bias: Tensor | None = None, weight: Tensor | None = None,
    reduction: str = "mean", ignore_index: int | None = None, label_smoothing: float = 0.0, options: Any = None,
) -> Tensor:  # fmt: skip
    """The cross entropy of a linear layer's outputs (N, classes), or (N, classes, d1, …) for a weight (classes, d1, …, in).

    `options`, which chunks the work in PyTorch, changes nothing here.
    """
    if input.ndim > 1 and target.ndim > 0 and input.shape[0] != target.shape[0]:
        raise KilnValueError(
            "linear_cross_entropy", f"Expected input batch_size ({input.shape[0]}) to match target batch_size "
            f"({target.shape[0]}).", f"input={describe(input)}, target={describe(target)}", "",
        )  # fmt: skip
    shape = linear_weight.shape[:-1]
    if len(shape) > 1 and input.ndim == 1:
        raise KilnError("linear_cross_entropy", f"K-dimensional loss defined by linear_weight shape {list(linear_weight.shape)} "
                        "requires batched input", describe(input), "input.unsqueeze(0)")  # fmt: skip
    bias = None if linear_bias is None else linear_bias.reshape(-1)
    logits = FUNCTIONS["nn.functional.linear"](
        input, linear_weight.reshape(-1, linear_weight.shape[-1]), bias
    )
    if len(shape) > 1:
        logits = logits.reshape(*input.shape[:-1], *shape)
    return FUNCTIONS["nn.functional.cross_entropy"](
        logits, target, weight, ignore_index=-100 if ignore_index is None else ignore_index, reduction=reduction,
        label_smoothing=label_smoothing,
    )  # fmt: skip
