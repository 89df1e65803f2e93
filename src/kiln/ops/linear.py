"""Linear and bilinear maps, and the directions and distances of vectors."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, describe
from ..shape import Size, numel
from ..tensor import Tensor, wrap
from .arithmetic import conjugate
from .linalg import product
from .reduction import accurate_sum
from .registry import FUNCTIONS, REGISTRY, Sample, composition, op
from .samples import draw, rng, strided
from .storing import store_out

_F32, _F64 = dt.float32.np, dt.float64.np

# ---------------------------------------------------------------- linear


def _linear_infer(input: Any, weight: Any, bias: Any = None) -> tuple:
    xs, ws = input.shape, weight.shape
    given = f"input={describe(input)}, weight={describe(weight)}" + (
        "" if bias is None else f", bias={describe(bias)}"
    )
    if len(ws) not in (1, 2) or len(xs) == 0:
        raise KilnError("linear", "weight must be (out, in) or (in,) and input (*, in)", given, "")
    if xs[-1] != ws[-1]:
        raise KilnError(
            "linear", f"input has {xs[-1]} features and weight takes {ws[-1]}", given,
            "the last size of input must equal the last size of weight",
        )  # fmt: skip
    if any(x is not None and x.dtype is not input.dtype for x in (weight, bias)):
        raise KilnError(
            "linear",
            "input, weight and bias must have the same dtype",
            given,
            "convert one of them",
        )
    out = (*xs[:-1], *ws[:-1])
    if bias is not None and tuple(bias.shape) not in ((), (1,), tuple(ws[:-1])):
        raise KilnError("linear", "bias must be (out,)", given, "one bias for each output feature")
    return Size(out), input.dtype


def _rows(x: Tensor) -> Tensor:
    """Everything but the last dimension as one."""
    return x if x.ndim == 2 else x.reshape(numel(x.shape[:-1]), x.shape[-1] if x.ndim else 1)


def _flat_rows(a: np.ndarray) -> np.ndarray:
    return a if a.ndim == 2 else a.reshape(numel(a.shape[:-1]), a.shape[-1])


@op(
    private=True, family="contraction", check=False,
    infer=lambda grad, input: (Size((grad.shape[-1], input.shape[-1])), grad.dtype),
    grad={"grad": lambda g, input: linear(conjugate(input), g), "input": lambda g, grad: conjugate(grad) @ g},
    quick={"grad": lambda g, input: product(input, g.T), "input": lambda g, grad: product(grad, g)},
    body=lambda grad, input: _rows(grad).transpose(0, 1) @ _rows(input),
    samples=lambda: iter([Sample((draw(rng(), (4, 3)), draw(rng(1), (4, 2)))),
                          Sample((draw(rng(), (2, 4, 3)), draw(rng(1), (2, 4, 2))))]),
)  # fmt: skip
def linear_weight_grad(grad: Tensor, input: Tensor) -> Tensor:
    """The gradient of linear's weight: (*, out) and (*, in) give (out, in)."""
    return np.matmul(_flat_rows(grad).T, _flat_rows(input))


def _input_grad(g: Tensor, weight: Tensor, in_shape: Any) -> Tensor:
    weight = conjugate(weight)
    if weight.ndim == 1:
        return (_rows(g.unsqueeze(-1)) @ weight.unsqueeze(0)).reshape(in_shape)
    return g @ weight


def _weight_grad(g: Tensor, input: Tensor, in_shape: Any) -> Tensor:
    input = conjugate(input)
    if len(in_shape) == 2 and input.ndim > 1:
        return linear_weight_grad(g, input)
    if len(in_shape) == 1:
        g = g.unsqueeze(-1)
    return (_rows(g).transpose(0, 1) @ _rows(input)).reshape(in_shape)


def _bias_grad(g: Tensor, in_shape: Any) -> Tensor:
    if len(in_shape) == 1 and g.ndim and in_shape[0] == g.shape[-1]:
        return _rows(g).sum(0)
    return g.sum().reshape(in_shape)


def _quick_input(g: np.ndarray, weight: np.ndarray, in_shape: Any) -> np.ndarray:
    if weight.ndim == 2:
        return product(g, weight)
    return np.multiply.outer(g, weight).reshape(in_shape)


def _quick_weight(g: np.ndarray, input: np.ndarray, in_shape: Any) -> np.ndarray:
    if g.ndim == 2 and len(in_shape) == 2:
        return product(g.T, input)
    rows = _flat_rows(g) if len(in_shape) == 2 else g.reshape(-1, 1)
    return product(rows.T, _flat_rows(input)).reshape(in_shape)


_ZERO = {d: np.zeros((), d) for d in (_F32, _F64)}


def _quick_bias(g: np.ndarray, in_shape: Any) -> np.ndarray:
    if g.ndim == 2 and len(g) == 1 and g.shape[1:] == in_shape:
        return np.add(g[0], _ZERO[g.dtype])  # as a sum begins with 0, which is seen in -0
    if len(in_shape) == 1 and g.ndim and in_shape[0] == g.shape[-1]:
        return accurate_sum(_flat_rows(g), 0)
    return np.asarray(accurate_sum(g)).reshape(in_shape)


def _linear_body(input: Tensor, weight: Tensor, bias: Any) -> Tensor:
    out = input @ (weight.transpose(0, 1) if weight.ndim == 2 else weight)
    return out if bias is None else out + bias


def _linear_samples() -> Any:
    r = rng()
    for xs, ws, bs in (((2, 3), (4, 3), (4,)), ((3,), (4, 3), (4,)), ((2, 5, 3), (4, 3), (4,)), ((2, 3), (4, 3), None),
                       ((0, 3), (4, 3), (4,)), ((2, 0), (4, 0), (4,)), ((2, 3), (3,), None),
                       ((2, 3, 0), (4, 0), (4,)), ((2, 5, 3), (0, 3), (0,))):  # fmt: skip
        yield Sample((draw(r, xs), draw(r, ws), None if bs is None else draw(r, bs)))
    yield Sample((strided(draw(r, (5, 3))), strided(draw(r, (4, 3)))))
    yield Sample((draw(r, (2, 3)) + 1j, draw(r, (4, 3)) - 2j, draw(r, (4,)) + 0j))
    yield Sample((draw(r, (2, 3)), draw(r, (4, 2))), error=RuntimeError)
    yield Sample((draw(r, (2, 3)), draw(r, (4, 3)).astype(np.float32)), error=RuntimeError)


def _linear_batch(n: int, input: Any, weight: Any, bias: Any) -> Any:
    if weight.batched or weight.ndim != 2 or (bias is not None and bias.batched):
        return None
    return input.tensor, weight.tensor, None if bias is None else bias.tensor


def _linear_node(node: Any) -> str:
    if node.rank(0) > 2:
        return "ViewBackward0"
    return "AddmmBackward0" if any(i == 2 for i, _ in node.plan.slots) else "MmBackward0"


@op(
    node=("AddmmBackward0", _linear_node), family="contraction", namespace="F", exact=True, check=False, infer=_linear_infer, samples=_linear_samples, out=True,
    batch=_linear_batch,
    grad={"input": _input_grad, "weight": _weight_grad, "bias": _bias_grad}, body=_linear_body,
    quick={"input": _quick_input, "weight": _quick_weight, "bias": _quick_bias},
)  # fmt: skip
def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """input @ weight.T + bias: input (*, in), weight (out, in), bias (out,) give (*, out)."""
    d = input.dtype
    if (
        (d is _F32 or d is _F64)
        and input.ndim == 2
        and bias is not None
        and d is weight.dtype
        and d is bias.dtype
        and weight.ndim == 2
    ):
        out = input.dot(weight.T)
        return np.add(out, bias, out)
    if d != weight.dtype or (bias is not None and bias.dtype != d):
        raise TypeError  # the shape rule tells why
    if d.kind == "V" or d == np.float16:
        out = linear.op.reference(
            *(None if x is None else x.astype(np.float32) for x in (input, weight, bias))
        )
        return out.astype(d)
    if input.ndim > 2 and weight.ndim == 2:
        x = input.reshape(-1, input.shape[-1]) if input.size else input
        out = np.matmul(x, weight.T)
        if x is not input:
            out = out.reshape(*input.shape[:-1], weight.shape[0])
    else:
        out = np.matmul(input, weight.T)
    if bias is not None:
        out = np.add(out, bias, out=out if out.__class__ is np.ndarray else None)
    return out


def _bilinear_samples() -> Any:
    r = rng()
    yield Sample((draw(r, (2, 3)), draw(r, (2, 4)), draw(r, (5, 3, 4)), draw(r, (5,))))
    yield Sample((draw(r, (2, 6, 3)), draw(r, (2, 6, 4)), draw(r, (5, 3, 4))))
    yield Sample((draw(r, (2, 3)), draw(r, (2, 3)), draw(r, (5, 3, 4))), error=RuntimeError)


@composition(namespace="F", samples=_bilinear_samples)
def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """sum_ij input1_i * weight_kij * input2_j + bias_k: (*, in1), (*, in2), (out, in1, in2) give (*, out)."""
    if weight.shape[1] != input1.shape[-1] or weight.shape[2] != input2.shape[-1]:
        raise KilnError(
            "bilinear", "weight must be (out, in1, in2)",
            f"{describe(input1)}, {describe(input2)}, weight={describe(weight)}", "",
        )  # fmt: skip
    left = input1 @ weight.transpose(0, 1).reshape(
        weight.shape[1], weight.shape[0] * weight.shape[2]
    )
    left = left.reshape(*input1.shape[:-1], weight.shape[0], weight.shape[2])
    out = (left * input2.unsqueeze(-2)).sum(-1, dtype=left.dtype)
    return out if bias is None else out + bias


# ---------------------------------------------------------------- directions


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)),)), Sample((draw(rng(), (3, 4)), 1.0, 0)), Sample((draw(rng(), (5,)), 2, 0)),
]))  # fmt: skip
def normalize(
    input: Tensor, p: float = 2.0, dim: Any = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    """input divided by its p-norm along dim, which counts as at least eps."""
    r = input / input.norm(p, dim, True).clamp_min(eps).expand_as(input)
    return store_out(REGISTRY["div"], r, out, (input,))


@composition(fused="rounded", method=False, samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 4)))), Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)))),
    Sample((draw(rng(), (4,)), draw(rng(1), (4,)), 0)), Sample((draw(rng(), (3, 4)), draw(rng(1), (5,))), error=RuntimeError),
]))  # fmt: skip
def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between x1 and x2 along dim; norms count as at least eps."""
    x1, x2 = FUNCTIONS["broadcast_tensors"](x1, x2)
    n1, n2 = (x.norm(2, dim, True).clamp_min(eps) for x in (x1, x2))
    return ((x1 / n1) * (x2 / n2)).sum(dim)


FUNCTIONS["nn.functional.cosine_similarity"] = cosine_similarity


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (3, 4)), draw(rng(1), (3, 4)))), Sample((draw(rng(), (3, 4)), draw(rng(1), (4,)), 1.0)),
    Sample((draw(rng(), (4,)), draw(rng(1), (4,)), 2.0, 1e-6, True)),
]))  # fmt: skip
def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dimension."""
    return (x1 - x2 + eps).norm(p, -1, keepdim)


@composition(namespace="F", samples=lambda: iter([
    Sample((draw(rng(), (4, 3)),)), Sample((draw(rng(), (4, 3)), 1.0)), Sample((draw(rng(), (3,)),), error=RuntimeError),
]))  # fmt: skip
def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distance of every pair of rows i < j of (n, m), row by row."""
    if input.ndim != 2:
        raise KilnError(
            "pdist", "pdist only supports 2D tensors", describe(input), "(points, coordinates)"
        )
    n = input.shape[0]
    i, j = (wrap(x) for x in np.triu_indices(n, 1))
    if p == 2 and n:
        distances = FUNCTIONS["cdist"](input, input)
        return distances.reshape(n * n).index_select(0, i * n + j)
    return (input.index_select(0, i) - input.index_select(0, j)).norm(p, -1)
