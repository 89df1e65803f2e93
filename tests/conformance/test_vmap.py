"""vmap over every op: what a loop over the batch gives, for each choice of mapped arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import ALL, Case, Report, convert, leaves, same

import kiln
from kiln.errors import KilnError
from kiln.func import grad, vmap
from kiln.ops.registry import Sample
from kiln.tensor import Tensor, wrap

BATCH = 2


def other(a: np.ndarray) -> np.ndarray:
    """An array of the same kind with other values, within the domain of what takes this one."""
    return a * 0.97 if a.dtype.kind in "fc" else np.flip(a).copy()


def calls(sample: Sample) -> tuple[list[np.ndarray], Any]:
    """The arrays of a sample, and a function that puts tensors in their places."""
    arrays: list[np.ndarray] = []
    convert((sample.args, sample.kwargs), lambda a: arrays.append(a) or a)

    def put(tensors: tuple[Tensor, ...]) -> tuple[tuple, dict]:
        it = iter(tensors)
        return convert((sample.args, sample.kwargs), lambda _: next(it))

    return arrays, put


def selection(case: Case, full: bool) -> list:
    """All good samples, or of many alike the first and the last."""
    good = case.good
    return good if full or len(good) <= 2 else [good[0], good[-1]]


def choices(n: int, full: bool) -> list[tuple[int | None, ...]]:
    """Which arguments are mapped: all; each alone, or the last one."""
    alone = range(n) if full else (n - 1,)
    ones = [tuple(0 if i == k else None for i in range(n)) for k in alone if n > 1]
    return [(0,) * n, *ones]


def told(e: Exception) -> bool:
    """Whether vmap refused because a shape or a Python value would differ in the batch."""
    return isinstance(e, KilnError) and e.op == "vmap"


MAPPED = [c for c in ALL if c.good and not c.random]


@pytest.mark.parametrize("case", MAPPED, ids=lambda c: c.id)
def test_vmap_is_a_loop(case, full, counts):
    report = Report(case)
    for i, s in selection(case, full):
        arrays, put = calls(s)
        pairs = [np.stack([a, other(a)]) for a in arrays]

        def call(*tensors, put=put):
            args, kwargs = put(tensors)
            return tuple(leaves(case(*args, **kwargs)))

        for dims in choices(len(arrays), full):
            if not dims:
                continue
            rows = [
                [wrap(np.array(p[k] if d == 0 else a)) for a, p, d in zip(arrays, pairs, dims, strict=True)]
                for k in range(BATCH)
            ]  # fmt: skip
            given = [wrap(np.array(p if d == 0 else a)) for a, p, d in zip(arrays, pairs, dims, strict=True)]  # fmt: skip
            try:
                kiln.manual_seed(0)
                loop = [call(*r) for r in rows]
                want = tuple(kiln.stack(list(c)) for c in zip(*loop, strict=True))
            except Exception:  # the sample alone takes these values, or the shapes differ
                continue
            counts["vmap checks"] += 1
            try:
                kiln.manual_seed(0)
                got = vmap(call, dims, randomness="same")(*given)
                error = same(got, want, 1e-9, 1e-9)
            except Exception as e:
                counts["vmap checks refused"] += told(e)
                error = "" if told(e) else f"{type(e).__name__}: {e}"
            if error:
                report.add(i, s, f"in_dims={dims}: {error}")
    report.finish()


@pytest.mark.parametrize(
    "case", [c for c in MAPPED if c.op is None or c.op.differentiable], ids=lambda c: c.id
)
def test_gradients_inside_and_outside_of_vmap(case, full, counts):
    """vmap of grad, and grad of vmap, of each op: what a loop gives."""
    report = Report(case)
    for i, s in [(i, s) for i, s in selection(case, full) if s.grad][: None if full else 1]:
        arrays, put = calls(s)
        wanted = tuple(k for k, a in enumerate(arrays) if a.dtype == np.float64 and a.size)
        pairs = [np.stack([a, other(a)]) for a in arrays]
        if not wanted:
            continue

        def loss(*tensors, put=put, wanted=wanted):
            args, kwargs = put(tensors)
            outs = [t.nan_to_num() for t in leaves(case(*args, **kwargs)) if t.is_floating_point()]
            return sum((t * (t.detach() * 0.5).cos()).sum() for t in outs) + 0 * tensors[wanted[0]].sum()  # fmt: skip

        rows = [[wrap(np.array(p[k])) for p in pairs] for k in range(BATCH)]
        given = [wrap(p.copy()) for p in pairs]
        try:
            loop = [grad(loss, wanted)(*r) for r in rows]
        except Exception:
            continue
        want = tuple(kiln.stack(list(c)) for c in zip(*loop, strict=True))
        counts["vmap gradient checks"] += 1

        def total(*xs, loss=loss):
            return vmap(loss)(*xs).sum()

        ways = {"vmap(grad)": vmap(grad(loss, wanted)), "grad(vmap)": grad(total, wanted)}
        for what, way in ways.items():
            try:
                error = same(way(*given), want, 1e-8, 1e-8)
            except Exception as e:
                error = "" if told(e) else f"{type(e).__name__}: {e}"
            if error:
                report.add(i, s, f"{what}: {error}")
    report.finish()


@pytest.mark.slow
@pytest.mark.parametrize("case", MAPPED, ids=lambda c: c.id)
def test_vmap_in_compiled_functions(case):
    report = Report(case)
    for i, s in case.good[:1]:
        arrays, put = calls(s)

        def call(*tensors, put=put):
            args, kwargs = put(tensors)
            return tuple(leaves(case(*args, **kwargs)))

        mapped = vmap(call, randomness="same")
        given = [wrap(np.stack([a, other(a)])) for a in arrays]
        try:
            want = mapped(*given)
        except Exception:  # told by the test above
            continue
        try:
            got = kiln.compile(lambda *xs, f=mapped: f(*xs), backend="reference")(*given)
            error = same(got, want, 1e-7, 1e-7)
        except KilnError as e:
            error = "" if "can't be captured" in str(e) else str(e)
        if error:
            report.add(i, s, error)
    report.finish()
