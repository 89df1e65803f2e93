"""Convolution in one, two and three dimensions: one op and its two gradients, each other's gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size, numel
from ..tensor import Tensor
from ._folding import (
    Fold,
    Geometry,
    depthwise,
    depthwise_input_grad,
    depthwise_weight_grad,
    fold_weight,
    fold_weight_back,
    joined,
    turn_weight,
)
from ._windows import cropped, out_size, overlap_add, padded, sliding, span, taps
from .arithmetic import conjugate
from .registry import Sample, op
from .samples import draw, rng, strided

# Note [Three ops]
# y = convolution(x, w), dx = conv_input_grad(dy, w), dw = conv_weight_grad(dy, x) are the three
# contractions of one trilinear form, so each one's gradients are the other two.
# Shapes: x (N, G*I, *size), w (G*O, I, *kernel), y (N, G*O, *out); `groups` is G.


def _columns(
    x: np.ndarray, kernel: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> np.ndarray:
    """im2col: (N, G, I * prod(kernel), prod(out))."""
    n = len(kernel)
    x = padded(x, padding)
    if kernel == (1,) * n and stride == (1,) * n:
        return (
            x.reshape(x.shape[0], groups, x.shape[1] // groups, -1)
            if x.size
            else _empty_columns(x, groups, kernel)
        )
    w = sliding(x, kernel, stride, dilation)  # N, C, *out, *kernel
    dims = (0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
    taps_ = int(np.prod(kernel))
    return w.transpose(dims).reshape(
        x.shape[0], groups, x.shape[1] // groups * taps_, int(np.prod(w.shape[2 : 2 + n]))
    )


def _empty_columns(x: np.ndarray, groups: int, kernel: tuple) -> np.ndarray:
    return x.reshape(x.shape[0], groups, x.shape[1] // groups, int(np.prod(x.shape[2:])))


def conv_out(
    size: Sequence[Any], kernel: Sequence[int], stride: tuple, padding: tuple, dilation: tuple
) -> tuple:
    return tuple(
        out_size(s + 2 * p, k, t, d)
        for s, k, t, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    )


def _conv_infer(
    input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> tuple:
    n = len(stride)
    name = f"conv{n}d"
    xs, ws = tuple(input.shape), tuple(weight.shape)
    given = f"input={describe(input)}, weight={describe(weight)}" + (
        "" if bias is None else f", bias={describe(bias)}"
    )
    if len(ws) != n + 2:
        raise KilnError(
            name, f"expected a weight of {n + 2} dimensions", given, "(out, in / groups, *kernel)"
        )
    check_geometry(name, stride, padding, dilation, groups, given)
    if xs[1] != ws[1] * groups:
        raise KilnError(
            name, f"Given groups={groups}, weight of size {list(ws)}, expected input to have "
            f"{ws[1] * groups} channels, but got {xs[1]} channels instead", given,
            "the weight is (out, in / groups, *kernel)",
        )  # fmt: skip
    if ws[0] % groups or ws[0] < groups:
        raise KilnError(
            name, f"the {ws[0]} output channels must be a multiple of groups={groups}", given, ""
        )
    if bias is not None and tuple(bias.shape) != ws[:1]:
        raise KilnError(name, f"expected bias to be 1-dimensional with {ws[0]} elements", given, "")
    if any(x is not None and x.dtype is not input.dtype for x in (weight, bias)):
        raise KilnError(
            name, "input, weight and bias must have the same dtype", given, "convert one of them"
        )
    for s, k, p, d in zip(xs[2:], ws[2:], padding, dilation, strict=True):
        if isinstance(s, int) and s + 2 * p < span(k, d):
            raise KilnError(
                name, f"the kernel ({span(k, d)} wide) can't be greater than the padded input ({s + 2 * p})",
                given, "pad the input or use a smaller kernel",
            )  # fmt: skip
    return Size((xs[0], ws[0], *conv_out(xs[2:], ws[2:], stride, padding, dilation))), input.dtype


def check_geometry(
    name: str, stride: tuple, padding: tuple, dilation: tuple, groups: int, given: str
) -> None:
    if any(s <= 0 for s in stride):
        raise KilnError(name, "non-positive stride is not supported", f"stride={stride}", "")
    if any(p < 0 for p in padding):
        raise KilnError(
            name, "negative padding is not supported", f"padding={padding}", "slice the input"
        )
    if any(d <= 0 for d in dilation):
        raise KilnError(name, "non-positive dilation is not supported", f"dilation={dilation}", "")
    if groups <= 0:
        raise KilnError(name, "non-positive groups is not supported", f"groups={groups}", "")


def _geometries() -> Any:
    """(input, weight, stride, padding, dilation, groups) that cover what matters."""
    yield (2, 3, 7), (4, 3, 3), (1,), (0,), (1,), 1
    yield (2, 4, 9), (6, 2, 3), (2,), (2,), (2,), 2
    yield (2, 3, 5, 6), (4, 3, 3, 2), (1, 1), (0, 0), (1, 1), 1
    yield (2, 4, 7, 6), (4, 1, 3, 3), (2, 1), (1, 1), (1, 2), 4
    yield (2, 3, 4, 5), (5, 3, 1, 1), (1, 1), (0, 0), (1, 1), 1
    yield (1, 2, 4, 5, 3), (3, 2, 2, 3, 2), (1, 2, 1), (1, 0, 1), (1, 1, 1), 1


def _conv_samples() -> Any:
    r = rng(11)
    for xs, ws, *rest in _geometries():
        yield Sample((draw(r, xs), draw(r, ws), draw(r, ws[:1]), *rest))
        yield Sample((draw(r, xs), draw(r, ws), None, *rest))
    plain = ((1,), (0,), (1,), 1)
    yield Sample((strided(draw(r, (2, 3, 7))), strided(draw(r, (4, 3, 3))), None, *plain))
    yield Sample((draw(r, (0, 3, 7)), draw(r, (4, 3, 3)), None, *plain))
    yield Sample((draw(r, (2, 3, 7)) + 1j, draw(r, (4, 3, 3)) - 2j, None, *plain))
    yield Sample((draw(r, (2, 2, 7)), draw(r, (4, 3, 3)), None, *plain), error=RuntimeError)


def _input_grad_samples() -> Any:
    r = rng(12)
    for xs, ws, stride, padding, dilation, groups in _geometries():
        ys = (xs[0], ws[0], *conv_out(xs[2:], ws[2:], stride, padding, dilation))
        yield Sample((draw(r, ys), draw(r, ws), xs, stride, padding, dilation, groups))


def _weight_grad_samples() -> Any:
    r = rng(13)
    for xs, ws, stride, padding, dilation, groups in _geometries():
        ys = (xs[0], ws[0], *conv_out(xs[2:], ws[2:], stride, padding, dilation))
        yield Sample((draw(r, ys), draw(r, xs), ws, stride, padding, dilation, groups))


# Note [Bodies of convolutions]
# Backends have kernels for one and two dimensions, in float32 and float64. Of three, two are as good
# as one where windows are single elements; else the first is folded away: windows along it become
# channels of as many images. Half floats are computed in float32. The rest is left to the reference.


def _turns(image: Sequence[int], weight: Sequence[int], stride: tuple) -> bool:
    """Whether an input's gradient is a folded convolution with mirrored weights, not collected from each tap.

    A few channels fill vectors better if each tap has results of its own; weights that outweigh the
    images had better stay where they lie.
    """
    few = 8 <= image[1] < 32
    return stride[0] == 1 and not few and numel(weight) <= 4 * numel(image)


def _in_float32(compute: Callable, first: Tensor, *others: Tensor | None) -> Tensor:
    return compute(*(x if x is None else x.float() for x in (first, *others))).to(first.dtype)


def _is_half(x: Tensor) -> bool:
    return x.dtype in (dt.float16, dt.bfloat16)


def _each_alone(weight: Sequence[int], groups: int) -> bool:
    """Whether each channel is convolved by itself, with one result."""
    return groups > 1 and weight[1] == 1 and weight[0] == groups


def _convolution_body(
    input: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple, padding: tuple, dilation: tuple,
    groups: int,
) -> Tensor:  # fmt: skip
    by = Geometry(stride, padding, dilation, groups)
    size, taps = tuple(input.shape), tuple(weight.shape)
    if _is_half(input):
        return _in_float32(lambda *x: convolution(*x, *by), input, weight, bias)
    if len(stride) < 3 or input.is_complex():
        return convolution(input, weight, bias, *by)
    if _each_alone(taps, groups):
        y = depthwise(input, weight, by)
        return y if bias is None else y + bias.reshape(-1, *(1,) * len(stride))
    out = conv_out(size[2:], taps[2:], *by[:3])
    i = by.joint(taps[2:])
    if i is not None:
        x, w = input.reshape(joined(size, i)), weight.reshape(joined(taps, i))
        return convolution(x, w, bias, *by.without(i)).reshape(size[0], taps[0], *out)
    fold = Fold(size, out[0], taps[2], stride[0], padding[0], dilation[0], groups)
    y = convolution(fold.input(input), fold_weight(weight), bias, *by.without(0))
    return fold.output_back(y)


def _input_grad_body(
    grad: Tensor, weight: Tensor, input_size: tuple, stride: tuple, padding: tuple, dilation: tuple,
    groups: int,
) -> Tensor:  # fmt: skip
    by = Geometry(stride, padding, dilation, groups)
    size, taps = tuple(grad.shape), tuple(weight.shape)
    if _is_half(grad):
        return _in_float32(lambda g, w: conv_input_grad(g, w, input_size, *by), grad, weight)
    if len(stride) < 3 or grad.is_complex():
        return conv_input_grad(grad, weight, input_size, *by)
    if _each_alone(taps, groups):
        return depthwise_input_grad(grad, weight, input_size, by)
    i = by.joint(taps[2:])
    if i is not None:
        g, w = grad.reshape(joined(size, i)), weight.reshape(joined(taps, i))
        x = conv_input_grad(g, w, joined(input_size, i), *by.without(i))
        return x.reshape(input_size)
    if _turns(input_size, taps, stride):
        before = by.turned(taps[2:])[0]
        turned = Fold(size, input_size[2], taps[2], 1, before, dilation[0], groups)
        images = (input_size[0] * input_size[2], input_size[1], *input_size[3:])
        g, w = turned.input(grad), turn_weight(weight, groups)
        return turned.output_back(conv_input_grad(g, w, images, *by.without(0)))
    fold = Fold(input_size, size[2], taps[2], stride[0], padding[0], dilation[0], groups)
    g, w = fold.output(grad), fold_weight(weight)
    return fold.input_back(conv_input_grad(g, w, fold.images, *by.without(0)))


def _weight_grad_body(
    grad: Tensor, input: Tensor, weight_size: tuple, stride: tuple, padding: tuple, dilation: tuple,
    groups: int,
) -> Tensor:  # fmt: skip
    by = Geometry(stride, padding, dilation, groups)
    size, taps = tuple(input.shape), tuple(weight_size)
    if _is_half(grad):
        return _in_float32(lambda g, x: conv_weight_grad(g, x, taps, *by), grad, input)
    if len(stride) < 3 or grad.is_complex():
        return conv_weight_grad(grad, input, weight_size, *by)
    if _each_alone(taps, groups):
        return depthwise_weight_grad(grad, input, taps, by)
    i = by.joint(taps[2:])
    if i is not None:
        g, x = grad.reshape(joined(tuple(grad.shape), i)), input.reshape(joined(size, i))
        return conv_weight_grad(g, x, joined(taps, i), *by.without(i)).reshape(taps)
    fold = Fold(size, grad.shape[2], taps[2], stride[0], padding[0], dilation[0], groups)
    g, x = fold.output(grad), fold.input(input)
    folded = (taps[0], taps[1] * taps[2], *taps[3:])
    return fold_weight_back(conv_weight_grad(g, x, folded, *by.without(0)), taps)


# Note [Batches of convolutions]
# Where all of a batch under vmap share the weights, its images are as many more images. Where they
# don't, each has a group of channels of its own: images (N, n * C, *size), weights (n * O, I, *kernel).


def _images(x: Any) -> Tensor:
    t = x.front
    return t.reshape((t.shape[0] * t.shape[1], *t.shape[2:]))


def _groups(x: Any) -> Tensor:
    t = x.whole.movedim(0, 1)
    return t.reshape((t.shape[0], t.shape[1] * t.shape[2], *t.shape[3:]))


def _ungrouped(y: Tensor, n: int) -> Tensor:
    return y.reshape((y.shape[0], n, y.shape[1] // n, *y.shape[2:])).movedim(1, 0)


def _weights(w: Any) -> Tensor:
    t = w.whole
    return t.reshape((t.shape[0] * t.shape[1], *t.shape[2:]))


def _conv_batch(n: int, input: Any, weight: Any, bias: Any, *by: Any) -> Tensor:
    *geometry, groups = by
    if not weight.batched:
        y = convolution(_images(input), weight.tensor, None, *by)
        y = y.reshape((n if input.batched else 1, input.shape[0], *y.shape[1:]))
    else:
        y = _ungrouped(
            convolution(_groups(input), _weights(weight), None, *geometry, groups * n), n
        )
    if bias is None:
        return y
    return y + bias.front.reshape((-1, 1, *bias.shape, *(1,) * (y.ndim - 3)))


def _input_grad_batch(n: int, grad: Any, weight: Any, size: tuple, *by: Any) -> Tensor:
    *geometry, groups = by
    if not weight.batched:
        return conv_input_grad(_images(grad), weight.tensor, (n * size[0], *size[1:]), *by)
    size = (size[0], n * size[1], *size[2:])
    return _ungrouped(
        conv_input_grad(_groups(grad), _weights(weight), size, *geometry, groups * n), n
    )


def _weight_grad_batch(n: int, grad: Any, input: Any, size: tuple, *by: Any) -> Tensor:
    *geometry, groups = by
    size = (n * size[0], *size[1:])
    return conv_weight_grad(_groups(grad), _groups(input), size, *geometry, groups * n)


@op(
    private=True, family="contraction", lies="channels", batch=_conv_batch, infer=_conv_infer, body=_convolution_body, samples=_conv_samples, formal=("input", "weight"),
    grad={
        "input": lambda g, weight, in_shape, stride, padding, dilation, groups: conv_input_grad(
            g, conjugate(weight), tuple(in_shape), stride, padding, dilation, groups
        ),
        "weight": lambda g, input, in_shape, stride, padding, dilation, groups: conv_weight_grad(
            g, conjugate(input), tuple(in_shape), stride, padding, dilation, groups
        ),
        "bias": lambda g: g.sum((0, *range(2, g.ndim))),
    },
)  # fmt: skip
def convolution(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple,
    padding: tuple,
    dilation: tuple,
    groups: int,
) -> Tensor:
    """y[n, o] = sum_i x[n, i] * w[o, i] (cross-correlation over the last dimensions) + bias[o]."""
    return correlated(np.matmul, input, weight, bias, stride, padding, dilation, groups)


def correlated(
    product: Callable, input: Any, weight: Any, bias: Any, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> np.ndarray:  # fmt: skip
    """A convolution by this product of (batches of) matrices."""
    out = conv_out(input.shape[2:], weight.shape[2:], stride, padding, dilation)
    if groups > 1 and weight.shape[1] == 1 and weight.shape[0] == groups:
        y = _depthwise(padded(input, padding), weight, out, stride, dilation)
    else:
        cols = _columns(input, weight.shape[2:], stride, padding, dilation, groups)
        w = weight.reshape(groups, weight.shape[0] // groups, cols.shape[2])
        y = product(w, cols).reshape(input.shape[0], weight.shape[0], *out)
    if bias is not None:
        y += bias.reshape(-1, *(1,) * len(stride))
    return y


def _per_channel(weight: np.ndarray, at: tuple) -> np.ndarray:
    """One tap of a depthwise weight, along the channels of an input."""
    return weight[(slice(None), 0, *at)].reshape(-1, *(1,) * len(at))


def _depthwise(
    x: np.ndarray, weight: np.ndarray, out: tuple, stride: tuple, dilation: tuple
) -> np.ndarray:
    y = np.zeros((*x.shape[:2], *out), x.dtype)
    kernel = weight.shape[2:]
    for at, where in zip(np.ndindex(*kernel), taps(out, kernel, stride, dilation), strict=True):
        y += x[(..., *where)] * _per_channel(weight, at)
    return y


@op(
    node="ConvolutionBackward0", private=True, family="contraction", lies="channels", batch=_input_grad_batch, check=False, samples=_input_grad_samples, body=_input_grad_body,
    infer=lambda grad, weight, input_size, stride, padding, dilation, groups: (Size(input_size), grad.dtype),
    grad={
        "grad": lambda g, weight, stride, padding, dilation, groups: convolution(
            g, conjugate(weight), None, stride, padding, dilation, groups
        ),
        "weight": lambda g, grad, in_shape, stride, padding, dilation, groups: conv_weight_grad(
            conjugate(grad), g, tuple(in_shape), stride, padding, dilation, groups
        ),
    },
)  # fmt: skip
def conv_input_grad(
    grad: Tensor,
    weight: Tensor,
    input_size: tuple,
    stride: tuple,
    padding: tuple,
    dilation: tuple,
    groups: int,
) -> Tensor:
    """The gradient of convolution's input; a transposed convolution in its own right."""
    return spread(np.matmul, grad, weight, input_size, stride, padding, dilation, groups)


def spread(
    product: Callable, grad: Any, weight: Any, input_size: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> np.ndarray:  # fmt: skip
    """`conv_input_grad` by this product of (batches of) matrices."""
    kernel, sizes = weight.shape[2:], input_size[2:]
    big = tuple(s + 2 * p for s, p in zip(sizes, padding, strict=True))
    if groups > 1 and weight.shape[1] == 1 and weight.shape[0] == groups:
        x = np.zeros((*grad.shape[:2], *big), grad.dtype)
        for at, where in zip(
            np.ndindex(*kernel), taps(grad.shape[2:], kernel, stride, dilation), strict=True
        ):
            x[(..., *where)] += grad * _per_channel(weight, at)
        return cropped(x, padding, sizes)
    per = weight.shape[0] // groups
    w = weight.reshape(groups, per, -1) if weight.size else weight.reshape(groups, per, 0)
    y = grad.reshape(grad.shape[0], groups, per, int(np.prod(grad.shape[2:])))
    cols = product(w.transpose(0, 2, 1), y)
    windows = cols.reshape(grad.shape[0], input_size[1], *kernel, *grad.shape[2:])
    n = len(kernel)
    windows = windows.transpose(0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
    return cropped(overlap_add(windows, big, kernel, stride, dilation), padding, sizes)


@op(
    private=True, family="contraction", lies="channels", batch=_weight_grad_batch, check=False, samples=_weight_grad_samples, body=_weight_grad_body,
    infer=lambda grad, input, weight_size, stride, padding, dilation, groups: (Size(weight_size), grad.dtype),
    grad={
        "grad": lambda g, input, stride, padding, dilation, groups: convolution(
            conjugate(input), g, None, stride, padding, dilation, groups
        ),
        "input": lambda g, grad, in_shape, stride, padding, dilation, groups: conv_input_grad(
            conjugate(grad), g, tuple(in_shape), stride, padding, dilation, groups
        ),
    },
)  # fmt: skip
def conv_weight_grad(
    grad: Tensor,
    input: Tensor,
    weight_size: tuple,
    stride: tuple,
    padding: tuple,
    dilation: tuple,
    groups: int,
) -> Tensor:
    """The gradient of convolution's weight."""
    return matched(np.matmul, grad, input, weight_size, stride, padding, dilation, groups)


def matched(
    product: Callable, grad: Any, input: Any, weight_size: tuple, stride: tuple, padding: tuple, dilation: tuple, groups: int
) -> np.ndarray:  # fmt: skip
    """`conv_weight_grad` by this product of (batches of) matrices."""
    cols = _columns(input, tuple(weight_size[2:]), stride, padding, dilation, groups)
    per = weight_size[0] // groups
    y = grad.reshape(grad.shape[0], groups, per, cols.shape[3])
    if groups == 1:  # all images' places are one dimension of the product
        rows, cols = (
            a[:, 0].transpose(1, 0, 2).reshape(a.shape[2], a.shape[0] * a.shape[3])
            for a in (y, cols)
        )
        w = product(rows, cols.T)
    else:
        w = product(y, cols.transpose(0, 1, 3, 2)).sum(0)
    return w.reshape(weight_size)
