"""The same calls in PyTorch: values, dtypes, gradients, double gradients and error classes."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from cases import ALL, Case, Report, cast, convert, leaves, tensors

from kiln import dtypes as dt
from kiln.autograd import grad
from kiln.errors import KilnError
from kiln.ops.registry import FUNCTIONS
from kiln.shape import Size
from kiln.tensor import wrap

torch = pytest.importorskip("torch", reason="PyTorch is not installed: extra [peers]")
pytestmark = pytest.mark.peers

TOLERANCE = {dt.float32: 1e-4, dt.float16: 2e-2, dt.bfloat16: 8e-2, dt.complex64: 1e-4}
# torch resizes uint8 images in fixed point, with weights that depend on the machine: a step off is right
FIXED_POINT = {"interpolate", "upsample"}
DIFFERENT = {
    "airy_ai": "of int32's ends: float32 has no digits of the phase there",
    "gradient": "between equal places, where torch has NaN for some of Kiln's infinities",
    "histogram": "torch takes bfloat16 where edges or density are given, and refuses it otherwise",
    "histogramdd": "torch takes bfloat16 where edges or density are given, and refuses it otherwise",
    "matrix_exp": "torch's is wrong in bfloat16 (docs/coverage.md)",
}
SWEEP = (dt.float32, dt.bfloat16, dt.int64, dt.int32, dt.uint8, dt.bool_)
QUICK = (dt.float32, dt.int64, dt.bool_)


def counterpart(case: Case) -> Any:
    """PyTorch's function or method of that name, or None."""
    name = case.torch_name or case.name
    if case.op is not None and case.op.private and not case.torch_name:
        return None
    where: Any = torch
    if "." in name:
        for part in name.removeprefix("torch.").split("."):
            where = getattr(where, part, None)
        return where
    if case.namespace == "F" or (name not in FUNCTIONS and f"nn.functional.{name}" in FUNCTIONS):
        return getattr(torch.nn.functional, name, None)
    for part in filter(None, case.namespace.split(".")):
        where = getattr(where, part)
    plain = getattr(where, name, None) or getattr(torch.Tensor, name, None)
    functional = getattr(torch.nn.functional, name, None)
    if plain is None or functional is None or functional is plain:
        return plain or functional

    def either(*args: Any, **kwargs: Any) -> Any:  # torch.max_pool2d knows less than F.max_pool2d
        try:
            return plain(*args, **kwargs)
        except TypeError as e:
            if "unexpected keyword" not in str(e):
                raise
            return functional(*args, **kwargs)

    return either


def to_torch(a: np.ndarray) -> Any:
    """A torch tensor with a copy of the array, strides kept."""
    if a.dtype == dt.bfloat16.np:
        return torch.from_numpy(a.astype(np.float32)).to(torch.bfloat16)
    if any(s < 0 for s in a.strides):
        a = a.copy()
    out = torch.empty_strided(a.shape, [s // a.itemsize for s in a.strides], dtype=OF[a.dtype])
    out.copy_(torch.from_numpy(np.ascontiguousarray(a)).reshape(a.shape))
    return out


OF = {d.np: getattr(torch, d.name) for d in dt.ALL}


def to_numpy(t: Any) -> np.ndarray:
    t = t.detach()
    return (t.float() if t.dtype is torch.bfloat16 else t).numpy(force=True)


def attribute(x: Any) -> Any:
    """Kiln's dtypes and sizes as torch's."""
    if isinstance(x, dt.dtype):
        return getattr(torch, x.name)
    if isinstance(x, Size):
        return torch.Size(x)
    if isinstance(x, list | tuple):
        return type(x)(map(attribute, x))
    if isinstance(x, dict):
        return {k: attribute(v) for k, v in x.items()}
    return x


def torch_call(case: Case, sample: Any, array: Any = lambda a: a) -> tuple[Any, tuple, dict]:
    args = attribute(convert(sample.args, lambda a: to_torch(array(a))))
    kwargs = attribute(convert(sample.kwargs, lambda a: to_torch(array(a))))
    return counterpart(case), args, kwargs


def torch_leaves(x: Any) -> list:
    if isinstance(x, torch.Tensor):
        return [x]
    if isinstance(x, list | tuple):
        return [t for y in x for t in torch_leaves(y)]
    if isinstance(x, dict):
        return [t for y in x.values() for t in torch_leaves(y)]
    return []


def run_torch(fn: Any, args: tuple, kwargs: dict) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fn(*args, **kwargs)


def differs(got: Any, want: Any, tolerance: float, random: bool = False) -> str:
    """Empty where Kiln's result is torch's."""
    a, b = leaves(got), torch_leaves(want)
    if len(a) != len(b):
        return f"{len(a)} tensors where torch has {len(b)}"
    for x, y in zip(a, b, strict=True):
        if x.dtype.name != str(y.dtype).removeprefix("torch.") or tuple(x.shape) != tuple(y.shape):
            return f"{x.dtype.name}{list(x.shape)} where torch has {y.dtype}{list(y.shape)}"
        u, v = x._a, to_numpy(y)
        if u.dtype in (dt.bfloat16.np, dt.float16.np):
            u, v = u.astype(np.float64), v.astype(np.float64)
        if not random and not np.allclose(u, v, tolerance, tolerance, equal_nan=True):
            return f"values differ:\n{u}\nwhere torch has\n{v}"
    if not a and isinstance(want, bool | int | float) and got != want:
        return f"{got!r} where torch has {want!r}"
    return ""


CASES = [c for c in ALL if counterpart(c) is not None]


def test_most_ops_have_a_counterpart(counts):
    counts["compared with torch"] += len(CASES)
    assert len(CASES) > 0.6 * len(ALL)


@pytest.mark.parametrize("case", [c for c in CASES if c.good], ids=lambda c: c.id)
def test_values(case, counts):
    report = Report(case)
    for i, s in case.good:
        args, kwargs = tensors(s)
        counts["values compared with torch"] += 1
        try:
            want = run_torch(*torch_call(case, s))
        except Exception as e:
            if not missing_kernel(e):
                report.add(i, s, f"torch refuses: {type(e).__name__}: {e}")
            continue
        try:
            error = differs(case(*args, **kwargs), want, 1e-7, case.random)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        if error:
            report.add(i, s, error)
    report.finish()


@pytest.mark.parametrize("case", [c for c in CASES if c.good], ids=lambda c: c.id)
def test_layouts(case, counts):
    """What PyTorch lays out in row-major order is so here: `view` takes it."""
    if case.name == "scaled_dot_product_attention":
        pytest.skip("torch's layout depends on the kernel that it picks")
    report = Report(case)
    for i, s in case.good:
        args, kwargs = tensors(s)
        if not all(t.is_contiguous() for t in leaves([args, kwargs])):
            continue
        counts["layouts compared with torch"] += 1
        try:
            want = run_torch(*torch_call(case, s))
        except Exception:  # told by test_values
            continue
        for x, y in zip(leaves(case(*args, **kwargs)), torch_leaves(want), strict=True):
            if y.is_contiguous() and not x.is_contiguous():
                report.add(i, s, f"strides {x.stride()} where torch has {y.stride()}")
    report.finish()


@pytest.mark.parametrize("case", [c for c in CASES if c.good], ids=lambda c: c.id)
def test_dtypes(case, full, counts):
    """In every dtype that torch takes Kiln gives the same; floats that torch refuses Kiln refuses."""
    if full and case.name in DIFFERENT:
        pytest.skip(DIFFERENT[case.name])
    report = Report(case)
    for i, s in case.good if full else case.good[:3]:
        for d in SWEEP if full else QUICK:

            def narrow(a, d=d):
                return cast(a, d)

            args, kwargs = tensors(s, narrow)
            if not any(t.dtype is d for t in leaves([args, kwargs])):
                continue
            counts["dtypes compared with torch"] += 1
            want: Any = None
            refused = None
            try:
                want = run_torch(*torch_call(case, s, narrow))
            except Exception as e:
                refused = e
            try:
                got = case(*args, **kwargs)
            except KilnError as e:
                given, made = leaves([args, kwargs]), torch_leaves(want)
                nothing = refused is None and not all(t.numel() for t in (*given, *made))
                if (
                    refused is None and not nothing
                ):  # torch looks for a kernel only where there is work
                    report.add(i, s, f"{d.name}: refused ({e}) where torch gives {want}")
                continue
            except Exception as e:
                report.add(i, s, f"{d.name}: {type(e).__name__}: {e}")
                continue
            if refused is None:
                if d is dt.uint8 and case.name in FIXED_POINT:
                    got = near(got, want)
                ties = case.op is not None and case.op.nondiff_outputs and d is not dt.float32
                if error := differs(got, want, TOLERANCE.get(d, 1e-4), case.random or bool(ties)):
                    report.add(i, s, f"{d.name}: {error}")
            elif d.is_floating_point and not missing_kernel(refused):
                report.add(i, s, f"{d.name}: gave {got} where torch refuses: {refused}")
            else:
                counts["dtypes that Kiln takes and torch does not"] += 1
    report.finish()


def near(got: Any, want: Any) -> Any:
    """torch's integers where Kiln's are at most one off."""
    mine, theirs = got._a.astype(np.int64), to_numpy(want).astype(np.int64)
    return wrap(to_numpy(want)) if np.abs(mine - theirs).max(initial=0) <= 1 else got


def missing_kernel(e: Exception) -> bool:
    """Whether torch refused only because nobody wrote that kernel for the CPU."""
    return any(
        words in str(e)
        for words in (
            "not implemented for",
            "not supported on",
            "Could not run",
            "not currently supported",
        )
    )


@pytest.mark.parametrize("case", [c for c in CASES if c.bad], ids=lambda c: c.id)
def test_error_classes(case, counts):
    """What a sample says is refused, torch refuses with the class that the sample names."""
    report = Report(case)
    for i, s in case.bad:
        counts["errors compared with torch"] += 1
        try:
            got = run_torch(*torch_call(case, s))
        except Exception as e:
            if not isinstance(e, s.error):
                report.add(
                    i, s, f"torch raises {type(e).__name__} ({e}), the sample {s.error.__name__}"
                )
        else:
            report.add(i, s, f"torch gives {got}, the sample {s.error.__name__}")
    report.finish()


GRAD_CASES = [c for c in CASES if c.good and not c.random and (c.op is None or c.op.differentiable)]


@pytest.mark.parametrize("case", GRAD_CASES, ids=lambda c: c.id)
def test_gradients(case, full, counts):
    """First and second gradients for random weights of the outputs."""
    report = Report(case)
    for i, s in case.good if full else case.good[:6]:
        if not s.grad:
            continue
        counts["gradients compared with torch"] += 1
        try:
            theirs = torch_gradients(*torch_call(case, s), s.fixed)
        except RuntimeError:  # torch has no gradient here
            continue
        try:
            args, kwargs = tensors(s)
            ours = kiln_gradients(case, args, kwargs, s.fixed)
            for order, (a, b) in enumerate(zip(ours, theirs, strict=True), 1):
                for j, (g, h) in enumerate(zip(a, b, strict=True)):
                    error = gradient_differs(g, h)
                    # torch takes short cuts for empty and single elements
                    taken = g is not None and h is not None and h.numel() > 1
                    taken = taken and all(t.numel() for t in leaves(args))
                    if order == 1 and taken and tracked(g) is not tracked(h):
                        error = error or f"requires grad: {tracked(g)}, in torch {tracked(h)}"
                    if error:
                        report.add(i, s, f"gradient of order {order}, input {j}: {error}")
        except Exception as e:
            report.add(i, s, f"{type(e).__name__}: {e}")
    report.finish()


def tracked(g: Any) -> bool:
    """Whether a gradient can be differentiated again, be it to zeros."""
    return g is not None and g.requires_grad


def gradient_differs(g: Any, h: Any) -> str:
    """Empty where two gradients agree; none is the same as zeros."""
    u = 0.0 if g is None else g._a
    v = 0.0 if h is None else to_numpy(h)
    if g is not None and h is not None and (u.shape != v.shape or u.dtype != v.dtype):
        return f"{u.dtype}{list(u.shape)} where torch has {v.dtype}{list(v.shape)}"
    return "" if np.allclose(u, v, 1e-6, 1e-8, equal_nan=True) else f"{u}\nwhere torch has\n{v}"


def weight(shape: tuple, kind: np.dtype, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal(shape)
    if kind.kind == "c":
        w = w + 1j * rng.standard_normal(shape)
    return np.asarray(w).astype(kind)


def kiln_gradients(case: Case, args: tuple, kwargs: dict, fixed: tuple) -> tuple[list, list]:
    free = {k: v for k, v in kwargs.items() if k not in fixed}
    inputs = [t for t in leaves([args, free]) if t.dtype in (dt.float64, dt.complex128)]
    for t in inputs:
        t.requires_grad = True
    outs = [t for t in leaves(case(*args, **kwargs)) if t.requires_grad]
    us = [wrap(weight(t.shape, t._a.dtype, k)) for k, t in enumerate(outs)]
    first = list(grad(outs, inputs, us, create_graph=True, allow_unused=True))
    again = [g for g in first if g is not None and g.requires_grad]
    vs = [wrap(weight(g.shape, g._a.dtype, 50 + k)) for k, g in enumerate(first)
          if g is not None and g.requires_grad]  # fmt: skip
    second = list(grad(again, inputs, vs, allow_unused=True)) if again else [None] * len(inputs)
    return first, second


def torch_gradients(fn: Any, args: tuple, kwargs: dict, fixed: tuple) -> tuple[list, list]:
    free = {k: v for k, v in kwargs.items() if k not in fixed}
    inputs = [t for t in torch_leaves([args, free]) if t.dtype in (torch.float64, torch.complex128)]
    for t in inputs:
        t.requires_grad = True
    outs = [t for t in torch_leaves(run_torch(fn, args, kwargs)) if t.requires_grad]
    if not outs:
        raise RuntimeError("nothing to differentiate")
    us = [
        torch.from_numpy(weight(tuple(t.shape), to_numpy(t).dtype, k)) for k, t in enumerate(outs)
    ]
    first = list(torch.autograd.grad(outs, inputs, us, create_graph=True, allow_unused=True))
    again = [g for g in first if g is not None and g.requires_grad]
    vs = [torch.from_numpy(weight(tuple(g.shape), to_numpy(g).dtype, 50 + k))
          for k, g in enumerate(first) if g is not None and g.requires_grad]  # fmt: skip
    second = (
        list(torch.autograd.grad(again, inputs, vs, allow_unused=True))
        if again
        else [None] * len(inputs)
    )
    return first, second
