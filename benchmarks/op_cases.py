"""Large calls of every op: what `benchmarks.ops` measures.

Most are made from an op's own samples. All sizes of one are multiplied by the same number, so that
what was equal or a sum stays so; floats are drawn from the range of the sample's, integers, which may
be indices, are spread over the sizes multiplied. Where that is no sensible call (windows, ranges,
matrices to decompose, sorts of equal values), `WRITTEN` has one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np

_BF16 = np.dtype(ml_dtypes.bfloat16)
MILLION = 1 << 20


class Call:
    """A function of both libraries and the arguments for it, of any number of elements."""

    def __init__(self, name: str, kiln: Callable, torch: Callable, make: Callable, size: int):
        self.name, self.kiln, self.torch, self.size = name, kiln, torch, size
        self._make = make

    def scaled(self, size: int) -> tuple[tuple, dict]:
        """Arguments of about so many elements, as arrays."""
        return self._make(size)

    def shown(self, args: tuple, kwargs: dict) -> str:
        """The arguments in a line."""
        return ", ".join([*map(_shown, args), *(f"{k}={_shown(v)}" for k, v in kwargs.items())])


def _shown(x: Any) -> str:
    if isinstance(x, np.ndarray):
        kind = {"float32": "", "bfloat16": "bf16"}.get(x.dtype.name, x.dtype.name)
        return f"{kind}[{', '.join(map(str, x.shape))}]"
    if isinstance(x, list | tuple):
        return f"({', '.join(map(_shown, x))})"
    return getattr(x, "name", None) or f"{x}"


# ---------------------------------------------------------------- made from samples


def _arrays(x: Any) -> list[np.ndarray]:
    if isinstance(x, np.ndarray):
        return [x]
    values = x.values() if isinstance(x, dict) else x if isinstance(x, list | tuple) else ()
    return [a for y in values for a in _arrays(y)]


def _sample(samples: Any) -> Any:
    """The sample to enlarge: one of ordinary arrays, of more than one dimension where there is one."""
    best, score = None, (-1, -1)
    for s in samples() if samples is not None else ():
        arrays = _arrays((s.args, s.kwargs))
        if s.error is not None or not arrays or any(a.size == 0 for a in arrays):
            continue
        if any(a.dtype.kind == "f" and not np.isfinite(a).all() for a in arrays):
            continue
        value = (int(s.grad), min(2, max(a.ndim for a in arrays)))
        if value > score:
            best, score = s, value
    return best


def _enlarge(sample: Any, size: int) -> tuple[tuple, dict]:
    """The sample's call with all sizes multiplied, so that the largest array, or all broadcast, have about `size` elements."""
    rng = np.random.default_rng(0)
    arrays = _arrays((sample.args, sample.kwargs))
    try:
        shape = np.broadcast_shapes(*[a.shape for a in arrays])
    except ValueError:
        shape = max(arrays, key=lambda a: (a.size, -a.ndim)).shape
    dims = sum(s > 1 for s in shape)
    factor = max(1, round((size / math.prod(shape)) ** (1 / dims))) if dims else 1

    def one(x: Any) -> Any:
        if isinstance(x, dict):
            return {k: one(v) for k, v in x.items()}
        if type(x) in (list, tuple):
            return type(x)(map(one, x))
        if not isinstance(x, np.ndarray):
            return x
        shape = tuple(s * factor if s > 1 else s for s in x.shape)
        if x.dtype.kind == "f":
            return np.asarray(rng.uniform(x.min(), x.max(), shape), np.float32)
        if x.dtype.kind == "b":
            return np.asarray(rng.integers(0, 2, shape) > 0)
        if x.dtype.kind in "iu":
            low, high = int(x.min()), int(x.max())
            if low < 0 or x.dtype.itemsize < 4:
                return np.asarray(rng.integers(low, high + 1, shape), x.dtype)
            return np.asarray(rng.integers(low * factor, (high + 1) * factor, shape), x.dtype)
        r = rng.uniform(-1, 1, (2, *shape))
        return np.asarray(r[0] + 1j * r[1], np.complex64)

    return one(sample.args), one(sample.kwargs)


# ---------------------------------------------------------------- written by hand


def _draw(dtype: Any = np.float32) -> Callable[..., np.ndarray]:
    rng = np.random.default_rng(0)
    return lambda *shape: np.asarray(rng.standard_normal(shape), np.float32).astype(dtype)


_f = _draw()


def _i(high: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, high, shape)


def _positive(*shape: int) -> np.ndarray:
    return np.abs(_f(*shape)) + np.float32(0.5)


def _mask(*shape: int) -> np.ndarray:
    return _i(2, *shape) > 0


def _spd(n: int, k: int) -> np.ndarray:
    a = _f(n, k, k)
    return a @ a.transpose(0, 2, 1) + np.float32(k) * np.eye(k, dtype=np.float32)


def _rows(size: int, cols: int = 1024) -> tuple[int, int]:
    return max(2, size // cols), cols


def _image(size: int, c: int = 16, hw: int = 64) -> tuple[int, int, int, int]:
    return max(1, size // (c * hw * hw)), c, hw, hw


def _softmaxed(*shape: int) -> np.ndarray:
    e = np.exp(_f(*shape))
    return e / e.sum(-1, keepdims=True)


F = "nn.functional."
Maker = Callable[[int], tuple]
WRITTEN: dict[str, Maker] = {
    "_standard_gamma": lambda n: (_positive(*_rows(n)),),
    "add": lambda n: (_f(*_rows(n)), _f(*_rows(n))),
    "add row": lambda n: (_f(*_rows(n)), _f(_rows(n)[1])),
    "add column": lambda n: (_f(*_rows(n)), _f(_rows(n)[0], 1)),
    "add channel": lambda n: (_f(*_image(n)), _f(16, 1, 1)),
    "add number": lambda n: (_f(*_rows(n)), 1.5),
    "mul": lambda n: (_f(*_rows(n)), _f(*_rows(n))),
    "mul number": lambda n: (_f(*_rows(n)), 1.5),
    "div": lambda n: (_f(*_rows(n)), _positive(*_rows(n))),
    "maximum": lambda n: (_f(*_rows(n)), _f(*_rows(n))),
    "pow": lambda n: (_positive(*_rows(n)), 2.5),
    "pow square": lambda n: (_f(*_rows(n)), 2),
    "sum": lambda n: (_f(*_rows(n)),),
    "sum dim=-1": lambda n: (_f(*_rows(n)), -1),
    "sum dim=0": lambda n: (_f(*_rows(n)), 0),
    "sum channels": lambda n: (_f(*_image(n)), (0, 2, 3)),
    "mean dim=-1": lambda n: (_f(*_rows(n)), -1),
    "mean dim=0": lambda n: (_f(*_rows(n)), 0),
    "amax dim=-1": lambda n: (_f(*_rows(n)), -1),
    "amax dim=0": lambda n: (_f(*_rows(n)), 0),
    "max dim=-1": lambda n: (_f(*_rows(n)), -1),
    "argmax dim=-1": lambda n: (_f(*_rows(n)), -1),
    "var dim=-1": lambda n: (_f(*_rows(n)), -1),
    "std dim=0": lambda n: (_f(*_rows(n)), 0),
    "norm": lambda n: (_f(*_rows(n)),),
    "prod": lambda n: (_positive(*_rows(n)), 1),
    "cumsum": lambda n: (_f(*_rows(n)), 1),
    "cumsum dim=0": lambda n: (_f(*_rows(n)), 0),
    "cumsum flat": lambda n: (_f(n), 0),
    "cumprod": lambda n: (_positive(*_rows(n)), 1),
    "sort": lambda n: (_f(*_rows(n)),),
    "sort flat": lambda n: (_f(n),),
    "sort integers": lambda n: (_i(1 << 20, n),),
    "argsort": lambda n: (_f(*_rows(n)),),
    "msort": lambda n: (_f(*_rows(n)),),
    "topk": lambda n: (_f(*_rows(n)), 10),
    "topk flat": lambda n: (_f(n), 100),
    "kthvalue": lambda n: (_f(*_rows(n)), 10),
    "median": lambda n: (_f(*_rows(n)), 1),
    "mode": lambda n: (_i(50, *_rows(n)), 1),
    "quantile": lambda n: (_f(*_rows(n)), 0.3, 1),
    "unique": lambda n: (_i(1000, n),),
    "bincount": lambda n: (_i(1000, n),),
    "histc": lambda n: (_f(n), 100),
    "searchsorted": lambda n: (np.sort(_f(4096)), _f(n)),
    "bucketize": lambda n: (_f(n), np.sort(_f(4096))),
    "isin": lambda n: (_i(1000, n), _i(1000, 16)),
    "nonzero": lambda n: (_mask(*_rows(n)),),
    "gather": lambda n: (_f(*_rows(n)), 1, _i(1024, *_rows(n))),
    "gather dim=0": lambda n: (_f(*_rows(n)), 0, _i(_rows(n)[0], *_rows(n))),
    "index_select": lambda n: (_f(*_rows(n)), 0, _i(*_rows(n)[:1], _rows(n)[0])),
    "index_select dim=1": lambda n: (_f(*_rows(n)), 1, _i(1024, 1024)),
    "take_along_dim": lambda n: (_f(*_rows(n)), _i(1024, *_rows(n)), 1),
    "take": lambda n: (_f(*_rows(n)), _i(n // 2, n)),
    "masked_select": lambda n: (_f(*_rows(n)), _mask(*_rows(n))),
    "masked_fill": lambda n: (_f(*_rows(n)), _mask(*_rows(n)), 0.5),
    "where": lambda n: (_mask(*_rows(n)), _f(*_rows(n)), _f(*_rows(n))),
    "scatter": lambda n: (_f(*_rows(n)), 1, _i(1024, *_rows(n)), _f(*_rows(n))),
    "scatter_add": lambda n: (_f(*_rows(n)), 1, _i(1024, *_rows(n)), _f(*_rows(n))),
    "scatter_reduce": lambda n: (_f(*_rows(n)), 1, _i(1024, *_rows(n)), _f(*_rows(n)), "amax"),
    "index_add": lambda n: (_f(*_rows(n)), 0, _i(*_rows(n)[:1], _rows(n)[0]), _f(*_rows(n))),
    "index_copy": lambda n: (
        _f(*_rows(n)),
        0,
        np.random.default_rng(0).permutation(_rows(n)[0]),
        _f(*_rows(n)),
    ),
    "index_fill": lambda n: (_f(*_rows(n)), 0, _i(*_rows(n)[:1], _rows(n)[0] // 2 + 1), 0.5),
    "index_put": lambda n: (_f(*_rows(n)), (_i(*_rows(n)[:1], 256),), _f(256, 1024)),
    "cat": lambda n: ([_f(*_rows(n // 4)) for _ in range(4)], 0),
    "cat dim=1": lambda n: ([_f(_rows(n)[0], 256) for _ in range(4)], 1),
    "stack": lambda n: ([_f(*_rows(n // 4)) for _ in range(4)],),
    "tile": lambda n: (_f(*_rows(n // 4)), (2, 2)),
    "repeat_interleave": lambda n: (_f(*_rows(n // 4)), 4, 0),
    "roll": lambda n: (_f(*_rows(n)), 3, 1),
    "flip": lambda n: (_f(*_rows(n)), (1,)),
    "rot90": lambda n: (_f(1024, n // 1024),),
    "clone": lambda n: (_f(*_rows(n)),),
    "contiguous transposed": lambda n: (_f(*_rows(n)).T,),
    "add transposed": lambda n: (_f(*_rows(n)).T, _f(*_rows(n)).T),
    "tril": lambda n: (_f(1024, n // 1024),),
    "diag_embed": lambda n: (_f(n // 1024, 32),),
    "matmul": lambda n: (_f(512, 512), _f(512, 512)),
    "matmul small batch": lambda n: (_f(n // 1024, 32, 32), _f(n // 1024, 32, 32)),
    "bmm": lambda n: (_f(n // 16384, 128, 128), _f(n // 16384, 128, 128)),
    "mm": lambda n: (_f(512, 512), _f(512, 512)),
    "mv": lambda n: (_f(1024, n // 1024), _f(n // 1024)),
    "dot": lambda n: (_f(n), _f(n)),
    "outer": lambda n: (_f(1024), _f(n // 1024)),
    "addmm": lambda n: (_f(512), _f(512, 512), _f(512, 512)),
    "baddbmm": lambda n: (
        _f(n // 16384, 128, 128),
        _f(n // 16384, 128, 128),
        _f(n // 16384, 128, 128),
    ),
    "einsum": lambda n: ("bij,bjk->bik", _f(n // 16384, 128, 128), _f(n // 16384, 128, 128)),
    "chain_matmul": lambda n: (_f(256, 256), _f(256, 256), _f(256, 256)),
    "matrix_power": lambda n: (_f(256, 256) / 16, 5),
    "linalg.matrix_power": lambda n: (_f(256, 256) / 16, 5),
    "kron": lambda n: (_f(32, 32), _f(32, n // 32768)),
    "cdist": lambda n: (_f(512, 64), _f(n // 1024, 64)),
    "det": lambda n: (_spd(n // 4096, 64) / 64,),
    "logdet": lambda n: (_spd(n // 4096, 64),),
    "slogdet": lambda n: (_spd(n // 4096, 64),),
    "inverse": lambda n: (_spd(n // 4096, 64),),
    "pinverse": lambda n: (_spd(1, 128)[0],),
    "linalg.cholesky": lambda n: (_spd(n // 4096, 64),),
    "linalg.qr": lambda n: (_f(n // 16384, 64, 64),),
    "linalg.svd": lambda n: (_f(n // 16384, 64, 64),),
    "linalg.svdvals": lambda n: (_f(n // 16384, 64, 64),),
    "linalg.eigh": lambda n: (_spd(n // 16384, 64),),
    "linalg.eigvalsh": lambda n: (_spd(n // 16384, 64),),
    "linalg.inv": lambda n: (_spd(n // 4096, 64),),
    "linalg.pinv": lambda n: (_spd(1, 128)[0],),
    "linalg.cond": lambda n: (_spd(1, 128)[0],),
    "linalg.matrix_rank": lambda n: (_spd(1, 128)[0],),
    "linalg.det": lambda n: (_spd(n // 4096, 64) / 64,),
    "linalg.slogdet": lambda n: (_spd(n // 4096, 64),),
    "linalg.solve": lambda n: (_spd(n // 4096, 64), _f(n // 4096, 64, 8)),
    "linalg.solve_triangular": lambda n: (
        np.tril(_spd(n // 4096, 64)),
        _f(n // 4096, 64, 8),
        {"upper": False},
    ),
    "linalg.norm": lambda n: (_f(*_rows(n)),),
    "linalg.multi_dot": lambda n: ([_f(256, 256)] * 3,),
    "fft.fft": lambda n: (_f(*_rows(n)).astype(np.complex64),),
    "fft.rfft": lambda n: (_f(*_rows(n)),),
    "stft": lambda n: (
        _f(8, n // 8),
        256,
        {"return_complex": True, "window": np.hanning(256).astype(np.float32)},
    ),
    "softmax": lambda n: (_f(*_rows(n)), -1),
    "softmax dim=0": lambda n: (_f(*_rows(n)), 0),
    "softmax channels": lambda n: (_f(*_image(n)), 1),
    "log_softmax": lambda n: (_f(*_rows(n)), -1),
    "logsumexp": lambda n: (_f(*_rows(n)), -1),
    F + "linear": lambda n: (_f(n // 512, 512), _f(512, 512), _f(512)),
    F + "bilinear": lambda n: (_f(n // 2048, 64), _f(n // 2048, 64), _f(32, 64, 64)),
    F + "layer_norm": lambda n: (_f(*_rows(n)), (1024,), _f(1024), _f(1024)),
    F + "rms_norm": lambda n: (_f(*_rows(n)), (1024,), _f(1024)),
    F + "group_norm": lambda n: (_f(*_image(n)), 4, _f(16), _f(16)),
    F + "instance_norm": lambda n: (_f(*_image(n)),),
    F + "batch_norm": lambda n: (_f(*_image(n)), _f(16), _positive(16), _f(16), _f(16), True),
    F + "batch_norm eval": lambda n: (_f(*_image(n)), _f(16), _positive(16), _f(16), _f(16)),
    F + "local_response_norm": lambda n: (_f(*_image(n)), 5),
    F + "normalize": lambda n: (_f(*_rows(n)), 2.0, -1),
    F + "conv1d": lambda n: (_f(n // 8192, 16, 512), _f(32, 16, 3), _f(32), 1, 1),
    F + "conv2d": lambda n: (_f(*_image(n)), _f(32, 16, 3, 3), _f(32), 1, 1),
    F + "conv3d": lambda n: (_f(n // 65536, 4, 16, 32, 32), _f(8, 4, 3, 3, 3), _f(8), 1, 1),
    F + "conv_transpose1d": lambda n: (_f(n // 8192, 16, 512), _f(16, 32, 4), _f(32), 2, 1),
    F + "conv_transpose2d": lambda n: (_f(n // 65536, 16, 64, 64), _f(16, 32, 4, 4), _f(32), 2, 1),
    F + "conv_transpose3d": lambda n: (_f(n // 131072, 4, 16, 32, 32), _f(4, 8, 2, 2, 2), _f(8), 2),
    F + "max_pool1d": lambda n: (_f(n // 8192, 16, 512), 2),
    F + "max_pool2d": lambda n: (_f(*_image(n)), 2),
    F + "max_pool2d 3x3": lambda n: (_f(*_image(n)), 3, 2, 1),
    F + "max_pool3d": lambda n: (_f(n // 65536, 4, 16, 32, 32), 2),
    F + "avg_pool1d": lambda n: (_f(n // 8192, 16, 512), 2),
    F + "avg_pool2d": lambda n: (_f(*_image(n)), 2),
    F + "avg_pool3d": lambda n: (_f(n // 65536, 4, 16, 32, 32), 2),
    F + "lp_pool1d": lambda n: (_f(n // 8192, 16, 512), 2.0, 2),
    F + "lp_pool2d": lambda n: (_f(*_image(n)), 2.0, 2),
    F + "lp_pool3d": lambda n: (_f(n // 65536, 4, 16, 32, 32), 2.0, 2),
    F + "adaptive_avg_pool1d": lambda n: (_f(n // 8192, 16, 512), 8),
    F + "adaptive_avg_pool2d": lambda n: (_f(*_image(n)), 8),
    F + "adaptive_avg_pool3d": lambda n: (_f(n // 65536, 4, 16, 32, 32), 8),
    F + "adaptive_max_pool1d": lambda n: (_f(n // 8192, 16, 512), 8),
    F + "adaptive_max_pool2d": lambda n: (_f(*_image(n)), 8),
    F + "adaptive_max_pool3d": lambda n: (_f(n // 65536, 4, 16, 32, 32), 8),
    F + "fold": lambda n: (_f(n // 36864, 36, 1024), (32, 32), 3, 1, 1),
    F + "unfold": lambda n: (_f(n // 36864, 4, 32, 32), 3, 1, 1),
    F + "interpolate": lambda n: (_f(n // 65536, 16, 32, 32), None, 2.0, "nearest"),
    F + "interpolate bilinear": lambda n: (_f(n // 65536, 16, 32, 32), None, 2.0, "bilinear"),
    F + "interpolate bicubic": lambda n: (_f(n // 65536, 16, 32, 32), None, 2.0, "bicubic"),
    F + "grid_sample": lambda n: (
        _f(*_image(n)),
        np.tanh(_f(_image(n)[0], 64, 64, 2)),
        "bilinear",
        "zeros",
        False,
    ),
    F + "affine_grid": lambda n: (_f(n // 8192, 2, 3), (n // 8192, 1, 64, 64), False),
    F + "pad": lambda n: (_f(*_image(n)), (1, 1, 1, 1)),
    F + "pad reflect": lambda n: (_f(*_image(n)), (1, 1, 1, 1), "reflect"),
    F + "pixel_shuffle": lambda n: (_f(*_image(n)), 2),
    F + "pixel_unshuffle": lambda n: (_f(*_image(n)), 2),
    F + "embedding": lambda n: (_i(10000, n // 256), _f(10000, 256)),
    F + "embedding_bag": lambda n: (_i(10000, n // 2048, 8), _f(10000, 256)),
    F + "one_hot": lambda n: (_i(128, n // 128), 128),
    F + "cross_entropy": lambda n: (_f(*_rows(n)), _i(1024, _rows(n)[0])),
    F + "cross_entropy 10 classes": lambda n: (_f(n // 10, 10), _i(10, n // 10)),
    F + "cross_entropy images": lambda n: (_f(*_image(n)), _i(16, _image(n)[0], 64, 64)),
    F + "nll_loss": lambda n: (_f(*_rows(n)), _i(1024, _rows(n)[0])),
    F + "kl_div": lambda n: (
        np.log(_softmaxed(*_rows(n))),
        _softmaxed(*_rows(n)),
        {"reduction": "batchmean"},
    ),
    F + "binary_cross_entropy": lambda n: (_softmaxed(*_rows(n)), _softmaxed(*_rows(n))),
    F + "mse_loss": lambda n: (_f(*_rows(n)), _f(*_rows(n))),
    F + "multi_margin_loss": lambda n: (_f(*_rows(n)), _i(1024, _rows(n)[0])),
    F + "multilabel_margin_loss": lambda n: (
        _f(n // 64, 64),
        np.where(np.arange(64) < 4, np.arange(64), -1) + np.zeros((n // 64, 1), np.int64),
    ),
    F + "ctc_loss": lambda n: (
        np.log(_softmaxed(128, n // 4096, 32)),
        _i(31, n // 4096, 20) + 1,
        np.full(n // 4096, 128),
        np.full(n // 4096, 20),
    ),
    F + "scaled_dot_product_attention": lambda n: (
        _f(2, 8, 256, 64),
        _f(2, 8, 256, 64),
        _f(2, 8, 256, 64),
    ),
    F + "scaled_dot_product_attention causal": lambda n: (
        _f(2, 8, 256, 64),
        _f(2, 8, 256, 64),
        _f(2, 8, 256, 64),
        None,
        0.0,
        True,
    ),
    F + "glu": lambda n: (_f(*_rows(n)),),
    F + "prelu": lambda n: (_f(*_image(n)), _f(16)),
    F + "pdist": lambda n: (_f(512, 64),),
    "linspace": lambda n: (0.0, 1.0, n),
    "logspace": lambda n: (0.0, 1.0, n),
    "arange": lambda n: (n,),
    "zeros": lambda n: (n,),
    "ones": lambda n: (n,),
    "full": lambda n: ((n,), 1.5),
    "eye": lambda n: (1024,),
    "rand": lambda n: (n,),
    "randn": lambda n: (n,),
    "randint": lambda n: (0, 100, (n,)),
    "randperm": lambda n: (n,),
    "bernoulli": lambda n: (_softmaxed(*_rows(n)),),
    "multinomial": lambda n: (_softmaxed(*_rows(n // 4)), 10, True),
    F + "dropout": lambda n: (_f(*_rows(n)), 0.5),
    "combinations": lambda n: (_f(1024),),
    "cartesian_prod": lambda n: (_f(1024), _f(n // 1024)),
    "meshgrid": lambda n: (_f(1024), _f(n // 1024)),
    "corrcoef": lambda n: (_f(256, n // 256),),
    "cov": lambda n: (_f(256, n // 256),),
    "polar": lambda n: (_positive(*_rows(n)), _f(*_rows(n))),
    "complex": lambda n: (_f(*_rows(n)), _f(*_rows(n))),
    "tensordot": lambda n: (_f(256, 64, 32), _f(64, 32, 256), 2),
    "tril_indices": lambda n: (1024, 1024),
    "triu_indices": lambda n: (1024, 1024),
}
"""Calls by name (and what tells two of a function apart): arguments of about so many elements, a last dict is keywords."""

_TO = {
    "float": "float32",
    "bfloat16": "bfloat16",
    "half": "float16",
    "int": "int32",
    "double": "float64",
}

HALVES = (
    "add", "mul", "div", "exp", "tanh", "sum", "sum dim=-1", "mean dim=-1", "amax dim=-1", "softmax", "log_softmax", "matmul",
    "cat", "gather", "where", "clone", "cumsum", "sort",
    *(F + n for n in ("relu", "gelu", "silu", "layer_norm", "cross_entropy", "embedding", "linear", "mse_loss", "batch_norm")),
)  # fmt: skip
"""Written or derived calls that are measured in bfloat16 too."""


def _written(make: Maker) -> Callable[[int], tuple[tuple, dict]]:
    def arguments(size: int) -> tuple[tuple, dict]:
        args = make(size)
        if isinstance(args[-1], dict):
            return args[:-1], args[-1]
        return args, {}

    return arguments


def _bfloat16(make: Callable) -> Callable[[int], tuple[tuple, dict]]:
    def cast(x: Any) -> Any:
        if isinstance(x, np.ndarray):
            return x.astype(_BF16) if x.dtype == np.float32 else x
        return type(x)(map(cast, x)) if type(x) in (list, tuple) else x

    def arguments(size: int) -> tuple[tuple, dict]:
        args, kwargs = make(size)
        return cast(args), {k: cast(v) for k, v in kwargs.items()}

    return arguments


def _lookup(root: Any, name: str) -> Any:
    where = root
    for part in name.split("."):
        where = getattr(where, part, None)
    return where or getattr(root.Tensor, name.rsplit(".", 1)[-1], None)


def calls() -> Iterator[Call]:
    """Every call there is to measure, in the order of names."""
    import torch

    import kiln
    from kiln.ops.registry import COMPOSITIONS, FUNCTIONS, METHODS

    composed = {id(c.fn): c.samples for c in COMPOSITIONS.values()}
    public = {**{n: f for n, f in METHODS.items() if f not in FUNCTIONS.values()}, **FUNCTIONS}
    found: dict[str, Call] = {}
    seen: set[int] = set()

    def add(name: str, ours: Callable, theirs: Any, make: Callable, size: int = MILLION) -> None:
        if theirs is not None:
            found[name] = Call(name, ours, theirs, make, size)
            if name in HALVES:
                found[name + " bf16"] = Call(name + " bf16", ours, theirs, _bfloat16(make), size)

    first = {k.split(" ")[0] for k in WRITTEN}
    for name, fn in sorted(public.items(), key=lambda p: p[0] not in first):
        if name.endswith("_") or name.startswith("__") or id(fn) in seen:
            continue
        seen.add(id(fn))
        theirs = _lookup(torch, name)
        if name in first:
            for key in WRITTEN:
                if key.split(" ")[0] == name:
                    add(key, fn, theirs, _written(WRITTEN[key]))
            continue
        op = getattr(fn, "op", None)
        inner = getattr(fn, "__wrapped__", None)  # of one with an `out` argument
        samples = composed.get(id(fn)) or composed.get(id(inner))
        sample = _sample(op.samples if op is not None else samples)
        if sample is not None:
            add(name, fn, theirs, functools.partial(_enlarge, sample))

    def numbers(kind: str) -> Callable:
        made = _BF16 if kind == "bfloat16" else kind
        return _written(lambda n: ((_f(*_rows(n)) * 9).astype(made),))

    for name, to in _TO.items():
        for source in ("float32", "bfloat16", "int64"):
            if source != to:
                add(
                    f"to {to} from {source}",
                    getattr(kiln.Tensor, name),
                    getattr(torch.Tensor, name),
                    numbers(source),
                )
    add("add 16M", kiln.add, torch.add, _written(lambda n: (_f(n), _f(n))), 16 * MILLION)
    add(
        "gelu 16M",
        kiln.nn.functional.gelu,
        torch.nn.functional.gelu,
        _written(lambda n: (_f(n),)),
        16 * MILLION,
    )
    add("add_", kiln.Tensor.add_, torch.Tensor.add_, _written(lambda n: (_f(n), _f(n))))
    add(
        "add_ alpha",
        kiln.Tensor.add_,
        torch.Tensor.add_,
        _written(lambda n: (_f(n), _f(n), {"alpha": -0.1})),
    )
    add("relu_", kiln.Tensor.relu_, torch.Tensor.relu_, _written(lambda n: (_f(n),)))
    add("getitem index", lambda x, i: x[i], lambda x, i: x[i], _written(lambda n: (_f(*_rows(n)), _i(_rows(n)[0], _rows(n)[0]))))  # fmt: skip
    add(
        "getitem mask",
        lambda x, i: x[i],
        lambda x, i: x[i],
        _written(lambda n: (_f(*_rows(n)), _mask(*_rows(n)))),
    )
    yield from (found[n] for n in sorted(found))


def torch_value(x: Any) -> Any:
    """Arguments with torch's tensors, dtypes and sizes in place of arrays and Kiln's."""
    import torch

    from kiln import dtypes as dt
    from kiln.shape import Size

    if isinstance(x, np.ndarray):
        if x.dtype == _BF16:
            return torch.from_numpy(x.view(np.int16).copy()).view(torch.bfloat16)
        return torch.from_numpy(np.array(x, order="K"))
    if isinstance(x, dt.dtype):
        return getattr(torch, x.name)
    if isinstance(x, Size):
        return torch.Size(x)
    if isinstance(x, dict):
        return {k: torch_value(v) for k, v in x.items()}
    return type(x)(map(torch_value, x)) if type(x) in (list, tuple) else x


__all__ = ["Call", "calls", "torch_value"]
