"""Complex numbers: their parts, conjugates, and views as pairs of real numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size, broadcast_shapes
from ..tensor import Tensor
from .dispatch import expect_tensor
from .joining import stack
from .registry import ALIGNED, LEADING, Sample, composition, op
from .samples import draw, rng
from .slicing import select
from .storing import store_out
from .views import view


@op(name="complex_of", node="ComplexBackward0", private=True, lies="operands", batch=ALIGNED, grad={"real": lambda g: real_part(g), "imag": lambda g: imag_part(g)},
    infer=lambda real, imag: (broadcast_shapes(real.shape, imag.shape, op="complex"), real.dtype.to_complex()),
    samples=lambda: iter([Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)))), Sample((np.array(1.0), np.array(np.inf)), grad=False)]))  # fmt: skip
def complex_op(real: Tensor, imag: Tensor) -> Tensor:
    """The complex tensor of two parts."""
    out = np.empty(np.broadcast_shapes(real.shape, imag.shape), np.result_type(real, np.complex64))
    out.real, out.imag = real, imag
    return out


@composition(method=False, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)))), Sample((draw(rng(), ()), draw(rng(1), ()))),
    Sample((draw(rng(), (3,)), draw(rng(1), (3,)).astype(np.float32)), error=RuntimeError),
    Sample((np.array([1]), np.array([1])), error=RuntimeError), Sample((np.array([1]), 2), error=TypeError),
]))  # fmt: skip
def complex(real: Tensor, imag: Tensor, *, out: Tensor | None = None) -> Tensor:
    """The complex tensor real + i * imag."""
    expect_tensor("complex", real)
    expect_tensor("complex", imag)
    if real.dtype is not imag.dtype or not real.is_floating_point():
        raise KilnError("complex", "expected both parts to be floating tensors of one dtype",
                        f"{describe(real)}, {describe(imag)}", "convert one of them")  # fmt: skip
    if real.dtype is dt.bfloat16:
        raise KilnError("complex", "there are no complex numbers of bfloat16 parts",
                        f"{describe(real)}, {describe(imag)}", "convert both: x.float()")  # fmt: skip
    r = complex_op(real, imag)
    if out is not None and out.dtype is not r.dtype:
        raise KilnError("complex", f"expected out to be of dtype {r.dtype.name}", describe(out), "")
    return store_out(complex_op.op, r, out)


@composition(method=False, samples=None)
def real(input: Tensor) -> Tensor:
    """The real part, a view; a real tensor itself."""
    return real_part(input) if input.is_complex() else input


@composition(method=False, samples=None)
def imag(input: Tensor) -> Tensor:
    """The imaginary part of a complex tensor, a view."""
    if not input.is_complex():
        raise KilnError(
            "imag", "imag is not implemented for tensors with non-complex dtypes", describe(input), "",
        )  # fmt: skip
    return imag_part(input)


Tensor.real = property(real, doc="The real part, a view; a real tensor itself.")  # type: ignore[attr-defined]
Tensor.imag = property(imag, doc="The imaginary part of a complex tensor, a view.")  # type: ignore[attr-defined]


def _part_infer(input: Any) -> tuple:
    return input.shape, input.dtype.to_real()


def _complex_sample() -> Any:
    yield Sample((draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4)),))


@view(
    private=True,
    batch=LEADING,
    infer=_part_infer,
    grad={"input": lambda g: g + 0j},
    samples=_complex_sample,
)
def real_part(input: Tensor) -> Tensor:
    """The real part of a complex tensor. A view."""
    return input.real


@view(
    private=True,
    batch=LEADING,
    infer=_part_infer,
    grad={"input": lambda g: complex_op(g.new_zeros(()), g)},
    samples=_complex_sample,
)
def imag_part(input: Tensor) -> Tensor:
    """The imaginary part of a complex tensor. A view."""
    return input.imag


@op(family="elementwise", promote="same", name="conj", check=False, samples=_complex_sample,
    grad={"input": lambda g: g.conj()})  # fmt: skip
def conj(input: Tensor) -> Tensor:
    """The complex conjugate."""
    return np.conj(input)


def _pairs_infer(input: Any) -> tuple:
    if not input.dtype.is_complex:
        raise KilnError(
            "view_as_real", "only complex tensors can be seen as real pairs", describe(input), ""
        )
    return Size((*input.shape, 2)), input.dtype.to_real()


@view(infer=_pairs_infer, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)) + 1j * draw(rng(1), (3, 4)),)), Sample((np.asarray(1 + 2j),)),
    Sample(((draw(rng(), (3, 4)) * (1 + 2j)).T[::2],)), Sample((draw(rng(), (2,)),), error=RuntimeError)]),
    method=False, layout=True, grad={"input": lambda g: view_as_complex(g.contiguous())},
    body=lambda input: stack([real_part(input), imag_part(input)], -1))  # fmt: skip
def view_as_real(input: Tensor) -> Tensor:
    """A complex tensor as real pairs in a new last dimension. A view."""
    if input.dtype.kind != "c":
        raise TypeError  # the shape rule tells why
    return input[..., None].view(input.real.dtype)


def _complex_infer(input: Any) -> tuple:
    shape = tuple(input.shape)
    if input.dtype not in (dt.float32, dt.float64):
        raise KilnError(
            "view_as_complex", "only float and double pairs can be seen as complex numbers", describe(input), "x.float()"
        )  # fmt: skip
    if not shape or shape[-1] != 2:
        raise KilnError(
            "view_as_complex", "the last dimension must have size 2", describe(input), ""
        )
    return Size(shape[:-1]), input.dtype.to_complex()


@view(infer=_complex_infer, samples=lambda: iter([
    Sample((draw(rng(), (3, 4, 2)),)), Sample((draw(rng(), (2,)),)),
    Sample((draw(rng(), (3,)),), error=RuntimeError), Sample((draw(rng(), (2, 3)).T,), error=RuntimeError),
    Sample((np.zeros((3, 2), np.int64),), error=RuntimeError)]),
    method=False, layout=True, grad={"input": lambda g: view_as_real(g)},
    body=lambda input: complex_op(select(input, -1, 0), select(input, -1, 1)))  # fmt: skip
def view_as_complex(input: Tensor) -> Tensor:
    """Real pairs in the last dimension, which lie side by side, as complex numbers. A view."""
    if input.dtype.kind != "f" or input.itemsize < 4 or not input.ndim or input.shape[-1] != 2:
        raise TypeError  # the shape rule tells why
    if input.size and input.strides[-1] != input.itemsize:
        raise KilnError("view_as_complex", "Tensor must have a last dimension with stride 1",
                        [s // input.itemsize for s in input.strides], "x.contiguous()")  # fmt: skip
    if any(s % (2 * input.itemsize) for s in input.strides[:-1]):
        raise KilnError("view_as_complex", "Tensor must have a stride divisible by 2 for all but last dimension",
                        [s // input.itemsize for s in input.strides], "x.contiguous()")  # fmt: skip
    return input.view(np.complex64 if input.itemsize == 4 else np.complex128)[..., 0]
