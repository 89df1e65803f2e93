"""conv1d to conv_transpose3d: the convolution of `convolution` as users call it."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..errors import KilnError, describe
from ..tensor import Tensor
from ._windows import as_tuple, span
from .convolution import check_geometry, conv_input_grad, conv_out, convolution
from .registry import FUNCTIONS, Sample, composition
from .rules import tied
from .samples import draw, rng


def _batched(name: str, input: Any, weight: Any, n: int) -> tuple[Any, bool]:
    if not isinstance(input, Tensor) or not isinstance(weight, Tensor):
        convolution(
            input, weight, None, (1,) * n, (0,) * n, (1,) * n, 1
        )  # the error for a wrong type
    if input.ndim == n + 2:
        return input, True
    if input.ndim != n + 1:
        raise KilnError(
            name, f"Expected {n + 1}D (unbatched) or {n + 2}D (batched) input to {name}", describe(input),
            "(batch, channels, *size) or (channels, *size)",
        )  # fmt: skip
    return input.unsqueeze(0), False


def _same_padding(
    name: str, input: Any, weight: Any, stride: tuple, dilation: tuple
) -> tuple[Any, tuple]:
    """The input and padding for an output as large as the input; an odd total goes to the end."""
    if any(s != 1 for s in stride):
        raise KilnError(
            name, "padding='same' is not supported for strided convolutions", f"stride={stride}", ""
        )
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if any(t % 2 for t in totals):
        ends = [x for t in reversed(totals) for x in (0, t % 2)]
        input = FUNCTIONS["nn.functional.pad"](input, ends)
    return input, tuple(t // 2 for t in totals)


def _conv(
    n: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> Tensor:
    name = f"conv{n}d"
    x, batched = _batched(name, input, weight, n)
    steps, gaps = as_tuple(stride, n, name, "stride"), as_tuple(dilation, n, name, "dilation")
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise KilnError(
                name, f"Invalid padding string: {padding!r}", repr(padding), "'same' or 'valid'"
            )
        pads = (0,) * n
        if padding == "same" and weight.ndim == n + 2:
            x, pads = _same_padding(name, x, weight, steps, gaps)
    else:
        pads = as_tuple(padding, n, name, "padding")
    out = convolution(x, weight, bias, steps, pads, gaps, groups)
    return out if batched else out.squeeze(0)


def _public_conv_samples(n: int) -> Any:
    def samples() -> Any:
        r = rng(14)
        xs, ws = (2, 4, 7, 6, 5)[: n + 2], (6, 4, 3, 2, 3)[: n + 2]
        x, w, b = draw(r, xs), draw(r, ws), draw(r, (6,))
        yield Sample((x, w, b))
        yield Sample((x, w), {"stride": 2, "padding": 1})
        yield Sample((x, w), {"padding": (2, 1, 0)[:n], "dilation": 2})
        yield Sample((x, w, b), {"padding": "same"})
        yield Sample((x, w, b), {"padding": "valid"})
        yield Sample((x, w[:, :2], b), {"groups": 2})
        yield Sample((x[0], w, b))
        yield Sample((x[:0], w, b), grad=False)
        yield Sample((x, w[:, :2]), error=RuntimeError)
        yield Sample((x, w, b[:3]), error=RuntimeError)
        yield Sample((x, w.astype(np.float32)), error=RuntimeError)
        yield Sample((x, w), {"stride": 0}, error=RuntimeError)
        yield Sample((x, w), {"padding": -1}, error=RuntimeError)
        yield Sample((x, w), {"padding": "same", "stride": 2}, error=RuntimeError)
        yield Sample((x[:, :, :2], w), error=RuntimeError)
        yield Sample((x[0, 0], w), error=RuntimeError)

    return samples


@composition(method=False, samples=_public_conv_samples(1))
def conv1d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """The 1-d convolution of input (N, C, L) or (C, L) with weight (out, C / groups, k)."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


@composition(method=False, samples=_public_conv_samples(2))
def conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """The 2-d convolution of input (N, C, H, W) or (C, H, W) with weight (out, C / groups, kh, kw).

    `padding` is a number, one for each dimension, "valid" (none) or "same" (stride 1 only).
    """
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


@composition(method=False, samples=_public_conv_samples(3))
def conv3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
           dilation: Any = 1, groups: int = 1) -> Tensor:  # fmt: skip
    """The 3-d convolution of input (N, C, D, H, W) or (C, D, H, W) with weight (out, C / groups, kd, kh, kw)."""
    return _conv(3, input, weight, bias, stride, padding, dilation, groups)


def _conv_transpose(
    n: int,
    input: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    output_padding: Any,
    groups: int,
    dilation: Any,
) -> Tensor:
    name = f"conv_transpose{n}d"
    x, batched = _batched(name, input, weight, n)
    steps, gaps, pads, more = (
        as_tuple(v, n, name, what)
        for v, what in (
            (stride, "stride"),
            (dilation, "dilation"),
            (padding, "padding"),
            (output_padding, "output_padding"),
        )
    )
    given = f"input={describe(input)}, weight={describe(weight)}"
    check_geometry(name, steps, pads, gaps, groups, given)
    if weight.ndim != n + 2:
        raise KilnError(
            name, f"expected a weight of {n + 2} dimensions", given, "(in, out / groups, *kernel)"
        )
    if weight.shape[0] != x.shape[1]:
        raise KilnError(
            name, f"weight of size {list(weight.shape)} expects an input of {weight.shape[0]} channels, "
            f"but got {x.shape[1]}", given, "the weight is (in, out / groups, *kernel)",
        )  # fmt: skip
    if x.shape[1] % groups:
        raise KilnError(
            name, f"the input channels must be a multiple of groups={groups}", given, ""
        )
    if any(e >= max(s, d) or e < 0 for e, s, d in zip(more, steps, gaps, strict=True)):
        raise KilnError(
            name, "output padding must be smaller than either stride or dilation",
            f"output_padding={more}, stride={steps}, dilation={gaps}", "",
        )  # fmt: skip
    if weight.dtype is not x.dtype or (bias is not None and bias.dtype is not x.dtype):
        raise KilnError(
            name, "input, weight and bias must have the same dtype", given, "convert one of them"
        )
    channels = weight.shape[1] * groups
    if bias is not None and tuple(bias.shape) != (channels,):
        raise KilnError(
            name, f"expected bias to be 1-dimensional with {channels} elements", describe(bias), ""
        )
    sizes = tuple(
        (s - 1) * t - 2 * p + span(k, d) + e
        for s, t, p, k, d, e in zip(
            x.shape[2:], steps, pads, weight.shape[2:], gaps, more, strict=True
        )
    )
    if any(isinstance(s, int) and s <= 0 for s in sizes):
        raise KilnError(
            name, f"the output would have size {list(sizes)}", given, "use less padding"
        )
    spare = [
        w - s for w, s in zip(conv_out(sizes, weight.shape[2:], steps, pads, gaps), x.shape[2:], strict=True)
        if isinstance(s, int)
    ]  # fmt: skip
    if any(spare):  # output_padding made room for more windows: they are zero
        x = FUNCTIONS["nn.functional.pad"](x, [v for w in reversed(spare) for v in (0, w)])
    out = conv_input_grad(x, weight, (x.shape[0], channels, *sizes), steps, pads, gaps, groups)
    if bias is not None:
        out = tied(out + bias.reshape(channels, *(1,) * n), "Convolution", x, weight)
    return out if batched else out.squeeze(0)


def _public_transpose_samples(n: int) -> Any:
    def samples() -> Any:
        r = rng(15)
        xs, ws = (2, 4, 4, 3, 3)[: n + 2], (4, 6, 3, 2, 3)[: n + 2]
        x, w, b = draw(r, xs), draw(r, ws), draw(r, (6,))
        yield Sample((x, w, b))
        yield Sample((x, w, b), {"stride": 2, "padding": 1, "output_padding": 1})
        yield Sample((x, w), {"dilation": 2, "padding": 1})
        yield Sample((x, w), {"dilation": 3, "output_padding": 2})
        yield Sample((x, w[:, :3], b), {"groups": 2, "stride": (3, 2, 1)[:n]})
        yield Sample((x[0], w, b))
        yield Sample((x, w[:3]), error=RuntimeError)
        yield Sample((x, w), {"output_padding": 1}, error=RuntimeError)
        yield Sample((x, w, b[:2]), error=RuntimeError)

    return samples


@composition(method=False, samples=_public_transpose_samples(1))
def conv_transpose1d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:  # fmt: skip
    """The transpose of conv1d as a map: input (N, C, L), weight (C, out / groups, k)."""
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@composition(method=False, samples=_public_transpose_samples(2))
def conv_transpose2d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:  # fmt: skip
    """The transpose of conv2d as a map: input (N, C, H, W), weight (C, out / groups, kh, kw)."""
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


@composition(method=False, samples=_public_transpose_samples(3))
def conv_transpose3d(input: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Any = 1, padding: Any = 0,
                     output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Tensor:  # fmt: skip
    """The transpose of conv3d as a map: input (N, C, D, H, W), weight (C, out / groups, kd, kh, kw)."""
    return _conv_transpose(
        3, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


for _fn in (conv1d, conv2d, conv3d, conv_transpose1d, conv_transpose2d, conv_transpose3d):
    FUNCTIONS[f"nn.functional.{_fn.__name__}"] = _fn
