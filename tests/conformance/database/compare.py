"""Whether a result of Kiln is PyTorch's."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.testing._internal.opinfo.core import BinaryUfuncInfo, UnaryUfuncInfo

from .crossing import Crossing, Target, as_array

TOLERANCE = {
    "float16": 1e-2, "bfloat16": 5e-2, "float32": 1e-4, "complex64": 1e-4, "float64": 1e-7, "complex128": 1e-7,
}  # fmt: skip
# Iterations, series and ill-conditioned problems: PyTorch is as far from the truth as Kiln.
SENSITIVE = re.compile(
    r"linalg|svd|lu|chol|eig|pinv|matrix_exp|logdet|qr|lstsq|triangular|lowrank|cdist|renorm|"
    r"polygamma|zeta|igamma|bessel|polynomial|corrcoef|cov|ctc|scaled_dot|multi_head"
)
# Indices of equal elements, of which any is right: where `dim` stands among the arguments.
UNSTABLE = {"sort": 0, "argsort": 0, "topk": 1, "kthvalue": 1, "median": 0, "nanmedian": 0, "mode": 0}  # fmt: skip


class Comparison:
    """How the results of one entry are compared."""

    def __init__(self, entry: Any, target: Target):
        self.entry, self.target = entry, target

    def differs(self, want: Any, got: Any, where: str = "result", blind: bool = False) -> str:
        """Empty where Kiln's value is PyTorch's; `blind` looks at shapes and dtypes alone."""
        if isinstance(want, torch.Tensor):
            if not self.target.is_tensor(got):
                return f"{where}: {shown(got)} where PyTorch has a tensor"
            return self.tensor_differs(want, got, where, blind=blind)
        if isinstance(want, list | tuple):
            if not isinstance(got, list | tuple) or len(got) != len(want):
                return f"{where}: {shown(got)} where PyTorch has {shown(want)}"
            for name in getattr(type(want), "__match_args__", ()):
                if not hasattr(got, name):
                    return f"{where}: no field {name!r}"
            pairs = enumerate(zip(want, got, strict=True))
            errors = (self.differs(w, g, f"{where} {i}", blind) for i, (w, g) in pairs)
            return next(filter(None, errors), "")
        if isinstance(want, torch.dtype):
            name = str(want).removeprefix("torch.")
            return "" if getattr(got, "name", None) == name else f"{where}: {got}, not {name}"
        if blind:
            return ""
        if type(got) is type(want) and isinstance(want, float | complex):
            same = bool(np.isclose(got, want, 1e-4, 1e-6, equal_nan=True))
        else:
            same = type(got) is type(want) and got == want
        return "" if same else f"{where}: {shown(got)} where PyTorch has {shown(want)}"

    def tensor_differs(
        self, want: torch.Tensor, got: Any, where: str, slack: float = 1.0, blind: bool = False
    ) -> str:
        """Empty where two tensors have the same dtype, shape and elements."""
        dtype, shape = str(want.dtype).removeprefix("torch."), list(want.shape)
        if got.dtype.name != dtype or list(got.shape) != shape:
            return f"{where}: {got.dtype.name}{list(got.shape)} where PyTorch has {dtype}{shape}"
        if blind or not want.numel():
            return ""
        w, g = numbers(want), numbers(got)
        tolerance = self._tolerance(dtype, w, slack)
        same = np.isclose(g, w, *tolerance, equal_nan=True)
        if w.dtype.kind == "c":  # parts that are infinite or no numbers, each for itself
            same |= np.isclose(g.real, w.real, *tolerance, equal_nan=True) & np.isclose(
                g.imag, w.imag, *tolerance, equal_nan=True
            )
        if same.all():
            return ""
        at = np.unravel_index(int(np.argmin(same)), w.shape)
        place = ", ".join(str(int(i)) for i in at)
        count = f"{int((~same).sum())} of {w.size} elements differ"
        return f"{where}: {count}, [{place}] is {g[at]} where PyTorch has {w[at]}"

    def _tolerance(self, dtype: str, want: np.ndarray, slack: float) -> tuple[float, float]:
        """Relative and absolute; where elements are sums they may be off by a part of the largest."""
        r = TOLERANCE.get(dtype, 0.0) * slack
        if SENSITIVE.search(self.entry.name):
            r *= 20
        if isinstance(self.entry, UnaryUfuncInfo | BinaryUfuncInfo) or r == 0.0:
            return r, r * 0.1
        finite = np.abs(want[np.isfinite(want)])
        least = 0.5 if dtype in ("float16", "bfloat16") else 0.1  # of sums whose terms cancel
        return r, r * max(least, float(finite.max(initial=0.0)))

    def settled(self, want: Any, got: Any, sample: Any, crossing: Crossing) -> Any:
        """`got`, with PyTorch's indices where its own name equal elements: equal keys have no order."""
        at = UNSTABLE.get(self.entry.name)
        keys = sample.input
        if at is None or sample.kwargs.get("stable") or keys.ndim == 0:
            return got
        alone = isinstance(want, torch.Tensor)
        if alone and self.entry.name != "argsort":
            return got
        theirs, mine = (want, got) if alone else (want[1], got[1])
        if self.differs(theirs, mine, blind=True):
            return got
        dim = sample.kwargs.get("dim", next(iter(sample.args[at:]), -1))
        dim = dim if type(dim) is int else -1
        indices = torch.from_numpy(numbers(mine).copy()), theirs
        if theirs.ndim < keys.ndim:
            indices = [i.unsqueeze(dim) for i in indices]
        if not torch.equal(*(keys.gather(dim, i) for i in indices)):
            return got
        if alone:
            return crossing(theirs)
        pair = got[0], crossing(theirs)
        return type(got)(*pair) if hasattr(got, "_fields") else pair

    def paired(self, want: Any, got: Any, crossing: Crossing) -> Any:
        """`got` with eigenvalues, and vectors, in PyTorch's order: each the nearest of those that are left."""
        alone = isinstance(want, torch.Tensor)
        theirs, mine = (want, got) if alone else (want[0], got[0])
        if self.differs(theirs, mine, blind=True) or not theirs.numel():
            return got
        w, g = (numbers(x).reshape(-1, theirs.shape[-1]) for x in (theirs, mine))
        apart = np.abs(w[:, :, None] - g[:, None, :])
        order = np.empty(w.shape, np.int64)
        for at in np.ndindex(w.shape):
            order[at] = np.argmin(apart[at])
            apart[at[0], :, order[at]] = np.inf
        index = crossing(torch.from_numpy(order.reshape(tuple(theirs.shape))))
        values = mine.gather(-1, index)
        if alone:
            return values
        pair = values, got[1].gather(-1, index.unsqueeze(-2).expand(got[1].shape))
        return type(got)(*pair) if hasattr(got, "_fields") else pair


def numbers(t: Any) -> np.ndarray:
    """The elements of a tensor of PyTorch's or Kiln's, half floats as doubles."""
    t = t.detach()
    if not str(getattr(t, "layout", "strided")).endswith("strided"):
        t = t.to_dense()
    if isinstance(t, torch.Tensor):
        a = as_array(t.clone().resolve_conj().resolve_neg())
    else:
        a = np.asarray(t.numpy())
    return a.astype(np.float64) if a.dtype.itemsize == 2 and a.dtype.kind not in "iu" else a


def tensors(x: Any, is_tensor: Callable = lambda x: isinstance(x, torch.Tensor)) -> list:
    """The tensors in a result, in order."""
    if is_tensor(x):
        return [x]
    if isinstance(x, dict):
        x = list(x.values())
    return [t for y in x for t in tensors(y, is_tensor)] if isinstance(x, list | tuple) else []


def shown(x: Any) -> str:
    """A value in a few words."""
    return f"{type(x).__name__} {x!r}"[:100] if not hasattr(x, "shape") else "a tensor"
