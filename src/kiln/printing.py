"""How tensors print: PyTorch's form, to the letter.

https://docs.pytorch.org/docs/stable/generated/torch.set_printoptions.html
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from . import dtypes as dt
from .errors import KilnValueError
from .tensor import Tensor


@dataclass
class PrintOptions:
    """What `set_printoptions` sets."""

    precision: int = 4
    threshold: float = 1000
    edgeitems: int = 3
    linewidth: int = 80
    sci_mode: bool | None = None


PROFILES = {
    "default": PrintOptions(),
    "short": PrintOptions(precision=2, edgeitems=2),
    "full": PrintOptions(threshold=math.inf),
}
options = PrintOptions()


def set_printoptions(
    precision: int | None = None,
    threshold: float | None = None,
    edgeitems: int | None = None,
    linewidth: int | None = None,
    profile: str | None = None,
    sci_mode: bool | None = None,
) -> None:
    """Set how tensors print; what is not named stays, except that `sci_mode=None` is automatic.

    `precision` digits after the point, `threshold` elements from which the middle is left out,
    `edgeitems` kept at each end, `linewidth` columns, `profile` "default", "short" or "full".
    """
    global options
    if profile is not None and profile not in PROFILES:
        raise KilnValueError(
            "set_printoptions", "no such profile", repr(profile), "one of " + ", ".join(PROFILES)
        )
    base = options if profile is None else replace(PROFILES[profile], sci_mode=None)
    given = {
        "precision": precision,
        "threshold": threshold,
        "edgeitems": edgeitems,
        "linewidth": linewidth,
    }
    options = replace(base, sci_mode=sci_mode, **{k: v for k, v in given.items() if v is not None})


class _Numbers:
    """One format for all real numbers of a tensor, chosen by their range."""

    def __init__(self, values: np.ndarray):
        self.floating = values.dtype.kind == "f"
        self.whole, self.scientific, self.width = True, False, 1
        if not self.floating:
            self.width = max((len(str(v)) for v in values.ravel().tolist()), default=1)
            return
        shown = values[np.isfinite(values) & (values != 0)].astype(np.float64)
        if shown.size:
            size = np.abs(shown)
            low, high = float(size.min()), float(size.max())
            self.whole = bool((shown == np.ceil(shown)).all())
            self.scientific = (
                high / low > 1000 or high > 1e8 or (not self.whole and low < 1e-4)
                if options.sci_mode is None
                else options.sci_mode
            )
        self.width = max([1, *(len(self._text(v)) for v in shown.tolist())])

    def _text(self, v: Any) -> str:
        if not self.floating:
            return str(v)
        if self.scientific:
            return f"{v:.{options.precision}e}"
        if self.whole:
            return f"{v:.0f}." if math.isfinite(v) else str(v)
        return f"{v:.{options.precision}f}"

    def __call__(self, v: Any) -> str:
        return self._text(v).rjust(self.width)


class _ComplexNumbers:
    """Formats of the real and the imaginary parts."""

    def __init__(self, values: np.ndarray):
        self.real, self.imag = _Numbers(np.real(values)), _Numbers(np.imag(values))
        self.width = self.real.width + self.imag.width + 1

    def __call__(self, v: complex) -> str:
        imag = self.imag(v.imag).lstrip() + "j"
        return self.real(v.real) + ("" if imag[0] == "-" else "+") + imag


def _edges(a: np.ndarray) -> np.ndarray:
    """The elements that a summary shows."""
    n = options.edgeitems
    for axis, size in enumerate(a.shape):
        if size > 2 * n:
            keep = np.r_[0:n, size - n : size]
            a = np.take(a, keep, axis)
    return a


def _body(a: np.ndarray, indent: int, summarize: bool, fmt: Any) -> str:
    if a.ndim == 0:
        return fmt(a.item())
    n, skip = options.edgeitems, summarize and a.shape[0] > 2 * options.edgeitems
    rows = [*a[:n], ..., *a[len(a) - n :]] if skip else list(a)
    if a.ndim == 1:
        words = [" ..." if r is ... else fmt(r.item()) for r in rows]
        per_line = max(1, (options.linewidth - indent) // (fmt.width + 2))
        lines = [", ".join(words[i : i + per_line]) for i in range(0, len(words), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = ["..." if r is ... else _body(r, indent + 1, summarize, fmt) for r in rows]
    return "[" + ("," + "\n" * (a.ndim - 1) + " " * (indent + 1)).join(parts) + "]"


def array_text(a: np.ndarray, indent: int) -> str:
    """The values of an array, from a column on."""
    if a.size == 0:
        return "[]"
    if a.dtype in (dt.float16.np, dt.bfloat16.np):
        a = a.astype(np.float32)
    summarize = a.size > options.threshold
    shown = _edges(a) if summarize else a
    return _body(
        a, indent, summarize, (_ComplexNumbers if a.dtype.kind == "c" else _Numbers)(shown)
    )


def __getattr__(name: str) -> Any:
    if name == "PRINT_OPTS":  # PyTorch's name for what is set now
        return options
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _tensor_str(self: Tensor, indent: int) -> str:
    """The values of a tensor, from a column on, as programs ask `torch._tensor_str` for them."""
    return array_text(self.detach()._a, indent)


def tensor_repr(t: Tensor, prefix: str = "tensor(") -> str:
    """The text of a tensor: its values, and what cannot be seen from them."""
    a = t._a
    if t.is_meta:
        return suffixed(prefix + "...", a.suffixes(), t, len(prefix))
    if not isinstance(a, np.ndarray):
        return a.text(prefix)
    text = prefix + array_text(a, len(prefix))
    default = dt.get_default_dtype()
    suffixes = []
    if a.size == 0:
        if a.ndim != 1:
            suffixes.append(f"size={tuple(a.shape)}")
        usual: tuple = (default,)
    else:
        usual = (default, default.to_complex(), dt.int64, dt.bool_)
    if t.dtype not in usual:
        suffixes.append(f"dtype={t.dtype!r}")
    return suffixed(text, suffixes, t, len(prefix))


def suffixed(text: str, suffixes: list[str], t: Tensor, indent: int, newline: bool = False) -> str:
    """The text with what cannot be seen from the values, wrapped to the width of a line."""
    if t.grad_fn is not None:
        suffixes.append(f"grad_fn=<{t.grad_fn.name()}>")
    elif t.requires_grad:
        suffixes.append("requires_grad=True")
    column = len(text) - text.rfind("\n") + 1
    for s in suffixes:
        if newline or column + len(s) + 2 > options.linewidth:
            text += ",\n" + " " * indent + s
            column, newline = indent + len(s), False
        else:
            text += ", " + s
            column += len(s) + 2
    return text + ")"
