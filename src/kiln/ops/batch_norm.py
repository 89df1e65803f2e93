"""Normalization of channels over batches and instances, with running statistics."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..autograd.modes import no_grad
from ..errors import KilnError, KilnValueError, describe
from ..shape import Size, numel
from ..sharing import watched, written
from ..tensor import Tensor
from .activation import floating, widen
from .normalization import (
    affine,
    affine_body,
    channel_sum,
    channels,
    check_affine,
    group_norm_op,
    moments,
    norm_grad,
    standardize_body,
)
from .registry import FUNCTIONS, Sample, composition, op
from .rules import by_body, constants, tied
from .samples import draw, rng
from .storing import bump

# ---------------------------------------------------------------- batches


def _others(input: Any) -> tuple[int, ...]:
    """Every dimension but the channels."""
    return (0, *range(2, len(input.shape)))


def _batch_infer(input: Any, weight: Any, bias: Any, eps: float) -> list:
    floating("batch_norm", input)
    c = input.shape[1]
    check_affine("batch_norm", input, (c,), weight=weight, bias=bias)
    d = dt.float32 if input.dtype in (dt.float16, dt.bfloat16) else input.dtype
    return [(Size(input.shape), input.dtype), (Size((c,)), d), (Size((c,)), d)]


def _batch_input_grad(gs: Any, input: Tensor, weight: Any, eps: float) -> Tensor:
    # the weight is the same all over what is averaged, so it may as well come last
    out = norm_grad(widen(gs[0]), widen(input), _others(input), eps)
    return (out if weight is None else out * channels(weight, input.ndim)).to(input.dtype)


def _batch_weight_grad(gs: Any, input: Tensor, eps: float) -> Tensor:
    return channel_sum(gs[0] * standardize_body(widen(input), _others(input), eps))


def _batch_body(input: Tensor, weight: Any, bias: Any, eps: float) -> tuple:
    x, dims = widen(input), _others(input)
    mean = x.mean(dims, True)
    centered = x - mean
    var = (centered * centered).mean(dims, True)
    out = centered * (var + eps).rsqrt()
    out = affine_body(out, channels(weight, x.ndim), channels(bias, x.ndim), input.dtype)
    return out, mean.reshape(x.shape[1]), var.reshape(x.shape[1])


def _batch_op_samples() -> Any:
    r = rng(34)
    for xs in ((4, 3), (2, 3, 4), (2, 3, 4, 2)):
        yield Sample((draw(r, xs), None, None, 1e-5))
        yield Sample((draw(r, xs), draw(r, (3,)), draw(r, (3,)), 1e-3))


@op(
    node="NativeBatchNormBackward0", private=True, lies="channels", infer=_batch_infer, samples=_batch_op_samples, body=_batch_body, exact=True,
    nondiff_outputs=(1, 2), formal=("input", "weight"), grad={
        "input": _batch_input_grad, "weight": _batch_weight_grad, "bias": lambda gs: channel_sum(gs[0]),
    },
)  # fmt: skip
def batch_norm_train(
    input: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """input normalized by each channel's mean and variance over the batch; also these two."""
    half = input.dtype if input.dtype in (dt.float16.np, dt.bfloat16.np) else None
    x = input if half is None else input.astype(np.float32)
    centered, var = moments(x, _others(x))
    mean = (x[(slice(0, 1), slice(None), *(slice(0, 1),) * (x.ndim - 2))] -
            centered[(slice(0, 1), slice(None), *(slice(0, 1),) * (x.ndim - 2))]).reshape(-1)  # fmt: skip
    centered *= 1 / np.sqrt(var + x.dtype.type(eps))
    out = affine(centered, channels(weight, x.ndim), channels(bias, x.ndim))
    return (out if half is None else out.astype(half)), mean, var.reshape(-1)


def _eval_infer(input: Any, mean: Any, var: Any, weight: Any, bias: Any, eps: float) -> tuple:
    floating("batch_norm", input)
    check_affine("batch_norm", input, (input.shape[1],), weight=weight, bias=bias)
    return Size(input.shape), input.dtype


def _eval_body(
    input: Tensor, mean: Tensor, var: Tensor, weight: Any, bias: Any, eps: float
) -> Tensor:
    scale = (widen(var) + eps).rsqrt()
    if weight is not None:
        scale = scale * widen(weight)
    shift = -widen(mean) * scale
    if bias is not None:
        shift = shift + widen(bias)
    return (widen(input) * channels(scale, input.ndim) + channels(shift, input.ndim)).to(
        input.dtype
    )


def _eval_samples() -> Any:
    r = rng(35)
    for xs in ((4, 3), (2, 3, 4, 2), (0, 3)):
        yield Sample(
            (draw(r, xs), draw(r, (3,)), draw(r, (3,), 0.5, 2), draw(r, (3,)), draw(r, (3,)), 1e-3)
        )
        yield Sample((draw(r, xs), draw(r, (3,)), draw(r, (3,), 0.5, 2), None, None, 1e-5))


def _scaled_body(input: Tensor, mean: Tensor, var: Tensor, weight: Any, eps: float) -> Tensor:
    return _eval_body(input, mean, var, weight, None, eps)


@op(
    private=True, lies="channels", infer=_eval_infer, samples=_eval_samples, body=_eval_body,
    formal=("input", "weight"),
    grad=by_body(_scaled_body, "input", "mean", "var", "weight") | {"bias": lambda g: channel_sum(g)},
)  # fmt: skip
def batch_norm_eval(
    input: Tensor, mean: Tensor, var: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    """input normalized by a given mean and variance for each channel."""
    scale = 1 / np.sqrt(var + var.dtype.type(eps))
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    if bias is not None:
        shift = shift + bias
    out = input * channels(scale, input.ndim)
    out += channels(shift, input.ndim)
    return out.astype(input.dtype, copy=False)


def _check_batch(name: str, input: Any, **vectors: Any) -> None:
    shape = input._a.shape
    if len(shape) < 2:
        raise KilnError(
            name, "Expected at least 2 dimensions for input", describe(input), "(N, C, *)"
        )
    due = (shape[1],)
    for what, v in vectors.items():
        if v is not None and v._a.shape != due:
            raise KilnError(
                name, f"{what} should contain {shape[1]} elements not {numel(v.shape)}", describe(v),
                f"the input is {describe(input)}",
            )  # fmt: skip


def _update_running(running: Any, value: Tensor, momentum: float, scale: float = 1.0) -> None:
    """Move running statistics towards scale * value."""
    if running is None:
        return
    a, b = running._a, value._a
    if (
        a.__class__ is np.ndarray
        and b.__class__ is np.ndarray
        and a.dtype is b.dtype
        and a.flags.writeable
    ):
        if watched:
            written(a)
        a *= 1 - momentum
        a += (b if scale == 1 else b * scale) * momentum
        bump(running)
    else:
        value = value if scale == 1 else value * scale
        with no_grad():
            running.mul_(1 - momentum).add_(value.to(running.dtype), alpha=momentum)


_RUNNING = ("running_mean", "running_var")


def _batch_samples() -> Any:
    r = rng(36)
    for xs in ((4, 3), (2, 3, 4), (2, 3, 4, 2)):
        mean, var, w, b = draw(r, (3,)), draw(r, (3,), 0.5, 2), draw(r, (3,)), draw(r, (3,))
        yield Sample((draw(r, xs), None, None), {"training": True})
        yield Sample((draw(r, xs), None, None, w, b), {"training": True, "eps": 0.1})
        running = {"running_mean": mean, "running_var": var}
        yield Sample((draw(r, xs),), {**running, "weight": w, "bias": b}, fixed=_RUNNING)
        yield Sample((draw(r, xs),), running, fixed=_RUNNING)
    yield Sample((draw(r, (0, 3, 4)), mean, var, w, b), {"training": True}, grad=False)
    yield Sample((draw(r, (0,)), None, None), {"training": True})
    yield Sample((draw(r, (1, 3)), None, None), {"training": True}, error=ValueError)
    yield Sample((draw(r, (4, 3)), draw(r, (2,)), draw(r, (2,))), error=RuntimeError)
    yield Sample((draw(r, (4, 3)), None, None), error=RuntimeError)


@composition(namespace="F", samples=_batch_samples)
def batch_norm(input: Tensor, running_mean: Tensor | None, running_var: Tensor | None, weight: Tensor | None = None,
               bias: Tensor | None = None, training: bool = False, momentum: float = 0.1, eps: float = 1e-5) -> Tensor:  # fmt: skip
    """(input - mean) / sqrt(var + eps) * weight + bias for each channel of (N, C, *).

    In training mean and variance are the batch's, and the running ones move towards them (the
    variance unbiased) by `momentum`; otherwise they are the running ones. https://arxiv.org/abs/1502.03167
    """
    constants("batch_norm", running_mean=running_mean, running_var=running_var)
    if eps < 0 or (training and eps == 0):
        bound = "positive during training" if training else "non-negative"
        raise KilnValueError(
            "batch_norm", f"batch_norm eps must be {bound}, but got {eps}", eps, ""
        )
    shape = input._a.shape
    count = numel(shape)
    if count == 0:  # nothing to normalize by; the running statistics stay
        out = input.clone()
        out = out if weight is None else out * weight[0]
        return out if bias is None else out + bias[0]
    if training and len(shape) > 1 and count == shape[1]:
        raise KilnValueError(
            "batch_norm", "Expected more than 1 value per channel when training", describe(input),
            "use a larger batch, or eval()",
        )  # fmt: skip
    _check_batch(
        "batch_norm",
        input,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
    )
    if not training:
        if running_mean is None or running_var is None:
            raise KilnError(
                "batch_norm", "running_mean and running_var must be defined in evaluation mode", "None",
                "track running statistics, or pass training=True",
            )  # fmt: skip
        return batch_norm_eval(input, running_mean, running_var, weight, bias, eps)
    out, mean, var = batch_norm_train(input, weight, bias, eps)
    if running_mean is not None or running_var is not None:
        n = count // shape[1]
        _update_running(running_mean, mean, momentum)
        _update_running(running_var, var, momentum, n / (n - 1))
    return out


def _torch_batch_norm(input: Tensor, weight: Tensor | None, bias: Tensor | None, running_mean: Tensor | None,
                      running_var: Tensor | None, training: bool, momentum: float, eps: float,
                      cudnn_enabled: bool = False) -> Tensor:  # fmt: skip
    """`nn.functional.batch_norm` with the order of arguments that `torch.batch_norm` has."""
    return batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)


_torch_batch_norm.__name__ = "batch_norm"


def _instance_samples() -> Any:
    r = rng(37)
    for xs in ((2, 3, 4), (2, 3, 4, 2)):
        yield Sample((draw(r, xs),))
        yield Sample((draw(r, xs), None, None, draw(r, (3,)), draw(r, (3,))), {"eps": 0.1})
        running = {"running_mean": draw(r, (3,)), "running_var": draw(r, (3,), 0.5, 2)}
        given = {"weight": draw(r, (3,)), "bias": draw(r, (3,)), "use_input_stats": False}
        yield Sample((draw(r, xs),), {**running, **given}, fixed=_RUNNING)
    yield Sample((draw(r, (2, 3, 1)),), error=ValueError)


@composition(namespace="F", samples=_instance_samples)
def instance_norm(input: Tensor, running_mean: Tensor | None = None, running_var: Tensor | None = None,
                  weight: Tensor | None = None, bias: Tensor | None = None, use_input_stats: bool = True,
                  momentum: float = 0.1, eps: float = 1e-5) -> Tensor:  # fmt: skip
    """Each channel of each sample of (N, C, *) normalized by itself, then weight and bias by channel.

    https://arxiv.org/abs/1607.08022
    """
    _check_batch(
        "instance_norm",
        input,
        running_mean=running_mean,
        running_var=running_var,
        weight=weight,
        bias=bias,
    )
    constants("instance_norm", running_mean=running_mean, running_var=running_var)
    if weight is not None:
        weight = weight.clone()  # so that it may be written to before backward
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    n = numel(input.shape[2:])
    if n == 1:
        raise KilnValueError(
            "instance_norm",
            "Expected more than 1 spatial element when training",
            describe(input),
            "",
        )
    if running_mean is not None or running_var is not None:
        with no_grad():
            x = widen(input).reshape(input.shape[0], input.shape[1], n)
            mean = x.mean(2)
            var = ((x - mean.unsqueeze(2)) ** 2).sum(2) / (n - 1)
        _update_running(running_mean, mean.mean(0), momentum)
        _update_running(running_var, var.mean(0), momentum)
    out = group_norm_op(input.contiguous(), input.shape[1], weight, bias, eps)
    return tied(out, "View", input, weight)


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (2, 5, 4)), 3)), Sample((draw(rng(), (2, 4, 3, 2)), 2, 0.1, 0.5, 2.0)),
    Sample((draw(rng(), (3,)), 2), error=ValueError),
]))  # fmt: skip
def local_response_norm(
    input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """input / (k + alpha * mean of squares over `size` neighbouring channels) ** beta, for (N, C, *)."""
    if input.ndim < 3:
        raise KilnValueError(
            "local_response_norm", "Expected 3D or higher dimensionality input", describe(input), ""
        )
    if not input.numel():
        return input
    from .pooling import avg_pool

    rest = numel(input.shape[2:])
    square = (input * input).reshape(input.shape[0], input.shape[1], rest).transpose(1, 2)
    square = FUNCTIONS["nn.functional.pad"](square, (size // 2, (size - 1) // 2))
    mean = (
        avg_pool(square, (size,), (1,), (0,), (0,), True, None).transpose(1, 2).reshape(input.shape)
    )
    return input / (mean * alpha + k) ** beta


FUNCTIONS["batch_norm"] = _torch_batch_norm
