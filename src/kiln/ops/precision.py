"""Mixed precision: which functions take their floating arguments in another dtype inside `autocast`.

The lists are those of PyTorch on CPU, found by calling its functions inside and outside of autocast. Products and
convolutions run in the lower dtype, what loses by it in float32; everything else takes what it is given. Float64
is left alone. Functions on the lists call others with autocast off.

Note [Autocast]: threads inside autocast are in `ACTIVE`. While there are any, `CAPTURING` holds an entry of no
thread, so that short paths are left for `dispatch.apply`, which asks `lowered`: outside of autocast none of this
costs anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from threading import get_ident
from typing import Any

from .. import dtypes as dt
from ..autograd.modes import mode
from ..tensor import ACTIVE, Tensor, active_capture, watch_calls
from .registry import FUNCTIONS, METHODS, Op


class Precision(threading.local):
    """What a thread has set: by device whether autocast is on and its dtype, and the casts of parameters."""

    def __init__(self) -> None:
        self.enabled: dict[str, bool] = {}
        self.dtypes: dict[str, dt.dtype] = {"cpu": dt.bfloat16}
        self.cache, self.nesting = True, 0
        self.kept: dict[Any, tuple[Tensor, Tensor]] = {}


precision = Precision()


def settle() -> None:
    """Have calls of this thread see what was set."""
    me = get_ident()
    if precision.enabled.get("cpu"):
        ACTIVE[me] = precision.dtypes["cpu"]
    else:
        ACTIVE.pop(me, None)
    watch_calls("autocast", bool(ACTIVE))


@contextmanager
def off() -> Iterator[None]:
    """Functions run in the dtypes that they are given."""
    me = get_ident()
    was = ACTIVE.pop(me, None)
    try:
        yield
    finally:
        if was is not None:
            ACTIVE[me] = was


def _cast(x: Any, to: dt.dtype) -> Any:
    """A value with the tensors in it cast; those of parameters are kept to the end of the region."""
    if isinstance(x, Tensor):
        d = x.dtype
        if d is to or d.category != dt.FLOAT or d is dt.float64:
            return x
        keep = precision.cache and d is dt.float32 and x._rg and x._fn is None and x._base is None
        if not keep or active_capture() is not None:
            return x.to(to)
        key = (id(x), to, mode.grad, x._version)
        if key not in precision.kept:
            precision.kept[key] = (x, x.to(to))
        return precision.kept[key][1]
    if x.__class__ in (list, tuple):
        return x.__class__([_cast(y, to) for y in x])
    return x


def lowered(op: Op, args: tuple) -> tuple:
    """The arguments of a call inside autocast."""
    to = ACTIVE.get(get_ident())
    return args if to is None or op.name not in _OPS else tuple(_cast(x, to) for x in args)


def _casts(kind: str, args: tuple, kwargs: dict) -> bool:
    if kind == "promote":
        return len({x.dtype for x in args if isinstance(x, Tensor) and x.is_floating_point()}) > 1
    if kind == "pad":
        mode = kwargs.get("mode", args[2] if len(args) > 2 else "")
        return mode in ("reflect", "replicate")
    return kind != "as given"


def _policy(fn: Callable, kind: str) -> Callable:
    @wraps(fn)
    def run(*args: Any, **kwargs: Any) -> Any:
        if ACTIVE and (to := ACTIVE.get(get_ident())) is not None:
            if _casts(kind, args, kwargs):
                to = to if kind == "lower" else dt.float32
                args = tuple(_cast(x, to) for x in args)
                kwargs = {n: x if n == "out" else _cast(x, to) for n, x in kwargs.items()}
            with off():
                return fn(*args, **kwargs)
        return fn(*args, **kwargs)

    run.plain = fn  # type: ignore[attr-defined]  # whose signature it has
    return run


_OPS = ("matmul", "linear", "prelu")
"""Ops that take the lower dtype wherever they are called."""

_LOWER = """
    addmm addbmm baddbmm conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d conv_transpose3d
    scaled_dot_product_attention linalg.vecdot
"""
_SINGLE = """
    cdist prod trace quantile nanquantile polar view_as_complex ormqr mse_loss l1_loss smooth_l1_loss huber_loss
    binary_cross_entropy binary_cross_entropy_with_logits kl_div cross_entropy nll_loss poisson_nll_loss
    cosine_embedding_loss hinge_embedding_loss margin_ranking_loss triplet_margin_loss multilabel_margin_loss
    multi_margin_loss soft_margin_loss ctc_loss grid_sample avg_pool3d adaptive_avg_pool3d adaptive_max_pool3d
    max_pool3d fractional_max_pool2d fractional_max_pool3d
    linalg.inv linalg.cholesky linalg.qr linalg.svd linalg.svdvals linalg.eigh linalg.eigvalsh linalg.eig
    linalg.eigvals linalg.solve linalg.lstsq linalg.householder_product linalg.matrix_rank linalg.cond
    fft.fft fft.ifft fft.fft2 fft.ifft2 fft.fftn fft.ifftn fft.rfft fft.irfft fft.rfft2 fft.irfft2 fft.rfftn fft.irfftn
    fft.hfft fft.ihfft stft
"""
_AS_GIVEN = "mv dot vdot addmv bilinear interpolate addmm_ addmv_ addbmm_ baddbmm_"


def install() -> None:
    """Have public functions and methods that are defined by now look for autocast."""
    lists = {
        "lower": _LOWER, "single": _SINGLE, "as given": _AS_GIVEN, "promote": "index_copy", "pad": "pad"
    }  # fmt: skip
    new: dict[Callable, Callable] = {}
    for kind, names in lists.items():
        for n in names.split():
            found = (FUNCTIONS.get(n), FUNCTIONS.get(f"nn.functional.{n}"), METHODS.get(n))
            for fn in found:
                if fn is not None and fn not in new and not hasattr(fn, "plain"):
                    new[fn] = _policy(fn, kind)
    for table in (FUNCTIONS, METHODS):
        for n, fn in table.items():
            if fn in new:
                table[n] = new[fn]
                if table is METHODS:
                    setattr(Tensor, n, new[fn])
