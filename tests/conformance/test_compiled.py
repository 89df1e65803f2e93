"""Every op captured and compiled: the same results as eager, on every backend, with its gradient."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np
import pytest
from cases import ALL, Case, Report, leaves, same, tensors
from tests.turns import in_turn

import kiln
from kiln import dtypes as dt
from kiln.config import context
from kiln.errors import CaptureError, KilnError

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("kiln.compile") is None, reason="kiln.compile is not there yet"
)
BACKENDS = ("cpu", "reference")
MODES = {
    **{name: (name, {}) for name in BACKENDS},
    # every node in memory, and channels-last wherever it may be
    "cpu_channels_last": ("cpu", {"layout": "channels_last", "no_fuse": True}),
}


def run_compiled(mode: str, fn: Callable, *args: Any) -> Any:
    """Compiles a function for one backend and calls it."""
    from kiln.compile import compile

    backend, flags = MODES[mode]
    with context(**flags):
        return compile(fn, backend=backend)(*args)


def spread(case: Case) -> list:
    """All good samples, or of many alike the first, one from the middle and the last."""
    good = case.good
    return good if len(good) <= 3 else [good[0], good[len(good) // 2], good[-1]]


def selection(case: Case, full: bool, most: int) -> list:
    """All good samples, or `most` of a few, from another one on for every name."""
    if full:
        return case.good
    few = spread(case)
    start = crc32(case.name.encode()) % len(few)
    return (few[start:] + few[:start])[:most]


def depends_on_values(e: KilnError) -> bool:
    """Whether a capture was refused because a shape or a Python value depends on elements."""
    return isinstance(e, CaptureError) or "can't be captured" in str(e)


@in_turn(
    "mode", ("reference", "cpu_channels_last"), always=("cpu",), case=[c for c in ALL if c.good]
)
def test_compiled_is_eager(mode, case, full, counts):
    report = Report(case)
    wide = {i for i, _ in spread(case)} if full else set()
    # what compositions are made of is tested by itself
    most = 1 if mode == "cpu_channels_last" or case.op is None else 2
    for i, s in selection(case, full, most):
        for d in (np.float32, np.float64) if i in wide else (np.float32,):

            def narrow(a, d=d):
                return a.astype(d) if a.dtype == np.float64 else a

            args, kwargs = tensors(s, narrow)
            inputs = leaves([args, kwargs])

            def call(*_, args=args, kwargs=kwargs):
                return case(*args, **kwargs)

            counts["compiled checks"] += 1
            try:
                error = same(run_compiled(mode, call, *inputs), call(), 1e-4, 1e-5)
            except KilnError as e:
                error = "" if depends_on_values(e) else f"{type(e).__name__}: {e}"
                counts["compiled checks refused: results depend on values"] += not error
            except Exception as e:
                error = f"{type(e).__name__}: {e}"
            if error:
                report.add(i, s, f"{np.dtype(d).name}: {error}")
    report.finish()


@in_turn(
    "mode", ("cpu", "cpu_channels_last"), full=("reference",),
    case=[c for c in ALL if c.good and c.op is not None and c.op.differentiable],
)  # fmt: skip
def test_compiled_gradient_is_eager(mode, case, full, counts):
    check_gradient(mode, case, full, counts)


@in_turn(
    "mode", ("cpu", "cpu_channels_last"), full=("reference",), pauses=4,
    case=[c for c in ALL if c.good and c.op is None],
)  # fmt: skip
def test_compiled_gradient_of_a_composition_is_eager(mode, case, full, counts):
    check_gradient(mode, case, full, counts)


def check_gradient(mode: str, case: Case, full: bool, counts: Counter) -> None:
    """Compiles a call with its gradient: of all samples, or of the first that has one."""
    report = Report(case)
    chosen = [(i, s) for i, s in (case.good if full else spread(case)) if s.grad]
    chosen = chosen if full else chosen[:1]
    for i, s in chosen:
        args, kwargs = tensors(s)
        free = {k: v for k, v in kwargs.items() if k not in s.fixed}
        inputs = [t for t in leaves([args, free]) if t.dtype is dt.float64 and t.numel()]
        for t in inputs:
            t.requires_grad = True

        def step(*_, args=args, kwargs=kwargs, inputs=inputs):
            outs = [t for t in leaves(case(*args, **kwargs)) if t.requires_grad]
            weights = [(t.detach() * 0.5).cos() for t in outs]
            return kiln.autograd.grad(outs, inputs, weights, allow_unused=True)

        try:
            want = step() if inputs else ()
        except Exception:  # nothing to differentiate, or told by the eager tests
            continue
        counts["compiled gradient checks"] += 1
        try:
            error = same(run_compiled(mode, step, *inputs), want, 1e-9, 1e-9)
        except KilnError as e:
            error = "" if depends_on_values(e) else f"{type(e).__name__}: {e}"
        except Exception as e:
            error = f"{type(e).__name__}: {e}"
        if error:
            report.add(i, s, error)
    report.finish()
