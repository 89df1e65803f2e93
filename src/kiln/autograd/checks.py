"""Gradients against finite differences.

A complex number counts as its two real parts, so that one comparison serves real and complex
functions: for a weight u of the outputs, `Re <u, f(x + h) - f(x)> = Re <grad, h>`.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import dtypes as dt
from ..errors import KilnError, KilnNotImplementedError, KilnValueError, KilnWarning, describe
from ..tensor import Tensor, wrap
from .engine import grad
from .forward_ad import dual_level, make_dual, unpack_dual


class GradcheckError(KilnError):
    """A gradient that differs from the finite difference."""


def _parts(a: np.ndarray) -> np.ndarray:
    """The numbers of an array as a flat array of real numbers."""
    a = np.ascontiguousarray(a)
    if a.dtype.kind == "c":
        return a.astype(np.complex128).view(np.float64).ravel()
    return a.astype(np.float64).ravel()


def _units(a: np.ndarray) -> list[np.ndarray]:
    """One array like `a` for each of its real parts, 1 there and 0 elsewhere."""
    steps = (1, 1j) if a.dtype.kind == "c" else (1,)
    out = []
    for i in range(a.size):
        for s in steps:
            e = np.zeros(a.shape, a.dtype)
            e.reshape(-1)[i] = s
            out.append(e)
    return out


def _random(a: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    v = rng.standard_normal(a.shape)
    if a.dtype.kind == "c":
        v = v + 1j * rng.standard_normal(a.shape)
    v = np.asarray(v).astype(a.dtype)
    norm = np.linalg.norm(_parts(v))
    return v / norm if norm else v


class _Check:
    """A function, its inputs, and which of its outputs and inputs are differentiated."""

    def __init__(self, func: Callable, inputs: Any, op: str):
        self.func, self.op = func, op
        self.inputs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
        self.wanted = [x for x in self.inputs if isinstance(x, Tensor) and x.requires_grad]
        if not self.wanted:
            raise KilnValueError(
                op, "at least one input tensor must require grad", describe(self.inputs),
                "make it with requires_grad=True",
            )  # fmt: skip
        for x in self.wanted:
            if x.dtype not in (dt.float64, dt.complex128):
                warnings.warn(
                    f"{op}: an input of dtype {x.dtype.name} requires grad; finite differences need "
                    "double precision", KilnWarning, stacklevel=4,
                )  # fmt: skip
            axes = zip(x._a.strides, x._a.shape, strict=True)
            if x._a.size and any(s == 0 and n > 1 for s, n in axes):
                raise KilnError(
                    op, "an input has elements that share memory", describe(x), "clone() it first"
                )
        outputs = self._outputs()
        self.kept = [
            i
            for i, o in enumerate(outputs)
            if isinstance(o, Tensor) and o.dtype.category >= dt.FLOAT
        ]
        self.outputs: list[Tensor] = [outputs[i] for i in self.kept]

    def _outputs(self) -> list[Any]:
        out = self.func(*self.inputs)
        return list(out) if isinstance(out, tuple | list) else [out]

    def values(self) -> list[np.ndarray]:
        """The outputs' values at the inputs as they are now."""
        outputs = self._outputs()
        return [outputs[i]._a.copy() for i in self.kept]

    def difference(self, x: Tensor, h: np.ndarray, eps: float) -> list[np.ndarray]:
        """The derivative of the outputs in direction `h` of one input, by central differences."""
        a, old = x._a, x._a.copy()
        try:
            a[...] = old + eps * h
            high = self.values()
            a[...] = old - eps * h
            low = self.values()
        finally:
            a[...] = old
        return [(p - m) / (2 * eps) for p, m in zip(high, low, strict=True)]

    def gradients(self, output: Tensor, u: np.ndarray) -> list[np.ndarray]:
        """The gradients of the inputs for weights `u` of one output."""
        if not output.requires_grad:
            return [np.zeros_like(x._a) for x in self.wanted]
        gs = grad([output], self.wanted, [wrap(u)], retain_graph=True, allow_unused=True)
        for g, x in zip(gs, self.wanted, strict=True):
            if g is not None and (g.shape != x.shape or g.dtype is not x.dtype):
                raise GradcheckError(
                    self.op, "a gradient has another shape or dtype than its input",
                    f"{describe(g)} for {describe(x)}", "",
                )  # fmt: skip
        return [
            np.zeros_like(x._a) if g is None else g._a.copy()
            for g, x in zip(gs, self.wanted, strict=True)
        ]

    def fail(self, i: int, j: int, analytic: np.ndarray, numeric: np.ndarray) -> None:
        with np.printoptions(precision=6, threshold=60):
            raise GradcheckError(
                self.op, f"the gradient of output {i} with respect to input {j} is wrong",
                f"computed {analytic}\nby finite differences {numeric}",
                "check backward; kinks and inputs close to them fail as well",
            )  # fmt: skip

    def full(self, eps: float, atol: float, rtol: float) -> None:
        """Compare the whole Jacobians."""
        ana = [[_stack(gs) for gs in zip(*rows, strict=True)] for rows in self._rows()]
        for j, x in enumerate(self.wanted):
            columns = [self.difference(x, h, eps) for h in _units(x._a)]
            for i, o in enumerate(self.outputs):
                if not columns or not o.numel():
                    continue
                numeric = np.stack([_parts(c[i]) for c in columns], 1)
                if not np.allclose(ana[i][j], numeric, rtol, atol):
                    self.fail(i, j, ana[i][j], numeric)

    def _rows(self) -> list[list[list[np.ndarray]]]:
        return [[self.gradients(o, u) for u in _units(o._a)] for o in self.outputs]

    def fast(self, eps: float, atol: float, rtol: float) -> None:
        """Compare the Jacobians between random directions: one number for each input and output."""
        rng = np.random.default_rng(0)
        us = [_random(o._a, rng) for o in self.outputs]
        ana = [self.gradients(o, u) for o, u in zip(self.outputs, us, strict=True)]
        for j, x in enumerate(self.wanted):
            h = _random(x._a, rng)
            change = self.difference(x, h, eps)
            for i, u in enumerate(us):
                numeric = _parts(u) @ _parts(change[i])
                analytic = _parts(ana[i][j]) @ _parts(h)
                if not np.allclose(analytic, numeric, rtol, atol):
                    self.fail(i, j, analytic, numeric)

    def forward(self, eps: float, atol: float, rtol: float) -> None:
        """Compare the tangents that forward mode gives along each element of each input."""
        for j, x in enumerate(self.wanted):
            for h in _units(x._a):
                change = self.difference(x, h, eps)
                with dual_level():
                    given = [make_dual(y.detach(), wrap(h)) if y is x else y for y in self.inputs]
                    out = self.func(*given)
                    outputs = list(out) if isinstance(out, tuple | list) else [out]
                    found = [unpack_dual(outputs[i]).tangent for i in self.kept]
                for i, (t, numeric) in enumerate(zip(found, change, strict=True)):
                    tangent = np.zeros_like(numeric) if t is None else t.detach()._a
                    if not np.allclose(tangent, numeric, rtol, atol):
                        self.fail(i, j, tangent, numeric)

    def repeatable(self, tolerance: float) -> None:
        """Check that the same gradients come out twice."""
        for o in self.outputs:
            u = np.ones(o.shape, o._a.dtype)
            for a, b in zip(self.gradients(o, u), self.gradients(o, u), strict=True):
                if a.size and np.abs(a - b).max() > tolerance:
                    raise GradcheckError(
                        self.op, "backward is not deterministic: two runs differ",
                        f"by {np.abs(a - b).max():g}", "allow it with nondet_tol",
                    )  # fmt: skip


def _stack(gradients: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack([_parts(g) for g in gradients])


def _unsupported(op: str, **flags: bool) -> None:
    for name, value in flags.items():
        if value:
            raise KilnNotImplementedError(op, f"{name} is not supported", "True", "leave it out")


def gradcheck(
    func: Callable[..., Any],
    inputs: Any,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Whether `func`'s gradients agree with finite differences: |a - n| <= atol + rtol |n|.

    `inputs` are its arguments; those that require grad are checked and should be float64 or
    complex128. Every output is differentiated alone, so unused outputs are covered. `fast_mode`
    compares one random direction for each pair instead of whole Jacobians. `check_forward_ad` checks the
    tangents of forward mode likewise.
    """
    _unsupported(
        "gradcheck", check_batched_grad=check_batched_grad,
        check_batched_forward_grad=check_batched_forward_grad, masked=bool(masked),
    )  # fmt: skip
    check = _Check(func, inputs, "gradcheck")
    try:
        if check_backward_ad:
            (check.fast if fast_mode else check.full)(eps, atol, rtol)
            check.repeatable(nondet_tol)
        if check_forward_ad:
            check.forward(eps, atol, rtol)
    except GradcheckError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Any,
    grad_outputs: Any = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool = False,
) -> bool:
    """Whether the gradients of `func`'s gradients agree with finite differences.

    They are taken with respect to the inputs and to `grad_outputs`, which are random unless given.
    """
    _unsupported("gradgradcheck", check_fwd_over_rev=check_fwd_over_rev)
    if not check_rev_over_rev:
        return True
    inputs = tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)
    outputs = func(*inputs)
    outputs = list(outputs) if isinstance(outputs, tuple | list) else [outputs]
    kept = [i for i, o in enumerate(outputs) if isinstance(o, Tensor) and o.requires_grad]
    if grad_outputs is None:
        rng = np.random.default_rng(0)
        weights = [_weight(outputs[i]._a, rng, gen_non_contig_grad_outputs) for i in kept]
    else:
        weights = list(grad_outputs) if isinstance(grad_outputs, tuple | list) else [grad_outputs]

    def gradients(*args: Any) -> tuple[Tensor, ...]:
        xs, us = args[: len(inputs)], args[len(inputs) :]
        out = func(*xs)
        out = list(out) if isinstance(out, tuple | list) else [out]
        wanted = [x for x in xs if isinstance(x, Tensor) and x.requires_grad]
        gs = grad([out[i] for i in kept], wanted, list(us), create_graph=True, allow_unused=True)
        return tuple(g for g in gs if g is not None)

    return gradcheck(
        gradients, (*inputs, *weights), eps=eps, atol=atol, rtol=rtol,
        raise_exception=raise_exception, nondet_tol=nondet_tol, check_grad_dtypes=check_grad_dtypes,
        check_batched_grad=check_batched_grad, fast_mode=fast_mode, masked=masked,
    )  # fmt: skip


def _weight(a: np.ndarray, rng: np.random.Generator, strided: bool) -> Tensor:
    v = rng.standard_normal(a.shape)
    if a.dtype.kind == "c":
        v = v + 1j * rng.standard_normal(a.shape)
    v = np.asarray(v).astype(a.dtype)
    if strided and v.ndim:
        v = np.repeat(v, 2, axis=-1)[..., ::2]
    out = wrap(v)
    out.requires_grad = True
    return out
