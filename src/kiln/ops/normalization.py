"""Normalization of features (layer norm, RMS norm) and of groups of channels, and its one gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnIndexError, describe
from ..shape import Size, index_int, numel
from ..tensor import Tensor
from .activation import floating, widen
from .reduction import accurate_sum
from .registry import FUNCTIONS, Sample, composition, op
from .rules import by_body
from .samples import draw, rng, strided

# Note [One gradient for four norms]
# Layer, group, instance and batch norm differ in which dimensions are averaged and in how weight and
# bias lie along the rest. With xhat = (x - mean) / sqrt(var + eps) and h = g * weight, all have
#     dx = (h - mean(h) - xhat * mean(h * xhat)) / sqrt(var + eps),
# which is `norm_grad`. Mean and variance are computed again there rather than kept: that costs two
# passes over the input and saves the memory, and compiled programs share them with the forward pass.


def moments(x: np.ndarray, dims: tuple) -> tuple[np.ndarray, np.ndarray]:
    """x less its mean over dims, and its variance."""
    n = math.prod(x.shape[d] for d in dims)
    scale = x.dtype.type(1 / n) if n else x.dtype.type(np.nan)
    centered = x - np.add.reduce(x, axis=dims, keepdims=True) * scale
    return centered, np.add.reduce(np.square(centered), axis=dims, keepdims=True) * scale


def standardize(x: np.ndarray, dims: tuple, eps: float) -> np.ndarray:
    centered, var = moments(x, dims)
    centered *= 1 / np.sqrt(var + x.dtype.type(eps))
    return centered


def standardize_body(x: Tensor, dims: tuple, eps: float) -> Tensor:
    centered = x - x.mean(dims, True)
    return centered * ((centered * centered).mean(dims, True) + eps).rsqrt()


def _norm_grad_body(grad: Tensor, input: Tensor, dims: tuple, eps: float) -> Tensor:
    g, x = widen(grad), widen(input)
    centered = x - x.mean(dims, True)
    rstd = ((centered * centered).mean(dims, True) + eps).rsqrt()
    xhat = centered * rstd
    return ((g - g.mean(dims, True) - xhat * (g * xhat).mean(dims, True)) * rstd).to(input.dtype)


@op(
    private=True, check=False, infer=lambda grad, input, dims, eps: (Size(input.shape), input.dtype),
    body=_norm_grad_body, grad=by_body(_norm_grad_body, "grad", "input"),
    samples=lambda: iter([
        Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 4)), (1,), 1e-5)),
        Sample((draw(rng(), (2, 3, 4)), draw(rng(1), (2, 3, 4)), (0, 2), 1e-3)),
    ]),
)  # fmt: skip
def norm_grad(grad: Tensor, input: Tensor, dims: tuple, eps: float) -> Tensor:
    """The gradient of (input - mean) / sqrt(var + eps) over dims."""
    n = math.prod(input.shape[d] for d in dims)
    scale = input.dtype.type(1 / n) if n else input.dtype.type(0)
    xhat, var = moments(input, dims)
    rstd = 1 / np.sqrt(var + input.dtype.type(eps))
    xhat *= rstd
    inner = np.add.reduce(grad * xhat, axis=dims, keepdims=True) * scale
    out = grad - np.add.reduce(grad, axis=dims, keepdims=True) * scale
    xhat *= inner
    out -= xhat
    out *= rstd
    return out


def affine(x: Any, weight: Any, bias: Any) -> Any:
    """x * weight + bias in x's own memory, where they are given."""
    if weight is not None:
        x *= weight
    if bias is not None:
        x += bias
    return x


def affine_body(x: Tensor, weight: Any, bias: Any, dtype: dt.dtype) -> Tensor:
    if weight is not None:
        x = x * widen(weight)
    if bias is not None:
        x = x + widen(bias)
    return x.to(dtype)


def check_affine(name: str, input: Any, shape: tuple, **vectors: Any) -> None:
    for what, v in vectors.items():
        if v is not None and tuple(v.shape) != shape:
            raise KilnError(
                name,
                f"Expected {what} to be of size {list(shape)}",
                f"{what}={describe(v)} for {describe(input)}",
                "",
            )


def mixed(name: str, input: Any, *others: Any) -> None:
    for x in others:
        if x is not None and x.dtype is not input.dtype:
            raise KilnError(
                name, "input, weight and bias must have the same dtype", f"{describe(input)}, {describe(x)}",
                "convert one of them",
            )  # fmt: skip


# ---------------------------------------------------------------- layer norm


def _last(input: Any, shape: tuple) -> tuple[int, ...]:
    n = len(input.shape)
    return tuple(range(n - len(shape), n))


def _layer_infer(name: str) -> Any:
    def infer(
        input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: Any = None
    ) -> tuple:
        floating(name, input)
        shape = tuple(normalized_shape)
        if not shape:
            raise KilnError(
                name, "Expected normalized_shape to be at least 1-dimensional", repr(shape), ""
            )
        if tuple(input.shape[-len(shape) :]) != shape:
            raise KilnError(
                name, f"Given normalized_shape={list(shape)}, expected input with shape [*, "
                f"{', '.join(map(str, shape))}]", describe(input), "the last sizes of the input",
            )  # fmt: skip
        check_affine(name, input, shape, weight=weight, bias=bias)
        mixed(name, input, weight, bias)
        return Size(input.shape), input.dtype

    return infer


def _layer_input_grad(
    g: Tensor, input: Tensor, normalized_shape: tuple, weight: Any, eps: float
) -> Tensor:
    return norm_grad(
        g if weight is None else g * weight, input, _last(input, normalized_shape), eps
    )


def _sum_lead(x: Tensor, keep: int) -> Tensor:
    """Summed over all but the last `keep` dimensions."""
    return x.sum(tuple(range(x.ndim - keep))) if x.ndim > keep else x


def _layer_weight_grad(g: Tensor, input: Tensor, normalized_shape: tuple, eps: float) -> Tensor:
    xhat = standardize_body(widen(input), _last(input, normalized_shape), eps)
    return _sum_lead(g * xhat, len(normalized_shape))


def _layer_quick(
    g: np.ndarray, input: np.ndarray, normalized_shape: tuple, weight: Any, bias: Any, eps: float
) -> tuple:
    """All three gradients, of which the mean and the variance are computed once."""
    dims, keep = _last(input, normalized_shape), len(normalized_shape)
    n = math.prod(normalized_shape)
    scale = input.dtype.type(1 / n) if n else input.dtype.type(0)
    xhat, var = moments(input, dims)
    rstd = 1 / np.sqrt(var + input.dtype.type(eps))
    xhat *= rstd
    of_weight = g * xhat
    h, inner = (g, of_weight) if weight is None else (g * weight, of_weight * weight)
    out = h - np.add.reduce(h, axis=dims, keepdims=True) * scale
    xhat *= np.add.reduce(inner, axis=dims, keepdims=True) * scale
    out -= xhat
    out *= rstd
    lead = tuple(range(input.ndim - keep))
    return (
        out,
        None if weight is None else accurate_sum(of_weight, lead) if lead else of_weight,
        None if bias is None else accurate_sum(g, lead) if lead else g,
    )


def _layer_samples() -> Any:
    r = rng(31)
    for xs, shape in (((3, 4), (4,)), ((2, 3, 4), (3, 4)), ((4,), (4,)), ((0, 4), (4,))):
        yield Sample((draw(r, xs), shape), grad=0 not in xs)
        yield Sample((draw(r, xs), shape, draw(r, shape), draw(r, shape)), grad=0 not in xs)
    yield Sample((strided(draw(r, (4, 3))), (3,), draw(r, (3,))))
    yield Sample((draw(r, (3, 4)), (4,)), {"eps": 0.1})
    yield Sample((draw(r, (3, 4)), (3,)), error=RuntimeError)
    yield Sample((draw(r, (3, 4)), (4,), draw(r, (3,))), error=RuntimeError)
    yield Sample((np.arange(4), (4,)), error=RuntimeError)


@op(
    name="layer_norm", node="NativeLayerNormBackward0", private=True, infer=_layer_infer("layer_norm"), samples=_layer_samples,
    formal=("input", "weight"),
    grad={
        "input": _layer_input_grad, "weight": _layer_weight_grad,
        "bias": lambda g, normalized_shape: _sum_lead(g, len(normalized_shape)),
    },
    quick={("input", "weight", "bias"): _layer_quick},
    body=lambda input, normalized_shape, weight, bias, eps: affine_body(
        standardize_body(widen(input), _last(input, normalized_shape), eps), weight, bias, input.dtype
    ),
)  # fmt: skip
def layer_norm_op(
    input: Tensor,
    normalized_shape: tuple,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(input - mean) / sqrt(var + eps) * weight + bias over the last dimensions."""
    return affine(standardize(input, _last(input, normalized_shape), eps), weight, bias)


def _shape_tuple(shape: Any, name: str) -> tuple[int, ...]:
    if shape.__class__ is tuple:
        for s in shape:
            if s.__class__ is not int:
                break
        else:
            return shape
    if isinstance(shape, list | tuple):
        return tuple(index_int(s, name, "normalized_shape") for s in shape)
    return (index_int(shape, name, "normalized_shape"),)


@composition(method=False, samples=_layer_samples)
def layer_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
               bias: Tensor | None = None, eps: float = 1e-5, cudnn_enable: bool = True) -> Tensor:  # fmt: skip
    """(input - mean) / sqrt(var + eps) * weight + bias, mean and variance over the last dimensions.

    https://arxiv.org/abs/1607.06450
    """
    return layer_norm_op(input, _shape_tuple(normalized_shape, "layer_norm"), weight, bias, eps)


# ---------------------------------------------------------------- root mean square


def _rms_grad_body(grad: Tensor, input: Tensor, dims: tuple, eps: float) -> Tensor:
    g, x = widen(grad), widen(input)
    rstd = ((x * x).mean(dims, True) + eps).rsqrt()
    xhat = x * rstd
    return ((g - xhat * (g * xhat).mean(dims, True)) * rstd).to(input.dtype)


def _rms(x: np.ndarray, dims: tuple, eps: float) -> np.ndarray:
    n = math.prod(x.shape[d] for d in dims)
    mean = np.add.reduce(np.square(x), axis=dims, keepdims=True) * x.dtype.type(1 / max(n, 1))
    return 1 / np.sqrt(mean + x.dtype.type(eps))


@op(
    private=True, check=False, infer=lambda grad, input, dims, eps: (Size(input.shape), input.dtype),
    body=_rms_grad_body, grad=by_body(_rms_grad_body, "grad", "input"),
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 4)), (1,), 1e-5))]),
)  # fmt: skip
def rms_norm_grad(grad: Tensor, input: Tensor, dims: tuple, eps: float) -> Tensor:
    """The gradient of input / sqrt(mean(input ** 2) + eps) over dims."""
    n = math.prod(input.shape[d] for d in dims)
    rstd = _rms(input, dims, eps)
    xhat = input * rstd
    xhat *= np.add.reduce(grad * xhat, axis=dims, keepdims=True) * input.dtype.type(1 / max(n, 1))
    return (grad - xhat) * rstd


def _rms_input_grad(
    g: Tensor, input: Tensor, normalized_shape: tuple, weight: Any, eps: float
) -> Tensor:
    return rms_norm_grad(
        g if weight is None else g * weight, input, _last(input, normalized_shape), eps
    )


def _rms_weight_grad(g: Tensor, input: Tensor, normalized_shape: tuple, eps: float) -> Tensor:
    x = widen(input)
    xhat = x * ((x * x).mean(_last(input, normalized_shape), True) + eps).rsqrt()
    return _sum_lead(g * xhat, len(normalized_shape))


def _rms_body(input: Tensor, normalized_shape: tuple, weight: Any, eps: float) -> Tensor:
    x = widen(input)
    x = x * ((x * x).mean(_last(input, normalized_shape), True) + eps).rsqrt()
    return affine_body(x, weight, None, input.dtype)


def _rms_samples() -> Any:
    r = rng(32)
    for xs, shape in (((3, 4), (4,)), ((2, 3, 4), (3, 4)), ((4,), (4,))):
        yield Sample((draw(r, xs), shape))
        yield Sample((draw(r, xs), shape, draw(r, shape)))
        yield Sample((draw(r, xs), shape, draw(r, shape), 0.1))
    z = draw(r, (3, 4)) + 1j * draw(r, (3, 4))
    yield Sample((z, (4,), draw(r, (4,)) + 1j, 0.1))
    yield Sample((draw(r, (3, 4)), (3,)), error=RuntimeError)


@op(
    name="rms_norm", private=True, samples=lambda: iter([Sample((draw(rng(), (3, 4)), (4,), draw(rng(1), (4,)), 1e-5))]),
    infer=lambda input, normalized_shape, weight, eps: _layer_infer("rms_norm")(input, normalized_shape, weight),
    grad={"input": _rms_input_grad, "weight": _rms_weight_grad}, body=_rms_body,
)  # fmt: skip
def rms_norm_op(
    input: Tensor, normalized_shape: tuple, weight: Tensor | None, eps: float
) -> Tensor:
    """input / sqrt(mean(input ** 2) + eps) * weight over the last dimensions."""
    return affine(input * _rms(input, _last(input, normalized_shape), eps), weight, None)


@composition(method=False, samples=_rms_samples)
def rms_norm(input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None,
             eps: float | None = None) -> Tensor:  # fmt: skip
    """input / sqrt(mean(input ** 2) + eps) * weight over the last dimensions; eps defaults to the dtype's.

    https://arxiv.org/abs/1910.07467
    """
    if eps is None and input.dtype.is_floating_point:
        half = input.dtype in (dt.float16, dt.bfloat16)
        eps = dt.finfo(dt.float32 if half else input.dtype).eps
    if input.is_complex():
        shape = _shape_tuple(normalized_shape, "rms_norm")
        _layer_infer("rms_norm")(input.real, shape, None if weight is None else weight.real)
        eps = dt.finfo(input.dtype).eps if eps is None else eps
        x = input * ((input * input).mean(_last(input, shape), True) + eps).rsqrt()
        return x if weight is None else x * weight
    return rms_norm_op(input, _shape_tuple(normalized_shape, "rms_norm"), weight, eps)


# ---------------------------------------------------------------- groups and instances


def channels(v: Any, ndim: int) -> Any:
    """A vector along dimension 1 of `ndim` dimensions."""
    return v if v is None else v.reshape(-1, *(1,) * (ndim - 2))


def _grouped(x: Any, groups: int) -> Any:
    """(N, C, …) as (N, G, the rest)."""
    return x.reshape(x.shape[0], groups, numel(x.shape[1:]) // groups)


def _group_infer(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> tuple:
    floating("group_norm", input)
    if len(input.shape) < 2:
        raise KilnIndexError(
            "group_norm", "Expected at least 2 dimensions for input", describe(input), "(N, C, *)"
        )
    c = input.shape[1]
    if num_groups <= 0:
        raise KilnError(
            "group_norm", "Expected num groups to be greater than 0", f"num_groups={num_groups}", ""
        )
    if c % num_groups:
        raise KilnError(
            "group_norm", "Expected number of channels in input to be divisible by num_groups",
            f"input={describe(input)}, num_groups={num_groups}", "",
        )  # fmt: skip
    check_affine("group_norm", input, (c,), weight=weight, bias=bias)
    mixed("group_norm", input, weight, bias)
    return Size(input.shape), input.dtype


def _group_input_grad(g: Tensor, input: Tensor, num_groups: int, weight: Any, eps: float) -> Tensor:
    h = g if weight is None else g * channels(weight, g.ndim)
    return norm_grad(_grouped(h, num_groups), _grouped(input, num_groups), (2,), eps).reshape(
        input.shape
    )


def _group_weight_grad(g: Tensor, input: Tensor, num_groups: int, eps: float) -> Tensor:
    xhat = standardize_body(_grouped(widen(input), num_groups), (2,), eps).reshape(input.shape)
    return channel_sum(g * xhat)


def channel_sum(x: Tensor) -> Tensor:
    """Summed over all dimensions but the channels (dimension 1)."""
    # with keepdim this is the very sum that `norm_grad` takes, so that a compiled program takes it once
    return x.sum((0, *range(2, x.ndim)), True).reshape(x.shape[1])


def _group_body(input: Tensor, num_groups: int, weight: Any, bias: Any, eps: float) -> Tensor:
    x = standardize_body(_grouped(widen(input), num_groups), (2,), eps).reshape(input.shape)
    return affine_body(x, channels(weight, input.ndim), channels(bias, input.ndim), input.dtype)


def _group_samples() -> Any:
    r = rng(33)
    for xs, groups in (
        ((2, 4), 2),
        ((2, 4, 3), 2),
        ((2, 6, 3, 2), 3),
        ((2, 3, 4), 1),
        ((2, 3, 4), 3),
    ):
        yield Sample((draw(r, xs), groups))
        yield Sample((draw(r, xs), groups, draw(r, xs[1:2]), draw(r, xs[1:2]), 1e-3))
    yield Sample((draw(r, (2, 3, 4)), 2), error=RuntimeError)
    yield Sample((draw(r, (3,)), 1), error=IndexError)
    yield Sample((draw(r, (2, 4)), 2, draw(r, (3,))), error=RuntimeError)


@op(
    name="group_norm", node="NativeGroupNormBackward0", private=True, lies="channels", infer=_group_infer, samples=_group_samples, body=_group_body,
    grad={"input": _group_input_grad, "weight": _group_weight_grad, "bias": lambda g: channel_sum(g)},
)  # fmt: skip
def group_norm_op(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(input - mean) / sqrt(var + eps) over groups of channels, times weight plus bias for each channel."""
    x = standardize(_grouped(input, num_groups), (2,), eps).reshape(input.shape)
    return affine(x, channels(weight, input.ndim), channels(bias, input.ndim))


@composition(method=False, samples=_group_samples)
def group_norm(input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Tensor:  # fmt: skip
    """(input - mean) / sqrt(var + eps) over groups of channels of (N, C, *), then weight and bias by channel.

    https://arxiv.org/abs/1803.08494
    """
    return group_norm_op(input, num_groups, weight, bias, eps)


for _fn in (layer_norm, rms_norm, group_norm):
    FUNCTIONS[f"nn.functional.{_fn.__name__}"] = _fn
