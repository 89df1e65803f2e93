"""Making tensors: from data, filled, counted, and like others."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnBufferError, KilnError, KilnTypeError, KilnValueError, describe
from ..formats import contiguous_format, inverse, order, preserve_format
from ..meta import makes, makes_like
from ..shape import MOST_DIMS, Size, index_int
from ..sharing import admit
from ..tensor import CAPTURING, Tensor, active_capture, wrap
from .dispatch import LARGE
from .registry import FUNCTIONS, Sample, method, op
from .storing import store_out


def _finish(t: Tensor, requires_grad: bool) -> Tensor:
    if requires_grad:
        t.requires_grad = True
    return t


def _placed(made_by: Any, t: Tensor, requires_grad: bool, out: Any) -> Tensor:
    """A new tensor, or `out` with its values."""
    return _finish(t, requires_grad) if out is None else store_out(made_by.op, t, out)


def _dtype_of(dtype: Any, out: Any) -> dt.dtype:
    """The dtype asked for: by name, by the tensor to fill, or the default one."""
    if dtype is not None:
        return dt.as_dtype(dtype)
    return dt.get_default_dtype() if out is None else out.dtype


def _size(size: tuple, named: Any, name: str) -> tuple[int, ...]:
    if named is not None:
        size = (named,)
    if len(size) == 1 and isinstance(size[0], list | tuple):
        size = tuple(size[0])
    if len(size) > MOST_DIMS:
        raise KilnError(
            name,
            f"only tensors with up to {MOST_DIMS} dims are supported",
            f"{len(size)} sizes",
            "",
        )
    for s in size:
        if s.__class__ is not int or s < 0:
            break
    else:
        return size
    out = tuple(index_int(s, name, "size") for s in size)
    if any(s < 0 for s in out):
        raise KilnError(name, "sizes must not be negative", f"size={list(out)}", "")
    return out


# ---------------------------------------------------------------- from data


def _to_numpy(data: Any) -> Any:
    """Nested data that may hold tensors, as something NumPy takes."""
    if isinstance(data, Tensor):
        return data._host("tensor")
    if isinstance(data, list | tuple):
        return [_to_numpy(x) for x in data]
    return data


def _of_floats(data: Any, dtype: dt.dtype | None) -> np.ndarray | None:
    """A sequence of nothing but Python's floats as an array, the common case kept short; None where it is something else."""
    c = data.__class__
    d = dt.get_default_dtype() if dtype is None else dtype
    known = (c is list or c is tuple or c is deque) and (d is dt.float32 or d is dt.float64)
    if known and data and set(map(type, data)) == _FLOAT:
        return np.array(data if c is list else list(data), d.np)
    return None


_FLOAT = {float}


def _from_data(data: Any, dtype: dt.dtype | None, name: str) -> np.ndarray:
    if (floats := _of_floats(data, dtype)) is not None:
        return floats
    try:
        a = np.array(_to_numpy(data), dtype=None if dtype is None else dtype.np)
    except OverflowError:
        values = np.array(_to_numpy(data), object)
        a = np.array([dt.element(v, dtype, name) for v in values.flat], dtype.np).reshape(
            values.shape
        )
    except (ValueError, TypeError) as e:
        raise (KilnTypeError if isinstance(e, TypeError) else KilnValueError)(
            name, f"can't make a tensor of this: {e}", describe(data),
            "nested lists need equal lengths and numbers as elements",
        ) from None  # fmt: skip
    if a.dtype.kind in "OUSMm":
        raise (KilnValueError if a.ndim and a.dtype.kind in "US" else KilnTypeError)(
            name, f"can't make a tensor of {a.dtype} data", describe(data), "pass numbers or bools"
        )
    if dtype is None and not isinstance(data, np.ndarray | np.generic | Tensor):
        if a.dtype.kind == "f" and not _holds_arrays(data):
            a = a.astype(dt.get_default_dtype().np)
        elif a.dtype.kind == "c" and not _holds_arrays(data):
            a = a.astype(dt.get_default_dtype().to_complex().np)
    return dt.known(a.astype(dt.as_dtype(a.dtype).np, copy=False))


def _holds_arrays(data: Any) -> bool:
    while isinstance(data, list | tuple) and data:
        data = data[0]
    return isinstance(data, np.ndarray | np.generic | Tensor)


@makes
def tensor(
    data: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """A new tensor with a copy of `data`: numbers, nested sequences, arrays.

    Python floats get the default dtype, ints int64, bools bool; arrays keep theirs.
    """
    as_device(device)
    if isinstance(data, Tensor):
        out = data.detach().clone()
        return _finish(out if dtype is None else out.to(dtype), requires_grad)
    if active_capture() is not None and isinstance(data, list | tuple) and _has_tensor(data):
        parts = [tensor(x, dtype=dtype) if not isinstance(x, Tensor) else x for x in data]
        from .joining import stack

        out = stack([p if dtype is None else p.to(dtype) for p in parts])
        return _finish(out.detach(), requires_grad)
    d = None if dtype is None else dt.as_dtype(dtype)
    return _finish(wrap(_from_data(data, d, "tensor")), requires_grad)


def _has_tensor(data: Any) -> bool:
    return any(
        isinstance(x, Tensor) or (isinstance(x, list | tuple) and _has_tensor(x)) for x in data
    )


@makes
def as_tensor(data: Any, dtype: Any = None, device: Any = None) -> Tensor:
    """A tensor of `data` that shares memory with it where it can."""
    as_device(device)
    if isinstance(data, Tensor):
        return data if dtype is None else data.to(dt.as_dtype(dtype))
    if isinstance(data, np.ndarray):
        d = None if dtype is None else dt.as_dtype(dtype)
        if data.dtype is dt.float64.np and d is dt.float32 and data.flags.c_contiguous:
            return wrap(np.array(data, d.np))  # memory of its own, which nobody else knows
        out = from_numpy(data)
        return out if d is None else out.to(d)
    return tensor(data, dtype=dtype)


@makes
def asarray(
    obj: Any,
    *,
    dtype: Any = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """A tensor of numbers, nested sequences of them, a buffer, an array or another tensor.

    Memory is shared where nothing has to be converted, unless `copy` is True; a ValueError where it is
    False and a copy is needed. A tensor keeps its history unless `requires_grad` is False.
    """
    as_device(device)
    d = None if dtype is None else dt.as_dtype(dtype)
    shared = obj if isinstance(obj, Tensor) else _shared(obj)
    if shared is not None and d in (None, shared.dtype):
        out = shared.clone() if copy else shared
    elif copy is False:
        raise KilnValueError(
            "asarray", "this can't become a tensor without a copy", describe(obj),
            "copy=None copies where it must",
        )  # fmt: skip
    else:
        out = tensor(obj, dtype=d) if shared is None else shared.to(d)
    if requires_grad is None or out.requires_grad is requires_grad:
        return out
    return _finish(out.detach(), requires_grad)


def _shared(obj: Any) -> Tensor | None:
    """A tensor on the memory of an array or a buffer; None where that can't be, as with read-only ones."""
    if isinstance(obj, bool | int | float | complex | list | tuple):
        return None
    try:
        a = np.asarray(obj if hasattr(obj, "__array__") else memoryview(obj))
    except TypeError:  # `tensor` says what it takes
        return None
    return from_numpy(a) if a.flags.writeable and a.dtype.isnative else None


def from_numpy(ndarray: np.ndarray) -> Tensor:
    """A tensor on the memory of a NumPy array: changes to either are seen in both."""
    if not isinstance(ndarray, np.ndarray):
        raise KilnTypeError(
            "from_numpy", "expected a NumPy array", describe(ndarray), "use kiln.tensor"
        )
    if ndarray.dtype not in dt.OF_NUMPY:
        dt.as_dtype(ndarray.dtype)
        raise KilnTypeError(
            "from_numpy", "arrays of another byte order can't be shared", str(ndarray.dtype),
            "copy first: a.astype(a.dtype.newbyteorder('='))",
        )  # fmt: skip
    admit(ndarray)
    return wrap(dt.known(ndarray.view(np.ndarray) if type(ndarray) is not np.ndarray else ndarray))


class _Capsule:
    """What gives a capsule of data in the CPU's memory, as `__dlpack__` of its maker did."""

    def __init__(self, capsule: Any) -> None:
        self.capsule = capsule

    def __dlpack__(self, **options: Any) -> Any:
        return self.capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return 1, 0


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """A tensor on the memory of any object that speaks DLPack (its capsule will do), or a copy of it where `copy` is True."""
    as_device(device)
    if type(ext_tensor).__name__ == "PyCapsule":
        ext_tensor = _Capsule(ext_tensor)
    if isinstance(ext_tensor, Tensor) and not ext_tensor.requires_grad:
        return ext_tensor.clone() if copy else ext_tensor.detach()
    try:
        a = np.from_dlpack(ext_tensor, copy=copy)
    except (BufferError, RuntimeError, AttributeError, TypeError) as e:
        raise KilnBufferError(
            "from_dlpack",
            str(getattr(e, "what", e)),
            describe(ext_tensor),
            "only CPU data without history can be shared",
        ) from None
    return wrap(a)


def frombuffer(
    buffer: Any, *, dtype: Any, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """A 1-d tensor on the memory of an object with Python's buffer interface."""
    a = np.frombuffer(buffer, dt.as_dtype(dtype).np, count, offset)
    admit(a)
    return _finish(wrap(a), requires_grad)


@makes
def scalar_tensor(
    s: Any, *, dtype: Any = None, layout: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """A 0-d tensor of a number, of the default dtype."""
    return tensor(
        s, dtype=dtype or dt.get_default_dtype(), device=device, requires_grad=requires_grad
    )


# ---------------------------------------------------------------- filled


def _full_infer(size: Sequence[int], fill_value: Any, dtype: dt.dtype) -> tuple:
    if not hasattr(fill_value, "shape"):
        dt.element(fill_value, dtype, "full")
    return Size(size), dtype


@op(
    name="full", private=True, family="creation", infer=_full_infer, exact=True, check=False,
    samples=lambda: iter([Sample(((2, 3), 1.5, dt.float32)), Sample(((), 2, dt.int64)), Sample(((0, 2), True, dt.bool_)),
                          Sample(((2,), -9, dt.uint8)), Sample(((2,), 300, dt.uint8), error=RuntimeError)]),
)  # fmt: skip
def full_op(size: Sequence[int], fill_value: Any, dtype: dt.dtype) -> Tensor:
    """A tensor of one value."""
    if fill_value == 0 and "-" not in str(fill_value):  # a -0 keeps its sign
        return np.zeros(size, dtype.np)
    with np.errstate(over="ignore"):
        return np.full(size, dt.element(fill_value, dtype, "full"), dtype.np)


def _laid(
    name: str, format: Any, shape: Sequence[int], strides: Any, value: Any, d: dt.dtype
) -> Tensor:
    """A tensor of one value whose elements lie in a memory format; `strides` are those to preserve."""
    if format is contiguous_format:
        return full_op(shape, value, d)
    dims = order(name, format, shape, strides)
    if dims is None:
        return full_op(shape, value, d)
    t = full_op([shape[i] for i in dims], value, d)
    return t.permute(inverse(dims)).detach()


def _of_value(shape: tuple, value: Any, d: dt.dtype) -> Tensor:
    """`full_op`, of zeros, ones and usual numbers kept short."""
    c = value.__class__
    if c is int:
        usual = 0 <= value <= 1 or (d is dt.int64 and -(2**63) <= value < 2**63)
    else:
        usual = c is float and (d is dt.float32 or d is dt.float64) and -dt.FLOAT32_MAX <= value <= dt.FLOAT32_MAX  # fmt: skip
    if not usual or CAPTURING or (n := math.prod(shape)) >= LARGE:
        return full_op(shape, value, d)
    if c is int and not value:
        return wrap(np.zeros(shape, d.np))
    a = np.empty(shape, d.np)
    if n:
        a.fill(value)
    return wrap(a)


def _filled(name: str, value: Any, doc: str) -> Any:
    @makes
    def make(*size: Any, out: Any = None, dtype: Any = None, layout: Any = None, device: Any = None,
             requires_grad: bool = False, pin_memory: bool = False, memory_format: Any = None,
             **named: Any) -> Tensor:  # fmt: skip
        if device is not None:
            as_device(device)
        shape = _size(size, named.pop("size", None) if named else None, name)
        if named:
            raise KilnTypeError(
                name, "unexpected argument", ", ".join(named), "see its documentation"
            )
        d = _dtype_of(dtype, out)
        if memory_format is None:
            t = _of_value(shape, value, d)
        else:
            t = _laid(name, memory_format, shape, (), value, d)
        return _placed(full_op, t, requires_grad, out)

    make.__name__, make.__doc__ = name, doc
    return make


zeros = _filled("zeros", 0, "A tensor of zeros of the given size and dtype (default float).")
ones = _filled("ones", 1, "A tensor of ones of the given size and dtype (default float).")
empty = _filled("empty", 0, "A tensor whose values are not specified.")


@makes
def full(size: Any, fill_value: Any, *, out: Any = None, dtype: Any = None, layout: Any = None,
         device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """A tensor of one value; its dtype is the value's unless given."""
    as_device(device)
    d = dt.of_scalar(fill_value) if dtype is None and out is None else _dtype_of(dtype, out)
    if isinstance(fill_value, Tensor):
        d = fill_value.dtype if dtype is None and out is None else d
        t = fill_value.to(d).expand(_size((size,), None, "full")).clone()
    else:
        t = _of_value(_size((size,), None, "full"), fill_value, d)
    return _placed(full_op, t, requires_grad, out)


def _beside(x: Tensor, t: Tensor) -> Tensor:
    """A new tensor made for x: under vmap with a batch where x has one, so that it can be written to."""
    ctx = active_capture()
    return t if ctx is None else ctx.beside(x, t)


def _like(name: str, value: Any) -> Any:
    @makes_like
    def make(input: Tensor, *args: Any, dtype: Any = None, layout: Any = None, device: Any = None,
             requires_grad: bool = False, memory_format: Any = None, pin_memory: bool = False,
             fill_value: Any = None) -> Tensor:  # fmt: skip
        if device is not None:
            as_device(device)
        v = value
        if value is None:
            v = args[0] if args else fill_value
        d = input.dtype if dtype is None else dt.as_dtype(dtype)
        number = 0 if isinstance(v, Tensor) else v
        if memory_format is None and input.is_contiguous():
            t = _of_value(input._a.shape, number, d)
        else:
            format = memory_format or preserve_format
            t = _laid(name, format, input._a.shape, input.stride(), number, d)
        t = _beside(input, t)
        return _finish(t if number is v else t.copy_(v.detach()), requires_grad)

    make.__name__ = name
    make.__doc__ = (
        f"`{name.removesuffix('_like')}` with the size, dtype and order in memory of `input`."
    )
    return make


zeros_like, ones_like, empty_like, full_like = (
    _like("zeros_like", 0), _like("ones_like", 1), _like("empty_like", 0), _like("full_like", None)
)  # fmt: skip


def _new_filled(name: str, value: Any) -> Any:
    @makes_like
    def make(self: Tensor, *size: Any, dtype: Any = None, device: Any = None, requires_grad: bool = False,
             layout: Any = None, pin_memory: bool = False, **named: Any) -> Tensor:  # fmt: skip
        as_device(device)
        d = self.dtype if dtype is None else dt.as_dtype(dtype)
        if value is None:
            v = size[1] if len(size) > 1 else named.pop("fill_value")
            size = size[:1]
        else:
            v = value
        number = 0 if isinstance(v, Tensor) else v
        t = _beside(self, _of_value(_size(size, named.pop("size", None), name), number, d))
        return _finish(t if number is v else t.copy_(v.detach()), requires_grad)

    make.__name__ = name
    make.__doc__ = f"A tensor made by `{name[4:]}` with this tensor's dtype."
    return method(name)(make)


for _name, _value in (("new_zeros", 0), ("new_ones", 1), ("new_empty", 0), ("new_full", None)):
    _new_filled(_name, _value)


@method("new_tensor")
def new_tensor(
    self: Tensor, data: Any, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:  # fmt: skip
    """A tensor of `data` with this tensor's dtype."""
    return tensor(data, dtype=dtype or self.dtype, device=device, requires_grad=requires_grad)


# ---------------------------------------------------------------- counted


@op(
    name="arange", private=True, family="creation", exact=True, check=False,
    infer=lambda start, step, n, dtype: (Size((n,)), dtype),
    samples=lambda: iter([Sample((0, 1, 5, dt.int64)), Sample((0.5, 0.25, 7, dt.float32)), Sample((0, 1, 0, dt.int64))]),
)  # fmt: skip
def arange_op(start: Any, step: Any, n: int, dtype: dt.dtype) -> Tensor:
    """start + step * i for i in range(n)."""
    if dtype.category == dt.INT:
        first, by = int(start), int(step)
        if by and min(first, first + by * n) >= -(2**63) and max(first, first + by * n) < 2**63:
            return np.arange(first, first + by * n, by).astype(dtype.np, copy=False)
        i = np.arange(n).astype(
            np.uint64
        )  # which wraps like every integer dtype, and holds them all
        return (i * np.uint64(by % 2**64) + np.uint64(first % 2**64)).astype(dtype.np)
    return (start + step * np.arange(n, dtype=np.float64)).astype(dtype.np, copy=False)


_LEAST, _MOST = -(2**62), 2**62  # whole numbers whose distance is one of int64


@makes
def arange(start: Any, end: Any = None, step: Any = 1, *, out: Any = None, dtype: Any = None,
           layout: Any = None, device: Any = None, requires_grad: bool = False,
           pin_memory: bool = False) -> Tensor:  # fmt: skip
    """Values from start up to (not including) end, step apart."""
    if device is not None:
        as_device(device)
    if (
        start.__class__ is int and (dtype is None or dtype is dt.int64) and step.__class__ is int and step == 1
        and out is None and not CAPTURING and (end is None or end.__class__ is int)
    ):  # fmt: skip
        first, last = (0, start) if end is None else (start, end)
        if _LEAST <= first <= last < _MOST and not requires_grad:
            return wrap(np.arange(first, last))
    if end is None:
        start, end = 0, start
    start, end, step = (x.item() if isinstance(x, Tensor) else x for x in (start, end, step))
    if step == 0:
        raise KilnError("arange", "step must be nonzero", f"step={step}", "")
    if not (math.isfinite(start) and math.isfinite(end)):
        raise KilnError(
            "arange", f"unsupported range: {start} -> {end}", f"start={start}, end={end}", ""
        )
    if (end - start) / step < 0:
        raise KilnError(
            "arange", "upper bound and lower bound inconsistent with step sign",
            f"start={start}, end={end}, step={step}", "swap them, or flip the sign of step",
        )  # fmt: skip
    if dtype is not None or out is not None:
        d = _dtype_of(dtype, out)
    else:
        whole = all(isinstance(x, int) for x in (start, end, step))
        d = dt.int64 if whole else dt.get_default_dtype()
    if d is dt.int64:  # the bounds are integers too
        start, end, step = int(start), int(end), int(step)
        if step == 0:
            raise KilnValueError("arange", "step must be nonzero", "a step below 1 for int64", "")
    n = max(0, math.ceil((end - start) / step))
    return _placed(arange_op, arange_op(start, step, n, d), requires_grad, out)


@makes
def linspace(start: Any, end: Any, steps: int, *, out: Any = None, dtype: Any = None, layout: Any = None,
             device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """`steps` values evenly from start to end, both included."""
    as_device(device)
    start, end = (x.item() if isinstance(x, Tensor) else x for x in (start, end))
    n = index_int(steps, "linspace", "steps")
    if n < 0:
        raise KilnError("linspace", "number of steps must be non-negative", f"steps={n}", "")
    d = _spaced_dtype((start, end), dtype, out)
    return _placed(arange_op, wrap(spaced(start, end, n, d, d.np)), requires_grad, out)


def _spaced_dtype(bounds: tuple, dtype: Any, out: Any) -> dt.dtype:
    d = _dtype_of(dtype, out)
    return (
        d.to_complex()
        if dtype is None and out is None and any(isinstance(x, complex) for x in bounds)
        else d
    )


_PIECE = 1 << 14  # elements whose intermediate values stay in cache


def spaced(start: Any, end: Any, n: int, d: dt.dtype, into: Any) -> np.ndarray:
    """n numbers from start to end, counted from the nearer one; of an integer dtype the bounds are too.

    They are computed in float64 and rounded to `into`. Floats have PyTorch's bits, whose step is of the dtype and whose
    products and sums are rounded once.
    """
    if d.category <= dt.INT:
        start, end = int(start), int(end)
    if d is dt.float32 and into == d.np:
        start, end = np.float32(start), np.float32(end)
        step = float((end - start) / np.float32(max(n - 1, 1)))
        start, end = float(start), float(end)
    else:
        step = (end - start) / (n - 1) if n > 1 else 0
    from .mersenne import fma

    once = into == d.np and d.category <= dt.FLOAT and d.itemsize >= 8
    half = n // 2 + (n == 1)
    out, counts = np.empty(n, into), np.arange(float(min(n, _PIECE)))
    for low, high in ((0, half), (half, n)):
        for at in range(low, high, _PIECE):
            i = counts[: high - at]
            if once:
                part = fma(i + at, step, start) if low == 0 else fma(n - 1 - at - i, -step, end)
            else:
                part = start + step * (i + at) if low == 0 else end - step * (n - 1 - at - i)
            out[at : at + len(i)] = part
    return out


@makes
def logspace(start: Any, end: Any, steps: int, base: float = 10.0, *, out: Any = None, dtype: Any = None,
             layout: Any = None, device: Any = None, requires_grad: bool = False,
             pin_memory: bool = False) -> Tensor:  # fmt: skip
    """base to the powers that linspace gives."""
    as_device(device)
    start, end, base = (x.item() if isinstance(x, Tensor) else x for x in (start, end, base))
    n = index_int(steps, "logspace", "steps")
    if n < 0:
        raise KilnError("logspace", "number of steps must be non-negative", f"steps={n}", "")
    d = _spaced_dtype((start, end, base), dtype, out)
    wide = np.result_type(np.float64, *map(type, (start, end, base)))
    powers = spaced(start, end, n, d, np.result_type(np.float64, type(start), type(end)))
    with np.errstate(all="ignore"):
        t = wrap(np.power(np.asarray(base, wide), powers).astype(d.np))
    return _placed(arange_op, t, requires_grad, out)


@makes
def eye(n: int, m: int | None = None, *, out: Any = None, dtype: Any = None, layout: Any = None,
        device: Any = None, requires_grad: bool = False, pin_memory: bool = False) -> Tensor:  # fmt: skip
    """The n x m matrix with ones on its diagonal."""
    as_device(device)
    d = _dtype_of(dtype, out)
    columns = n if m is None else m
    for name, size in (("n", n), ("m", columns)):
        if size < 0:
            raise KilnError(
                "eye",
                f"{name} must be greater or equal to 0, got {size}",
                str(size),
                "a size of 0 or more",
            )
    if active_capture() is None:  # zeros cost nothing until they are read
        t = wrap(np.eye(n, columns, dtype=d.np))
    else:
        t = (arange(n).unsqueeze(1) == arange(columns)).to(d)
    return _placed(full_op, t, requires_grad, out)


for _fn in (tensor, as_tensor, asarray, from_numpy, from_dlpack, frombuffer, scalar_tensor, zeros, ones, empty, full,
            zeros_like, ones_like, empty_like, full_like, arange, linspace, logspace, eye):  # fmt: skip
    FUNCTIONS[_fn.__name__] = _fn
