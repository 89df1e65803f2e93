"""scan and cond: eager, captured, differentiated, on every backend; what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
from tests.compile.loops import BACKENDS, B, W, f64, hosts, same

import kiln
import kiln.nn.functional as F
from kiln.compile import pipeline
from kiln.config import context
from kiln.errors import CaptureError, KilnError
from kiln.graph.text import parse_graph, print_graph


def graph_of(fn):
    return fn.entries[0].root.plan.graph


def recurrence(h, x, reverse=False):
    """Carries in a dict, a y that is None, weights from outside."""

    def step(c, x):
        n = kiln.tanh(F.linear(c["h"], W, B) + x @ W)
        m = c["m"] * 0.9 + n.sin()
        return {"h": n, "m": m}, (n * m, None)

    c, (y, none) = kiln.scan(step, {"h": h, "m": h * 0.5}, x, reverse=reverse)
    assert none is None
    return c["h"], c["m"], y


def loop(h, x, reverse=False):
    """`recurrence` as a Python loop."""
    m, ys = h * 0.5, [None] * len(x)
    for t in reversed(range(len(x))) if reverse else range(len(x)):
        h = kiln.tanh(F.linear(h, W, B) + x[t] @ W)
        m = m * 0.9 + h.sin()
        ys[t] = h * m
    return h, m, kiln.stack(ys)


def gradients(fn, *inputs, create_graph=False):
    loss = sum((o * o).sum() * (k + 1) for k, o in enumerate(fn(*inputs)))
    return (loss, *kiln.autograd.grad(loss, [*inputs, W, B], create_graph=create_graph))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_scan_is_the_loop_with_its_gradients(backend, reverse, programs):
    h, x = f64(3, 4).requires_grad_(), f64(5, 3, 4, seed=3).requires_grad_()
    want = gradients(lambda h, x: loop(h, x, reverse), h, x)
    same(gradients(lambda h, x: recurrence(h, x, reverse), h, x), want)

    def whole(h, x):
        return gradients(lambda h, x: recurrence(h, x, reverse), h, x)

    run = kiln.compile(whole, backend=backend)
    for _ in range(2):
        same(run(h, x), want)
    assert not hosts(programs)
    names = [n.name for n in graph_of(run).nodes()]
    assert names.count("scan_op") == 2  # forward and backward; nothing runs twice


@pytest.mark.parametrize("backend", BACKENDS)
def test_backward_outside_the_compiled_function(backend):
    h, x = f64(3, 4), f64(5, 3, 4, seed=3)
    got = []
    for fn in (recurrence, kiln.compile(recurrence, backend=backend)):
        leaves = [h.clone().requires_grad_(), x.clone().requires_grad_()]
        W.grad = B.grad = None
        sum((o * o).sum() for o in fn(*leaves)).backward()
        got.append([t.grad for t in (*leaves, W, B)])
    W.grad = B.grad = None
    same(*got)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_of_gradients(backend):
    h, x = f64(2, 4).requires_grad_(), f64(3, 2, 4, seed=3).requires_grad_()

    def second(h, x):
        first = gradients(recurrence, h, x, create_graph=True)
        total = sum((g * g).sum() for g in first[1:])
        return (*first, *kiln.autograd.grad(total, [h, x, W, B]))

    same(kiln.compile(second, backend=backend)(h, x), second(h, x), atol=1e-8)


def test_gradcheck():
    def fn(h, x):
        return kiln.scan(lambda c, x: ((c * x).sin(), (c + x).exp()), h, x, dim=1)

    assert kiln.autograd.gradcheck(fn, (f64(3).requires_grad_(), f64(3, 4).requires_grad_()))


@pytest.mark.parametrize("backend", BACKENDS)
def test_detached_values_have_no_gradient(backend):
    h, x = f64(3).requires_grad_(), f64(4, 3, seed=1).requires_grad_()

    def fn(h, x):
        def step(c, x):
            a, b = c
            with kiln.no_grad():
                d = a * 3
            return ((a * x).sin() + b.detach() + d, (b * a).detach()), a.exp()

        (a, b), y = kiln.scan(step, (h, h * 2), x)
        return kiln.autograd.grad(a.sum() + (y * y).sum() + b.sum(), [h, x])

    same(kiln.compile(fn, backend=backend)(h, x), fn(h, x))


@pytest.mark.parametrize("backend", BACKENDS)
def test_carries_that_swap_stay_and_repeat(backend, programs):
    """New carries are stored only when all old ones have been read."""
    a, b, k = f64(3), f64(3, seed=1), f64(3, seed=2)

    def fn(a, b, k):
        def step(c, _):
            a, b, k = c
            return (b, a + b * k, k), (a, a, b, k)

        return kiln.scan(step, (a, b, k), length=5)

    def flat(r):
        return [*r[0], *r[1]]

    same(flat(kiln.compile(fn, backend=backend)(a, b, k)), flat(fn(a, b, k)))
    assert not hosts(programs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_short_sequences(backend, n):
    h, x = f64(3).requires_grad_(), f64(n, 3, seed=1).requires_grad_()

    def fn(h, x):
        c, y = kiln.scan(lambda c, x: ((c * x).sin(), c + x), h, x)
        return (
            c,
            y,
            *kiln.autograd.grad(
                (c * c).sum() + y.sum(), [h, x], allow_unused=True, materialize_grads=True
            ),
        )

    want, got = fn(h, x), kiln.compile(fn, backend=backend)(h, x)
    assert want[1].shape == (n, 3)
    same(got, want)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_what_requires_grad_is_what_eager_mode_says(n):
    """Carries that begin without, that take it over from another one step later, that swap, that stay."""

    def fn(x, xs):
        def step(c, x):
            plain, late, later, a, b = c
            after = (plain + 1, late + w, later * late, b, a)
            return after, (plain * x, late.detach(), later, a * 2)

        c, ys = kiln.scan(step, (x * 1, x * 2, x * 3, w * 1, x * 4), xs)
        for t in (*c, *ys):
            if not t.requires_grad:
                t.add_(1)
        return *c, *ys

    w = f64(3, seed=1).requires_grad_()
    x, xs = f64(3), f64(n, 3)
    want, got = fn(x, xs), kiln.compile(fn)(x, xs)
    assert [t.requires_grad for t in got] == [t.requires_grad for t in want]
    same(got, want)


def test_nested_loops_and_branches(programs):
    """A scan over rows, in it a scan over columns that takes a branch, in it a while loop."""
    x, w = f64(3, 4, 5), f64(5, seed=1).requires_grad_()

    def fn(x, w):
        def inner(c, v):
            d = kiln.cond(v.sum() > 0, lambda: (c * w + v).sin(), lambda: c - v * w)
            n, e = kiln.while_loop(
                lambda n, e: (n < 6) & (e.abs().sum() < 40.0), lambda n, e: (n + 1, e * 1.5), (kiln.tensor(0), d.detach()),
            )  # fmt: skip
            return d, e + n

        def outer(c, row):
            c, y = kiln.scan(inner, c, row, reverse=True)
            return c, y.sum(0) + c

        c, y = kiln.scan(outer, w * 2, x)
        return c, y, *kiln.autograd.grad((c * c).sum() + (y * c).sum(), [w])

    same(kiln.compile(fn)(x, w), fn(x, w))
    same(kiln.compile(fn, backend="reference")(x, w), fn(x, w))
    assert not hosts(programs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_cond_takes_one_branch_at_each_call(backend, programs):
    x = f64(4, 4).requires_grad_()

    def fn(x, p):
        def yes(a):
            return {"y": (a * W).sin().sum(0) * 2}

        def no(a):
            return {"y": (a + B).exp().sum(0)}

        y = kiln.cond(p > 0, yes, no, (x,))["y"]
        return y, *kiln.autograd.grad(y.sum(), [x, W, B], allow_unused=True, materialize_grads=True)

    run = kiln.compile(fn, backend=backend)
    for p in (1.0, -1.0, 2.0):
        p = kiln.tensor([p])
        same(run(x, p), fn(x, p))
    assert run.captures == 1
    assert not hosts(programs)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_numbers_in_bodies_are_those_of_eager_mode(backend):
    h = f64(6).requires_grad_()

    def fn(h):
        c, y = kiln.scan(lambda c, _: (F.dropout(c * 1.1, 0.4) + 0.1, kiln.rand(3)), h, length=4)
        z = kiln.cond(y.sum() > 0, lambda: kiln.rand(2), lambda: kiln.zeros(2))
        return c, y, z, kiln.rand(2), *kiln.autograd.grad(c.sum(), [h])

    kiln.manual_seed(5)
    want = [*fn(h), *fn(h)]
    run = kiln.compile(fn, backend=backend)
    kiln.manual_seed(5)
    same([*run(h), *run(h)], want)


def test_memory_is_bounded_by_what_backward_reads():
    """Of a chain of cheap ops, only what the dear one gives is stacked."""
    h, x = f64(3).requires_grad_(), f64(5, 3)

    def fn(h, x):
        def step(c, x):
            a = (c * 2 + x).tanh()
            return a * 3 - x, None

        c, _ = kiln.scan(step, h, x)
        return kiln.autograd.grad(c.sum(), h)

    run = kiln.compile(fn)
    run(h, x)
    first = next(n for n in graph_of(run).nodes() if n.name == "scan_op")
    assert len(first.outputs) == 2  # the carry, and tanh's values


@pytest.mark.parametrize("reverse", [False, True])
def test_a_carry_that_is_stacked_already_is_stacked_once(reverse):
    """Backward reads the carry before each step: the ys, one step further on."""
    h, x = f64(3, 4).requires_grad_(), f64(5, 3, 4)

    def fn(h, x):
        c, ys = kiln.scan(lambda c, x: ((n := (c @ W + x).tanh()), n), h, x, reverse=reverse)
        return kiln.autograd.grad(c.sum() + (ys * ys).sum(), [h, W])

    run = kiln.compile(fn)
    same(run(h, x), fn(h, x))
    first = next(n for n in graph_of(run).nodes() if n.name == "scan_op")
    assert len(first.outputs) == 2  # the carry, and the ys, which are tanh's values too


@pytest.mark.parametrize("reverse", [False, True])
def test_carries_of_earlier_steps_are_told_apart(reverse):
    """Three carries hold the last three values, of which the ys are one."""
    h, x = f64(3, 4).requires_grad_(), f64(5, 3, 4)

    def fn(h, x):
        def step(c, x):
            a, b, d = c
            n = (a @ W + (b * d).sin() + x).tanh()
            return (n, a, b), (n, b)

        c, ys = kiln.scan(step, (h, h * 2, h * 3), x, reverse=reverse)
        loss = sum((y * y).sum() for y in (*c, *ys))
        return kiln.autograd.grad(loss, [h, W])

    same(kiln.compile(fn)(h, x), fn(h, x))


def test_weight_gradients_are_one_product_after_the_loop():
    h, x = f64(3, 4), f64(5, 3, 4)

    def fn(h, x):
        c, _ = kiln.scan(lambda c, x: (F.linear(c, W, B).tanh() + x, None), h, x)
        return kiln.autograd.grad(c.sum(), [W, B])

    run = kiln.compile(fn)
    same(run(h, x), fn(h, x))
    g = graph_of(run)
    assert [n.shape for n in g.nodes() if n.name == "linear_weight_grad"] == [(4, 4)]
    bodies = [b for n in g.nodes() for b in n.graphs]
    assert not any(n.name == "linear_weight_grad" for b in bodies for n in b.nodes())


def test_what_steps_compute_alike_is_computed_once():
    h = f64(2, 4)
    run = kiln.compile(
        lambda h: kiln.scan(lambda c, _: (F.linear(c, W.detach().exp()).sin(), None), h, length=3)[
            0
        ]
    )
    run(h)
    from kiln.backends.cpu.lower import lowers

    g = pipeline.optimize(graph_of(run), lowers)
    (body,) = (b for n in g.nodes() for b in n.graphs)
    assert {n.name for n in body.nodes()} == {"input", "permute", "matmul", "sin"}


@pytest.mark.parametrize("loop", ["scan", "while_loop"])
def test_a_product_with_what_all_steps_share_packs_it_once(loop, programs):
    """The packing comes before the loop's first entry, and is among the kernels that run."""
    g = np.random.default_rng(0)
    w = [kiln.tensor(g.normal(size=(150, 150)) * 0.1, dtype=kiln.float32) for _ in range(2)]
    h, x = (kiln.tensor(g.normal(size=s), dtype=kiln.float32) for s in ((9, 150), (6, 9, 150)))

    def step(c, x):
        return (c @ w[0] + F.linear(c, w[1]) + x).tanh()

    def scan(h, x):
        return kiln.scan(lambda c, x: ((n := step(c, x)), n * 2), h, x)

    def until(h, x):
        return kiln.while_loop(
            lambda t, c: t < 6, lambda t, c: (t + 1, step(c, x[0])), (kiln.tensor(0), h)
        )[1:]

    fn = scan if loop == "scan" else until
    run = kiln.compile(fn)
    for _ in range(2):
        same(run(h, x), fn(h, x), atol=1e-5)
    (p,) = programs
    kinds = [k.symbol.split("_")[0] for k in p.recipe.kernels]
    assert kinds.count("pack") == 2
    assert max(i for i, k in enumerate(kinds) if k == "pack") < kinds.index("gemm")
    first = next(i for i, k in enumerate(p.recipe.kernels) if k.ntasks < 0)
    assert kinds.index("gemm") > first or loop == "while_loop"


def test_text_with_bodies_is_read_back():
    x, w = f64(3, 5), f64(5, seed=1).requires_grad_()

    def fn(x, w):
        def step(c, v):
            return kiln.cond(v.sum() > 0, lambda: (c * w).sin(), lambda: c - v), c

        c, y = kiln.scan(step, w * 2, x)
        return kiln.autograd.grad(c.sum() + y.sum(), [w])

    run = kiln.compile(fn)
    run(x, w)
    text = print_graph(graph_of(run))
    again = parse_graph(text)
    assert again.outputs == graph_of(run).outputs
    assert print_graph(again) == text


def test_the_length_costs_no_kernels(programs):
    def fn(h, x):
        return kiln.scan(lambda c, x: ((c @ x).tanh(), c.sum()), h, x)

    for n in (2, 300):
        kiln.compile(fn)(f64(3, 3), f64(n, 3, 3, scale=0.3))
    a, b = (p.recipe for p in programs)
    assert [k.symbol for k in a.kernels] == [k.symbol for k in b.kernels]
    assert a.arena_bytes == b.arena_bytes


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_step_of_a_recurrent_layer_is_one_product_and_one_nest(kind, programs):
    net = getattr(kiln.nn, kind)(20, 48)
    x = kiln.tensor(np.random.default_rng(0).normal(size=(7, 5, 20)), dtype=kiln.float32)

    def fn(x):
        return kiln.autograd.grad(net(x)[0].square().sum(), list(net.parameters()))

    run = kiln.compile(fn)
    got = run(x)
    (p,) = programs
    same(got, fn(x), atol=1e-4)
    symbols = [k.symbol.split("_")[0] if k.ntasks > 0 else k.symbol for k in p.recipe.kernels]
    labels = [k.label for k in p.recipe.kernels]
    at = [i for i, s in enumerate(symbols) if s in ("kiln_begin", "kiln_next")]
    forward, backward = (
        [s for s, label in zip(symbols[a + 1 : b], labels[a + 1 : b], strict=True) if not label.startswith("copy")]
        for a, b in (at[:2], at[2:])
    )  # fmt: skip
    assert forward == ["gemm", "loops"]
    assert sorted(backward) == ["gemm", "loops"]


def test_same_bits_on_any_number_of_threads():
    h, x = kiln.randn(64, 96), kiln.randn(7, 64, 96)
    w = kiln.randn(96, 96) * 0.1
    w.requires_grad_()

    def fn(h, x):
        c, y = kiln.scan(lambda c, x: ((c @ w + x).tanh(), c), h, x)
        return c, y, *kiln.autograd.grad((c * c).sum() + y.sum(), [w])

    run, found = kiln.compile(fn), []
    before = kiln.get_num_threads()
    try:
        for n in (1, 2, 3):
            kiln.set_num_threads(n)
            found.append([t.detach().numpy().tobytes() for t in run(h, x)])
    finally:
        kiln.set_num_threads(before)
    assert found[0] == found[1] == found[2]


def test_a_warm_cache_gives_the_same_bits(tmp_path):
    h, x = f64(3, 4), f64(5, 3, 4, seed=3)
    found = []
    with context(cache_dir=str(tmp_path)):
        for _ in range(2):
            found.append([t.numpy(force=True).tobytes() for t in kiln.compile(recurrence)(h, x)])
    assert found[0] == found[1]


def test_a_body_with_work_for_the_host_runs_there(programs):
    """No kernel knows complex numbers: the loop is the reference's."""
    h, x = kiln.complex(f64(3), f64(3, seed=1)), f64(4, 3)

    def fn(h, x):
        return kiln.scan(lambda c, x: (c * x, c.real), h, x)

    same(kiln.compile(fn)(h, x), fn(h, x))
    assert len(hosts(programs)) == 1


def test_indices_in_a_body_are_checked():
    table = f64(5, 3)

    def fn(i):
        return kiln.scan(lambda c, i: (c + F.embedding(i, table), None), f64(2, 3), i)[0]

    run, good = kiln.compile(fn), kiln.tensor([[0, 1], [4, 2]])
    same([run(good)], [fn(good)])
    with pytest.raises(IndexError):
        run(kiln.tensor([[0, 1], [5, 2]]))


def test_timing_sums_over_the_steps(capsys):
    with context(debug=2):
        kiln.compile(lambda h: kiln.scan(lambda c, _: (c.sin(), None), h, length=9)[0])(f64(3))
    assert " x 9" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (lambda c, x: (c if c.sum() > 0 else x, None), "branches in Python"),
        (lambda c, x: (c.add_(x), None), "in-place operation"),
        (lambda c, x: (c + x[:2], None), "size"),
        (lambda c, x: (c.float(), None), "changes its shape or dtype"),
        (lambda c, x: ((c, c), None), "another structure"),
        (lambda c, x: c, "a pair"),
        (lambda c, x: (c, 1.0), "ys are tensors"),
        (lambda c, x: (c * float(x.sum()), None), "read into Python"),
    ],
)  # fmt: skip
def test_captured_bodies_refuse(body, what):
    with pytest.raises((KilnError, CaptureError), match=what):
        kiln.compile(lambda h, x: kiln.scan(body, h, x))(f64(3), f64(2, 3))


@pytest.mark.parametrize("loop", ["scan", "while_loop", "cond"])
@pytest.mark.parametrize("view", [False, True])
def test_bodies_do_not_write_what_requires_grad_to_a_tensor_from_outside(loop, view):
    """Its gradient would end at the body."""
    buffer = kiln.zeros(3, dtype=kiln.float64)

    def add(x):
        part = buffer[:] if view else buffer
        part.add_(W[0, :3] * x)
        return x + part

    def fn(x):
        if loop == "scan":
            return kiln.scan(lambda c, _: (add(c), None), x, length=2)[0]
        if loop == "cond":
            return kiln.cond(x.sum() > 0, add, lambda x: x * 1, (x,))
        return kiln.while_loop(
            lambda n, c: n < 2, lambda n, c: (n + 1, add(c)), (kiln.tensor(0), x)
        )[1]

    with pytest.raises(CaptureError, match="that require grad to a tensor from outside"):
        kiln.compile(fn)(f64(3))
    assert not buffer.requires_grad
    with kiln.no_grad():
        got, buffer = kiln.compile(fn)(f64(3)), buffer.zero_()
        same([got], [fn(f64(3))])


def test_bodies_do_not_write_what_they_are_given():
    def fn(h):
        with kiln.no_grad():
            return kiln.scan(lambda c, _: (c.add_(1), None), h, length=2)

    with pytest.raises(CaptureError, match="writes a tensor"):
        kiln.compile(fn)(f64(3))


def test_eager_errors():
    with pytest.raises(ValueError, match="no common length"):
        kiln.scan(lambda c, x: (c, None), f64(3), (f64(2, 3), f64(4, 3)))
    with pytest.raises(KilnError, match="changes its shape"):
        kiln.scan(lambda c, x: (c[:1], None), f64(3), f64(2, 3))
    with pytest.raises(KilnError, match="different"):
        kiln.compile(lambda x: kiln.cond(x.sum() > 0, lambda: x, lambda: x[:1]))(f64(3))


def test_tensors_of_a_body_do_not_leave_it():
    kept = []

    def fn(h):
        c, _ = kiln.scan(lambda c, _: (kept.append(c) or c + 1, None), h, length=2)
        return c + kept[0]

    with pytest.raises(CaptureError):
        kiln.compile(fn)(f64(2))
