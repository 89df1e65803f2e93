"""Gradients through compiled functions, and backward inside them."""

import threading

import numpy as np
import pytest

import kiln
import kiln.nn.functional as F
from kiln import nn
from kiln.errors import CaptureError


def same(a, b, tol=1e-5):
    if a is None or b is None:
        assert a is b
        return
    assert a.dtype is b.dtype
    assert a.requires_grad == b.requires_grad
    np.testing.assert_allclose(a.detach().numpy(), b.detach().numpy(), rtol=tol, atol=tol)


def pair(shape=(3,), seed=0):
    a = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return [kiln.tensor(a, requires_grad=True) for _ in range(2)]


def test_forward_inside_backward_outside():
    def fn(x, w):
        h = (x @ w).tanh()
        return h.sum(), h * 2, h.detach(), h.argmax(1)

    run = kiln.compile(fn)
    (x, y), (w, v) = pair((2, 3)), pair((3, 4), 1)
    for _ in range(2):
        got, want = run(x, w), fn(y, v)
        for a, b in zip(got, want, strict=True):
            same(a, b)
        (got[0] + (got[1] ** 2).sum()).backward()
        (want[0] + (want[1] ** 2).sum()).backward()
        same(x.grad, y.grad)
        same(w.grad, v.grad)
    assert run.captures == 1


def test_some_inputs_some_outputs():
    def fn(x, w, c):
        return (x * w).sum(), (w * c).sum(), c * 2

    (x, y), (w, v) = pair(), pair(seed=1)
    x.requires_grad = y.requires_grad = False
    c = kiln.ones(3)
    got, want = kiln.compile(fn)(x, w, c), fn(y, v, c)
    for a, b in zip(got, want, strict=True):
        same(a, b)
    got[1].backward()
    want[1].backward()
    same(w.grad, v.grad)
    assert x.grad is None


def test_arguments_that_are_not_leaves_and_closures():
    (x, y), (w, v) = pair(), pair(seed=1)
    kiln.compile(lambda h: (h * w).sum())(x * 2).backward()
    ((y * 2) * v).sum().backward()
    same(x.grad, y.grad)
    same(w.grad, v.grad)


@pytest.mark.parametrize("change", [
    lambda y, p: y.mul_(p), lambda y, p: y[1:].mul_(p[1:]), lambda y, p: y.div_(p), lambda y, p: y.pow_(3),
])  # fmt: skip
def test_in_place_ops_inside_keep_the_old_values_that_their_gradients_need(change):
    def fn(x, p):
        y = x * 1
        change(y, p)
        return (y * y).sum()

    (x, y), (p, q) = pair(), pair(seed=1)
    kiln.compile(fn)(x, p).backward()
    fn(y, q).backward()
    same(x.grad, y.grad)
    if q.grad is not None:
        same(p.grad, q.grad)


def views_and_aliases():
    """Leaves that do not have memory of their own, by name: how each is made from a tensor."""
    return {
        "transposed": lambda w: w.t(),
        "row": lambda w: w[1],
        "detached": lambda w: w.detach(),
        "parameter": lambda w: nn.Parameter(w.t()),
    }


@pytest.mark.parametrize("kind", views_and_aliases())
@pytest.mark.parametrize("both", [False, True])
def test_leaves_that_are_views_get_their_gradients(kind, both):
    base = kiln.arange(9.0).reshape(3, 3)
    leaf = views_and_aliases()[kind](base)

    def fn(x):
        return (x * leaf).sum() + (base.exp().sum() if both else 0)

    run = kiln.compile(fn)
    x = kiln.ones(3)
    if kind != "parameter":
        assert not run(x).requires_grad
    leaf.requires_grad_()
    got = run(x)
    assert got.requires_grad
    got.backward()
    assert base.grad is None
    np.testing.assert_array_equal(leaf.grad.numpy(), np.ones(leaf.shape))
    if both:
        base.requires_grad_()
        leaf.grad = None
        run(x).backward()
        np.testing.assert_array_equal(leaf.grad.numpy(), np.ones(leaf.shape))
        np.testing.assert_allclose(base.grad.numpy(), base.detach().exp().numpy(), rtol=1e-6)


def test_retain_graph_and_twice():
    x, _ = pair()
    loss = kiln.compile(lambda x: (x**3).sum())(x)
    loss.backward(retain_graph=True)
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * x.detach().numpy() ** 2, rtol=1e-5)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_create_graph_is_refused_outside_and_works_inside():
    x, y = pair()
    with pytest.raises(CaptureError, match="differentiated again"):
        kiln.autograd.grad(kiln.compile(lambda x: (x**3).sum())(x), x, create_graph=True)

    def second(x):
        (g,) = kiln.autograd.grad((x**3).sum(), x, create_graph=True)
        return kiln.autograd.grad(g.sum(), x)[0]

    same(kiln.compile(second)(x), second(y))


def test_saved_values_are_guarded_by_versions():
    run = kiln.compile(lambda x, w: (x * w).sum())
    w, _ = pair()
    x = kiln.ones(3)
    loss = run(x, w)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()
    x = kiln.ones(3)
    loss = kiln.compile(lambda x, w: (x + w).sum())(x, w)
    x.add_(1)  # not needed by backward
    loss.backward()
    same(w.grad, kiln.ones(3))


def test_modes():
    x, _ = pair()
    run = kiln.compile(lambda x: x * 2)
    with kiln.no_grad():
        assert not run(x).requires_grad
    with kiln.inference_mode():
        assert not run(x).requires_grad

    @kiln.compile
    def mixed(x):
        with kiln.no_grad():
            a = x * 2
        return a, x * 3

    a, b = mixed(x)
    assert not a.requires_grad
    assert b.requires_grad


def test_hooks_run_inside():
    x, y = pair()

    def fn(x):
        h = x * 2
        h.register_hook(lambda g: g * 10)
        (h * h).sum().backward()
        return x.grad * 1

    same(kiln.compile(fn)(x), fn(y))
    same(x.grad, y.grad)


@pytest.mark.parametrize("start", ["none", "there"])
def test_gradients_of_arguments(start):
    def accumulate(w, x):
        (w * x).sum().backward()
        return w.grad * 1

    def descend(w, x):
        (w * x).sum().backward()
        with kiln.no_grad():
            w.sub_(w.grad * 0.1)
        w.grad = None

    def zero(w, x):
        w.grad = None
        (w * x).sum().backward()

    for fn in (accumulate, descend, zero):
        run = kiln.compile(fn)
        w, v = pair()
        if start == "there":
            w.grad, v.grad = kiln.ones(3), kiln.ones(3)
        for i in range(3):
            x = kiln.full((3,), float(i + 1))
            got, want = run(w, x), fn(v, x)
            if want is not None:
                same(got, want)
            same(w, v)
            same(w.grad, v.grad)


def test_backward_to_an_argument_computed_outside_is_refused():
    x, _ = pair()
    with pytest.raises(CaptureError, match="computed outside"):
        kiln.compile(lambda h: h.sum().backward())(x * 2)
    assert x.grad is None


def step_zero_first(model, opt, x, y):
    opt.zero_grad()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    return loss


def step_zero_last(model, opt, x, y):
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 0.1)
    opt.step()
    opt.zero_grad()
    return loss.detach()


def step_zero_in_place(model, opt, x, y):
    opt.zero_grad(set_to_none=False)
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    opt.step()
    return loss * 1


def step_accumulate(model, opt, x, y):
    for part, target in zip(x.chunk(2), y.chunk(2), strict=True):
        (F.cross_entropy(model(part), target) / 2).backward()
    return model[0].weight.grad.abs().sum()


STEPS = [step_zero_first, step_zero_last, step_zero_in_place, step_accumulate]


@pytest.mark.parametrize("step", STEPS, ids=lambda f: f.__name__)
def test_training_steps(step):
    results = []
    for compiled in (False, True):
        kiln.manual_seed(3)
        norm = nn.BatchNorm1d(6)
        model = nn.Sequential(nn.Linear(4, 6, bias=False), norm, nn.GELU(), nn.Linear(6, 3))
        opt = kiln.optim.AdamW(model.parameters(), lr=0.01)

        def call(x, y, model=model, opt=opt):
            return step(model, opt, x, y)

        run = kiln.compile(call) if compiled else call
        r = np.random.default_rng(0)
        losses = []
        for _ in range(4):
            x = kiln.tensor(r.normal(size=(8, 4)).astype(np.float32))
            loss = run(x, kiln.tensor(r.integers(0, 3, 8)))
            losses.append(loss.item())
            if step is step_zero_first:
                with pytest.raises(RuntimeError, match="second time"):
                    loss.backward()
        results.append(
            (losses, list(model.state_dict().values()), [p.grad for p in model.parameters()])
        )
        if compiled:
            assert run.captures <= 2
    np.testing.assert_allclose(results[0][0], results[1][0], rtol=1e-4)
    for k in (1, 2):
        for a, b in zip(results[0][k], results[1][k], strict=True):
            same(a, b, 1e-4)


def snapshot(model, opt):
    return (
        {k: v.numpy().copy() for k, v in model.state_dict().items()},
        [None if p.grad is None else p.grad.numpy().copy() for p in model.parameters()],
        {(i, k): v.numpy().copy() for i, s in enumerate(opt.state.values()) for k, v in s.items()
         if isinstance(v, kiln.Tensor)},
        kiln.get_rng_state().numpy().copy(),
    )  # fmt: skip


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("why", ["exception", "item", "global", "data-dependent shape"])
def test_a_failed_capture_changes_nothing(why, trained):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    opt = kiln.optim.Adam(model.parameters())
    seen = []

    def step(x, fail=None):
        opt.zero_grad()
        loss = model(x).square().sum()
        loss.backward()
        opt.step()
        if fail == "exception":
            raise KeyError("from the user")
        if fail == "item":
            seen.append(loss.item())
        if fail == "global":
            seen.append(loss)
            return loss * len(seen)
        if fail == "data-dependent shape":
            return x[x > 0]
        return loss

    run = kiln.compile(step)
    x = kiln.ones(4, 3)
    if trained:
        run(x)
    before = snapshot(model, opt)
    with pytest.raises((KeyError, RuntimeError)):
        run(x, why)
    after = snapshot(model, opt)
    for a, b in zip(before[:1] + before[3:], after[:1] + after[3:], strict=True):
        np.testing.assert_equal(a, b)
    np.testing.assert_equal(before[1], after[1])
    for k, v in after[2].items():
        np.testing.assert_array_equal(v, before[2].get(k, np.zeros_like(v)))
    seen.clear()
    assert np.isfinite(run(x).item())
    assert np.isfinite(step(x).item())


@pytest.mark.parametrize(
    "make",
    [
        lambda: (nn.Embedding(4, 3), lambda m, i: m(i)),
        lambda: (nn.Linear(3, 4), lambda m, i: F.cross_entropy(m(kiln.ones(2, 3)), i)),
        lambda: (nn.Linear(3, 4), lambda m, i: m.weight[i]),
        lambda: (nn.Linear(3, 4), lambda m, i: m.bias.index_select(0, i)),
        lambda: (nn.Linear(3, 4), lambda m, i: m.bias.gather(0, i)),
        lambda: (nn.Linear(3, 4), lambda m, i: kiln.zeros(4).index_add(0, i, m.bias[:2] * 2)),
        lambda: (nn.Linear(3, 4), lambda m, i: kiln.zeros(4).scatter_add(0, i, m.bias[:2] * 2)),
        lambda: (nn.Linear(3, 4), lambda m, i: kiln.zeros(4).index_add(0, i * 1, m.bias[:2])),
        lambda: (nn.Linear(3, 4), lambda m, i: (m.bias + m.weight[0, 1])[i.abs() * 1]),
        lambda: (nn.Embedding(4, 3), lambda m, i: m((i + 1) // 2 * 2)),
    ],
)
def test_an_index_out_of_range_changes_nothing(make):
    model, use = make()
    norm = nn.BatchNorm1d(3)
    opt = kiln.optim.SGD([*model.parameters(), *norm.parameters()], lr=0.1, momentum=0.9)
    counter = kiln.zeros(3)
    good, bad = kiln.tensor([0, 1]), kiln.tensor([0, 9])

    def step(i):
        counter.add_(1)
        used = counter * 2  # the new value is read again
        opt.zero_grad()
        loss = use(model, i).sum() + norm(kiln.ones(2, 3) * used).sum()
        loss.backward()
        opt.step()
        return loss

    run = kiln.compile(step)
    run(good)
    both = nn.ModuleList([model, norm])
    before = snapshot(both, opt), counter.numpy().copy()
    with pytest.raises(RuntimeError) as eager:
        use(model, bad)
    with pytest.raises(type(eager.value)) as compiled:
        run(bad)
    assert len(str(compiled.value).splitlines()) >= 2
    np.testing.assert_equal((snapshot(both, opt), counter.numpy()), before)
    run(good)
    np.testing.assert_array_equal(counter.numpy(), before[1] + 1)


def test_random_numbers_are_those_of_eager_mode():
    def fn(x):
        return (
            F.dropout(x, 0.3),
            kiln.randn(5),
            kiln.rand(3, 2),
            x.clone().uniform_(),
            kiln.randint(0, 9, (4,)),
        )

    run = kiln.compile(fn)
    x = kiln.ones(4, 5)
    draws = []
    for f in (fn, run):
        kiln.manual_seed(11)
        draws.append([*f(x), *f(x), kiln.get_rng_state(), kiln.randn(2)])
    for a, b in zip(*draws, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5, atol=1e-6)
    first, second = run(x)[1], run(x)[1]
    assert (first != second).any()


def test_threads():
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    run = kiln.compile(lambda x: (model(x), x.sum()))
    errors = []

    def work(seed):
        try:
            r = np.random.default_rng(seed)
            for _ in range(10):
                x = kiln.tensor(r.normal(size=(int(r.integers(1, 4)), 6)).astype(np.float32))
                y, total = run(x)
                same(y, model(x))
                same(total, x.sum())
        except BaseException as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not errors


def test_an_argument_that_becomes_a_gradient_is_that_very_tensor():
    p = kiln.tensor([1.0, 2.0], requires_grad=True)

    @kiln.compile
    def step(g):
        p.grad = g
        return p.detach() * g

    for value in (3.0, 5.0):
        g = kiln.full((2,), value)
        np.testing.assert_array_equal(step(g).numpy(), [value, 2 * value])
        assert p.grad is g
