"""What every op in the registry must satisfy, derived from its definition."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from cases import (
    ALL,
    OPS,
    Case,
    Report,
    bind,
    cast,
    leaves,
    same,
    strided_copy,
    tensors,
)  # fmt: skip

import kiln
from kiln import dtypes as dt
from kiln.autograd import grad, gradcheck, gradgradcheck
from kiln.errors import KilnError
from kiln.ops.derive import inplace_function
from kiln.ops.registry import METHODS
from kiln.ops.reshaping import TURNED
from kiln.sharing import Watch
from kiln.tensor import Tensor

# how far a result in a narrow dtype may be from the same computation in float64
COARSE = {"grid_sample"}  # bfloat16 tells positions by a hundredth of a picture
TOLERANCE = {dt.float32: 2e-4, dt.float16: 2e-2, dt.bfloat16: 8e-2}
DTYPES = (dt.float32, dt.float16, dt.bfloat16, dt.int64, dt.int32, dt.uint8, dt.bool_)
QUICK = (dt.float32, dt.bfloat16, dt.int64, dt.bool_)


def each(cases: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=lambda c: c.id)


def shape_rule_error(case: Case, args: tuple, kwargs: dict, result: object) -> str:
    """Empty where the op's shape rule predicts the result."""
    assert case.op is not None
    if case.op.infer is None:  # its shape depends on the data
        return ""
    predicted = case.op.infer(*bind(case.op, args, kwargs))
    due = predicted if isinstance(predicted, list) else [predicted]
    found = [(tuple(t.shape), t.dtype) for t in leaves(result)]
    told = [(tuple(shape), d) for shape, d in due]
    return "" if told == found else f"the shape rule says {told}, the result is {found}"


def test_each_op_has_samples_and_a_docstring():
    assert not [case.name for case in OPS if not case.good]
    assert not [case.name for case in OPS if not case.op.doc]


@each(OPS)
def test_shape_rule_predicts_the_result(case, counts):
    report = Report(case)
    counts["ops"] += 1
    counts["samples of ops"] += len(case.samples)
    for i, s in case.good:
        args, kwargs = tensors(s)
        try:
            if error := shape_rule_error(case, args, kwargs, case(*args, **kwargs)):
                report.add(i, s, error)
        except Exception as e:
            report.add(i, s, f"{type(e).__name__}: {e}")
    report.finish()


@each([c for c in ALL if c.good])
def test_dtypes(case, full, counts):
    """Runs in every dtype or refuses it with a Kiln error; dtype and shape as the rule says."""
    report = Report(case)
    for i, s in case.good if full else case.good[:4]:
        for d in DTYPES if full else QUICK:
            if case.private and not d.is_floating_point:
                continue  # helpers of gradients
            args, kwargs = tensors(s, lambda a, d=d: cast(a, d))
            if not any(t.dtype is d for t in leaves([args, kwargs])):
                continue
            counts["dtype checks"] += 1
            try:
                result = case(*args, **kwargs)
                if case.op is not None and (error := shape_rule_error(case, args, kwargs, result)):
                    report.add(i, s, f"{d.name}: {error}")
                    continue
            except KilnError:
                if d is dt.float32:
                    raise
                continue
            except Exception as e:
                report.add(i, s, f"{d.name}: {type(e).__name__}: {e}")
                continue
            if d in TOLERANCE and s.grad and not case.random:
                args, kwargs = tensors(s, lambda a, d=d: cast(a, d).astype(a.dtype))
                for x, y in zip(leaves(result), leaves(case(*args, **kwargs)), strict=True):
                    tol = TOLERANCE[d] * (3 if case.name in COARSE else 1)
                    if x.dtype is d and not np.allclose(
                        x._a.astype(np.float64), y._a, tol, tol, equal_nan=True
                    ):
                        report.add(i, s, f"{d.name}: {x} differs from float64's {y}")
    report.finish()


READ_LAYOUT = ("as_strided_copy", "view_as_complex_copy", "view_copy")  # as the ops behind them do


@each([c for c in ALL if c.good])
def test_memory_layout_does_not_matter_and_inputs_are_left_alone(case, counts):
    report = Report(case)
    reads_layout = case.op.layout if case.op else case.name in READ_LAYOUT
    for i, s in case.good:
        args, kwargs = tensors(s)
        before = snapshot([args, kwargs])
        result = case(*args, **kwargs)
        if snapshot([args, kwargs]) != before:
            report.add(i, s, "an input was changed")
        if reads_layout:
            continue
        spread_args, spread_kwargs = tensors(s, strided_copy)
        counts["non-contiguous checks"] += 1
        try:
            error = same(case(*spread_args, **spread_kwargs), result, 1e-12, 1e-12)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        if error:
            report.add(i, s, error)
    report.finish()


PYTHONS_OWN = ("argument", "unsupported operand")  # errors that Python itself raises first


def snapshot(x: object) -> list[tuple]:
    return [
        (t._a.tobytes(), t.shape, t.dtype, t._version, t.requires_grad, t.grad) for t in leaves(x)
    ]


@each([c for c in ALL if c.bad])
def test_bad_input_is_refused(case, counts):
    """The class that PyTorch raises, a message in three lines, and nothing half-changed."""
    report = Report(case)
    for i, s in case.bad:
        args, kwargs = tensors(s)
        before = snapshot([args, kwargs])
        counts["bad samples"] += 1
        try:
            result = case(*args, **kwargs)
        except s.error as e:
            if isinstance(e, KilnError):
                lines = str(e).split("\n")
                if not lines[0].startswith("["):
                    report.add(i, s, f"the message does not begin with [op]: {e}")
                elif len(lines) < 2:
                    report.add(i, s, f"the message has one line: {e}")
            elif not any(w in str(e) for w in PYTHONS_OWN):
                report.add(i, s, f"{type(e).__name__} instead of a Kiln error: {e}")
        except Exception as e:
            report.add(i, s, f"{type(e).__name__} instead of {s.error.__name__}: {e}")
        else:
            report.add(i, s, f"gave {result} instead of {s.error.__name__}")
        if snapshot([args, kwargs]) != before:
            report.add(i, s, "an input was changed")
    report.finish()


def differentiable(case: Case, full: bool) -> list:
    """Samples to differentiate, as (index, sample, function of the inputs, the inputs)."""
    found = []
    for i, s in case.good:
        if not s.grad:
            continue
        args, kwargs = tensors(s)
        inputs = with_gradient(case, args, kwargs, s.fixed)
        for t in inputs:
            t.requires_grad = True

        def call(*_, args=args, kwargs=kwargs):  # gradcheck perturbs the tensors inside args
            return tuple(t for t in leaves(case(*args, **kwargs)) if t.requires_grad)

        outputs = call()
        if any(t.numel() for t in outputs) and all(
            t.dtype in DOUBLE and np.isfinite(t._a).all() for t in outputs
        ):
            found.append((i, s, call, tuple(inputs)))
    return found if full else found[:6]


DOUBLE = (dt.float64, dt.complex128)


def with_gradient(case: Case, args: tuple, kwargs: dict, fixed: tuple = ()) -> list[Tensor]:
    """The inputs that the op has gradient rules for; those that a composition differentiates."""
    free = {k: v for k, v in kwargs.items() if k not in fixed}
    inputs = [t for t in leaves([args, free]) if t.dtype in DOUBLE and t.numel()]
    if case.op is not None:
        targets = {t for rule in case.op.rules for t in rule.targets}
        bound = bind(case.op, args, kwargs)
        ours = {id(t) for p in targets for t in leaves(bound[p])}
        return [t for t in inputs if id(t) in ours]
    for t in inputs:
        t.requires_grad = True
    outs = [t for t in leaves(case(*args, **kwargs)) if t.requires_grad]
    gs = grad(outs, inputs, [t.detach() for t in outs], allow_unused=True) if outs else []
    for t in inputs:
        t.requires_grad = False
    return [t for t, g in zip(inputs, gs, strict=False) if g is not None]


GRAD_CASES = [c for c in ALL if c.good and (c.op is None or c.op.differentiable)]


@each(GRAD_CASES)
def test_gradients(case, full, counts):
    report = Report(case)
    for i, s, call, inputs in differentiable(case, full):
        counts["gradchecks"] += 1
        try:
            gradcheck(call, inputs, fast_mode=not full, nondet_tol=1e-12)
        except Exception as e:
            report.add(i, s, f"{type(e).__name__}: {e}")
    report.finish()


@each(GRAD_CASES)
def test_double_gradients(case, full, counts):
    report = Report(case)
    for i, s, call, inputs in differentiable(case, full)[: None if full else 2]:
        counts["gradgradchecks"] += 1
        try:
            gradgradcheck(call, inputs, fast_mode=True, nondet_tol=1e-12)
        except Exception as e:
            report.add(i, s, f"{type(e).__name__}: {e}")
    report.finish()


def in_place(case: Case) -> Callable | None:
    """The function `name_` of a case, if it has one."""
    if case.op is not None:
        return inplace_function(case.op) if case.op.inplace else None
    if case.name == "bernoulli":  # bernoulli_ draws with p, not with the elements that it replaces
        return None
    if case.name in TURNED:
        return None
    return METHODS.get(case.name + "_") if case.namespace == "" else None


@each([c for c in ALL if c.good and in_place(c)])
def test_in_place_form(case, counts):
    """`name_` gives what `name` gives, in the memory of its first argument; or refuses and changes nothing."""
    report, watch = Report(case), Watch()
    fn = in_place(case)
    for i, s in case.good:
        args, kwargs = tensors(s)
        if not args or not isinstance(args[0], Tensor):
            continue
        kiln.manual_seed(0)
        want = case(*args, **kwargs)
        x, memory, version = args[0], args[0]._a, args[0]._version
        fits = want.shape == x.shape and dt.can_cast(want.dtype, x.dtype)
        fits = (
            fits and kwargs.get("dtype", x.dtype) is x.dtype
        )  # a scan in another one has no place there
        before = snapshot([args, kwargs])
        counts["in-place checks"] += 1
        watch.follow([memory])
        watch.settle()
        kiln.manual_seed(0)
        try:
            got = fn(*args, **kwargs)
        except KilnError as e:
            if fits:
                report.add(i, s, e)
            elif snapshot([args, kwargs]) != before:
                report.add(i, s, "refused, but an input was changed")
            continue
        if not fits:
            report.add(
                i,
                s,
                f"{want.dtype.name}{list(want.shape)} was stored in {x.dtype.name}{list(x.shape)}",
            )
        elif got is not x or x._a is not memory or x._version != version + 1:
            report.add(
                i, s, "the result is not the first argument with its version counted up by one"
            )
        elif not watch.stale:
            report.add(i, s, "what programs keep of this memory was not told")
        elif error := same(x, want.to(x.dtype)):
            report.add(i, s, error)
    watch.follow([])
    report.finish()


@each([c for c in ALL if c.good and in_place(c) and (c.op is None or c.op.differentiable)])
def test_in_place_gradients(case, full):
    """The gradient through `name_` is the gradient through `name`."""
    report = Report(case)
    fn = in_place(case)
    for i, s, _, _ in differentiable(case, full):
        args, kwargs = tensors(s)
        if not isinstance(args[0], Tensor) or case(*args, **kwargs).shape != args[0].shape:
            continue
        chosen = with_gradient(case, args, kwargs)

        def call(*_, args=args, kwargs=kwargs):
            return fn(args[0].clone(), *args[1:], **kwargs)

        for t in chosen:
            t.requires_grad = True
        try:
            gradcheck(call, tuple(chosen), fast_mode=True)
        except Exception as e:
            report.add(i, s, f"{type(e).__name__}: {e}")
    report.finish()


@each([c for c in OPS if c.op.out and c.good])
def test_out_form(case, counts):
    report, watch = Report(case), Watch()
    for i, s in case.good:
        args, kwargs = tensors(s)
        want = case(*args, **kwargs)
        out = tuple(t.new_zeros(t.shape) for t in leaves(want))
        target = out if isinstance(want, tuple) else out[0]
        counts["out= checks"] += 1
        watch.follow([t._a for t in out])
        watch.settle()
        try:
            got = case(*args, **kwargs, out=target)
            error = same(target, want)
            if not error and not watch.stale:
                error = "what programs keep of this memory was not told"
            if not error and any(a is not b for a, b in zip(leaves(got), out, strict=True)):
                error = "the result is not the tensor given as out="
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        if error:
            report.add(i, s, error)
    watch.follow([])
    report.finish()


@each([c for c in OPS if c.op.body is not None and c.good])
def test_body_is_the_reference(case, counts):
    """The decomposition that compiled programs use computes what the reference computes."""
    report = Report(case)
    op = case.op
    for i, s in case.good:
        args, kwargs = tensors(s)
        bound = bind(op, args, kwargs)
        attributes = [
            v is p.default or v == p.default
            for p, v in zip(op.params, bound, strict=True)
            if not p.is_tensor and not p.variadic
        ]
        if op.scalar is not None and all(attributes):
            continue  # with default attributes it is a primitive
        counts["body checks"] += 1
        try:
            want = case(*args, **kwargs)
            got = op.body(*bound)
            error = same(got, want, 1e-9, 1e-9)
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        if error:
            report.add(i, s, error)
    report.finish()
