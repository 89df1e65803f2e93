"""Discrete Fourier transforms: `kiln.fft`, on three ops without a scale of their own.

`dft` takes complex to complex, `rdft` real to the half of a spectrum that says it all, `irdft` back.
Their transposes are each other, which is all there is to their gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..device import as_device
from ..errors import KilnError, KilnIndexError, describe
from ..shape import Size, norm_dim
from ..tensor import Tensor
from .registry import FUNCTIONS, Sample, composition, op
from .samples import draw, rng
from .storing import store_out

# ---------------------------------------------------------------- the three ops


def _complex_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4))
    for inverse in (False, True):
        yield Sample((x, (1,), inverse))
        yield Sample((x, (0, 1), inverse))


@op(private=True, family="transform", check=False, samples=_complex_samples,
    infer=lambda input, dims, inverse: (Size(input.shape), input.dtype),
    grad={"input": lambda g, dims, inverse: dft(g, dims, not inverse)})  # fmt: skip
def dft(input: Tensor, dims: tuple, inverse: bool) -> Tensor:
    """The sums of input * exp(-+2 pi i j k / n) over dimensions."""
    if inverse:
        return np.fft.ifftn(input, axes=dims, norm="forward")
    return np.fft.fftn(input, axes=dims)


def _rdft_grad(g: Tensor, in_shape: Any, dims: tuple) -> Tensor:
    n = in_shape[dims[-1]]
    return dft(_resized(g, (n,), dims[-1:]), dims, True).real


def _half(shape: Any, d: int) -> Size:
    return Size(s // 2 + 1 if i == d else s for i, s in enumerate(shape))


@op(private=True, family="transform", check=False, grad={"input": _rdft_grad},
    infer=lambda input, dims: (_half(input.shape, dims[-1]), input.dtype.to_complex()),
    samples=lambda: iter([Sample((draw(rng(), (3, n)), dims)) for n in (4, 5) for dims in ((1,), (0, 1))]))  # fmt: skip
def rdft(input: Tensor, dims: tuple) -> Tensor:
    """`dft` of real numbers, the first half along the last of the dimensions."""
    return np.fft.rfftn(input, axes=dims)


def _irdft_grad(g: Tensor, in_shape: Any, n: int, dims: tuple) -> Tensor:
    out = rdft(g, dims)
    weight = np.full(out.shape[dims[-1]], 2.0)
    weight[0] = 1
    if n % 2 == 0:
        weight[-1] = 1
    shape = [len(weight) if i == dims[-1] else 1 for i in range(out.ndim)]
    return out * FUNCTIONS["tensor"](weight.reshape(shape), dtype=g.dtype)


def _irdft_samples() -> Iterator[Sample]:
    x = draw(rng(), (3, 3)) + 1j * draw(rng(1), (3, 3))
    for n in (4, 5):
        for dims in ((1,), (0, 1)):
            yield Sample((x, n, dims))


@op(private=True, family="transform", check=False, grad={"input": _irdft_grad}, samples=_irdft_samples,
    infer=lambda input, n, dims: (
        Size(n if i == dims[-1] else s for i, s in enumerate(input.shape)), input.dtype.to_real()
    ))  # fmt: skip
def irdft(input: Tensor, n: int, dims: tuple) -> Tensor:
    """The real numbers, n along the last dimension, of half a spectrum; not divided by their count."""
    x = np.fft.ifftn(input, axes=dims[:-1], norm="forward") if dims[:-1] else input
    return np.fft.irfft(x, n, dims[-1], norm="forward")


# ---------------------------------------------------------------- sizes, dimensions and scales


def _resized(x: Tensor, sizes: Sequence[int], dims: Sequence[int]) -> Tensor:
    """x cut or filled with zeros at the end of dimensions."""
    for n, d in zip(sizes, dims, strict=True):
        have = x.shape[d]
        if n < have:
            x = x.narrow(d, 0, n)
        elif n > have:
            x = FUNCTIONS["nn.functional.pad"](x, [0, 0] * (x.ndim - 1 - d) + [0, n - have])
    return x


def _number(name: str, x: Tensor, complex: bool) -> Tensor:
    """The input in a dtype that is transformed; real unless `complex`."""
    if x.dtype in (dt.float16, dt.bfloat16):
        raise KilnError(
            name, f"Unsupported dtype {x.dtype.name}", describe(x), "convert first: x.float()"
        )
    if not complex and x.is_complex():
        raise KilnError(name, "expects a real input tensor", describe(x), "transform it with fft")
    if x.dtype.category < dt.FLOAT:
        x = x.to(dt.get_default_dtype())
    return x.to(x.dtype.to_complex()) if complex and not x.is_complex() else x


def _where(
    name: str, x: Tensor, s: Any, dim: Any, last: bool = False
) -> tuple[list[int], list[int]]:
    """The sizes and dimensions to transform; `last` sizes come from half a spectrum."""
    if dim is None:
        dims = list(range(x.ndim)) if s is None else list(range(x.ndim - len(s), x.ndim))
    else:
        dims = [norm_dim(d, x.ndim, name) for d in ([dim] if isinstance(dim, int) else dim)]
        if dims and not x.ndim:
            raise KilnIndexError(
                name,
                f"dimension {dims[0]} of a tensor without dimensions",
                describe(x),
                "unsqueeze it",
            )
    if len(set(dims)) != len(dims):
        raise KilnError(name, "FFT dims must be unique", f"dim={dim}", "")
    given = [None] * len(dims) if s is None else [s] if isinstance(s, int) else list(s)
    if len(given) != len(dims):
        raise KilnError(
            name,
            "When given, dim and shape arguments must have the same length",
            f"s={s}, dim={dim}",
            "",
        )
    sizes = [x.shape[d] if n is None or n == -1 else n for n, d in zip(given, dims, strict=True)]
    if last and dims and (given[-1] is None or given[-1] == -1):
        sizes[-1] = 2 * (x.shape[dims[-1]] - 1)
    for n in sizes:
        if n < 1:
            raise KilnError(name, f"Invalid number of data points ({n}) specified", describe(x), "")
    return sizes, dims


def _scaled(name: str, x: Tensor, sizes: Sequence[int], norm: str | None, inverse: bool) -> Tensor:
    n = math.prod(sizes)
    if norm not in (None, "backward", "ortho", "forward"):
        raise KilnError(
            name, f'Invalid normalization mode: "{norm}"', repr(norm), "backward, ortho or forward"
        )
    if norm == "ortho":
        return x * (1 / math.sqrt(n))
    return x * (1 / n) if inverse is (norm != "forward") else x


# ---------------------------------------------------------------- the kinds of transforms


def _complex(name: str, x: Tensor, s: Any, dim: Any, norm: Any, inverse: bool) -> Tensor:
    sizes, dims = _where(name, x, s, dim)
    x = _resized(_number(name, x, True), sizes, dims)
    return _scaled(name, dft(x, tuple(dims), inverse) if dims else x, sizes, norm, inverse)


def _from_real(name: str, x: Tensor, s: Any, dim: Any, norm: Any, inverse: bool) -> Tensor:
    sizes, dims = _where(name, x, s, dim)
    x = _resized(_number(name, x, False), sizes, dims)
    if inverse:  # the conjugate of the forward one along the last dimension
        x = rdft(x, tuple(dims[-1:])).conj()
        x = dft(x, tuple(dims[:-1]), True) if dims[:-1] else x
    else:
        x = rdft(x, tuple(dims))
    return _scaled(name, x, sizes, norm, inverse)


def _to_real(name: str, x: Tensor, s: Any, dim: Any, norm: Any, inverse: bool) -> Tensor:
    sizes, dims = _where(name, x, s, dim, last=True)
    x = _resized(_number(name, x, True), [*sizes[:-1], sizes[-1] // 2 + 1], dims)
    if inverse:
        x = irdft(x, sizes[-1], tuple(dims))
    else:
        x = dft(x, tuple(dims[:-1]), False) if dims[:-1] else x
        x = irdft(x.conj(), sizes[-1], tuple(dims[-1:]))
    return _scaled(name, x, sizes, norm, inverse)


def _samples(kind: Callable, many: bool) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        r = rng(61)
        x = draw(r, (3, 4))
        if kind is not _from_real:
            x = x + 1j * draw(r, (3, 4))
            yield Sample((x.real,))
        yield Sample((x,))
        n, dim = ((2, 5), (1, 0)) if many else (5, 0)
        yield Sample((x, n, dim, "ortho"))
        yield Sample((x,), {"norm": "forward"})
        yield Sample((x, (3, 3) if many else 3))
        yield Sample((x,), {"norm": "x"}, error=RuntimeError)
        yield Sample((x, 0 if not many else (0, 1)), error=RuntimeError)
        yield Sample((x,), {"dim": (2, 2) if many else 2}, error=IndexError)

    return samples


def _family(stem: str, kind: Callable, inverse: bool, what: str) -> None:
    def stored(name: str, r: Tensor, out: Tensor | None) -> Tensor:
        real = kind is _to_real
        if isinstance(out, Tensor) and not (
            out.dtype.is_floating_point if real else out.dtype.is_complex
        ):
            raise KilnError(name, f"{name} expects a {'floating point' if real else 'complex'} output tensor",
                            describe(out), "")  # fmt: skip
        return store_out(dft.op, r, out, cast=name != "ihfft")

    def one(input: Tensor, n: int | None = None, dim: int = -1, norm: str | None = None, *,
            out: Tensor | None = None) -> Tensor:  # fmt: skip
        return stored(stem, kind(stem, input, n, dim, norm, inverse), out)

    def two(input: Tensor, s: Any = None, dim: Any = (-2, -1), norm: str | None = None, *,
            out: Tensor | None = None) -> Tensor:  # fmt: skip
        return stored(stem + "2", kind(stem + "2", input, s, dim, norm, inverse), out)

    def several(input: Tensor, s: Any = None, dim: Any = None, norm: str | None = None, *,
                out: Tensor | None = None) -> Tensor:  # fmt: skip
        return stored(stem + "n", kind(stem + "n", input, s, dim, norm, inverse), out)

    for fn, end, over in (
        (one, "", "one dimension"),
        (two, "2", "two dimensions"),
        (several, "n", "dimensions"),
    ):
        fn.__name__, fn.__doc__ = stem + end, f"{what} over {over}."
        composition(namespace="fft", method=False, samples=_samples(kind, end != ""))(fn)


_family("fft", _complex, False, "The discrete Fourier transform")
_family("ifft", _complex, True, "The inverse of the discrete Fourier transform")
_family("rfft", _from_real, False, "Half of the discrete Fourier transform of real numbers")
_family("irfft", _to_real, True, "The real numbers of half a spectrum")
_family("hfft", _to_real, False, "The real spectrum of half a Hermitian signal")
_family("ihfft", _from_real, True, "The half of a Hermitian signal that has this real spectrum")


# ---------------------------------------------------------------- frequencies and shifts


def _frequencies(name: str, count: Callable[[int], np.ndarray], doc: str) -> None:
    def fn(n: int, d: float = 1.0, *, dtype: Any = None, device: Any = None, requires_grad: bool = False,
           out: Tensor | None = None) -> Tensor:  # fmt: skip
        as_device(device)
        kind = dt.get_default_dtype() if dtype is None else dt.as_dtype(dtype)
        r = FUNCTIONS["tensor"](count(n) / (n * d), dtype=kind, requires_grad=requires_grad)
        return store_out(dft.op, r, out)

    fn.__name__, fn.__doc__ = name, doc
    composition(
        namespace="fft", method=False, samples=lambda: iter([Sample((5,)), Sample((4, 0.5))])
    )(fn)


_frequencies(
    "fftfreq",
    lambda n: np.fft.fftfreq(n) * n,
    "The frequencies of the bins of `fft` for n points d apart.",
)
_frequencies(
    "rfftfreq",
    lambda n: np.fft.rfftfreq(n) * n,
    "The frequencies of the bins of `rfft` for n points d apart.",
)


def _shift(name: str, ahead: Callable[[int], int], doc: str) -> None:
    def fn(input: Tensor, dim: Any = None) -> Tensor:
        dims = range(input.ndim) if dim is None else [dim] if isinstance(dim, int) else dim
        dims = [norm_dim(d, input.ndim, name) for d in dims]
        return input.roll([ahead(input.shape[d]) for d in dims], dims) if dims else input

    fn.__name__, fn.__doc__ = name, doc
    composition(namespace="fft", method=False, samples=lambda: iter([
        Sample((draw(rng(), (4, 5)),)), Sample((draw(rng(), (4, 5)), 1)), Sample((draw(rng(), (4, 5)), 2), error=IndexError),
    ]))(fn)  # fmt: skip


_shift("fftshift", lambda n: n // 2, "The bins of `fft` in ascending order of frequency.")
_shift("ifftshift", lambda n: (n + 1) // 2, "The inverse of `fftshift`.")
