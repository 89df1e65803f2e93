"""Functions under `keras.ops`' names, NumPy's for the most part: of tensors, arrays, and symbolic tensors in a functional model.

https://keras.io/api/ops/
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import kiln as K

from ..compile.control import cond as _cond
from ..compile.control import scan as _scan
from ..compile.control import while_loop as _while
from ..nn import functional as F
from ..tensor import Tensor
from . import layers
from .activations import *  # noqa: F403
from .dtypes import array, name_of, to_dtype
from .shapes import *  # noqa: F403
from .symbolic import KerasTensor, op


def _axes(axis: Any) -> Any:
    return list(axis) if isinstance(axis, tuple) else axis


# ---- element by element

_ONE = {
    "conj": "conj", "fabs": "abs", "fliplr": "fliplr", "flipud": "flipud", "i0": "i0", "isneginf": "isneginf", "isposinf": "isposinf",
    "isreal": "isreal", "signbit": "signbit", "sinc": "sinc", "trace": "trace", "nonzero": "nonzero",
    "abs": "abs", "absolute": "abs", "arccos": "acos", "arccosh": "acosh", "arcsin": "asin", "arcsinh": "asinh", "arctan": "atan", "arctanh": "atanh",
    "ceil": "ceil", "conjugate": "conj", "cos": "cos", "cosh": "cosh", "erf": "erf", "erfinv": "erfinv", "exp": "exp", "expm1": "expm1",
    "exp2": "exp2", "floor": "floor", "isfinite": "isfinite", "isinf": "isinf", "isnan": "isnan", "log": "log", "log10": "log10", "log1p": "log1p",
    "log2": "log2", "logical_not": "logical_not", "negative": "neg", "reciprocal": "reciprocal", "rsqrt": "rsqrt",
    "sign": "sign", "sin": "sin", "sinh": "sinh", "sqrt": "sqrt", "square": "square", "tan": "tan", "trunc": "trunc", "bitwise_not": "bitwise_not",
    "copy": "clone", "real": "real", "imag": "imag", "angle": "angle", "deg2rad": "deg2rad", "rad2deg": "rad2deg",
    "bitwise_invert": "bitwise_not", "erfc": "erfc",
}  # fmt: skip
_TWO = {
    "bitwise_left_shift": "bitwise_left_shift", "bitwise_right_shift": "bitwise_right_shift", "fmax": "fmax", "fmin": "fmin", "gcd": "gcd",
    "inner": "inner", "isclose": "isclose", "kron": "kron", "lcm": "lcm", "ldexp": "ldexp", "left_shift": "bitwise_left_shift",
    "nextafter": "nextafter", "right_shift": "bitwise_right_shift", "vdot": "vdot", "allclose": "allclose",
    "add": "add", "arctan2": "atan2", "bitwise_and": "bitwise_and", "bitwise_or": "bitwise_or", "bitwise_xor": "bitwise_xor", "divide": "true_divide",
    "equal": "eq", "floor_divide": "floor_divide", "fmod": "fmod", "greater": "gt", "greater_equal": "ge", "hypot": "hypot", "less": "lt", "less_equal": "le",
    "logaddexp": "logaddexp", "logical_and": "logical_and", "logical_or": "logical_or", "logical_xor": "logical_xor", "matmul": "matmul",
    "maximum": "maximum", "minimum": "minimum", "mod": "remainder", "multiply": "mul", "not_equal": "ne", "outer": "outer",
    "power": "pow", "subtract": "sub", "true_divide": "true_divide", "heaviside": "heaviside", "copysign": "copysign",
}  # fmt: skip


def _one(name: str, target: str) -> Any:
    kernel = getattr(K, target)

    def fn(x: Any) -> Tensor:
        return kernel(array(x))

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"`kiln.{target}`."
    return op(fn)


def _two(name: str, target: str) -> Any:
    kernel = getattr(K, target)

    def fn(x1: Any, x2: Any) -> Tensor:
        if not isinstance(x1, Tensor):
            x1 = array(x1, x2.dtype if isinstance(x2, Tensor) and isinstance(x1, int | float) else None)  # fmt: skip
        if not isinstance(x2, Tensor):
            x2 = array(x2, x1.dtype if isinstance(x2, int | float) and (x1.is_floating_point() or isinstance(x2, int)) else None)  # fmt: skip
        return kernel(x1, x2)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"`kiln.{target}`."
    return op(fn)


_LINEAR = ("cholesky", "det", "eig", "eigh", "inv", "matrix_rank", "pinv", "qr", "slogdet", "svd")


def _linear(name: str) -> Any:
    def fn(x: Any) -> Any:
        from .. import linalg

        found = getattr(linalg, name)(array(x))
        return found if isinstance(found, Tensor) else tuple(found)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"`kiln.linalg.{name}`."
    return op(fn)


globals().update({n: _linear(n) for n in _LINEAR})
globals().update({n: _one(n, t) for n, t in _ONE.items()})
globals().update({n: _two(n, t) for n, t in _TWO.items()})


@op
def clip(x: Any, x_min: Any, x_max: Any) -> Tensor:
    """Between two values."""
    return array(x).clamp(x_min, x_max)


@op
def round(x: Any, decimals: int = 0) -> Tensor:
    """To so many decimals."""
    return array(x).round(decimals=decimals)


@op
def where(condition: Any, x1: Any = None, x2: Any = None) -> Any:
    """x1 where the condition holds, x2 elsewhere; without them the places where it holds."""
    return K.where(array(condition)) if x1 is None else K.where(array(condition).bool(), array(x1), array(x2))  # fmt: skip


@op
def cast(x: Any, dtype: Any) -> Tensor:
    """In another dtype."""
    return array(x).to(to_dtype(dtype))


@op
def nan_to_num(x: Any, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Tensor:
    """With numbers in place of NaN and infinities."""
    return array(x).nan_to_num(nan, posinf, neginf)


# ---- along axes


def _reduction(name: str, target: str, plain: str | None = None) -> Any:
    def fn(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
        x = array(x)
        kernel = getattr(x, target)
        if axis is None:
            out = kernel()
            return out.reshape((1,) * x.ndim) if keepdims else out
        return kernel(_axes(axis), keepdim=keepdims)

    fn.__name__ = fn.__qualname__ = name
    fn.__doc__ = f"`Tensor.{target}` along `axis`."
    return op(fn)


max, min, all, any = (_reduction(n, t) for n, t in (("max", "amax"), ("min", "amin"), ("all", "all"), ("any", "any")))  # fmt: skip
amax, amin = max, min
argmax, argmin = _reduction("argmax", "argmax"), _reduction("argmin", "argmin")
logsumexp = op(lambda x, axis=None, keepdims=False: array(x).logsumexp(list(range(array(x).ndim)) if axis is None else _axes(axis), keepdim=keepdims))  # fmt: skip


@op
def sum(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The sum."""
    x = array(x)
    return x.sum(list(range(x.ndim)) if axis is None else _axes(axis), keepdim=keepdims)


@op
def mean(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The mean."""
    x = array(x)
    x = x if x.is_floating_point() else x.float()
    return x.mean(list(range(x.ndim)) if axis is None else _axes(axis), keepdim=keepdims)


@op
def var(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The variance, by the number of values."""
    x = array(x)
    return x.var(list(range(x.ndim)) if axis is None else _axes(axis), correction=0, keepdim=keepdims)  # fmt: skip


@op
def std(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The root of the variance."""
    x = array(x)
    return x.std(list(range(x.ndim)) if axis is None else _axes(axis), correction=0, keepdim=keepdims)  # fmt: skip


@op
def moments(x: Any, axes: Any, keepdims: bool = False) -> tuple[Tensor, Tensor]:
    """(mean, variance)."""
    return mean(x, axes, keepdims), var(x, axes, keepdims)


@op
def prod(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The product."""
    x = array(x)
    for a in sorted(range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis, reverse=True):  # fmt: skip
        x = x.prod(a, keepdim=keepdims)
    return x


@op
def norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Tensor:
    """`kiln.linalg.norm`."""
    from .. import linalg

    return linalg.norm(array(x), ord, _axes(axis), keepdims)


@op
def cumsum(x: Any, axis: int | None = None) -> Tensor:
    """Running sums."""
    x = array(x)
    return x.flatten().cumsum(0) if axis is None else x.cumsum(axis)


@op
def cumprod(x: Any, axis: int | None = None) -> Tensor:
    """Running products."""
    x = array(x)
    return x.flatten().cumprod(0) if axis is None else x.cumprod(axis)


@op
def sort(x: Any, axis: int = -1) -> Tensor:
    """In rising order."""
    return array(x).sort(axis)[0]


@op
def argsort(x: Any, axis: int = -1) -> Tensor:
    """The places of rising values."""
    return array(x).argsort(axis)


@op
def top_k(x: Any, k: int, sorted: bool = True) -> Any:
    """(values, places) of the k largest in the last dimension."""
    return tuple(array(x).topk(k, sorted=sorted))


@op
def count_nonzero(x: Any, axis: Any = None) -> Tensor:
    """How many are not 0."""
    return K.count_nonzero(array(x), axis)


@op
def segment_sum(data: Any, segment_ids: Any, num_segments: int | None = None, sorted: bool = False) -> Tensor:  # fmt: skip
    """Sums of rows by the number of their segment."""
    data, ids = array(data), array(segment_ids).long()
    n = int(ids.max()) + 1 if num_segments is None else num_segments
    return data.new_zeros(n, *data.shape[1:]).index_add(0, ids, data)


@op
def median(x: Any, axis: Any = None, keepdims: bool = False) -> Tensor:
    """The value in the middle, or the mean of the two there."""
    return quantile(x, 0.5, axis, keepdims=keepdims)


@op
def quantile(x: Any, q: Any, axis: Any = None, method: str = "linear", keepdims: bool = False) -> Tensor:  # fmt: skip
    """The value below which a share q of the values lies."""
    return array(x).quantile(array(q), axis, keepdims, interpolation=method)


@op
def diff(a: Any, n: int = 1, axis: int = -1) -> Tensor:
    """Differences of neighbours."""
    return K.diff(array(a), n, axis)


@op
def searchsorted(sorted_sequence: Any, values: Any, side: str = "left") -> Tensor:
    """The places at which values would keep the order."""
    return K.searchsorted(array(sorted_sequence), array(values), side=side)


@op
def solve(a: Any, b: Any) -> Tensor:
    """x of a @ x = b."""
    from .. import linalg

    return linalg.solve(array(a), array(b))


# ---- products and layers' functions


@op
def einsum(subscripts: str, *operands: Any) -> Tensor:
    """`kiln.einsum`."""
    return K.einsum(subscripts, *map(array, operands))


@op
def dot(x1: Any, x2: Any) -> Tensor:
    """NumPy's dot."""
    x1, x2 = array(x1), array(x2)
    if not x1.ndim or not x2.ndim:
        return x1 * x2
    return x1 @ x2 if x2.ndim <= 2 else tensordot(x1, x2, [[-1], [-2]])


@op
def tensordot(x1: Any, x2: Any, axes: Any = 2) -> Tensor:
    """The sum of products along axes."""
    x1, x2 = array(x1), array(x2)
    return K.tensordot(x1, x2, axes if isinstance(axes, int) else [[a] if isinstance(a, int) else list(a) for a in axes])  # fmt: skip


@op
def dot_product_attention(
    query: Any, key: Any, value: Any, bias: Any = None, mask: Any = None, scale: float | None = None, is_causal: bool = False
) -> Tensor:  # fmt: skip
    """Attention of (batch, places, heads, features)."""
    q, k, v = (array(x).transpose(1, 2) for x in (query, key, value))
    added = bias if mask is None else mask.bool() if bias is None else bias.masked_fill(~mask.bool(), -1e9)  # fmt: skip
    return F.scaled_dot_product_attention(q, k, v, added, 0.0, is_causal, scale=scale).transpose(
        1, 2
    )


@op
def one_hot(x: Any, num_classes: int, axis: int = -1, dtype: Any = None, sparse: bool = False) -> Tensor:  # fmt: skip
    """Rows with a 1 at a class's place; numbers that are no class give zeros."""
    x = array(x).long()
    out = (x.unsqueeze(-1) == K.arange(num_classes)).to(to_dtype(dtype))
    return out if axis == -1 else out.movedim(-1, axis)


@op
def normalize(x: Any, axis: int = -1, order: int = 2, epsilon: float | None = None) -> Tensor:
    """By its norm along an axis."""
    return F.normalize(array(x), order, axis, 1e-12 if epsilon is None else epsilon)


@op
def binary_crossentropy(target: Any, output: Any, from_logits: bool = False) -> Tensor:
    """Of each element."""
    output = array(output)
    target = array(target).to(output.dtype)
    if from_logits:
        return F.binary_cross_entropy_with_logits(output, target, reduction="none")
    p = output.clamp(1e-7, 1 - 1e-7)
    return -(target * p.log() + (1 - target) * (1 - p).log())


@op
def categorical_crossentropy(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Tensor:  # fmt: skip
    """Of each sample, targets one-hot."""
    output = array(output)
    p = output.log_softmax(axis) if from_logits else (output / output.sum(axis, keepdim=True)).clamp(1e-7, 1 - 1e-7).log()  # fmt: skip
    return -(array(target) * p).sum(axis)


@op
def sparse_categorical_crossentropy(target: Any, output: Any, from_logits: bool = False, axis: int = -1) -> Tensor:  # fmt: skip
    """Of each sample, targets class numbers."""
    output = array(output)
    return categorical_crossentropy(one_hot(target, output.shape[axis], axis, output.dtype), output, from_logits, axis)  # fmt: skip


def conv(inputs: Any, kernel: Any, strides: Any = 1, padding: str = "valid", data_format: str | None = None, dilation_rate: Any = 1) -> Any:  # fmt: skip
    """A convolution with a kernel (…, in, out)."""
    x, kernel = array(inputs), array(kernel)
    kind = {1: layers.Conv1D, 2: layers.Conv2D, 3: layers.Conv3D}[kernel.ndim - 2]
    layer = kind(kernel.shape[-1], tuple(kernel.shape[:-2]), strides, padding, data_format, dilation_rate, use_bias=False)  # fmt: skip
    weight = kernel.permute(kernel.ndim - 1, kernel.ndim - 2, *range(kernel.ndim - 2))
    groups = layer.first(x).shape[1] // kernel.shape[-2]
    return layer.last(layer.convolved(layer.first(x), weight, None, groups))


def max_pool(inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None) -> Any:  # fmt: skip
    """The largest of each window."""
    kind = {3: layers.MaxPooling1D, 4: layers.MaxPooling2D, 5: layers.MaxPooling3D}[inputs.ndim]
    return kind(pool_size, strides, padding, data_format)(inputs)


def average_pool(inputs: Any, pool_size: Any, strides: Any = None, padding: str = "valid", data_format: str | None = None) -> Any:  # fmt: skip
    """The mean of each window."""
    kind = {3: layers.AveragePooling1D, 4: layers.AveragePooling2D, 5: layers.AveragePooling3D}[inputs.ndim]  # fmt: skip
    return kind(pool_size, strides, padding, data_format)(inputs)


# ---- tensors made new


def convert_to_tensor(x: Any, dtype: Any = None, sparse: Any = None) -> Tensor:
    """A tensor."""
    return array(x, dtype)


def convert_to_numpy(x: Any) -> np.ndarray:
    """An array."""
    return x.detach().numpy() if isinstance(x, Tensor) else np.asarray(x)


def is_tensor(x: Any) -> bool:
    """Whether it is one."""
    return isinstance(x, Tensor)


def shape(x: Any) -> tuple:
    """The shape, with None where nobody knows."""
    return tuple(x.shape)


def ndim(x: Any) -> int:
    """How many dimensions."""
    return len(x.shape)


def size(x: Any) -> int:
    """How many elements."""
    return array(x).numel()


def dtype(x: Any) -> str:
    """The dtype's name."""
    return x.dtype if isinstance(x, KerasTensor) else name_of(array(x).dtype)


def zeros(shape: Any, dtype: Any = None) -> Tensor:
    """Zeros."""
    return K.zeros(shape if isinstance(shape, Sequence) else (shape,), dtype=to_dtype(dtype))


def ones(shape: Any, dtype: Any = None) -> Tensor:
    """Ones."""
    return K.ones(shape if isinstance(shape, Sequence) else (shape,), dtype=to_dtype(dtype))


def full(shape: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """One value."""
    return K.full(tuple(shape) if isinstance(shape, Sequence) else (shape,), fill_value, dtype=None if dtype is None else to_dtype(dtype))  # fmt: skip


def empty(shape: Any, dtype: Any = None) -> Tensor:
    """Any values."""
    return zeros(shape, dtype)


@op
def zeros_like(x: Any, dtype: Any = None) -> Tensor:
    """Zeros like it."""
    return K.zeros_like(array(x), dtype=None if dtype is None else to_dtype(dtype))


@op
def ones_like(x: Any, dtype: Any = None) -> Tensor:
    """Ones like it."""
    return K.ones_like(array(x), dtype=None if dtype is None else to_dtype(dtype))


def arange(start: Any, stop: Any = None, step: Any = 1, dtype: Any = None) -> Tensor:
    """Numbers one after the other."""
    start, stop = (0, start) if stop is None else (start, stop)
    return K.arange(start, stop, step, dtype=None if dtype is None else to_dtype(dtype))


def linspace(start: Any, stop: Any, num: int = 50, endpoint: bool = True, dtype: Any = None) -> Tensor:  # fmt: skip
    """Numbers at even distances."""
    return array(np.linspace(start, stop, num, endpoint), dtype)


def eye(N: int, M: int | None = None, k: int = 0, dtype: Any = None) -> Tensor:
    """Ones on a diagonal."""
    return array(np.eye(N, M, k), dtype or "float32")


identity = eye


def meshgrid(*x: Any, indexing: str = "xy") -> Any:
    """Coordinates of all places of a grid."""
    return list(K.meshgrid(*map(array, x), indexing=indexing))


@op
def full_like(x: Any, fill_value: Any, dtype: Any = None) -> Tensor:
    """One value like it."""
    return K.full_like(array(x), fill_value, dtype=None if dtype is None else to_dtype(dtype))


# ---- control


def cond(pred: Any, true_fn: Callable, false_fn: Callable) -> Any:
    """What one of two functions gives."""
    return _cond(array(pred), true_fn, false_fn)


def while_loop(cond: Callable, body: Callable, loop_vars: Any, maximum_iterations: int | None = None) -> Any:  # fmt: skip
    """`body` of its own results while `cond` of them holds."""
    if maximum_iterations is not None:
        n = 0
        while n < maximum_iterations and bool(cond(*loop_vars)):
            loop_vars, n = body(*loop_vars), n + 1
        return loop_vars
    return _while(cond, body, tuple(loop_vars))


def fori_loop(lower: int, upper: int, body_fun: Callable, init_val: Any) -> Any:
    """`body_fun(i, value)` for each i."""
    for i in range(lower, upper):
        init_val = body_fun(i, init_val)
    return init_val


def scan(f: Callable, init: Any, xs: Any = None, length: int | None = None, reverse: bool = False, unroll: Any = 1) -> Any:  # fmt: skip
    """`kiln.scan`."""
    return _scan(f, init, xs, reverse=reverse, length=length)


def vectorized_map(function: Callable, elements: Any) -> Any:
    """`kiln.vmap`."""
    return K.vmap(function)(elements)


@op
def stop_gradient(x: Any) -> Tensor:
    """Without its history."""
    return array(x).detach()


# ---- operators of symbolic tensors

_OPERATORS = {"add": "add", "sub": "subtract", "mul": "multiply", "truediv": "divide", "pow": "power", "matmul": "matmul", "mod": "mod", "floordiv": "floor_divide", "and": "logical_and", "or": "logical_or"}  # fmt: skip
_COMPARED = {"lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}


def _operators() -> None:
    for name, target in {**_OPERATORS, **_COMPARED}.items():
        fn = globals()[target]
        setattr(KerasTensor, f"__{name}__", lambda a, b, fn=fn: fn(a, b))
        if name in _OPERATORS:
            setattr(KerasTensor, f"__r{name}__", lambda a, b, fn=fn: fn(b, a))
    KerasTensor.__neg__ = lambda x: globals()["negative"](x)  # type: ignore[attr-defined]
    KerasTensor.__abs__ = lambda x: globals()["absolute"](x)  # type: ignore[attr-defined]
    KerasTensor.__invert__ = lambda x: globals()["logical_not"](x)  # type: ignore[attr-defined]
    KerasTensor.__getitem__ = lambda x, key: globals()["get_item"](x, key)  # type: ignore[attr-defined]


_operators()
saturate_cast = cast
nn = numpy = linalg = sys.modules[__name__]
"""The same functions under the names of Keras's parts."""
