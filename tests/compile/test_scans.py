"""map and associative_scan: eager, captured, differentiated, mapped; what they refuse."""

from __future__ import annotations

import pytest
from tests.compile.loops import BACKENDS, W, f64, same
from tests.turns import in_turn

import kiln
from kiln.errors import KilnError


def affine(a, b):
    """Steps h -> m h + c, one after the other."""
    return {"m": a["m"] * b["m"], "c": a["c"] * b["m"] + b["c"]}


def loop(xs, reverse=False):
    rows = list(zip(xs["m"].unbind(0), xs["c"].unbind(0), strict=True))
    if reverse:
        rows.reverse()
    out = [{"m": rows[0][0], "c": rows[0][1]}]
    for m, c in rows[1:]:
        out.append(affine(out[-1], {"m": m, "c": c}))
    if reverse:
        out.reverse()
    return {k: kiln.stack([o[k] for o in out]) for k in ("m", "c")}


@in_turn("n", [13, 5, 2, 8, 3, 4], always=[1], backend=BACKENDS, reverse=[False, True])
def test_an_associative_scan_is_the_loop_with_its_gradients(n, reverse, backend):
    m, c = f64(n, 3, scale=0.5).requires_grad_(), f64(n, 3, seed=1).requires_grad_()

    def fn(scan, m, c):
        out = scan({"m": m, "c": c})
        return *out.values(), *kiln.autograd.grad((out["c"].sin() + out["m"]).sum(), [m, c])

    def scan(xs):
        return kiln.associative_scan(affine, xs, 0, reverse)

    want = fn(lambda xs: loop(xs, reverse), m, c)
    same(fn(scan, m, c), want)
    same(kiln.compile(lambda m, c: fn(scan, m, c), backend=backend)(m, c), want)


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_generic_combinations_are_called_on_single_slices(dim):
    x = f64(2, 5, 3)
    got = kiln.associative_scan(kiln.maximum, x, dim)
    same([got], [x.cummax(dim)[0]])
    squares = f64(6, 3, 3, scale=0.5)
    got = kiln.associative_scan(lambda a, b: a @ b, squares, 0, combine_mode="generic")
    want = [squares[0]]
    for s in squares[1:]:
        want.append(want[-1] @ s)
    same([got], [kiln.stack(want)])


def test_associative_scans_are_mapped_and_differentiated_twice():
    x = f64(4, 5, scale=0.5).requires_grad_()
    got = kiln.vmap(lambda r: kiln.associative_scan(kiln.mul, r, 0))(x)
    same([got], [x.cumprod(1)])
    assert kiln.autograd.gradgradcheck(lambda x: kiln.associative_scan(kiln.mul, x, 1), (x,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_map_is_the_loop_with_its_gradients(backend):
    def f(x, scale):
        return {"y": (x["a"] @ W).tanh() * scale, "s": x["b"].sum()}

    def fn(a, b):
        out = kiln.map(f, {"a": a, "b": b}, 2.0)
        return *out.values(), *kiln.autograd.grad(out["y"].sum() + (out["s"] ** 2).sum(), [a, b])

    a, b = f64(5, 4).requires_grad_(), f64(5, 2, seed=1).requires_grad_()
    rows = [f({"a": x, "b": y}, 2.0) for x, y in zip(a, b, strict=True)]
    y, s = (kiln.stack([r[k] for r in rows]) for k in ("y", "s"))
    want = y, s, *kiln.autograd.grad(y.sum() + (s**2).sum(), [a, b])
    same(fn(a, b), want)
    same(kiln.compile(fn, backend=backend)(a, b), want)


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: kiln.associative_scan(3, kiln.ones(2), 0), ValueError),
        (lambda: kiln.associative_scan(kiln.add, kiln.ones(2), 0, combine_mode="x"), ValueError),
        (lambda: kiln.associative_scan(kiln.add, kiln.ones(0), 0), ValueError),
        (lambda: kiln.associative_scan(kiln.add, kiln.ones(2), 3), IndexError),
        (
            lambda: kiln.associative_scan(lambda a, b: a[0], [kiln.ones(2), kiln.ones(2)], 0),
            RuntimeError,
        ),
        (
            lambda: kiln.associative_scan(lambda a, b: a, [kiln.ones(2), kiln.ones(3)], 0),
            ValueError,
        ),
        (lambda: kiln.map(lambda x: x, kiln.ones(0, 2)), RuntimeError),
        (lambda: kiln.map(lambda x: x, (kiln.ones(2, 2), kiln.ones(3, 2))), RuntimeError),
        (lambda: kiln.map(lambda x: 3, kiln.ones(2, 2)), RuntimeError),
    ],
)
def test_refusals(call, error):
    with pytest.raises(error) as e:
        call()
    assert isinstance(e.value, KilnError)
    assert "received:" in str(e.value)
