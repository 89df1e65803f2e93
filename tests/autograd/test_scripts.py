"""Gradients of the same call again and again: written down the fourth time, the same bits as rule by rule."""

import numpy as np
import pytest

import kiln
from kiln.ops.registry import REGISTRY

OPS = sorted(n for n, o in REGISTRY.items() if o.rules and o.samples is not None)


def gradients(op, args, at):
    """The gradients of a call's first output for the tensors at these places, and that output."""
    given = [kiln.from_numpy(a.copy()) if isinstance(a, np.ndarray) else a for a in args]
    leaves = [given[i].requires_grad_() for i in at]
    out = kiln.ops.dispatch.apply(op, tuple(given))
    out = out[0] if isinstance(out, tuple) else out
    if not out.requires_grad:
        return None
    seed = kiln.arange(out.numel()).to(out.dtype).reshape(out.shape) / 7 - 1
    out.backward(seed)
    return [x.grad if x.grad is None else x.grad.numpy() for x in leaves]


@pytest.mark.parametrize("name", OPS)
def test_the_same_bits(name):
    op = REGISTRY[name]
    for sample in op.samples():
        if sample.error is not None or not sample.grad or sample.kwargs:
            continue
        args = op.bind([
            a.astype(np.float32) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a for a in sample.args
        ], {})  # fmt: skip
        at = [
            i
            for i in op.tensor_slots
            if isinstance(args[i], np.ndarray) and args[i].dtype == np.float32
        ]
        if not at or any(isinstance(a, list) for a in args):
            continue
        runs = [gradients(op, args, at) for _ in range(6)]
        if runs[0] is None:
            continue
        for run in runs[1:]:
            for a, b in zip(runs[0], run, strict=True):
                assert (a is None) == (b is None)
                if a is not None:
                    assert a.shape == b.shape
                    np.testing.assert_array_equal(a, b)
        return


def test_scripts_are_written():
    x = kiln.rand(3, 4, requires_grad=True)
    for _ in range(6):
        x.log1p().backward(kiln.ones(3, 4))
    held = [s for p in REGISTRY["log1p"]._plans.values() for s in p.scripts.values()]
    assert any(callable(s) for s in held)


def test_results_have_memory_of_their_own():
    x = kiln.randn(4, requires_grad=True)
    for _ in range(8):  # the gradient of a constant factor is folded into the script
        x.grad = None
        y = kiln.ones(4).requires_grad_()
        (y * 0 + x.clamp(9, 10)).backward(kiln.ones(4))
        assert x.grad.tolist() == [0] * 4
        x.grad += 1
        y.grad += 1


def test_errors_are_the_rules():
    x = kiln.rand(3, requires_grad=True)
    for _ in range(6):
        y = x.expm1()
        y.sum().backward()
    y = x.expm1()
    with kiln.no_grad():
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_a_script_knows_its_shapes():
    w = kiln.randn(5, requires_grad=True)
    for n in (1, 2, 1, 3, 1, 2, 1, 2, 2, 3, 3, 3):
        w.grad = None
        x = kiln.randn(n, 5)
        kiln.sigmoid(x * w).sum().backward()
        s = kiln.sigmoid(x * w).detach()
        kiln.testing.assert_close(w.grad, (s * (1 - s) * x).sum(0))


def test_they_are_left_out_where_routines_are():
    x = kiln.randn(2, 3, 1, 5, requires_grad=True)
    for n, eager in ((0, "reference"), (1, "cpu")):
        with kiln.config.context(eager=eager):
            for _ in range(6):
                x.sinh().backward(kiln.ones(2, 3, 1, 5))
        keys = [k for p in REGISTRY["sinh"]._plans.values() for k in p.scripts]
        assert sum(((2, 3, 1, 5), 11, True) in k for k in keys) == n


def test_layouts_as_rule_by_rule():
    x = kiln.randn(4, 6).t().requires_grad_()
    grads = []
    for _ in range(6):
        x.grad = None
        kiln.sigmoid(x * x).mean().backward()
        grads.append(x.grad)
    assert all(g.stride() == grads[0].stride() and kiln.equal(g, grads[0]) for g in grads)
