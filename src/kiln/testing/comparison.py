"""`assert_close`: two values are the same up to rounding, or an AssertionError says how they differ."""

from __future__ import annotations

import cmath
import numbers
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnTypeError, KilnValueError, describe
from ..tensor import Tensor, wrap

# The widest that rounding of a few operations gets: relative, absolute.
TOLERANCES = {
    dt.float16: (1e-3, 1e-5), dt.bfloat16: (1.6e-2, 1e-5), dt.float32: (1.3e-6, 1e-5), dt.float64: (1e-7, 1e-7),
    dt.complex64: (1.3e-6, 1e-5), dt.complex128: (1e-7, 1e-7),
}  # fmt: skip
Message = str | Callable[[str], str] | None


def _tolerances(
    kinds: Sequence[dt.dtype], rtol: float | None, atol: float | None
) -> tuple[float, float]:
    if (rtol is None) != (atol is None):
        raise KilnValueError(
            "assert_close", "rtol and atol must both be specified or both be unspecified", f"rtol={rtol}, atol={atol}",
            "give both or none",
        )  # fmt: skip
    if rtol is not None and atol is not None:
        return rtol, atol
    found = [TOLERANCES.get(k, (0.0, 0.0)) for k in kinds]
    return max(f[0] for f in found), max(f[1] for f in found)


def _fail(text: str, where: str, msg: Message) -> None:
    text = text if not where else f"{text}\n\nThe failure occurred for item {where}"
    raise AssertionError(msg(text) if callable(msg) else text if msg is None else msg)


def assert_close(
    actual: Any,
    expected: Any,
    *,
    allow_subclasses: bool = True,
    rtol: float | None = None,
    atol: float | None = None,
    equal_nan: bool = False,
    check_device: bool = True,
    check_dtype: bool = True,
    check_layout: bool = True,
    check_stride: bool = False,
    msg: Message = None,
) -> None:
    """AssertionError unless `actual` and `expected` agree: |actual - expected| <= atol + rtol * |expected| everywhere.

    Tensors, NumPy arrays, Python numbers, None, and sequences and mappings of such. Without tolerances they follow
    from the dtypes: exact for integers and bools. Shapes must be equal, dtypes and layouts too unless told otherwise,
    strides where `check_stride`. `msg` replaces the message, or makes one of it. Errors: KilnTypeError for types that
    can't be compared, KilnValueError for one tolerance without the other. Source: torch.testing.assert_close.
    """
    options = {
        "allow_subclasses": allow_subclasses, "rtol": rtol, "atol": atol, "equal_nan": equal_nan,
        "check_dtype": check_dtype, "check_layout": check_layout, "check_stride": check_stride, "msg": msg,
    }  # fmt: skip
    if (rtol is None) != (atol is None):
        _tolerances((), rtol, atol)
    _compare(actual, expected, "", options)


def _compare(a: Any, b: Any, where: str, o: dict[str, Any]) -> None:
    if isinstance(a, str) or isinstance(b, str):
        _incomparable(a, b, where)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        missing, extra = b.keys() - a.keys(), a.keys() - b.keys()
        if missing or extra:
            _fail(
                f"The keys of the mappings do not match:\nMissing keys in the actual mapping: {sorted(map(str, missing))}\n"
                f"Additional keys in the actual mapping: {sorted(map(str, extra))}", where, o["msg"],
            )  # fmt: skip
        for k in b:
            _compare(a[k], b[k], f"{where}[{k!r}]", o)
        return
    if isinstance(a, Sequence) and isinstance(b, Sequence):
        if len(a) != len(b):
            _fail(f"The length of the sequences mismatch: {len(a)} != {len(b)}", where, o["msg"])
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            _compare(x, y, f"{where}[{i}]", o)
        return
    if a is None or b is None:
        if a is not b:
            _fail(f"None mismatch: {a} is not {b}", where, o["msg"])
        return
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        if not o["allow_subclasses"] and type(a) is not type(b):
            _incomparable(a, b, where)
        _tensors(a, b, where, o)
        return
    if isinstance(a, np.ndarray | np.generic) and isinstance(b, np.ndarray | np.generic):
        _tensors(wrap(np.asarray(a)), wrap(np.asarray(b)), where, o)
        return
    if isinstance(a, bool | np.bool_) and isinstance(b, bool | np.bool_):
        if a is not b and bool(a) != bool(b):
            _fail(f"Booleans mismatch: {a} is not {b}", where, o["msg"])
        return
    if isinstance(a, numbers.Number) and isinstance(b, numbers.Number) and not isinstance(a, bool):
        _numbers(a, b, where, o)
        return
    _incomparable(a, b, where)


def _incomparable(a: Any, b: Any, where: str) -> None:
    raise KilnTypeError(
        "assert_close", f"no rule compares {type(a).__name__} and {type(b).__name__}{where and f', item {where}'}",
        f"{describe(a)}, {describe(b)}", "compare tensors, arrays, numbers, None, or sequences or mappings of them",
    )  # fmt: skip


def _numbers(a: Any, b: Any, where: str, o: dict[str, Any]) -> None:
    kinds = [_kind(a), _kind(b)]
    if o["check_dtype"] and type(a) is not type(b):
        _fail(f"The (d)types do not match: {type(a)} != {type(b)}.", where, o["msg"])
    rtol, atol = _tolerances(kinds, o["rtol"], o["atol"])
    x, y = complex(a), complex(b)
    if x == y or (o["equal_nan"] and cmath.isnan(x) and cmath.isnan(y)):
        return
    far = abs(x - y)
    if cmath.isfinite(x) and cmath.isfinite(y) and far <= atol + rtol * abs(y):
        return
    what = "Scalars are not close!" if rtol or atol else "Scalars are not equal!"
    _fail(
        f"{what}\n\nExpected {b} but got {a}.\nAbsolute difference: {far}{_upto(atol)}\n"
        f"Relative difference: {far / abs(y) if y else float('inf')}{_upto(rtol)}", where, o["msg"],
    )  # fmt: skip


def _kind(x: Any) -> dt.dtype:
    return (
        dt.complex128 if isinstance(x, complex) else dt.int64 if isinstance(x, int) else dt.float64
    )


def _upto(tolerance: float) -> str:
    return f" (up to {tolerance} allowed)" if tolerance else ""


def _tensors(a: Tensor, b: Tensor, where: str, o: dict[str, Any]) -> None:
    if a.shape != b.shape:
        _fail(
            f"The values for attribute 'shape' do not match: {a.shape} != {b.shape}.",
            where,
            o["msg"],
        )
    if a.layout is not b.layout and o["check_layout"]:
        _fail(
            f"The values for attribute 'layout' do not match: {a.layout} != {b.layout}.",
            where,
            o["msg"],
        )
    if a.dtype is not b.dtype and o["check_dtype"]:
        _fail(
            f"The values for attribute 'dtype' do not match: {a.dtype} != {b.dtype}.",
            where,
            o["msg"],
        )
    if o["check_stride"] and a.stride() != b.stride():
        _fail(
            f"The values for attribute 'stride()' do not match: {a.stride()} != {b.stride()}.",
            where,
            o["msg"],
        )
    rtol, atol = _tolerances([a.dtype, b.dtype], o["rtol"], o["atol"])
    if a.is_sparse or str(a.layout).rpartition(".")[2] != "strided":
        a, b = a.to_dense(), b.to_dense()
    x, y = _wide(a), _wide(b)
    with np.errstate(all="ignore"):
        far = (
            np.abs(x - y)
            if x.dtype.kind in "fc"
            else np.abs(x.astype(object) - y.astype(object)).astype(np.float64)
        )
        close = (x == y) | ((far <= atol + rtol * np.abs(y)) & np.isfinite(x) & np.isfinite(y))
        if o["equal_nan"]:
            close |= np.isnan(x) & np.isnan(y)
        if close.all():
            return
        wrong = ~close
        far = np.where(wrong, far, 0).astype(np.float64)
        relative = np.where(wrong, far / np.abs(y), 0).astype(np.float64)
    count, total = int(wrong.sum()), max(wrong.size, 1)
    what = "Tensor-likes are not close!" if rtol or atol else "Tensor-likes are not equal!"
    if not x.ndim:
        _fail(
            f"{what.replace('Tensor-likes', 'Scalars')}\n\nExpected {y.item()} but got {x.item()}.\nAbsolute difference: "
            f"{far.item()}{_upto(atol)}\nRelative difference: {relative.item()}{_upto(rtol)}", where, o["msg"],
        )  # fmt: skip
    lines = [what, "", f"Mismatched elements: {count} / {total} ({count / total:.1%})"]
    for name, values, tolerance in (("absolute", far, atol), ("relative", relative, rtol)):
        at = np.unravel_index(
            int(np.nanargmax(np.where(np.isnan(values), np.inf, values))), values.shape
        )
        lines.append(
            f"Greatest {name} difference: {values[at]} at index {tuple(map(int, at))}{_upto(tolerance)}"
        )
    _fail("\n".join(lines), where, o["msg"])


def _wide(t: Tensor) -> np.ndarray:
    """The elements in a type that holds them all, bools as integers."""
    a = np.asarray(t.detach()._host("assert_close"))
    category = t.dtype.category
    if category == dt.COMPLEX:
        return a.astype(np.complex128)
    return a.astype(
        np.float64 if category == dt.FLOAT else np.int64 if a.dtype != np.uint64 else a.dtype
    )


def assert_allclose(
    actual: Any, expected: Any, rtol: float | None = None, atol: float | None = None, equal_nan: bool = True,
    msg: str = "",
) -> None:  # fmt: skip
    """The older `assert_close`: dtypes may differ, NaN equals NaN. Deprecated in PyTorch too."""
    warnings.warn(
        "`assert_allclose()` is deprecated: use `assert_close()`", FutureWarning, stacklevel=2
    )
    from ..ops.creation import as_tensor

    a = actual if isinstance(actual, Tensor) else as_tensor(actual)
    b = expected if isinstance(expected, Tensor) else as_tensor(expected, dtype=a.dtype)
    if rtol is None and atol is None:
        rtol, atol = _tolerances([a.dtype, b.dtype], None, None)
    assert_close(
        a,
        b,
        rtol=rtol,
        atol=atol,
        equal_nan=equal_nan,
        check_dtype=False,
        check_stride=False,
        msg=msg or None,
    )
