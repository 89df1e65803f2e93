"""Matrix products that add: addmm and its relatives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size, broadcast_shapes
from ..tensor import Tensor
from ._matrices import tracked
from .arithmetic import conjugate
from .linalg import bmm, matmul_op, mm, mv, outer, same_dtype
from .reduction import sum_op
from .registry import Sample, composition, op
from .rules import zero_gradient
from .samples import draw, rng
from .storing import keep_apart, store_out


def _blend(name: str, input: Tensor, product: Tensor, beta: Any, alpha: Any) -> Tensor:
    """beta * input + alpha * product; input is not read where beta is 0."""
    d = same_dtype(name, input, product)
    if d.category < dt.FLOAT:
        beta, alpha = int(beta), int(alpha)
    if d is dt.bool_:
        product = product & bool(alpha)
        return input | product if beta else product
    if alpha != 1:
        product = product * alpha
    shape = product.shape
    if broadcast_shapes(input.shape, shape, op=name) != shape:
        raise KilnError(
            name, f"input must expand to {list(shape)}", describe(input), "check its shape"
        )
    if beta == 0:
        return product + zero_gradient(product.new_zeros(()), input) if tracked(input) else product
    return (input if beta == 1 else input * beta) + product


def _rounded_once(
    name: str, product: Callable[[Tensor, Tensor], Tensor], input: Tensor, a: Tensor, b: Tensor,
    beta: Any, alpha: Any,
) -> Tensor:  # fmt: skip
    """beta * input + alpha * product(a, b); half floats are summed and scaled in float32."""
    d = a.dtype
    if d in (dt.bfloat16, dt.float16) and d is b.dtype and d is input.dtype:
        wide = product(a.float(), b.float())
        return _blend(name, input.float(), wide, beta, alpha).to(d)
    return _blend(name, input, product(a, b), beta, alpha)


def _stored(result: Tensor, out: Tensor | None, input: Tensor, beta: Any) -> Tensor:
    """The result, in `out` if there is one: not across an input that PyTorch copies there first."""
    if beta and input.shape == result.shape:
        keep_apart(matmul_op.op, out, input)
    return store_out(matmul_op.op, result, out)


def _adding(*shapes: tuple, bad: tuple) -> Callable[[], Iterator[Sample]]:
    def samples() -> Iterator[Sample]:
        r = rng(22)
        for kw in ({}, {"beta": 0.5, "alpha": 2.0}, {"beta": 0}):
            for group in shapes:
                yield Sample(tuple(draw(r, s) for s in group), kw)
        for group in bad:
            yield Sample(tuple(draw(r, s) for s in group), error=RuntimeError)

    return samples


@composition(inplace=True, samples=_adding(((4,), (2, 3), (3, 4)), ((2, 1), (2, 3), (3, 4)),
                             bad=(((5,), (2, 3), (3, 4)), ((4,), (2, 3), (4, 4)))))  # fmt: skip
def addmm(
    input: Tensor,
    mat1: Tensor,
    mat2: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:
    """beta * input + alpha * (mat1 @ mat2)."""
    return _stored(_rounded_once("addmm", mm, input, mat1, mat2, beta, alpha), out, input, beta)


@composition(inplace=True, samples=_adding(((2,), (2, 3), (3,)), bad=(((3,), (2, 3), (3,)),)))
def addmv(
    input: Tensor,
    mat: Tensor,
    vec: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:
    """beta * input + alpha * (mat @ vec)."""
    return _stored(_rounded_once("addmv", mv, input, mat, vec, beta, alpha), out, input, beta)


def _addr_body(input: Tensor, vec1: Tensor, vec2: Tensor, beta: Any, alpha: Any) -> Tensor:
    return _blend("addr", input, outer(vec1, vec2), beta, alpha)


def _addr_infer(input: Any, vec1: Any, vec2: Any, beta: Any = 1, alpha: Any = 1) -> tuple:
    if input.dtype.category < dt.FLOAT and (isinstance(beta, float) or isinstance(alpha, float)):
        raise KilnError(
            "addr", "beta and alpha must be integers for integral tensors", f"{beta}, {alpha}", ""
        )
    if len(vec1.shape) != 1 or len(vec2.shape) != 1:
        raise KilnError("addr", "vec1 and vec2 must be vectors", describe((vec1, vec2)), "reshape(-1)")  # fmt: skip
    same_dtype("addr", input, vec1, vec2)
    shape = Size((vec1.shape[0], vec2.shape[0]))
    if broadcast_shapes(input.shape, shape, op="addr") != shape:
        raise KilnError("addr", f"input must expand to {list(shape)}", describe(input), "check its shape")  # fmt: skip
    return shape, input.dtype


@op(
    inplace=True, out="cast", infer=_addr_infer, body=_addr_body,
    grad={
        "input": lambda g, beta: g if beta == 1 else g * conjugate(beta),
        "vec1": lambda g, vec2, alpha: mv(g, conjugate(vec2)) * conjugate(alpha),
        "vec2": lambda g, vec1, alpha: mv(g.t(), conjugate(vec1)) * conjugate(alpha),
    },
    samples=_adding(((2, 3), (2,), (3,)), ((3,), (2,), (3,)), bad=(((2, 4), (2,), (3,)), ((2, 3), (2, 1), (3,)))),
)  # fmt: skip
def addr(
    input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Any = 1, alpha: Any = 1
) -> Tensor:  # fmt: skip
    """beta * input + alpha * outer(vec1, vec2); integers need integer factors."""
    kind = input.dtype.type
    product = np.multiply.outer(vec1, vec2)
    product = product if alpha == 1 else product * kind(alpha)
    if beta == 0:
        return product
    return (input if beta == 1 else input * kind(beta)) + product


@composition(
    inplace=True,
    samples=_adding(((2, 1, 4), (2, 3, 5), (2, 5, 4)), bad=(((3, 5), (2, 3, 5), (2, 5, 4)),)),
)
def baddbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:
    """beta * input + alpha * bmm(batch1, batch2)."""
    r = _rounded_once("baddbmm", bmm, input, batch1, batch2, beta, alpha)
    return _stored(r, out, input, beta)


@composition(
    inplace=True,
    samples=_adding(((3, 4), (2, 3, 5), (2, 5, 4)), bad=(((3, 5), (2, 3, 5), (2, 5, 4)),)),
)
def addbmm(
    input: Tensor,
    batch1: Tensor,
    batch2: Tensor,
    *,
    beta: Any = 1,
    alpha: Any = 1,
    out: Tensor | None = None,
) -> Tensor:
    """beta * input + alpha * (the sum of bmm(batch1, batch2) over the batch)."""
    product = sum_op(bmm(batch1, batch2), 0, False)
    r = _blend("addbmm", input, product.to(batch1.dtype), beta, alpha).contiguous()
    return _stored(r, out, input, beta)
