"""In-place ops, views and aliases mean in a compiled function what they mean in eager mode."""

import gc
import warnings
import weakref

import numpy as np
import pytest
from tests.turns import in_turn

import kiln
from kiln.errors import CaptureError


def same(a, b):
    assert a.dtype is b.dtype
    assert a.shape == b.shape
    if a.dtype in (kiln.float16, kiln.bfloat16):
        a, b = a.float(), b.float()
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=1e-5, atol=1e-6)


def add_whole(x):
    x.add_(1)
    return x.sum()


def slices(x):
    x[1:] = 7
    x[0].mul_(3)
    x[..., -1] += 2
    return x * 2


def masks(x):
    x[x > 3] = 0
    x.masked_fill_(x == 0, -1)
    return x.sum(0)


def views_of_views(x):
    y = x.t()[1:].unsqueeze(0)
    y[0, 0].add_(10)
    y.squeeze(0).t().mul_(2)
    return y.clone(), x.sum()


def reshaped(x):
    flat = x.reshape(-1)
    flat[2] = 50
    return flat, x.sum(1)


def diagonal(x):
    x[:2, :2].diagonal().fill_(9)
    return x.diagonal() + 1


def into_data(x):
    x.data.zero_()
    x.detach()[0] = 4
    return x.sum(), x.detach() * 2


def out_argument(x):
    kiln.add(x, 1, out=x)
    return x * 1


FUNCTIONS = [add_whole, slices, masks, views_of_views, reshaped, diagonal, into_data, out_argument]
LAYOUTS = {
    "contiguous": lambda a: kiln.from_numpy(a.copy()),
    "transposed": lambda a: kiln.from_numpy(a.T.copy()).t(),
    "strided": lambda a: kiln.from_numpy(np.repeat(a, 2, 0))[::2],
    "offset": lambda a: kiln.from_numpy(np.concatenate([a, a]))[len(a) :],
}


@in_turn("layout", LAYOUTS, fn=FUNCTIONS, state=[False, True])
def test_writes(fn, layout, state):
    a = np.arange(12, dtype=np.float32).reshape(3, 4)
    x, y = (LAYOUTS[layout](a) for _ in range(2))
    run = kiln.compile((lambda: fn(x)) if state else fn)
    for _ in range(2):
        got, want = run(*() if state else (x,)), fn(y)
        for g, w in zip(*[r if isinstance(r, tuple) else (r,) for r in (got, want)], strict=True):
            same(g, w)
        same(x, y)
    assert (x._version > 0) == (y._version > 0)


@in_turn(
    "shape", [(), (0,), (3,), (2, 0, 3), (1, 3)],
    dtype=["bool", "uint8", "int8", "int16", "int32", "float16", "bfloat16", "float64", "complex64"],
)  # fmt: skip
def test_dtypes_and_sizes(dtype, shape):
    d = getattr(kiln, dtype)
    x, y = (kiln.ones(shape).to(d) for _ in range(2))

    def fn(x):
        x.fill_(0)
        if x.ndim:
            x[:1] = 1
        return x, x.clone(), x.flip(0) if x.ndim else x, (x == 1).sum(), x.reshape(-1)

    for g, w in zip(kiln.compile(fn)(x), fn(y), strict=True):
        same(g, w)
    same(x, y)


def test_complex_arithmetic():
    def fn(x):
        return x + 0, x - 0, x * 1, x / 1, x * x, x, (x * 2j).real, kiln.full((2,), 1j) + x

    x = kiln.tensor([1 + 2j, -0.0 + 0j])
    for g, w in zip(kiln.compile(fn)(x), fn(x), strict=True):
        same(g, w)


def test_what_is_returned_is_the_argument_itself():
    p = kiln.nn.Parameter(kiln.ones(2))
    x = kiln.ones(2, 3)

    def fn(x):
        y = x * 2
        return x, y, x, y, p, x[0], x.t(), p.detach(), 3

    a, y, b, z, q, row, turned, d, n = kiln.compile(fn)(x)
    assert a is x
    assert b is x
    assert y is z
    assert q is p
    assert n == 3
    row.fill_(5)
    assert x[0, 0].item() == 5
    turned[2, 1] = 8
    assert x[1, 2].item() == 8
    assert not d.requires_grad
    d.fill_(4)
    assert p[0].item() == 4


def test_views_of_a_result_share_its_memory():
    def fn(x):
        y = x * 2
        return y[0], y, y.detach().t()

    row, y, turned = kiln.compile(fn)(kiln.ones(2, 3, requires_grad=True))
    assert row.requires_grad
    assert not turned.requires_grad
    with kiln.no_grad():
        y[0, 1] = 9
    assert row[1].item() == 9
    assert turned[1, 0].item() == 9


def test_detached_arguments():
    x = kiln.ones(2, 2, requires_grad=True)
    y = kiln.compile(lambda x: x.detach())(x)
    assert y is not x
    assert not y.requires_grad
    assert not kiln.compile(lambda x: x.detach()[0])(x).requires_grad
    row = kiln.compile(lambda x: x[0])(x)
    row.sum().backward()
    same(x.grad, kiln.tensor([[1.0, 1.0], [0.0, 0.0]]))


def test_the_same_tensor_twice():
    def fn(a, b):
        a.add_(1)
        return b * 2

    run = kiln.compile(fn)
    same(run(kiln.ones(2), kiln.ones(2)), kiln.full((2,), 2.0))
    a = kiln.ones(2)
    same(run(a, a), kiln.full((2,), 4.0))
    same(run(a, a.detach()), kiln.full((2,), 6.0))
    same(run(kiln.ones(2), kiln.ones(2)), kiln.full((2,), 2.0))


def test_an_argument_that_the_function_reaches_too():
    for first in (True, False):
        p = kiln.ones(2)

        def fn(a, p=p):
            p.add_(1)
            return a * 2

        run = kiln.compile(lambda a, p=p, fn=fn: fn(a))
        calls = [p, kiln.ones(2), p] if first else [kiln.ones(2), p, kiln.ones(2)]
        for n, a in enumerate(calls, 2):
            want = 2 * n if a is p else 2
            same(run(a), kiln.full((2,), float(want)))


def test_tensors_reached_under_two_names():
    base = kiln.zeros(4)
    row, alias = base[1:3], base.detach()

    def fn():
        row.add_(1)
        return alias.sum() + base[1]

    run = kiln.compile(fn)
    assert [run().item() for _ in range(3)] == [3.0, 6.0, 9.0]
    base.data = kiln.zeros(4)  # the views keep the old memory, and no longer have a common base
    with pytest.raises(CaptureError, match="shares memory"):
        run()
    assert alias.sum().item() == 6


def test_swapping():
    a, b = kiln.ones(2), kiln.zeros(2)

    def fn():
        t = a.clone()
        a.copy_(b)
        b.copy_(t)

    run = kiln.compile(fn)
    for n in range(3):
        run()
        assert a[0].item() == n % 2
        assert b[0].item() == 1 - n % 2


def test_memory_that_cannot_be_written():
    run = kiln.compile(lambda x: x.add_(1))
    run(kiln.ones(3))
    with pytest.raises(RuntimeError, match="can't be written"):
        run(kiln.ones(1).expand(3))
    same(kiln.compile(lambda x: x + 1)(kiln.ones(1).expand(3)), kiln.full((3,), 2.0))
    a = np.ones(3, np.float32)
    a.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = kiln.from_numpy(a)
    with pytest.raises(RuntimeError, match="can't be written"):
        run(x)


def test_layouts_are_seen_inside():
    x = kiln.arange(6.0).reshape(2, 3)
    run = kiln.compile(lambda x: x.view(-1))
    run(x)
    with pytest.raises(RuntimeError, match="view size"):
        run(x.t())
    seen = kiln.compile(lambda x: (x.is_contiguous(), x.stride(), x.t().is_contiguous()))
    assert seen(x) == (True, (3, 1), False)
    assert seen(x.t()) == (False, (1, 3), True)


def test_leaves_that_require_grad_are_protected():
    p = kiln.ones(2, requires_grad=True)
    for fn in (lambda x: x.add_(1), lambda x: x[0].zero_(), lambda x: p.add_(1)):
        with pytest.raises(RuntimeError, match="leaf"):
            kiln.compile(fn)(kiln.ones(2, requires_grad=True))
    same(p, kiln.ones(2))


def test_tensors_from_outside_keep_their_history():
    p = kiln.ones(2, requires_grad=True)
    base = kiln.ones(2, 2)
    state, x = kiln.zeros(2), base[0]

    def grow():
        state.add_(p * 2)

    def scale(x):
        x.mul_(p)
        return x

    def freeze():
        p.requires_grad_(False)
        return p * 2

    for fn, args in ((grow, ()), (scale, (x,)), (freeze, ())):
        with pytest.raises(CaptureError, match="history"):
            kiln.compile(fn)(*args)
    assert p.requires_grad
    assert not state.requires_grad
    assert state.grad_fn is None
    same(x, kiln.ones(2))

    def frozen_for_a_while(x):
        p.requires_grad_(False)
        y = (x * p).sum()
        p.requires_grad_(True)
        return y

    assert not kiln.compile(frozen_for_a_while)(x).requires_grad


@pytest.mark.parametrize("tracked", [True, False])
def test_an_argument_that_is_no_leaf_is_changed_with_its_history(tracked):
    def scale(x, p):
        before = (x * 3).sum()
        x.mul_(p)
        x[0] += 1
        return before, x, x[1:]

    found = []
    for run in (kiln.compile(scale), scale):
        start = kiln.tensor([1.0, 2.0, 3.0], requires_grad=tracked)
        p = kiln.tensor([4.0, 5.0, 6.0], requires_grad=True)
        for _ in range(2):
            x = start * 2
            before, whole, part = run(x, p)
            assert whole is x
            assert not x.is_leaf
            assert x.requires_grad
            (before + (x * x).sum() + part.sum()).backward()
        found += [(x, start.grad if tracked else x, p.grad)]
    for a, b in zip(*found, strict=True):
        same(a, b)


def test_a_leaf_without_gradient_takes_part_after_an_in_place_op():
    p = kiln.tensor([2.0, 3.0], requires_grad=True)
    x = kiln.ones(2)
    kiln.compile(lambda x, p: x.mul_(p))(x, p)
    x.sum().backward()
    same(p.grad, kiln.ones(2))


def test_backward_inside_does_not_reach_what_was_computed_outside_even_after_an_in_place_op():
    x = kiln.ones(2, requires_grad=True) * 2
    with pytest.raises(CaptureError, match="computed outside"):
        kiln.compile(lambda x: x.mul_(3).sum().backward())(x)


@pytest.mark.parametrize("tracked", [True, False])
def test_views_that_overlap_share_memory_without_their_base(tracked):
    def fn(x):
        y = x * 2
        return y[:3], y[1:], y.detach()[2:]

    x = kiln.ones(4, requires_grad=tracked)
    a, b, c = kiln.compile(fn)(x)
    assert (a.requires_grad, b.requires_grad, c.requires_grad) == (tracked, tracked, False)
    with kiln.no_grad():
        a[2] = 9
    assert b[1].item() == 9
    assert c[0].item() == 9
    if tracked:
        (a.sum() + b.sum()).backward()
        same(x.grad, kiln.tensor([2.0, 4.0, 4.0, 2.0]))


def test_views_that_do_not_overlap_do_not_bring_their_base_along():
    a, _ = kiln.compile(lambda x: (x * 2).chunk(2))(kiln.ones(1000))
    assert a.numpy().base is None or a.numpy().base.nbytes < 4000


def test_arguments_of_the_first_call_are_let_go():
    run = kiln.compile(lambda x: x * 2)
    x = kiln.ones(3)
    watch = weakref.ref(x)
    run(x)
    run(kiln.ones(3))
    del x
    gc.collect()
    assert watch() is None
